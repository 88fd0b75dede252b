//! Alpine's database: one text, `/lib/apk/db/installed`, since apk-tools 3 also `/usr/lib/apk/db/installed`.
//!
//! Source: apk(5), "Alpine Package Database": a paragraph for each package, one letter and a colon before
//! each value: `P` name, `V` version, `A` architecture, `o` source package, `p` provides, `F` a directory,
//! `R` a file in it. Paths are relative to `/`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{MAXIMUM_PACKAGES, MAXIMUM_PROVIDES, MAXIMUM_SIZE, Package, PackagesError, bounded, lines, text};
use crate::closure::root::SourceRoot;

const INSTALLED: [&str; 2] = ["/usr/lib/apk/db/installed", "/lib/apk/db/installed"];

/// The database of one tree.
#[derive(Debug)]
pub struct Apk {
    path: &'static str,
    text: Vec<u8>,
    packages: Vec<Package>,
    /// The paragraph of each package in the text.
    paragraphs: Vec<Range<usize>>,
}

impl Apk {
    /// Reads the database; `None` where the tree has none.
    pub(super) fn read(root: &SourceRoot) -> Result<Option<Apk>, PackagesError> {
        for path in INSTALLED {
            match root.read_file(Path::new(path), MAXIMUM_SIZE) {
                Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENOTDIR) => {}
                other => {
                    let apk = Apk::parse(path, other?);
                    bounded(&apk.packages, path)?;
                    return Ok(Some(apk));
                }
            }
        }
        Ok(None)
    }

    /// Any bytes are a database: what is no paragraph with a name is skipped.
    pub fn parse(path: &'static str, bytes: Vec<u8>) -> Apk {
        let mut found: Vec<(Package, Range<usize>)> = Vec::new();
        let (mut package, mut begin, mut at) = (Package::default(), 0, 0);
        for line in lines(&bytes).chain([&b""[..]]) {
            let end = at + line.len();
            // One more than can be, so that the reader sees it.
            if found.len() > MAXIMUM_PACKAGES {
                break;
            }
            match line {
                [] => {
                    let done = std::mem::take(&mut package);
                    if !done.name.is_empty() {
                        found.push((done, begin..at.min(bytes.len())));
                    }
                    begin = end + 1;
                }
                [b'P', b':', value @ ..] => package.name = text(value),
                [b'V', b':', value @ ..] => package.version = Some(text(value)),
                [b'A', b':', value @ ..] => package.architecture = Some(text(value)),
                [b'o', b':', value @ ..] => package.source = Some(text(value)),
                [b'p', b':', value @ ..] => {
                    let names = text(value);
                    let bare = |name: &str| name.split(['=', '<', '>', '~']).next().map(str::to_owned);
                    package.provides = names.split(' ').take(MAXIMUM_PROVIDES).filter_map(bare).collect();
                }
                _ => {}
            }
            at = end + 1;
        }
        for (package, _) in &mut found {
            package.source.take_if(|source| *source == package.name);
        }
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        let (packages, paragraphs) = found.into_iter().unzip();
        Apk { path, text: bytes, packages, paragraphs }
    }

    /// Every package, sorted.
    pub fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// Calls `visit` with every path of a package.
    pub fn each_file(&self, index: usize, visit: &mut dyn FnMut(&[u8])) -> PathBuf {
        let paragraph = self.text.get(self.paragraphs[index].clone()).unwrap_or_default();
        let mut directory = b"/".to_vec();
        for line in lines(paragraph) {
            match line {
                [b'F', b':', name @ ..] => {
                    directory.clear();
                    directory.push(b'/');
                    directory.extend_from_slice(name);
                    visit(&directory);
                }
                [b'R', b':', name @ ..] => {
                    let separator: &[u8] = if directory.len() > 1 { b"/" } else { b"" };
                    visit(&[&directory, separator, name].concat());
                }
                _ => {}
            }
        }
        self.path.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(apk: &Apk, index: usize) -> Vec<String> {
        let mut files = Vec::new();
        apk.each_file(index, &mut |path| files.push(path.escape_ascii().to_string()));
        files
    }

    #[test]
    fn a_paragraph_is_a_package_with_its_files() {
        let text = "C:Q1\nP:zlib\nV:1.3-r2\nA:x86_64\no:zlib\np:so:libz.so.1=1.3 z\nF:lib\nR:libz.so.1\na:0:0:755\nZ:Q1\n\n\
                    P:base\nV:1\no:alpine\nF:\nR:x\nF:etc\nR:y";
        let apk = Apk::parse("/x", text.into());
        let names: Vec<&str> = apk.packages().iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["base", "zlib"]);
        assert_eq!(files(&apk, 0), ["/", "/x", "/etc", "/etc/y"]);
        assert_eq!(files(&apk, 1), ["/lib", "/lib/libz.so.1"]);
        assert_eq!(apk.packages()[0].source.as_deref(), Some("alpine"));
        assert_eq!(apk.packages()[1].source, None);
        assert_eq!(apk.packages()[1].provides, ["so:libz.so.1", "z"]);
    }

    #[test]
    fn an_absolute_name_stays_in_its_directory() {
        let apk = Apk::parse("/x", b"P:x\nF:usr\nR:/etc/shadow\n".to_vec());
        assert_eq!(files(&apk, 0), ["/usr", "/usr//etc/shadow"]);
    }
}
