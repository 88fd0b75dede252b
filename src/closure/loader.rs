//! A program's loader: what it takes as `$LIB`, which directories it searches by default, and whether
//! it is glibc's or musl's. All of it is read from the loader's own file, which is never run.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::elf::{self, Architecture, Class};
use super::root::{Opened, RootError, SourceRoot};

/// glibc's loader is 200 KiB.
const MAXIMUM_SIZE: u64 = 4 << 20;

/// Whose rules a loader follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoaderKind {
    /// ld.so(8)
    Glibc,
    /// musl's ldso/dynlink.c
    Musl,
}

/// A loader, as far as a search depends on it.
#[derive(Clone, Debug)]
pub struct Loader {
    /// Whose.
    pub kind: LoaderKind,
    /// `PT_INTERP` of its programs.
    pub path: PathBuf,
    /// Its own SONAME: libc asks for it by that.
    pub soname: Option<OsString>,
    /// `$LIB`; `None` where it cannot be told.
    pub lib: Option<Vec<u8>>,
    /// Every value of `$PLATFORM`, best first.
    pub platforms: Vec<Vec<u8>>,
    /// Directories searched last.
    pub default_directories: Vec<PathBuf>,
    /// glibc since 2.30 takes no position-independent program as a library.
    pub refuses_pie: bool,
    /// glibc up to 2.36 looks into `tls/`, `haswell/` and so on.
    pub legacy_hwcaps: bool,
    /// Where its cache is.
    pub cache: Option<PathBuf>,
    /// A file that its search depends on, and that is there.
    pub configuration: Option<PathBuf>,
}

impl Loader {
    /// Reads the loader at `path`.
    ///
    /// # Errors
    /// It is missing, or no regular file.
    pub fn read(root: &SourceRoot, path: &Path) -> Result<Loader, RootError> {
        if path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"ld-musl-")) {
            Loader::musl(root, path)
        } else {
            Loader::glibc(root, path)
        }
    }

    fn glibc(root: &SourceRoot, path: &Path) -> Result<Loader, RootError> {
        let bytes = root.read_file(path, MAXIMUM_SIZE)?;
        let object = elf::parse(bytes.as_slice()).ok();
        let strings: Vec<&[u8]> = bytes.split(|byte| *byte == 0).collect();
        let default_directories = default_directories(&strings);
        let whole = |wanted: &[u8]| strings.contains(&wanted);
        let platform = object.as_ref().map_or(&b""[..], |object| platform(object.architecture));
        let platforms = [&b"haswell"[..], b"xeon_phi"]
            .into_iter()
            .filter(|name| whole(name))
            .chain([platform])
            .map(<[u8]>::to_vec)
            .collect();
        let cache =
            strings.iter().find(|string| string.starts_with(b"/") && string.ends_with(b"/ld.so.cache"));
        Ok(Loader {
            kind: LoaderKind::Glibc,
            path: path.to_owned(),
            soname: object.and_then(|object| object.soname),
            lib: default_directories.first().and_then(|first| lib_token(first, whole)),
            platforms,
            default_directories,
            refuses_pie: whole(b"cannot dynamically load position-independent executable"),
            legacy_hwcaps: version(&strings).is_some_and(|version| version < (2, 37)),
            cache: Some(
                cache
                    .map_or_else(|| "/etc/ld.so.cache".into(), |path| PathBuf::from(OsStr::from_bytes(path))),
            ),
            configuration: None,
        })
    }

    fn musl(root: &SourceRoot, path: &Path) -> Result<Loader, RootError> {
        let fail = |errno| RootError { path: path.to_owned(), errno };
        let Opened::Regular(..) = root.open_file(path).map_err(fail)? else {
            return Err(fail(nix::errno::Errno::EACCES));
        };
        // PREFIX/lib/ld-musl-ARCH.so.1 reads PREFIX/etc/ld-musl-ARCH.path.
        let prefix = path.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        let name = path.file_name().unwrap_or_default().as_bytes();
        let name = name.split(|byte| *byte == b'.').next().unwrap_or_default();
        let file = prefix.join("etc").join(OsStr::from_bytes(&[name, b".path"].concat()));
        let text = root.read_file(&file, 1 << 16);
        let list = match &text {
            Ok(text) => text.as_slice(),
            Err(error) if error.errno == nix::errno::Errno::ENOENT => b"/lib:/usr/local/lib:/usr/lib",
            Err(_) => b"",
        };
        Ok(Loader {
            kind: LoaderKind::Musl,
            path: path.to_owned(),
            soname: None,
            lib: None,
            platforms: Vec::new(),
            default_directories: list
                .split(|byte| b":\n".contains(byte))
                .filter(|directory| !directory.is_empty())
                .map(|directory| PathBuf::from(OsStr::from_bytes(directory)))
                .collect(),
            refuses_pie: false,
            legacy_hwcaps: false,
            cache: None,
            configuration: text.is_ok().then_some(file),
        })
    }

    /// The loader that a library without `PT_INTERP` would be loaded by, going by where loaders are
    /// installed for its architecture.
    pub fn customary(root: &SourceRoot, architecture: Architecture) -> Option<PathBuf> {
        let wide = architecture.class == Class::Bits64;
        // e_machine, as in elf.h.
        let candidates: &[&str] = match (architecture.machine, wide, architecture.little_endian) {
            (62, true, _) => &["/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"],
            (62, false, _) => &["/libx32/ld-linux-x32.so.2", "/lib/ld-musl-x32.so.1"],
            (3, _, _) => &["/lib/ld-linux.so.2", "/lib/ld-musl-i386.so.1"],
            (183, _, true) => &["/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-aarch64.so.1"],
            (40, _, _) => &["/lib/ld-linux-armhf.so.3", "/lib/ld-linux.so.3", "/lib/ld-musl-armhf.so.1"],
            (243, true, _) => &["/lib/ld-linux-riscv64-lp64d.so.1", "/lib/ld-musl-riscv64.so.1"],
            (21, _, true) => &["/lib64/ld64.so.2", "/lib/ld-musl-powerpc64le.so.1"],
            (22, true, _) => &["/lib/ld64.so.1", "/lib/ld-musl-s390x.so.1"],
            (258, true, _) => &["/lib64/ld-linux-loongarch-lp64d.so.1", "/lib/ld-musl-loongarch64.so.1"],
            _ => &[],
        };
        candidates
            .iter()
            .map(Path::new)
            .find(|path| matches!(root.open_file(path), Ok(Opened::Regular(..))))
            .map(Path::to_owned)
    }
}

/// `system_dirs` of glibc: consecutive strings, each a directory with a slash at its end.
fn default_directories(strings: &[&[u8]]) -> Vec<PathBuf> {
    let is_directory = |string: &[u8]| {
        string.len() > 2
            && string.starts_with(b"/")
            && string.ends_with(b"/")
            && string.windows(3).any(|window| window == b"lib")
            && string.iter().all(u8::is_ascii_graphic)
    };
    let first = strings.iter().position(|string| is_directory(string));
    let found: Vec<PathBuf> = first
        .map(|first| &strings[first..])
        .unwrap_or_default()
        .iter()
        .take_while(|string| is_directory(string))
        .map(|string| PathBuf::from(OsStr::from_bytes(&string[..string.len() - 1])))
        .collect();
    if found.is_empty() {
        ["/lib64", "/usr/lib64", "/lib", "/usr/lib"].iter().map(PathBuf::from).collect()
    } else {
        found
    }
}

/// `$LIB` is a constant of glibc's build, derived from the same directory as the first default one:
/// `lib/x86_64-linux-gnu` on Debian, `lib64` or `lib` elsewhere. The candidate is believed only where
/// the loader holds it as a string of its own.
fn lib_token(first: &Path, whole: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let path = first.strip_prefix("/usr").or_else(|_| first.strip_prefix("/")).unwrap_or(first);
    [path.as_os_str(), first.file_name().unwrap_or_default()]
        .into_iter()
        .map(|candidate| candidate.as_bytes().to_vec())
        .find(|candidate| !candidate.is_empty() && whole(candidate))
}

/// The release in glibc's `ld.so (…) stable release version 2.36.`
fn version(strings: &[&[u8]]) -> Option<(u32, u32)> {
    const WORDS: &[u8] = b" release version ";
    let has_words = |string: &&&[u8]| string.windows(WORDS.len()).any(|window| window == WORDS);
    strings.iter().filter(has_words).find_map(|string| {
        let text = std::str::from_utf8(string).ok()?;
        let (_, version) = text.split_once(" release version ")?;
        let mut parts = version.split(|c: char| !c.is_ascii_digit());
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    })
}

/// AT_PLATFORM of a machine: getauxval(3).
fn platform(architecture: Architecture) -> &'static [u8] {
    match (architecture.machine, architecture.little_endian) {
        (62, _) => b"x86_64",
        (3, _) => b"i686",
        (183, true) => b"aarch64",
        (183, false) => b"aarch64_be",
        (40, _) => b"v7l",
        (21, _) => b"power8",
        (22, _) => b"z13",
        _ => b"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lib_is_believed_only_where_the_loader_says_it() {
        let debian = Path::new("/lib/x86_64-linux-gnu");
        assert_eq!(lib_token(debian, |s| s == b"lib/x86_64-linux-gnu").unwrap(), b"lib/x86_64-linux-gnu");
        assert_eq!(lib_token(Path::new("/lib64"), |s| s == b"lib64").unwrap(), b"lib64");
        assert_eq!(lib_token(Path::new("/usr/lib"), |s| s == b"lib").unwrap(), b"lib");
        assert_eq!(lib_token(debian, |_| false), None);
    }

    #[test]
    fn default_directories_stand_together() {
        let strings: Vec<&[u8]> = vec![b"x", b"/etc/", b"/lib64/", b"/usr/lib64/", b"y", b"/lib/"];
        assert_eq!(default_directories(&strings), [Path::new("/lib64"), Path::new("/usr/lib64")]);
    }

    #[test]
    fn the_release_is_read() {
        assert_eq!(version(&[b"ld.so (X 2.36-9) stable release version 2.36."]), Some((2, 36)));
    }
}
