//! A workspace that the jail writes at once: which protected names at its top have come or changed since.
//!
//! Those that were there are read-only inside. One that was not could be made, and a link could not be
//! protected: what became of these is all that can be told.

use nix::fcntl::AT_FDCWD;

use super::journal::Stamp;
use super::path::WorkPath;
use super::protected;
use super::tree::{Node, Tree, Unreadable};
use crate::caller::Caller;
use crate::rootfs::directory;
use crate::spec::{Spec, WorkspaceMode};

/// The protected names at the top of a direct workspace, as they were when the jail began.
pub struct Direct {
    workspace: Tree,
    before: Vec<Option<Stamp>>,
}

impl Direct {
    /// Looks before the jail begins; `None` for another mode, and for a workspace that cannot be opened.
    pub fn look(spec: &Spec, caller: &Caller) -> Option<Direct> {
        let workspace =
            spec.workspace.as_ref().filter(|workspace| workspace.mode == WorkspaceMode::Direct)?;
        let path = caller.locate(&workspace.path.value).ok()?;
        let top = directory::open_to_read(AT_FDCWD, path.as_path().canonicalize().ok()?.as_path()).ok()?;
        let workspace = Tree::new(top, Unreadable::Refused);
        let before = stamps(&workspace);
        Some(Direct { workspace, before })
    }

    /// What is another than before, and what it is.
    pub fn changed(&self) -> Vec<(WorkPath, &'static str)> {
        let now = stamps(&self.workspace);
        let names = protected::at_top().zip(self.before.iter().zip(now));
        names
            .filter(|(_, (before, now))| match (before, now) {
                (_, None) => false,
                (None, Some(_)) => true,
                // A directory is stamped by what happens in it, which was read-only.
                (Some(before), Some(now)) if now.node == Node::Directory => before.inode != now.inode,
                (Some(before), Some(now)) => before != now,
            })
            .filter_map(|((name, what), _)| Some((WorkPath::new(name).ok()?, what)))
            .collect()
    }
}

fn stamps(workspace: &Tree) -> Vec<Option<Stamp>> {
    let status = |name| workspace.status(&WorkPath::new(name).ok()?).ok()?;
    protected::at_top().map(|(name, _)| status(name).as_ref().map(Stamp::of)).collect()
}
