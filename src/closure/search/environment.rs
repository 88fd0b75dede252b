//! What a program's environment tells its loader.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::LoaderKind;

/// The loader's variables, as they will be when the program runs; never those of jailmk's own process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `LD_LIBRARY_PATH`
    pub library_path: Option<OsString>,
    /// `LD_PRELOAD`
    pub preload: Option<OsString>,
}

impl Environment {
    /// What a table of variables says.
    pub fn of(variables: &BTreeMap<String, String>) -> Environment {
        let get = |name: &str| variables.get(name).map(OsString::from);
        Environment { library_path: get("LD_LIBRARY_PATH"), preload: get("LD_PRELOAD") }
    }

    /// The names in `LD_PRELOAD`.
    pub fn preloaded(&self, kind: LoaderKind) -> Vec<OsString> {
        let separators: &[u8] = match kind {
            LoaderKind::Glibc => b" :",
            LoaderKind::Musl => b" \t\n\x0b\x0c\r:",
        };
        let Some(list) = &self.preload else { return Vec::new() };
        list.as_bytes()
            .split(|byte| separators.contains(byte))
            .filter(|name| !name.is_empty())
            .map(|name| OsStr::from_bytes(name).to_owned())
            .collect()
    }
}
