//! Which added file is a deleted one under another name: the content is the same, byte for byte.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;

use sha2::{Digest, Sha256};

use super::changes::{Change, Kind};
use super::path::WorkPath;
use super::tree::{Node, Tree};

/// Bytes that are read at most in search of renames.
const READ: u64 = 256 << 20;

/// New path → old path.
#[derive(Debug, Default)]
pub struct Renames {
    old_names: BTreeMap<WorkPath, WorkPath>,
    gone: BTreeSet<WorkPath>,
}

impl Renames {
    /// Compares the deleted files with the added ones of the same size; empty ones are all alike.
    pub fn find<'a>(changes: impl Iterator<Item = &'a Change> + Clone, upper: &Tree, host: &Tree) -> Renames {
        let files = |kind| {
            changes.clone().filter(move |change: &&Change| {
                change.kind == kind
                    && change.node() == Node::File
                    && size(change) > 0
                    && change.never.is_none()
            })
        };
        let mut sizes: HashMap<u64, Vec<&Change>> = HashMap::new();
        for deleted in files(Kind::Deleted) {
            sizes.entry(size(deleted)).or_default().push(deleted);
        }
        let mut left = READ;
        let mut digests: HashMap<[u8; 32], Vec<&WorkPath>> = HashMap::new();
        let mut hashed = std::collections::HashSet::new();
        let mut renames = BTreeMap::new();
        for added in files(Kind::Added) {
            let Some(candidates) = sizes.get(&size(added)) else { continue };
            if hashed.insert(size(added)) {
                for deleted in candidates {
                    if let Some(digest) = digest(host, deleted, &mut left) {
                        digests.entry(digest).or_default().push(&deleted.path);
                    }
                }
            }
            let found = digest(upper, added, &mut left).and_then(|digest| digests.get_mut(&digest));
            if let Some(from) = found.and_then(|paths| (!paths.is_empty()).then(|| paths.remove(0))) {
                renames.insert(added.path.clone(), from.clone());
            }
        }
        Renames { gone: renames.values().cloned().collect(), old_names: renames }
    }

    /// What a path was called before.
    pub fn old_name(&self, path: &WorkPath) -> Option<&WorkPath> {
        self.old_names.get(path)
    }

    /// Whether a deleted path lives on under another name.
    pub fn is_old_name(&self, path: &WorkPath) -> bool {
        self.gone.contains(path)
    }
}

fn size(change: &Change) -> u64 {
    change.jail.as_deref().or(change.host.as_deref()).map_or(0, |stat| stat.st_size.unsigned_abs())
}

fn digest(tree: &Tree, change: &Change, left: &mut u64) -> Option<[u8; 32]> {
    *left = left.checked_sub(size(change))?;
    let mut file = tree.open_file_at(&change.path).ok()?.take(size(change));
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Some(digest.finalize().into()),
            Ok(length) => digest.update(&buffer[..length]),
            Err(_) => return None,
        }
    }
}
