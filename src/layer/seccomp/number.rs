//! Numbers of system calls that the libc crate lacks on one of its Linux targets.
//!
//! Source: the kernel's arch/x86/entry/syscalls/syscall_64.tbl and scripts/syscall.tbl (6.18). From 424
//! on, every architecture has the same number.

use libc::c_long;

#[cfg(target_arch = "x86_64")]
mod architecture {
    use libc::c_long;

    pub const RENAMEAT: c_long = 264;
    pub const SYNC_FILE_RANGE: c_long = 277;
    pub const GETRLIMIT: c_long = 97;
    pub const SETRLIMIT: c_long = 160;
    pub const KEXEC_FILE_LOAD: c_long = 320;
    pub const IO_PGETEVENTS: c_long = 333;

    pub const CREATE_MODULE: c_long = 174;
    pub const GET_KERNEL_SYMS: c_long = 177;
    pub const QUERY_MODULE: c_long = 178;
    pub const URETPROBE: c_long = 335;
    pub const UPROBE: c_long = 336;
}

#[cfg(target_arch = "aarch64")]
mod architecture {
    use libc::c_long;

    pub const RENAMEAT: c_long = 38;
    pub const SYNC_FILE_RANGE: c_long = 84;
    pub const GETRLIMIT: c_long = 163;
    pub const SETRLIMIT: c_long = 164;
    pub const KEXEC_FILE_LOAD: c_long = 294;
    pub const IO_PGETEVENTS: c_long = 292;
}

pub(super) use architecture::*;

pub(super) const CACHESTAT: c_long = 451;
pub(super) const FCHMODAT2: c_long = 452;
pub(super) const MAP_SHADOW_STACK: c_long = 453;
pub(super) const FUTEX_WAKE: c_long = 454;
pub(super) const FUTEX_WAIT: c_long = 455;
pub(super) const FUTEX_REQUEUE: c_long = 456;
pub(super) const STATMOUNT: c_long = 457;
pub(super) const LISTMOUNT: c_long = 458;
pub(super) const LSM_GET_SELF_ATTR: c_long = 459;
pub(super) const LSM_SET_SELF_ATTR: c_long = 460;
pub(super) const LSM_LIST_MODULES: c_long = 461;
pub(super) const MSEAL: c_long = 462;
pub(super) const SETXATTRAT: c_long = 463;
pub(super) const GETXATTRAT: c_long = 464;
pub(super) const LISTXATTRAT: c_long = 465;
pub(super) const REMOVEXATTRAT: c_long = 466;
pub(super) const OPEN_TREE_ATTR: c_long = 467;
pub(super) const FILE_GETATTR: c_long = 468;
pub(super) const FILE_SETATTR: c_long = 469;
