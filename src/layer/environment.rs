//! The command's environment: built from nothing, by an allow-list.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::spec::Process;

/// Where programs are looked for when the spec sets no PATH.
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Variables in the order of their names: jailmk's own, then those that `pass_env` takes from the
/// caller, then those that `env` sets. TERM passes by default: without it no terminal program works,
/// and it names nothing but a terminal.
pub fn compose(process: &Process) -> BTreeMap<OsString, OsString> {
    let mut variables: BTreeMap<OsString, OsString> = BTreeMap::new();
    let mut set = |name: &str, value: OsString| variables.insert(name.into(), value);
    set("PATH", DEFAULT_PATH.into());
    set("HOME", process.home().as_path().into());
    set("USER", process.user.clone().into());
    set("LOGNAME", process.user.clone().into());
    for name in ["TERM"].into_iter().chain(process.pass_env.iter().map(String::as_str)) {
        if let Some(value) = env::var_os(name) {
            set(name, value);
        }
    }
    for (name, value) in &process.env {
        set(name, value.clone().into());
    }
    variables
}

/// `NAME=value` strings as execve(2) takes them.
pub fn strings(variables: &BTreeMap<OsString, OsString>) -> Vec<CString> {
    variables
        .iter()
        .filter_map(|(name, value)| {
            let line = [name.as_bytes(), b"=", value.as_bytes()].concat();
            // The kernel's environment cannot hold NUL, and the spec's reader refuses it.
            CString::new(line).ok()
        })
        .collect()
}
