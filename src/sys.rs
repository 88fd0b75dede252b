//! Every unsafe block of the crate: system calls that neither the standard library nor nix wraps.
//!
//! Each function is one system call, or one idiom that is only sound as a whole. None allocates, so
//! that all of them may be used between `clone3` and `execve`.

pub mod attributes;
pub mod clone_file;
pub mod exec;
pub mod memory;
pub mod mount;
pub mod network;
pub mod probe;
pub mod process;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod terminal;
pub mod xattr;
