//! Package databases, read as text: a package → its files, a path → its owner, a package → its version.
//!
//! Nothing of the package manager is run. Every byte of a database is taken for hostile: sizes, lines and
//! packages are bounded, names are looked up in what was read and never joined to a path, and a path that
//! is listed is absolute and free of `..`, or it is ignored.

pub mod apk;
pub mod dpkg;
pub mod pacman;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::root::{Opened, RootError, SourceRoot};
use crate::path::{JailPath, printable};

/// One file of a database: the lists of documentation packages, and apk's whole database, have some
/// megabytes.
const MAXIMUM_SIZE: u64 = 64 << 20;
/// All files of a database together.
const MAXIMUM_TOTAL: u64 = 512 << 20;
/// Paths of one package; the largest have a hundred thousand.
const MAXIMUM_FILES: usize = 1 << 20;
/// Packages of one tree; whole distributions have fewer.
const MAXIMUM_PACKAGES: usize = 1 << 17;
/// Owners of one path that are told; all packages have /usr, files have one or two.
const MAXIMUM_OWNERS: usize = 1 << 10;
/// Other names of one package; the largest have some hundreds.
const MAXIMUM_PROVIDES: usize = 1 << 13;
/// PATH_MAX without the NUL.
const MAXIMUM_PATH: usize = 4095;

/// rpm's databases, newest first: rpm(8), `_dbpath` and `_db_backend`.
const RPM: [(&str, &str); 6] = [
    ("/usr/lib/sysimage/rpm/rpmdb.sqlite", "an SQLite file"),
    ("/var/lib/rpm/rpmdb.sqlite", "an SQLite file"),
    ("/usr/lib/sysimage/rpm/Packages.db", "an ndb file"),
    ("/var/lib/rpm/Packages.db", "an ndb file"),
    ("/usr/lib/sysimage/rpm/Packages", "a Berkeley DB file"),
    ("/var/lib/rpm/Packages", "a Berkeley DB file"),
];

/// One installed package.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Package {
    /// Its name, without architecture.
    pub name: String,
    /// Its version with the distribution's revision; absent where the database does not say.
    pub version: Option<String>,
    /// The distribution's word for its architecture.
    pub architecture: Option<String>,
    /// The source package that it was built from, where that has another name.
    pub source: Option<String>,
    /// Other names that it can be asked for by.
    pub provides: Vec<String>,
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", printable(self.name.as_ref()))?;
        match &self.version {
            Some(version) => write!(f, " {}", printable(version.as_ref())),
            None => Ok(()),
        }
    }
}

/// Why a database cannot answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackagesError {
    /// A file of it cannot be read.
    #[error(transparent)]
    Root(#[from] RootError),
    /// It holds more than any database does.
    #[error("{} holds more than {what}", printable(path.as_os_str()))]
    TooLarge {
        /// Which file or directory.
        path: PathBuf,
        /// The bound.
        what: &'static str,
    },
    /// rpm's are no text, and rpm itself is not run.
    #[error("the tree's packages are in {path}, {form} that only rpm can read")]
    Rpm {
        /// The file.
        path: &'static str,
        /// Its format.
        form: &'static str,
    },
}

/// Why a database has no such package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Nothing has the name.
    Unknown {
        /// An installed package whose name is near.
        nearest: Option<String>,
    },
    /// The name is no package's own.
    Virtual {
        /// The installed packages that provide it.
        providers: Vec<String>,
    },
    /// Only its configuration files are left.
    Removed,
    /// Installed for several architectures, none of them the tree's own.
    Ambiguous {
        /// The full names.
        instances: Vec<String>,
    },
}

/// Path → the packages that have it, as indexes into [`Packages::installed`].
pub type Owners = HashMap<PathBuf, Vec<usize>>;

/// The database of one tree.
#[derive(Debug)]
pub enum Packages {
    /// Debian and its kin.
    Dpkg(dpkg::Dpkg),
    /// Alpine and its kin.
    Apk(apk::Apk),
    /// Arch and its kin.
    Pacman(pacman::Pacman),
}

impl Packages {
    /// Reads the database of a tree; `None` where it has none.
    ///
    /// # Errors
    /// It cannot be read or is too large; rpm's always.
    pub fn read(root: &SourceRoot) -> Result<Option<Packages>, PackagesError> {
        if let Some(dpkg) = dpkg::Dpkg::read(root)? {
            return Ok(Some(Packages::Dpkg(dpkg)));
        }
        if let Some(apk) = apk::Apk::read(root)? {
            return Ok(Some(Packages::Apk(apk)));
        }
        if let Some(pacman) = pacman::Pacman::read(root)? {
            return Ok(Some(Packages::Pacman(pacman)));
        }
        match RPM.iter().find(|(path, _)| matches!(root.open_file(path.as_ref()), Ok(Opened::Regular(..)))) {
            Some((path, form)) => Err(PackagesError::Rpm { path, form }),
            None => Ok(None),
        }
    }

    /// The type of its packages in package URLs.
    pub fn kind(&self) -> &'static str {
        match self {
            Packages::Dpkg(_) => "deb",
            Packages::Apk(_) => "apk",
            Packages::Pacman(_) => "alpm",
        }
    }

    /// Every package, sorted by name.
    pub fn installed(&self) -> &[Package] {
        match self {
            Packages::Dpkg(dpkg) => dpkg.packages(),
            Packages::Apk(apk) => apk.packages(),
            Packages::Pacman(pacman) => pacman.packages(),
        }
    }

    /// The index of `NAME` or `NAME:ARCH`. Of several architectures the tree's own is meant.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(&self, package: &str) -> Result<usize, Absent> {
        let (name, architecture) = match package.split_once(':') {
            Some((name, architecture)) => (name, Some(architecture)),
            None => (package, None),
        };
        let packages = self.installed();
        let first = packages.partition_point(|package| package.name.as_str() < name);
        let mut found: Vec<usize> =
            (first..packages.len()).take_while(|index| packages[*index].name == name).collect();
        if let Some(architecture) = architecture {
            found.retain(|index| packages[*index].architecture.as_deref() == Some(architecture));
        } else if found.len() > 1
            && let Packages::Dpkg(dpkg) = self
        {
            let native = found.iter().copied().find(|index| dpkg.is_native(*index));
            found = native.map_or(found, |index| vec![index]);
        }
        match found[..] {
            [index] => Ok(index),
            [] => Err(self.absent(package, name)),
            _ => {
                let full = |index: &usize| {
                    let architecture = packages[*index].architecture.as_deref().unwrap_or_default();
                    format!("{name}:{architecture}")
                };
                Err(Absent::Ambiguous { instances: found.iter().map(full).collect() })
            }
        }
    }

    fn absent(&self, package: &str, name: &str) -> Absent {
        if matches!(self, Packages::Dpkg(dpkg) if dpkg.is_removed(name)) {
            return Absent::Removed;
        }
        let packages = self.installed();
        let mut providers: Vec<String> = packages
            .iter()
            .filter(|package| package.name != name && package.provides.iter().any(|other| other == name))
            .map(|package| package.name.clone())
            .collect();
        providers.dedup();
        if !providers.is_empty() {
            return Absent::Virtual { providers };
        }
        let names = packages.iter().map(|package| package.name.as_str());
        // `NAME:ARCH` may be right but for the architecture.
        let instances: Vec<String> = packages
            .iter()
            .filter(|package| package.name == name)
            .filter_map(|package| Some(format!("{name}:{}", package.architecture.as_deref()?)))
            .collect();
        let nearest = instances.into_iter().next();
        Absent::Unknown {
            nearest: nearest.or_else(|| crate::error::nearest(package, names).map(str::to_owned)),
        }
    }

    /// The files, links and directories of a package, sorted: those that it lists, and the links of the
    /// alternatives system that lead to them.
    ///
    /// # Errors
    /// Its list cannot be read, or is too long.
    pub fn files(&self, root: &SourceRoot, index: usize) -> Result<Vec<PathBuf>, PackagesError> {
        let mut files = Vec::new();
        let mut excess = false;
        let place = self.each_file(root, index, &mut Budget::new(), &mut |path| {
            if let Some(path) = listed(path) {
                excess |= files.len() >= MAXIMUM_FILES;
                if !excess {
                    files.push(path);
                }
            }
        })?;
        if excess {
            return Err(PackagesError::TooLarge { path: place, what: "a million paths of one package" });
        }
        if let Packages::Dpkg(dpkg) = self {
            files.extend(dpkg.links_to(root, &files));
        }
        files.sort_unstable();
        files.dedup();
        Ok(files)
    }

    /// The owners of `paths`, by reading the whole database once, however many paths there are. Each is
    /// found by either spelling of a merged /usr; what no package has is absent from the result. Of more than
    /// a thousand owners the first thousand are given.
    ///
    /// # Errors
    /// A list cannot be read, or they are too large.
    pub fn owners<'a>(
        &self,
        root: &SourceRoot,
        paths: impl IntoIterator<Item = &'a Path>,
    ) -> Result<Owners, PackagesError> {
        let mut wanted: HashMap<Vec<u8>, PathBuf> = HashMap::new();
        for path in paths {
            for spelling in [Some(path.to_owned()), other_spelling(path)].into_iter().flatten() {
                wanted.insert(spelling.into_os_string().into_encoded_bytes(), path.to_owned());
            }
        }
        let mut owners = Owners::new();
        let mut budget = Budget::new();
        for index in 0..self.installed().len() {
            self.each_file(root, index, &mut budget, &mut |path| {
                if let Some(path) = wanted.get(path) {
                    let owners = owners.entry(path.clone()).or_default();
                    if owners.last() != Some(&index) && owners.len() < MAXIMUM_OWNERS {
                        owners.push(index);
                    }
                }
            })?;
        }
        Ok(owners)
    }

    /// Calls `visit` with every path that a package lists, absolute but otherwise as it stands; gives the
    /// file that was read.
    fn each_file(
        &self,
        root: &SourceRoot,
        index: usize,
        budget: &mut Budget,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<PathBuf, PackagesError> {
        match self {
            Packages::Dpkg(dpkg) => dpkg.each_file(root, index, budget, visit),
            Packages::Apk(apk) => Ok(apk.each_file(index, visit)),
            Packages::Pacman(pacman) => pacman.each_file(root, index, budget, visit),
        }
    }
}

/// Bytes that may still be read.
#[derive(Debug)]
struct Budget(u64);

impl Budget {
    fn new() -> Budget {
        Budget(MAXIMUM_TOTAL)
    }

    fn read(&mut self, root: &SourceRoot, path: &Path) -> Result<Vec<u8>, PackagesError> {
        let text = root.read_file(path, MAXIMUM_SIZE)?;
        self.0 = self.0.checked_sub(text.len() as u64).ok_or_else(|| PackagesError::TooLarge {
            path: path.parent().unwrap_or(path).to_owned(),
            what: "512 MiB",
        })?;
        Ok(text)
    }
}

/// The packages in order of their names, without more than there can be.
fn bounded<T>(packages: &[T], path: &str) -> Result<(), PackagesError> {
    match packages.len() <= MAXIMUM_PACKAGES {
        true => Ok(()),
        false => Err(PackagesError::TooLarge { path: path.into(), what: "131072 packages" }),
    }
}

/// A path of a list, if it can be one of a tree.
fn listed(path: &[u8]) -> Option<PathBuf> {
    (path.len() <= MAXIMUM_PATH)
        .then(|| JailPath::new(OsStr::from_bytes(path)).ok())
        .flatten()
        .filter(|path| *path != JailPath::root())
        .map(|path| path.as_path().to_owned())
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

/// A value of a database: names and versions are ASCII in honest ones.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim().to_owned()
}

/// The same file by its other name where `/bin` and so on are links into `/usr`, or were once.
pub fn other_spelling(path: &Path) -> Option<PathBuf> {
    const MERGED: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
    let relative = path.strip_prefix("/").ok()?;
    let (base, rest) = match relative.strip_prefix("usr") {
        Ok(rest) => ("/", rest),
        Err(_) => ("/usr", relative),
    };
    let first = rest.iter().next()?;
    MERGED.iter().any(|name| first == *name).then(|| Path::new(base).join(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merged_path_has_two_spellings() {
        assert_eq!(other_spelling(Path::new("/bin/ls")), Some("/usr/bin/ls".into()));
        assert_eq!(other_spelling(Path::new("/usr/lib/x")), Some("/lib/x".into()));
        assert_eq!(other_spelling(Path::new("/usr/share/x")), None);
    }

    #[test]
    fn a_hostile_path_is_no_path_of_a_package() {
        let long = [b"/".to_vec(), vec![b'a'; MAXIMUM_PATH]].concat();
        for path in [&b"etc/passwd"[..], b"/../etc", b"/a/../../b", b"/a\0b", b"", b"/", b"/.", &long] {
            assert_eq!(listed(path), None, "{}", path.escape_ascii());
        }
        assert_eq!(listed(b"//usr/./bin/"), Some("/usr/bin".into()));
        assert_eq!(listed(b"/\xff\n"), Some(OsStr::from_bytes(b"/\xff\n").into()));
    }
}
