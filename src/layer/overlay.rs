//! A workspace that is reviewed: the host's directory below, the jail's writes in a directory of
//! jailmk's state above it, one overlay of both in the jail.
//!
//! The overlay is made in the jail's own user and mount namespace, by the jail's own ids, so that the
//! kernel gives it no more than they have. Both layers come as detached trees; when root has made them they
//! are idmapped, and what the jail writes lies in the state under the owner of the workspace.

use std::ffi::CStr;
use std::fmt;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::layer::mounts::{As, Tree};
use crate::layer::place::Place;
use crate::sys::mount::{self, Attributes};

/// Name, in the store, of the directory that takes the jail's writes.
pub const UPPER: &CStr = c"upper";
/// Name, in the store, of the directory that the kernel prepares them in.
pub const WORK: &CStr = c"work";

/// A directory of the host that nothing needs any more when this layer is applied.
const ASIDE: &CStr = c"/dev";

const LOWER_FLAGS: Attributes = Attributes { read_only: true, nodev: true, noexec: false };
const WRITABLE: Attributes = Attributes { read_only: false, nodev: true, noexec: false };

/// The overlay and where it shows.
#[derive(Debug)]
pub struct Armed {
    /// The host's directory.
    pub lower: Tree,
    /// The directory in jailmk's state that holds [`UPPER`] and [`WORK`].
    pub store: Tree,
    /// Where.
    pub place: Place,
}

impl Armed {
    /// Takes the two directories; their flags are this layer's own.
    pub fn new(mut lower: Tree, mut store: Tree, place: Place) -> Armed {
        lower.flags = LOWER_FLAGS;
        store.flags = WRITABLE;
        Armed { lower, store, place }
    }

    /// Mounts it below `root`.
    ///
    /// # Errors
    /// ENODEV and EPERM where the kernel has no overlay, or none in a user namespace; EINVAL where a layer's
    /// file system cannot be one; as fsopen(2), move_mount(2) and [`Place::open`].
    pub fn apply(&self, root: BorrowedFd<'_>) -> Result<(), Errno> {
        let place = self.place.open(root)?;
        let (lower, store) = (self.lower.detach()?, self.store.detach()?);
        // A layer must be mounted in this namespace when the overlay is made, which then has clones of its
        // own. They are put where the host's devices were, one on top of the other, and go with the host's
        // root: to unmount them here would cost two grace periods of the kernel.
        mount::attach_at(lower.as_fd(), None, ASIDE)?;
        mount::attach_at(store.as_fd(), None, ASIDE)?;
        mount::attach(combine(&lower, &store)?.as_fd(), place.as_fd())
    }
}

fn combine(lower: &OwnedFd, store: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let upper = openat(store, UPPER, flags, Mode::empty())?;
    let work = openat(store, WORK, flags, Mode::empty())?;
    // By descriptor, which no comma or colon in a name and no symlink can turn into something else, and
    // which the jail's mountinfo shows instead of the host's paths.
    let (lower, upper, work) = (Link::to(lower), Link::to(&upper), Link::to(&work));
    let parameters = [
        (c"lowerdir", lower.as_c_str()?),
        (c"upperdir", upper.as_c_str()?),
        (c"workdir", work.as_c_str()?),
        // Each entry of the upper directory is whole and says by itself what it is.
        (c"index", c"off"),
        (c"metacopy", c"off"),
        (c"redirect_dir", c"nofollow"),
    ];
    mount::new_filesystem_with(c"overlay", &parameters, &[c"userxattr"], WRITABLE)
}

/// `/proc/self/fd/N`, made without allocating.
struct Link([u8; 32]);

impl Link {
    fn to(fd: &OwnedFd) -> Link {
        let mut bytes = [0; 32];
        // Ten digits at most: it fits, with a NUL behind it.
        let _ = write!(&mut bytes[..31], "/proc/self/fd/{}", fd.as_raw_fd());
        Link(bytes)
    }

    fn as_c_str(&self) -> Result<&CStr, Errno> {
        CStr::from_bytes_until_nul(&self.0).map_err(|_| Errno::EINVAL)
    }
}

impl fmt::Display for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "mount an overlay on {} (rw,nosuid,nodev): below {} {}, above it the jail's changes in {}",
            self.place,
            self.lower.source,
            As(&self.lower),
            self.store.source
        )
    }
}
