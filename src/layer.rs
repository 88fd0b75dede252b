//! The layers around a jailed process, one file each.
//!
//! A layer has a policy (plain data from the spec), is armed in the parent (which may read, allocate
//! and explain) and applied in the child (system calls only, an [`Errno`](nix::errno::Errno) at most).
//! The `Display` of what is armed serves `--plan` and error messages alike. Their order is written
//! once, in [`crate::jail::plan`].

pub mod capabilities;
pub mod cgroup;
pub mod devices;
pub mod disk;
pub mod environment;
pub mod identity;
pub mod landlock;
pub mod mounts;
pub mod namespaces;
pub mod overlay;
pub mod place;
pub mod procfs;
pub mod resources;
pub mod scratch;
pub mod seccomp;
