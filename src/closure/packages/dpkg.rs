//! Debian's database: `/var/lib/dpkg`.
//!
//! Source: dpkg(1), dpkg-query(1), dpkg-divert(1), deb-control(5), update-alternatives(1):
//! `status`, `info/NAME[:ARCH].list`, `diversions`, `arch`, `alternatives/NAME`.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{
    Budget, MAXIMUM_PACKAGES, MAXIMUM_PROVIDES, MAXIMUM_SIZE, Package, PackagesError, bounded, lines, listed,
    other_spelling, text,
};
use crate::closure::root::SourceRoot;

const INFORMATION: &str = "/var/lib/dpkg/info";
const STATUS: &str = "/var/lib/dpkg/status";
const DIVERSIONS: &str = "/var/lib/dpkg/diversions";
/// Its first line is the tree's own architecture, where others were added.
const ARCHITECTURES: &str = "/var/lib/dpkg/arch";
const ALTERNATIVES: &str = "/var/lib/dpkg/alternatives";
/// Where the links of alternatives lead first.
const CHOSEN: &str = "/etc/alternatives";
/// Groups of alternatives; a desktop has a few hundred.
const MAXIMUM_GROUPS: usize = 1 << 14;
/// Bytes of one group.
const MAXIMUM_GROUP: u64 = 1 << 20;

/// The database of one tree.
#[derive(Debug)]
pub struct Dpkg {
    packages: Vec<Package>,
    /// The list file of each package.
    lists: Vec<Option<OsString>>,
    /// Packages of which only configuration files are left.
    removed: BTreeSet<String>,
    native: Option<String>,
    /// Path → where it really is, and whose diversion that is.
    diversions: HashMap<Vec<u8>, (Vec<u8>, Vec<u8>)>,
    /// Links of the alternatives system and what they lead to, read when first asked for.
    alternatives: OnceCell<Vec<(PathBuf, PathBuf)>>,
}

/// One paragraph of the status file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paragraph {
    /// Name, version, architecture, source, provides.
    pub package: Package,
    /// The third word of `Status`: `installed`, `config-files` …
    pub state: String,
}

impl Dpkg {
    /// Reads the database; `None` where the tree has none.
    pub(super) fn read(root: &SourceRoot) -> Result<Option<Dpkg>, PackagesError> {
        let names = root.names(Path::new(INFORMATION));
        let names: HashSet<OsString> =
            names.into_iter().filter(|name| name.as_bytes().ends_with(b".list")).collect();
        if names.is_empty() {
            return Ok(None);
        }
        let read = |path: &str| match root.read_file(Path::new(path), MAXIMUM_SIZE) {
            Err(error) if error.errno == nix::errno::Errno::ENOENT => Ok(Vec::new()),
            other => other,
        };
        let paragraphs = status(&read(STATUS)?);
        let native = lines(&read(ARCHITECTURES)?).next().map(text).filter(|line| !line.is_empty());
        let own = paragraphs.iter().find(|paragraph| paragraph.package.name == "dpkg");
        let native = native.or_else(|| own.and_then(|paragraph| paragraph.package.architecture.clone()));
        let diversions = diversions(&read(DIVERSIONS)?);
        bounded(&paragraphs, STATUS)?;
        let dpkg = Dpkg::assemble(names, paragraphs, native, diversions);
        bounded(&dpkg.packages, INFORMATION)?;
        Ok(Some(dpkg))
    }

    fn assemble(
        mut names: HashSet<OsString>,
        paragraphs: Vec<Paragraph>,
        native: Option<String>,
        diversions: HashMap<Vec<u8>, (Vec<u8>, Vec<u8>)>,
    ) -> Dpkg {
        let mut removed = BTreeSet::new();
        // By name and architecture, the last paragraph of the two.
        let mut found: BTreeMap<(String, Option<String>), (Package, Option<OsString>)> = BTreeMap::new();
        let mut plain = Vec::new();
        for Paragraph { package, state } in paragraphs {
            let architecture = package.architecture.as_deref().unwrap_or_default();
            // Packages that can be installed for several architectures at once have it in the name.
            let full = OsString::from(format!("{}:{architecture}.list", package.name));
            let short = OsString::from(format!("{}.list", package.name));
            let list = match names.remove(&full) {
                true => Some(full),
                false => {
                    plain.push(short.clone());
                    names.contains(&short).then_some(short)
                }
            };
            match state.as_str() {
                "config-files" => {
                    removed.insert(package.name);
                }
                "not-installed" => {}
                _ => {
                    let key = (package.name.clone(), package.architecture.clone());
                    found.insert(key, (package, list));
                }
            }
        }
        for name in plain {
            names.remove(&name);
        }
        // A list without a paragraph still says what it lists.
        for list in names {
            let Some(stem) = list.to_str().and_then(|list| list.strip_suffix(".list")) else { continue };
            let (name, architecture) = match stem.split_once(':') {
                Some((name, architecture)) => (name, Some(architecture.to_owned())),
                None => (stem, None),
            };
            let package =
                Package { name: name.to_owned(), architecture: architecture.clone(), ..Package::default() };
            found.entry((name.to_owned(), architecture)).or_insert((package, Some(list)));
        }
        for (installed, _) in found.keys() {
            removed.remove(installed);
        }
        let (packages, lists) = found.into_values().unzip();
        Dpkg { packages, lists, removed, native, diversions, alternatives: OnceCell::new() }
    }

    pub(super) fn packages(&self) -> &[Package] {
        &self.packages
    }

    pub(super) fn is_native(&self, index: usize) -> bool {
        self.native.is_some() && self.packages[index].architecture == self.native
    }

    pub(super) fn is_removed(&self, name: &str) -> bool {
        self.removed.contains(name)
    }

    pub(super) fn each_file(
        &self,
        root: &SourceRoot,
        index: usize,
        budget: &mut Budget,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<PathBuf, PackagesError> {
        let Some(list) = &self.lists[index] else { return Ok(INFORMATION.into()) };
        let path = Path::new(INFORMATION).join(list);
        let text = budget.read(root, &path)?;
        let package = self.packages[index].name.as_bytes();
        // The first line is `/.`.
        for line in lines(&text).filter(|line| line.starts_with(b"/") && *line != b"/.") {
            visit(self.diverted(line, package));
        }
        Ok(path)
    }

    /// The links that lead to one of `files`.
    pub(super) fn links_to(&self, root: &SourceRoot, files: &[PathBuf]) -> Vec<PathBuf> {
        let alternatives = self.alternatives.get_or_init(|| alternatives(root));
        let files: HashSet<&Path> = files.iter().map(PathBuf::as_path).collect();
        let leads = |target: &Path| {
            files.contains(target)
                || other_spelling(target).is_some_and(|other| files.contains(other.as_path()))
        };
        alternatives.iter().filter(|(_, target)| leads(target)).map(|(link, _)| link.clone()).collect()
    }

    /// Where the file of `package` that its list calls `path` really is.
    fn diverted<'a>(&'a self, path: &'a [u8], package: &[u8]) -> &'a [u8] {
        match self.diversions.get(path) {
            Some((to, by)) if by != package => to,
            _ => path,
        }
    }
}

/// The paragraphs of a status file that have a name.
pub fn status(bytes: &[u8]) -> Vec<Paragraph> {
    let mut paragraphs = Vec::new();
    let mut paragraph = Paragraph::default();
    for line in lines(bytes).chain([&b""[..]]) {
        // One more than can be, so that the reader sees it.
        if paragraphs.len() > MAXIMUM_PACKAGES {
            break;
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            let mut done = std::mem::take(&mut paragraph);
            done.package.source.take_if(|source| *source == done.package.name);
            if !done.package.name.is_empty() {
                paragraphs.push(done);
            }
            continue;
        }
        // What begins with a blank goes on with a field that is of no interest here.
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let value = &line[colon + 1..];
        let package = &mut paragraph.package;
        match &line[..colon] {
            b"Package" => package.name = text(value),
            b"Version" => package.version = Some(text(value)),
            b"Architecture" => package.architecture = Some(text(value)),
            // `glibc (2.36-9)`
            b"Source" => package.source = text(value).split(' ').next().map(str::to_owned),
            b"Status" => paragraph.state = text(value).split(' ').next_back().unwrap_or_default().to_owned(),
            b"Provides" => {
                // `awk, editor (= 2)`
                let names = text(value);
                let names = names.split(',').filter_map(|name| name.split_whitespace().next());
                let names = names.map(|name| name.split(':').next().unwrap_or(name).to_owned());
                package.provides = names.take(MAXIMUM_PROVIDES).collect();
            }
            _ => {}
        }
    }
    paragraphs
}

/// Records of three lines: the path, where other packages' files of that path go, whose diversion.
fn diversions(text: &[u8]) -> HashMap<Vec<u8>, (Vec<u8>, Vec<u8>)> {
    let lines: Vec<&[u8]> = lines(text).collect();
    lines
        .chunks_exact(3)
        .take(MAXIMUM_PACKAGES)
        .map(|record| (record[0].to_owned(), (record[1].to_owned(), record[2].to_owned())))
        .collect()
}

/// The links that no package owns, each with the file that it leads to, as the tree has them now.
fn alternatives(root: &SourceRoot) -> Vec<(PathBuf, PathBuf)> {
    let mut links = Vec::new();
    for group in root.names(Path::new(ALTERNATIVES)).iter().take(MAXIMUM_GROUPS) {
        let Ok(text) = root.read_file(&Path::new(ALTERNATIVES).join(group), MAXIMUM_GROUP) else { continue };
        for (name, link) in group_links(group, &text) {
            let chosen = Path::new(CHOSEN).join(name);
            let Some(link) = listed(link.as_bytes()) else { continue };
            let real = root.resolve_parent(&link).map(|resolved| resolved.real);
            let leads = real.and_then(|link| root.read_link(&link)).is_ok_and(|to| to == chosen);
            if let (true, Ok(target)) = (leads, root.read_link(&chosen)) {
                links.push((link, target));
            }
        }
    }
    links
}

/// The names below [`CHOSEN`] and the links to them of one group: the master, then its slaves up to an
/// empty line. A name with a slash is none.
fn group_links<'a>(group: &'a OsStr, text: &'a [u8]) -> Vec<(&'a OsStr, &'a OsStr)> {
    let mut lines = lines(text).skip(1).take_while(|line| !line.is_empty()).map(OsStr::from_bytes);
    let mut links: Vec<_> = lines.next().map(|link| (group, link)).into_iter().collect();
    while let (Some(name), Some(link)) = (lines.next(), lines.next()) {
        links.push((name, link));
    }
    links.retain(|(name, _)| !name.as_bytes().contains(&b'/') && *name != "..");
    links
}

#[cfg(test)]
mod tests {
    use super::super::{Absent, Packages};
    use super::*;

    fn dpkg(lists: &[&str], text: &str) -> Packages {
        let names = lists.iter().map(OsString::from).collect();
        let diverted = diversions(b"/usr/bin/a\n/usr/bin/a.b\npkg\n");
        Packages::Dpkg(Dpkg::assemble(names, status(text.as_bytes()), Some("amd64".into()), diverted))
    }

    const TWO: &str = "Package: libx\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n\n\
                       Package: libx\nStatus: install ok installed\nArchitecture: i386\nVersion: 1\n\n";

    #[test]
    fn a_diversion_moves_the_files_of_others_only() {
        let Packages::Dpkg(dpkg) = dpkg(&[], "") else { unreachable!() };
        assert_eq!(dpkg.diverted(b"/usr/bin/a", b"other"), b"/usr/bin/a.b");
        assert_eq!(dpkg.diverted(b"/usr/bin/a", b"pkg"), b"/usr/bin/a");
    }

    #[test]
    fn of_two_architectures_the_own_one_is_meant() {
        let packages = dpkg(&["libx:amd64.list", "libx:i386.list"], TWO);
        let architecture = |name| packages.installed()[packages.find(name).unwrap()].architecture.clone();
        assert_eq!(architecture("libx").as_deref(), Some("amd64"));
        assert_eq!(architecture("libx:i386").as_deref(), Some("i386"));
        let foreign = TWO.replace("amd64", "armhf");
        let instances = vec!["libx:armhf".to_owned(), "libx:i386".to_owned()];
        let packages = dpkg(&["libx:armhf.list", "libx:i386.list"], &foreign);
        assert_eq!(packages.find("libx"), Err(Absent::Ambiguous { instances }));
    }

    #[test]
    fn an_architecture_can_be_named_whatever_the_list_is_called() {
        let packages =
            dpkg(&["bash.list"], "Package: bash\nStatus: install ok installed\nArchitecture: amd64\n");
        assert!(packages.find("bash:amd64").is_ok() && packages.find("bash").is_ok());
        let absent = packages.find("bash:arm64").unwrap_err();
        assert_eq!(absent, Absent::Unknown { nearest: Some("bash:amd64".into()) });
    }

    #[test]
    fn the_state_and_the_provides_of_a_package_are_read() {
        let text = "Package: mawk\nStatus: install ok installed\nVersion: 1:2-3\n\
                    Description: x\n Package: no\nProvides: awk (= 1), posix-awk:any\n\n\
                    Package: gone\nStatus: deinstall ok config-files\n";
        let packages = dpkg(&["mawk.list", "gone.list"], text);
        assert_eq!(packages.installed()[0].version.as_deref(), Some("1:2-3"));
        assert_eq!(packages.find("awk"), Err(Absent::Virtual { providers: vec!["mawk".into()] }));
        assert!(matches!(packages.find("posix-awk"), Err(Absent::Virtual { .. })));
        assert_eq!(packages.find("gone"), Err(Absent::Removed));
    }

    #[test]
    fn a_group_of_alternatives_is_its_master_and_its_slaves() {
        let text = b"auto\n/usr/bin/awk\nnawk\n/usr/bin/nawk\n../x\n/y\n\n/usr/bin/mawk\n5\n";
        let links: Vec<_> = group_links("awk".as_ref(), text);
        let expected = [("awk", "/usr/bin/awk"), ("nawk", "/usr/bin/nawk")];
        assert_eq!(links, expected.map(|(a, b)| (OsStr::new(a), OsStr::new(b))));
    }
}
