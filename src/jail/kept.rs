//! What in a host directory that the jail may write must stay as it is, read-only: the spec's own files, what
//! its tree is built from and, in a direct workspace, the protected names. The directories on the way to them,
//! and to what is hidden, become mount points, for a mount point cannot be renamed, and so none can be put in
//! their place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::mounted::Planned;
use crate::layer::mounts::{Source, Tree};
use crate::layer::place::Missing;
use crate::path::{HostPath, JailPath};
use crate::rootfs::taken;
use crate::spec::{SourceOrigin, Spec};
use crate::sys::mount::Attributes;
use crate::workspace::WorkPath;
use crate::workspace::direct::{Care, Protected};

/// The mounts for it, in the making.
pub(super) struct Kept<'a> {
    place: &'a JailPath,
    above: &'a Tree,
    /// What the jail does not see, and so cannot change.
    hidden: BTreeSet<JailPath>,
    planned: BTreeMap<JailPath, Planned>,
}

impl<'a> Kept<'a> {
    /// In the directory `above`, which the jail sees at `place`.
    pub(super) fn new(place: &'a JailPath, above: &'a Tree) -> Kept<'a> {
        Kept { place, above, hidden: BTreeSet::new(), planned: BTreeMap::new() }
    }

    /// The way to each of these, so that the next jail finds what it hides under the same names.
    pub(super) fn add_ways<'p>(&mut self, hidden: impl Iterator<Item = &'p WorkPath>) {
        for path in hidden {
            self.hidden.insert(self.place.below(path.names()));
            self.add_way(path.relative());
        }
    }

    /// The spec's own files, and what its tree is built from: the jail must not write the rules of its next start.
    pub(super) fn add_spec_files(&mut self, spec: &Spec) {
        let own = spec.sources.iter().filter_map(|source| match &source.origin {
            SourceOrigin::File(path) => Some(path.clone()),
            SourceOrigin::BuiltIn(_) => None,
        });
        for path in own.chain(taken(spec)) {
            match path.strip_prefix(self.above.source.real_path()) {
                Ok(below) if !below.as_os_str().is_empty() => self.add(below),
                _ => {}
            }
        }
    }

    /// What is protected at the top of a direct workspace and is there. Its top is read and nothing below: how large
    /// the workspace is makes no difference.
    ///
    /// # Errors
    /// The workspace cannot be read: what must be kept in it is not known.
    pub(super) fn add_protected(&mut self) -> Result<(), Errno> {
        let names = Protected::of(self.above.source.real_path())?.names;
        for (name, ..) in names.iter().filter(|(.., care)| *care == Care::Kept) {
            if open_itself(self.above.source.real_path().join(name.relative())).is_some() {
                self.add(name.relative());
            }
        }
        Ok(())
    }

    /// What is decided.
    pub(super) fn into_planned(self) -> impl Iterator<Item = Planned> {
        self.planned.into_values()
    }

    /// Plans a read-only mount of `below`, and mounts of the directories on the way to it.
    fn add(&mut self, below: &Path) {
        let place = self.place.below(below);
        let is_hidden = |place: &JailPath| self.hidden.contains(place);
        if std::iter::successors(Some(place.clone()), JailPath::parent).any(|place| is_hidden(&place)) {
            return;
        }
        if !self.add_way(below) {
            return;
        }
        // The whole of a directory that another path only leads through.
        if let Some(planned) = self.mount(&place, self.above.source.real_path().join(below), true) {
            self.planned.insert(place, planned);
        }
    }

    /// Plans mounts of the directories on the way to `below`; `false` where one of them is none any more.
    fn add_way(&mut self, below: &Path) -> bool {
        let mut place = self.place.clone();
        let mut path = self.above.source.real_path().to_owned();
        for name in below.parent().into_iter().flat_map(Path::iter) {
            place = place.child(name);
            path.push(name);
            if self.planned.contains_key(&place) {
                continue;
            }
            let Some(planned) = self.mount(&place, path.clone(), false) else { return false };
            self.planned.insert(place.clone(), planned);
        }
        true
    }

    /// `None` for what is gone since it was looked up, and cannot be changed either.
    fn mount(&self, place: &JailPath, path: PathBuf, read_only: bool) -> Option<Planned> {
        let mut source = open_itself(path)?;
        // As seen in the directory: nobody else's files become the jail's own.
        source.owner = self.above.source.owner;
        let flags = Attributes { read_only, ..self.above.flags };
        Some(Planned::host(place.clone(), Tree::new(source, flags), Missing::Fail))
    }
}

/// Through a link it would be another file, which the jail may not see at all.
fn open_itself(path: PathBuf) -> Option<Source> {
    let source = Source::open(&HostPath::absolute(path.clone())?).ok()?;
    (source.real_path() == path).then_some(source)
}
