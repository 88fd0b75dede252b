//! The package database of Debian and its kin, read as text: a package → the files it owns.
//!
//! Source: dpkg(1), dpkg-divert(1): `/var/lib/dpkg/info/NAME[:ARCH].list`, `/var/lib/dpkg/diversions`.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::root::{RootError, SourceRoot};

const INFORMATION: &str = "/var/lib/dpkg/info";
const DIVERSIONS: &str = "/var/lib/dpkg/diversions";
/// The longest lists, of documentation packages, are some megabytes.
const MAXIMUM_SIZE: u64 = 64 << 20;

/// The database of one tree.
#[derive(Debug)]
pub struct Packages {
    /// Names of list files, sorted.
    lists: Vec<OsString>,
    /// Path → where it really is, and whose diversion that is.
    diversions: HashMap<PathBuf, (PathBuf, OsString)>,
}

impl Packages {
    /// Reads the database; `None` where the tree has none.
    pub fn read(root: &SourceRoot) -> Option<Packages> {
        let lists: Vec<OsString> = root
            .names(Path::new(INFORMATION))
            .into_iter()
            .filter(|name| name.as_bytes().ends_with(b".list"))
            .collect();
        if lists.is_empty() {
            return None;
        }
        let text = root.read_file(Path::new(DIVERSIONS), MAXIMUM_SIZE).unwrap_or_default();
        Some(Packages { lists, diversions: diversions(&text) })
    }

    /// The names of all packages, without architectures.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.lists.iter().filter_map(|list| list.to_str()?.strip_suffix(".list")?.split(':').next())
    }

    /// The files and directories of `package` (`NAME` or `NAME:ARCH`); `None` for an unknown one.
    ///
    /// # Errors
    /// A list that cannot be read.
    pub fn files(&self, root: &SourceRoot, package: &str) -> Result<Option<Vec<PathBuf>>, RootError> {
        let mut found = false;
        let mut files = Vec::new();
        for list in &self.lists {
            let Some(name) = list.to_str().and_then(|list| list.strip_suffix(".list")) else { continue };
            let plain = name.split(':').next().unwrap_or(name);
            if name != package && plain != package {
                continue;
            }
            found = true;
            let text = root.read_file(&Path::new(INFORMATION).join(list), MAXIMUM_SIZE)?;
            for line in text.split(|byte| *byte == b'\n') {
                // The first line is `/.`.
                if !line.starts_with(b"/") || line == b"/." {
                    continue;
                }
                files.push(self.diverted(Path::new(OsStr::from_bytes(line)), plain));
            }
        }
        files.sort_unstable();
        files.dedup();
        Ok(found.then_some(files))
    }

    /// Where the file of `package` that its list calls `path` really is.
    fn diverted(&self, path: &Path, package: &str) -> PathBuf {
        match self.diversions.get(path) {
            Some((to, by)) if by != package => to.clone(),
            _ => path.to_owned(),
        }
    }
}

/// Records of three lines: the path, where other packages' files of that path go, whose diversion.
fn diversions(text: &[u8]) -> HashMap<PathBuf, (PathBuf, OsString)> {
    let lines: Vec<&OsStr> = text.split(|byte| *byte == b'\n').map(OsStr::from_bytes).collect();
    lines
        .chunks_exact(3)
        .map(|record| (PathBuf::from(record[0]), (PathBuf::from(record[1]), record[2].to_owned())))
        .collect()
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
    fn a_diversion_moves_the_files_of_others_only() {
        let packages =
            Packages { lists: Vec::new(), diversions: diversions(b"/usr/bin/a\n/usr/bin/a.b\npkg\n") };
        assert_eq!(packages.diverted(Path::new("/usr/bin/a"), "other"), Path::new("/usr/bin/a.b"));
        assert_eq!(packages.diverted(Path::new("/usr/bin/a"), "pkg"), Path::new("/usr/bin/a"));
    }
}
