//! The jail's own /proc: only its processes, and of the kernel's files only the harmless ones.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::write;

use crate::layer::place::Place;
use crate::sys::mount::{self, Attributes, Submounts};

/// Entries that tell about the host's kernel or hardware, or act on it: hidden under an empty file or
/// directory. The list is moby's with the kernel's own symbol, memory and driver tables, and those of disks, added.
const MASKED: &[&CStr] = &[
    // The arguments of jailmk, with paths of the host.
    c"1/cmdline",
    c"acpi",
    c"asound",
    c"cmdline",
    c"config.gz",
    c"crypto",
    c"diskstats",
    c"driver",
    c"interrupts",
    c"kallsyms",
    c"kcore",
    c"key-users",
    c"keys",
    c"kmsg",
    c"kpagecgroup",
    c"kpagecount",
    c"kpageflags",
    c"latency_stats",
    c"mdstat",
    c"modules",
    c"partitions",
    c"sched_debug",
    c"schedstat",
    c"scsi",
    c"slabinfo",
    c"softirqs",
    c"swaps",
    c"sysrq-trigger",
    c"timer_list",
    c"timer_stats",
    c"vmallocinfo",
];

/// Directories whose files change the kernel's behaviour: read-only.
const READ_ONLY: &[&CStr] = &[c"bus", c"fs", c"irq", c"sys"];

/// The limits of the jail's user namespace (user_namespaces(7), namespaces(7)). With 0, no process of the
/// jail can make one of these. Inotify instances are counted for the caller as well, who has 128 by default:
/// the jail takes no more than half of them from programs of the host.
const USER_LIMITS: &[(&CStr, &[u8])] = &[
    (c"max_user_namespaces", b"0"),
    (c"max_mnt_namespaces", b"0"),
    (c"max_pid_namespaces", b"0"),
    (c"max_net_namespaces", b"0"),
    (c"max_ipc_namespaces", b"0"),
    (c"max_uts_namespaces", b"0"),
    (c"max_cgroup_namespaces", b"0"),
    (c"max_time_namespaces", b"0"),
    (c"max_inotify_instances", b"64"),
];

const HARMLESS: Attributes = Attributes { read_only: true, nodev: true, noexec: true };

/// Mounts a new instance on `place` and returns its root's descriptor.
///
/// # Errors
/// EPERM where the caller's own /proc is partly covered (the kernel's "mount too revealing" rule), as
/// in many containers.
pub fn mount_on(root: BorrowedFd<'_>, place: &Place) -> Result<OwnedFd, Errno> {
    let flags = Attributes { read_only: false, ..HARMLESS };
    let proc = mount::new_filesystem(c"proc", &[], flags)?;
    let place = place.open(root)?;
    mount::attach(proc.as_fd(), place.as_fd())?;
    Ok(proc)
}

/// Opens the directory of the user namespace's limits, so that they can be set when /proc/sys is read-only.
///
/// # Errors
/// As open(2).
pub fn open_limits(proc: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat(proc, c"sys/user", flags, Mode::empty())
}

/// Sets the limits of the user namespace for good: raising them again needs a capability that is dropped.
/// What this kernel lacks needs no limit.
///
/// # Errors
/// As open(2) and write(2).
pub fn set_user_limits(limits: BorrowedFd<'_>) -> Result<(), Errno> {
    for (path, most) in USER_LIMITS {
        match openat(limits, *path, OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty()) {
            Ok(limit) => {
                write(&limit, most)?;
            }
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Covers the dangerous entries; what this kernel does not have needs no cover.
///
/// `empty_file` and `empty_directory` are paths below the process's current root and below `scratch`.
///
/// # Errors
/// As open_tree(2) and move_mount(2).
pub fn cover(
    proc: BorrowedFd<'_>,
    scratch: BorrowedFd<'_>,
    empty_file: &CStr,
    empty_directory: &CStr,
) -> Result<(), Errno> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    for name in MASKED {
        let entry = match openat(proc, *name, flags, Mode::empty()) {
            Ok(entry) => entry,
            Err(Errno::ENOENT) => continue,
            Err(error) => return Err(error),
        };
        let format = SFlag::from_bits_truncate(fstat(&entry)?.st_mode) & SFlag::S_IFMT;
        let empty = if format == SFlag::S_IFDIR { empty_directory } else { empty_file };
        let cover = mount::clone_tree(Some(scratch), empty, Submounts::LeftOut)?;
        mount::restrict(cover.as_fd(), HARMLESS)?;
        mount::attach(cover.as_fd(), entry.as_fd())?;
    }
    for name in READ_ONLY {
        let cover = match mount::clone_tree(Some(proc), name, Submounts::LeftOut) {
            Ok(cover) => cover,
            Err(Errno::ENOENT) => continue,
            Err(error) => return Err(error),
        };
        mount::restrict(cover.as_fd(), HARMLESS)?;
        mount::attach_at(cover.as_fd(), Some(proc), name)?;
    }
    Ok(())
}
