//! /dev: five harmless devices, the controlling terminal, and pseudoterminals of its own.
//!
//! The names exist in the built tree as empty files and links, so nothing is made at enter: each
//! device is a bind of the host's, and only after it has been seen to be that device.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat, major, minor};

use crate::layer::place::{Kind, Missing, Place};
use crate::path::JailPath;
use crate::sys::mount::{self, Attributes, Submounts};

/// Path, major and minor number (the kernel's admin-guide/devices.txt).
const DEVICES: &[(&CStr, u64, u64)] = &[
    (c"/dev/null", 1, 3),
    (c"/dev/zero", 1, 5),
    (c"/dev/full", 1, 7),
    (c"/dev/random", 1, 8),
    (c"/dev/urandom", 1, 9),
    (c"/dev/tty", 5, 0),
];

/// The mount points of /dev.
#[derive(Debug)]
pub struct Armed {
    devices: Vec<(&'static CStr, u64, u64, Place)>,
    pts: Place,
}

impl Armed {
    /// Splits the paths.
    pub fn new() -> Armed {
        let path = |path: &CStr| {
            JailPath::new(path.to_str().expect("BUG: device paths are ASCII"))
                .expect("BUG: they are absolute")
        };
        let devices = DEVICES
            .iter()
            .map(|(name, major, minor)| {
                (*name, *major, *minor, Place::new(&path(name), Kind::File, Missing::Fail))
            })
            .collect();
        Armed { devices, pts: Place::new(&path(c"/dev/pts"), Kind::Directory, Missing::Fail) }
    }

    /// Binds the devices and mounts a new devpts instance. Still runs in the host's tree.
    ///
    /// # Errors
    /// ENODEV when a host's /dev entry is not the device it should be (bubblewrap-class attacks put a
    /// file or a link there); else as open_tree(2), fsopen(2), move_mount(2).
    pub fn apply(&self, root: BorrowedFd<'_>) -> Result<(), Errno> {
        for (path, wanted_major, wanted_minor, place) in &self.devices {
            let device = mount::clone_tree(None, path, Submounts::LeftOut)?;
            let stat = fstat(&device)?;
            let is_character = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR;
            if !is_character || major(stat.st_rdev) != *wanted_major || minor(stat.st_rdev) != *wanted_minor {
                return Err(Errno::ENODEV);
            }
            mount::restrict(device.as_fd(), Attributes { noexec: true, ..Attributes::default() })?;
            mount::attach(device.as_fd(), place.open(root)?.as_fd())?;
        }
        // A new instance shows none of the host's terminals (kernel document filesystems/devpts).
        let parameters = [(c"ptmxmode", c"0666"), (c"mode", c"0620"), (c"max", c"1024")];
        let flags = Attributes { noexec: true, ..Attributes::default() };
        let pts = mount::new_filesystem(c"devpts", &parameters, flags)?;
        mount::attach(pts.as_fd(), self.pts.open(root)?.as_fd())
    }
}

impl Default for Armed {
    fn default() -> Armed {
        Armed::new()
    }
}
