//! Arch's database: `/var/lib/pacman/local/NAME-VERSION-RELEASE/{desc,files}`.
//!
//! Source: pacman(8), alpm-db-desc(5), alpm-db-files(5): sections begin with `%WORD%` and end with an
//! empty line; paths are relative to `/`, those of directories end with a slash.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Budget, MAXIMUM_PROVIDES, Package, PackagesError, bounded, lines, text};
use crate::closure::root::SourceRoot;

const LOCAL: &str = "/var/lib/pacman/local";

/// The database of one tree.
#[derive(Debug)]
pub struct Pacman {
    packages: Vec<Package>,
    /// The directory of each package.
    directories: Vec<OsString>,
}

impl Pacman {
    /// Reads the database; `None` where the tree has none.
    pub(super) fn read(root: &SourceRoot) -> Result<Option<Pacman>, PackagesError> {
        let names = root.names(Path::new(LOCAL));
        bounded(&names, LOCAL)?;
        let mut found = Vec::new();
        let mut budget = Budget::new();
        for name in names {
            // Beside the packages there is a file, ALPM_DB_VERSION.
            let Ok(bytes) = budget.read(root, &Path::new(LOCAL).join(&name).join("desc")) else { continue };
            if let Some(package) = description(&bytes) {
                found.push((package, name));
            }
        }
        found.sort();
        let (packages, directories): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        Ok((!packages.is_empty()).then_some(Pacman { packages, directories }))
    }

    pub(super) fn packages(&self) -> &[Package] {
        &self.packages
    }

    pub(super) fn each_file(
        &self,
        root: &SourceRoot,
        index: usize,
        budget: &mut Budget,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<PathBuf, PackagesError> {
        let path = Path::new(LOCAL).join(&self.directories[index]).join("files");
        each_listed(&budget.read(root, &path)?, visit);
        Ok(path)
    }
}

/// What a `desc` file says; `None` without a name.
pub fn description(bytes: &[u8]) -> Option<Package> {
    let mut package = Package::default();
    let mut section: &[u8] = b"";
    for line in lines(bytes) {
        match (section, line) {
            (_, []) => section = b"",
            (_, [b'%', .., b'%']) => section = line,
            (b"%NAME%", _) => package.name = text(line),
            (b"%VERSION%", _) => package.version = Some(text(line)),
            (b"%ARCH%", _) => package.architecture = Some(text(line)),
            (b"%BASE%", _) => package.source = Some(text(line)),
            (b"%PROVIDES%", _) => {
                if package.provides.len() == MAXIMUM_PROVIDES {
                    continue;
                }
                package.provides.extend(text(line).split(['=', '<', '>']).next().map(str::to_owned));
            }
            _ => {}
        }
    }
    package.source.take_if(|source| *source == package.name);
    (!package.name.is_empty()).then_some(package)
}

/// Calls `visit` with every path of a `files` file.
pub fn each_listed(bytes: &[u8], visit: &mut dyn FnMut(&[u8])) {
    let mut inside = false;
    let mut path = Vec::new();
    for line in lines(bytes) {
        match line {
            [b'%', .., b'%'] => inside = line == b"%FILES%",
            [] => inside = false,
            line if inside => {
                path.clear();
                path.push(b'/');
                path.extend_from_slice(line.strip_suffix(b"/").unwrap_or(line));
                visit(&path);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_read_by_its_sections() {
        let text = b"%NAME%\nbash\n\n%VERSION%\n5.2.37-1\n\n%BASE%\nbash\n\n%ARCH%\nx86_64\n\n%PROVIDES%\nsh\nlibx.so=8-64\n";
        let package = description(text).unwrap();
        assert_eq!((package.name.as_str(), package.version.as_deref()), ("bash", Some("5.2.37-1")));
        assert_eq!(package.provides, ["sh", "libx.so"]);
        assert_eq!(package.source, None);
        assert_eq!(description(b"%VERSION%\n1\n"), None);
    }

    #[test]
    fn only_the_list_of_files_is_files() {
        let mut files = Vec::new();
        let text = b"%FILES%\nusr/\nusr/bin/x\n\n%BACKUP%\netc/x.conf\tabc\n";
        each_listed(text, &mut |path| files.push(path.escape_ascii().to_string()));
        assert_eq!(files, ["/usr", "/usr/bin/x"]);
    }
}
