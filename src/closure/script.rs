//! `#!` lines: a script → the programs that run it.
//!
//! Source: execve(2) "Interpreter scripts", env(1). The kernel looks at 255 bytes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The bytes of a file that the kernel looks at: BINPRM_BUF_SIZE.
pub const HEAD: usize = 256;
/// Interpreters that may themselves be scripts.
pub const MAXIMUM_NESTING: usize = 5;

/// What a `#!` line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The path behind `#!`.
    pub interpreter: PathBuf,
    /// The program that env(1) is to look for.
    pub through_env: Option<OsString>,
}

/// Why the kernel would not run a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptDefect {
    /// Nothing behind `#!`.
    #[error("its `#!` line names no interpreter")]
    Empty,
    /// The interpreter's name does not end within what the kernel reads.
    #[error("the interpreter on its `#!` line does not end within 255 bytes")]
    TooLong,
    /// More interpreters that are scripts than the kernel follows.
    #[error("its interpreters are scripts more than {MAXIMUM_NESTING} deep")]
    TooDeep,
}

/// Reads the `#!` line of a file that begins with `head` (its first [`HEAD`] bytes, or all of it);
/// `None` for what is no script.
///
/// # Errors
/// [`ScriptDefect`]
pub fn parse(head: &[u8]) -> Result<Option<Script>, ScriptDefect> {
    let head = &head[..head.len().min(HEAD)];
    let Some(rest) = head.strip_prefix(b"#!") else { return Ok(None) };
    let line = match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) => &rest[..end],
        // Arguments may be cut off, the interpreter's name may not.
        None if head.len() == HEAD => {
            let rest = &rest[..rest.len() - 1];
            let name = rest.trim_ascii_start();
            if !name.is_empty() && !name.iter().any(|byte| matches!(byte, b' ' | b'\t' | 0)) {
                return Err(ScriptDefect::TooLong);
            }
            rest
        }
        None => rest,
    };
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = line.iter().position(|byte| !is_blank(byte)).ok_or(ScriptDefect::Empty)?;
    let line = &line[start..];
    let end = line.iter().position(|byte| is_blank(byte) || *byte == 0).unwrap_or(line.len());
    if end == 0 {
        return Err(ScriptDefect::Empty);
    }
    let interpreter = PathBuf::from(OsStr::from_bytes(&line[..end]));
    let through_env = match interpreter.file_name() {
        Some(name) if name == "env" => env_program(&line[end..]),
        _ => None,
    };
    Ok(Some(Script { interpreter, through_env }))
}

/// The program among the arguments of env(1): behind its options and assignments.
fn env_program(arguments: &[u8]) -> Option<OsString> {
    let mut words = arguments.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let word = match word {
            b"-u" | b"--unset" | b"-C" | b"--chdir" => {
                words.next();
                continue;
            }
            _ => word.strip_prefix(b"--split-string=").or_else(|| glued_split(word)).unwrap_or(word),
        };
        if word.is_empty() || word.starts_with(b"-") || word.contains(&b'=') {
            continue;
        }
        let word = word.strip_prefix(b"\"").and_then(|word| word.strip_suffix(b"\"")).unwrap_or(word);
        return Some(OsStr::from_bytes(word).to_owned());
    }
    None
}

/// `-Sname` and `-vSname`.
fn glued_split(word: &[u8]) -> Option<&[u8]> {
    word.strip_prefix(b"-S").or_else(|| word.strip_prefix(b"-vS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(line: &str) -> Option<String> {
        let script = parse(line.as_bytes()).unwrap().unwrap();
        script.through_env.map(|name| name.into_string().unwrap())
    }

    #[test]
    fn the_interpreter_ends_at_a_blank() {
        let script = parse(b"#! \t/bin/sh -e\nrest").unwrap().unwrap();
        assert_eq!(script, Script { interpreter: "/bin/sh".into(), through_env: None });
        assert_eq!(parse(b"\x7fELF"), Ok(None));
        assert_eq!(parse(b"#!  \n"), Err(ScriptDefect::Empty));
    }

    #[test]
    fn env_runs_the_first_word_that_is_no_option_and_no_assignment() {
        assert_eq!(env("#!/usr/bin/env python3\n").as_deref(), Some("python3"));
        assert_eq!(env("#!/usr/bin/env -S -i A=b node --x\n").as_deref(), Some("node"));
        assert_eq!(env("#!/usr/bin/env -Sperl -w\n").as_deref(), Some("perl"));
        assert_eq!(env("#!/usr/bin/env -u HOME ruby\n").as_deref(), Some("ruby"));
        assert_eq!(env("#!/usr/bin/env LC_ALL=C awk\n").as_deref(), Some("awk"));
        assert_eq!(env("#!/usr/bin/env\n"), None);
    }

    #[test]
    fn a_name_of_256_bytes_is_refused_and_one_of_255_is_not() {
        let line = |length: usize| [b"#!/".as_slice(), &vec![b'a'; length - 3], b"\n"].concat();
        assert!(parse(&line(255)).unwrap().is_some());
        assert_eq!(parse(&line(256)), Err(ScriptDefect::TooLong));
        let long = [b"#!/bin/sh ".as_slice(), &[b'a'; 300]].concat();
        assert_eq!(parse(&long).unwrap().unwrap().interpreter, std::path::Path::new("/bin/sh"));
        assert_eq!(parse(&[b"#!".as_slice(), &[b' '; 300]].concat()), Err(ScriptDefect::Empty));
    }
}
