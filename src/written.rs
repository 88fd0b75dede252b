//! Where on the host the jail of a spec writes at once: nothing there can be believed at its next start.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::caller::Caller;
use crate::rootfs::named;
use crate::spec::{Access, Spec, WorkspaceMode};

/// A direct workspace and the writable mounts, without links.
pub struct Written {
    tops: Vec<PathBuf>,
    /// What is read-only there, for the next tree is built from it.
    taken: BTreeSet<PathBuf>,
}

impl Written {
    /// As `caller` would have them mounted.
    pub fn of(spec: &Spec, caller: &Caller) -> Written {
        let workspace = spec.workspace.iter().filter(|workspace| workspace.mode == WorkspaceMode::Direct);
        let mounts = spec.mounts.iter().filter(|mount| mount.access == Access::ReadWrite);
        let paths = workspace.map(|workspace| &workspace.path).chain(mounts.map(|mount| &mount.from));
        let located = paths.filter_map(|path| caller.locate(&path.value).ok());
        // What is not there yet is made without links on the way, or not at all.
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let tops: Vec<PathBuf> = located.map(|path| real(path.as_path())).collect();
        let taken = if tops.is_empty() { BTreeSet::new() } else { named(spec) };
        Written { tops, taken }
    }

    /// Whether the jail can make another file of what is at `path`, which leads over no link.
    pub fn holds(&self, path: &Path) -> bool {
        self.tops.iter().any(|top| path != top && path.starts_with(top))
    }

    /// Whether the jail can have made the link that leads to `real`. One that stays within what is taken whole
    /// brings nothing new.
    pub fn chooses(&self, link: &Path, real: &Path) -> bool {
        self.holds(link)
            && !self.taken.iter().any(|top| link.starts_with(top) && real.starts_with(top) && link != top)
    }
}
