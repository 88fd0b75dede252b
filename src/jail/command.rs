//! The command, as execve(2) takes it.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::error::JailError;
use crate::layer::environment;
use crate::path::{JailPath, printable};
use crate::spec::{Spec, WORKSPACE};
use crate::sys::exec::Vector;

/// What runs, as execve(2) takes it.
pub struct Command {
    /// The paths to try, in order.
    pub candidates: Vec<CString>,
    /// Arguments, the first the name as given.
    pub arguments: Vector,
    /// Environment.
    pub environment: Vector,
    /// Working directory in the jail.
    pub directory: CString,
}

impl Command {
    /// The spec's command, or the given arguments when there are any.
    ///
    /// # Errors
    /// [`JailError::Nul`].
    pub(super) fn arm(spec: &Spec, arguments: &[OsString]) -> Result<Command, JailError> {
        let given: Vec<OsString> = match arguments {
            [] => spec.process.command.iter().map(OsString::from).collect(),
            _ => arguments.to_vec(),
        };
        let variables = environment::compose(&spec.process);
        let name = given.first().cloned().unwrap_or_else(|| "sh".into());
        let search = variables.get(OsStr::new("PATH")).cloned().unwrap_or_default();
        let directory = spec.process.directory.clone().unwrap_or_else(|| match spec.workspace {
            Some(_) => JailPath::new(WORKSPACE).expect("BUG: a constant path is absolute"),
            None => spec.process.home(),
        });
        let arguments = given.iter().map(|argument| c_string("the argument", argument.as_bytes()));
        Ok(Command {
            candidates: candidates(&name, &search)?,
            arguments: Vector::new(arguments.collect::<Result<_, _>>()?),
            environment: Vector::new(environment::strings(&variables)),
            directory: c_string("the directory", directory.as_path().as_os_str().as_bytes())?,
        })
    }
}

/// As execvp(3): a name with a slash is a path, an empty one is nothing, any other is looked for in PATH.
/// Relative directories of PATH are passed over: what they name is the command's to choose.
fn candidates(name: &OsStr, search: &OsStr) -> Result<Vec<CString>, JailError> {
    let name = name.as_bytes();
    if name.is_empty() {
        return Ok(Vec::new());
    }
    if name.contains(&b'/') {
        return Ok(vec![c_string("the command", name)?]);
    }
    let directories = search.as_bytes().split(|byte| *byte == b':');
    directories
        .filter(|directory| directory.starts_with(b"/"))
        .map(|directory| c_string("the command", &[directory, b"/", name].concat()))
        .collect()
}

fn c_string(what: &'static str, bytes: &[u8]) -> Result<CString, JailError> {
    CString::new(bytes)
        .map_err(|_| JailError::Nul { what, text: printable(OsStr::from_bytes(bytes)).to_string() })
}
