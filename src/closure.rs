//! Spec → [`Closure`]: every file that the named programs, libraries, files and packages need to run.
//!
//! Everything is found by reading: nothing that is inspected is ever executed or mapped.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::path::{HostPath, JailPath};

/// What must be in the jail's tree, by path. Parents of every entry are entries too.
#[derive(Clone, Debug, Default)]
pub struct Closure {
    /// Sorted by path.
    pub entries: BTreeMap<JailPath, Entry>,
}

/// One path of the closure.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What is there.
    pub node: Node,
    /// Why it is there.
    pub reason: Reason,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A symbolic link with its target as the host has it.
    Symlink(PathBuf),
    /// A copy of a host file.
    File {
        /// The regular file on the host, no symlink in the last component.
        origin: HostPath,
        /// Permission bits, without setuid, setgid, sticky and write bits.
        mode: u32,
    },
    /// A file written by jailmk or by the spec.
    Content {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Permission bits.
        mode: u32,
    },
}

/// Why a path is in the jail: for the lock file and for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The spec names it: the key and the value, as in `programs "bash"`.
    Spec {
        /// The key, for instance `programs`.
        key: &'static str,
        /// The value that was written.
        value: String,
    },
    /// Another path of the closure needs it.
    NeededBy {
        /// Who.
        by: JailPath,
        /// How: `DT_NEEDED libc.so.6, ld.so.cache`, `PT_INTERP`, `#!`, `symlink`.
        how: String,
    },
    /// Every jail has it.
    Skeleton,
}
