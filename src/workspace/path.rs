//! A path below the top of a workspace.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use crate::path::{JailPath, JailPathError, printable};

/// The longest path that one system call takes, without its NUL.
pub const LONGEST: usize = 4095;

/// A path below the top of a workspace: names, no `.`, no `..`. Ordered by component.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkPath(JailPath);

impl WorkPath {
    /// The workspace itself.
    pub fn top() -> WorkPath {
        WorkPath(JailPath::root())
    }

    /// As a person or the journal writes it: relative to the workspace.
    ///
    /// # Errors
    /// It is absolute, climbs with `..`, or holds a NUL byte.
    pub fn new(path: impl AsRef<Path>) -> Result<WorkPath, JailPathError> {
        let path = path.as_ref();
        match path.components().next() {
            Some(Component::RootDir) => Err(JailPathError::Relative),
            _ => JailPath::new(Path::new("/").join(path)).map(WorkPath),
        }
    }

    /// Appends one name.
    pub fn child(&self, name: &OsStr) -> WorkPath {
        WorkPath(self.0.child(name))
    }

    /// The containing directory; `None` for the top.
    pub fn parent(&self) -> Option<WorkPath> {
        self.0.parent().map(WorkPath)
    }

    /// The last name; empty for the top.
    pub fn name(&self) -> &OsStr {
        self.0.as_path().file_name().unwrap_or_default()
    }

    /// The names, outermost first.
    pub fn names(&self) -> impl Iterator<Item = &OsStr> {
        self.0.names()
    }

    /// The paths of the directories on the way, outermost first, without the top and the path itself.
    pub fn parents(&self) -> impl Iterator<Item = WorkPath> + '_ {
        let count = self.names().count().saturating_sub(1);
        self.names().take(count).scan(WorkPath::top(), |here, name| {
            *here = here.child(name);
            Some(here.clone())
        })
    }

    /// Whether it is `above` or lies below it.
    pub fn is_within(&self, above: &WorkPath) -> bool {
        let (path, above) = (self.as_bytes(), above.as_bytes());
        above.is_empty()
            || path.strip_prefix(above).is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'/'))
    }

    /// As system calls take it, relative to the top; `.` for the top.
    pub fn relative(&self) -> &Path {
        match self.0.relative() {
            path if path.as_os_str().is_empty() => Path::new("."),
            path => path,
        }
    }

    /// Its bytes; empty for the top.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.relative().as_os_str().as_bytes()
    }

    /// Whether it is longer than a system call takes.
    pub fn is_too_long(&self) -> bool {
        self.as_bytes().len() > LONGEST
    }
}

impl fmt::Display for WorkPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        printable(self.relative().as_os_str()).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_workspace_is_relative_and_does_not_climb() {
        assert_eq!(
            WorkPath::new("./a//b/").unwrap(),
            WorkPath::top().child("a".as_ref()).child("b".as_ref())
        );
        assert_eq!(WorkPath::new(".").unwrap(), WorkPath::top());
        assert!(WorkPath::new("/a").is_err());
        assert!(WorkPath::new("a/../b").is_err());
    }

    #[test]
    fn the_directories_on_the_way_are_named_outermost_first() {
        let path = WorkPath::new("a/b/c").unwrap();
        let parents: Vec<String> = path.parents().map(|path| path.to_string()).collect();
        assert_eq!(parents, ["a", "a/b"]);
        assert!(
            path.is_within(&WorkPath::new("a").unwrap()) && !path.is_within(&WorkPath::new("a/bc").unwrap())
        );
    }
}
