//! Paths that cannot be confused: one type for this host's tree, one for the jail's.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// An absolute path on the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPath(PathBuf);

impl HostPath {
    /// Takes `path` as it is when absolute, else joins it to `base`. Nothing is resolved.
    pub fn new(base: &HostPath, path: impl AsRef<Path>) -> HostPath {
        HostPath(base.0.join(path))
    }

    /// Takes an absolute path; `None` for a relative one.
    pub fn absolute(path: impl Into<PathBuf>) -> Option<HostPath> {
        let path = path.into();
        path.is_absolute().then_some(HostPath(path))
    }

    /// The current working directory.
    ///
    /// # Errors
    /// As getcwd(3): the directory was removed or may not be read.
    pub fn current_directory() -> std::io::Result<HostPath> {
        std::env::current_dir().map(HostPath)
    }

    /// `/`.
    pub fn root() -> HostPath {
        HostPath(PathBuf::from("/"))
    }

    /// Appends `name`, which is taken as relative even if it begins with `/`.
    pub fn join(&self, name: impl AsRef<Path>) -> HostPath {
        let name = name.as_ref();
        HostPath(self.0.join(name.strip_prefix("/").unwrap_or(name)))
    }

    /// The path as the standard library takes it.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for HostPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for HostPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        printable(self.0.as_os_str()).fmt(f)
    }
}

/// An absolute, normalised path inside the jail: no `.`, no `..`, no doubled or trailing slash.
///
/// Ordered by component, so that a directory comes before what it holds and that before its next sibling.
#[derive(Clone, Debug)]
pub struct JailPath(PathBuf);

// By bytes, which is the same for a normalised path: comparing components costs ten times as much, and
// maps of thousands of paths do little else.

impl PartialEq for JailPath {
    fn eq(&self, other: &JailPath) -> bool {
        self.0.as_os_str() == other.0.as_os_str()
    }
}

impl Eq for JailPath {}

impl std::hash::Hash for JailPath {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.as_os_str().hash(state);
    }
}

/// Bytes that are compared at once.
const BLOCK: usize = 32;

impl Ord for JailPath {
    fn cmp(&self, other: &JailPath) -> std::cmp::Ordering {
        let (a, b) = (self.0.as_os_str().as_bytes(), other.0.as_os_str().as_bytes());
        // By blocks as long as they are equal: paths of one tree have long beginnings in common.
        let equal =
            a.chunks_exact(BLOCK).zip(b.chunks_exact(BLOCK)).take_while(|(a, b)| a == b).count() * BLOCK;
        let common = equal + a[equal..].iter().zip(&b[equal..]).take_while(|(a, b)| a == b).count();
        // The separator comes before every byte that a name can hold.
        let rank = |byte: u8| if byte == b'/' { 0 } else { u16::from(byte) + 1 };
        match (a.get(common), b.get(common)) {
            (Some(a), Some(b)) => rank(*a).cmp(&rank(*b)),
            _ => a.len().cmp(&b.len()),
        }
    }
}

impl PartialOrd for JailPath {
    fn partial_cmp(&self, other: &JailPath) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Why a text is no [`JailPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JailPathError {
    /// It does not begin with `/`.
    #[error("a path in the jail must begin with `/`")]
    Relative,
    /// It climbs with `..`, which a symlink could turn into anything.
    #[error("a path in the jail must not contain `..`")]
    Climbs,
    /// It holds a NUL byte, which no system call can take.
    #[error("a path must not contain a NUL byte")]
    Nul,
}

impl JailPath {
    /// Normalises `path`.
    ///
    /// # Errors
    /// A relative path, one with `..`, one with NUL.
    pub fn new(path: impl AsRef<Path>) -> Result<JailPath, JailPathError> {
        let path = path.as_ref();
        if path.as_os_str().as_bytes().contains(&0) {
            return Err(JailPathError::Nul);
        }
        if !path.is_absolute() {
            return Err(JailPathError::Relative);
        }
        let mut out = PathBuf::from("/");
        for component in path.components() {
            match component {
                Component::Normal(name) => out.push(name),
                Component::ParentDir => return Err(JailPathError::Climbs),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(JailPath(out))
    }

    /// `/`.
    pub fn root() -> JailPath {
        JailPath(PathBuf::from("/"))
    }

    /// Appends one name. There are maps of a hundred thousand paths: none takes more than it needs.
    pub fn child(&self, name: &OsStr) -> JailPath {
        let mut path = PathBuf::with_capacity(self.0.as_os_str().len() + 1 + name.len());
        path.push(&self.0);
        path.push(name);
        JailPath(path)
    }

    /// Appends names, one after the other.
    pub fn below<'n>(&self, names: impl IntoIterator<Item = &'n OsStr>) -> JailPath {
        names.into_iter().fold(self.clone(), |path, name| path.child(name))
    }

    /// The containing directory; `None` for `/`.
    pub fn parent(&self) -> Option<JailPath> {
        self.0.parent().map(|p| JailPath(p.to_owned()))
    }

    /// The path as the standard library takes it.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The path below `/`: empty for `/` itself.
    pub fn relative(&self) -> &Path {
        self.0.strip_prefix("/").unwrap_or(&self.0)
    }

    /// The names below `/`, outermost first.
    pub fn names(&self) -> impl Iterator<Item = &OsStr> {
        self.relative().iter()
    }
}

impl AsRef<Path> for JailPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for JailPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        printable(self.0.as_os_str()).fmt(f)
    }
}

/// A name for people: control characters and bytes that are no UTF-8 as `\xNN`, so that no name can
/// steer a terminal or forge a line of output.
pub fn printable(name: &OsStr) -> impl fmt::Display + '_ {
    Printable { name: name.as_bytes(), backslash: "\\" }
}

/// A name for programs, in JSON: as [`printable`], with a backslash as `\x5c`, so that the bytes can be had
/// back.
pub fn escaped(name: &OsStr) -> String {
    Printable { name: name.as_bytes(), backslash: "\\x5c" }.to_string()
}

struct Printable<'a> {
    name: &'a [u8],
    backslash: &'static str,
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.name.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() {
                    let mut bytes = [0; 4];
                    for byte in c.encode_utf8(&mut bytes).bytes() {
                        write!(f, "\\x{byte:02x}")?;
                    }
                } else if c == '\\' {
                    f.write_str(self.backslash)?;
                } else {
                    write!(f, "{c}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jail_path_is_normalised() {
        assert_eq!(JailPath::new("/a//./b/").unwrap().as_path(), Path::new("/a/b"));
        assert_eq!(JailPath::new("a"), Err(JailPathError::Relative));
        assert_eq!(JailPath::new("/a/../b"), Err(JailPathError::Climbs));
    }

    #[test]
    fn jail_paths_are_ordered_by_component() {
        let long = format!("/{}", "x".repeat(40));
        let names = [
            &long,
            &format!("{long}/a"),
            &format!("{long}-"),
            "/",
            "/a",
            "/a/b",
            "/a/b/c",
            "/a/b-",
            "/a!",
            "/a-b",
            "/a-b/c",
            "/ab",
            "/b",
            "/\u{1}",
            "/B",
        ];
        for a in names {
            for b in names {
                let expected = Path::new(a).cmp(Path::new(b));
                assert_eq!(JailPath::new(a).unwrap().cmp(&JailPath::new(b).unwrap()), expected, "{a} {b}");
            }
        }
    }

    #[test]
    fn a_hostile_name_is_printed_without_control_bytes() {
        let name = OsStr::from_bytes(b"a\x1b[2J\n\xff");
        assert_eq!(printable(name).to_string(), "a\\x1b[2J\\x0a\\xff");
    }

    #[test]
    fn an_escaped_name_gives_its_bytes_back() {
        assert_eq!(escaped(OsStr::from_bytes(b"a\\x1b\x1b\xc2\x85")), "a\\x5cx1b\\x1b\\xc2\\x85");
        assert_eq!(printable(OsStr::new("a\\b")).to_string(), "a\\b");
    }
}
