//! What a jail's tree is made of, for scanners: [`Inventory`], written as SPDX or as CycloneDX.
//!
//! The inventory is that of the tree that `build` makes from the same files: [`Inventory::digest`] is the
//! digest of its lock. The same tree, database of packages and SOURCE_DATE_EPOCH give the same document,
//! byte for byte: nothing in it is random, and no clock is asked.
//!
//! Names are escaped as [`crate::path::escaped`] does: control characters, bytes that are no UTF-8 and
//! backslashes stand as `\xNN`.

mod cyclonedx;
mod digest;
mod distribution;
mod purl;
mod spdx;
mod stamp;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::Digest;

use crate::closure::elf::identity::Identity;
use crate::closure::packages::{Owners, Package, Packages, PackagesError};
use crate::closure::root::SourceRoot;
use crate::error::StageError;
use crate::manifest::lock::{Content, Lock};
use crate::manifest::{Manifest, Node};
use crate::path::{HostPath, JailPath, printable};
use crate::rootfs::CopyFault;

pub use cyclonedx::cyclonedx;
pub use distribution::Distribution;
pub use spdx::spdx;

/// Owners of one file that are told; honest files have one, or one for each architecture.
const MAXIMUM_OWNERS: usize = 64;

/// Why there is no inventory.
#[derive(Debug, thiserror::Error)]
pub enum SbomError {
    /// A file of the host could not be read.
    #[error("cannot read {origin} for {path}")]
    File {
        /// The host file.
        origin: HostPath,
        /// Its place in the jail.
        path: JailPath,
        /// Why.
        #[source]
        fault: CopyFault,
    },
    /// The database of packages could not be read to its end.
    #[error("cannot tell whose the files are")]
    Packages(#[source] PackagesError),
}

impl StageError for SbomError {
    fn hints(&self) -> Vec<String> {
        match self {
            SbomError::File { .. } => {
                vec!["a build would fail in the same way: leave it out with `exclude`".into()]
            }
            SbomError::Packages(_) => Vec::new(),
        }
    }
}

/// All that is in one jail.
#[derive(Debug)]
pub struct Inventory {
    /// The jail's name.
    pub name: String,
    /// SHA-256 of the lock of its tree.
    pub digest: [u8; 32],
    /// What the files were taken from.
    pub distribution: Distribution,
    /// The packages that own some file, in order.
    pub packages: Vec<Owner>,
    /// Every regular file, in the order of the tree.
    pub files: Vec<Item>,
}

/// A package that owns some file of the jail.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Its type in package URLs: `deb`, `apk`, `alpm`, `rpm`.
    pub kind: String,
    /// Name, version, architecture, source.
    pub package: Package,
}

/// One regular file.
#[derive(Debug)]
pub struct Item {
    /// Where.
    pub path: JailPath,
    /// Permission bits.
    pub mode: u32,
    /// SHA-256 and size.
    pub content: Content,
    /// SHA-1, which SPDX 2.3 demands of every file.
    pub sha1: [u8; 20],
    /// What it says about itself, if it is an ELF file.
    pub identity: Identity,
    /// Whose it is.
    pub ownership: Ownership,
}

/// Whose a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Of these packages, as indexes into [`Inventory::packages`].
    Packages(Vec<usize>),
    /// No package of the database has it.
    Nobody,
    /// There is no database that could tell.
    Unknown,
    /// jailmk or the spec wrote it.
    Written,
}

impl Ownership {
    /// For a person; empty where packages tell.
    pub fn words(&self) -> &'static str {
        match self {
            Ownership::Packages(_) => "",
            Ownership::Nobody => "owned by no package",
            Ownership::Unknown => "owning package not known",
            Ownership::Written => "written by jailmk or its spec",
        }
    }
}

impl Inventory {
    /// Reads every file of `manifest` once, and the packages of `root` once.
    ///
    /// # Errors
    /// A file cannot be read, or changes meanwhile.
    pub fn take(
        name: &str,
        manifest: &Manifest,
        root: &SourceRoot,
        packages: Option<&Packages>,
    ) -> Result<Inventory, SbomError> {
        let mut files = Vec::new();
        let mut origins = Vec::new();
        for (path, entry) in manifest.entries() {
            let (content, sha1, identity, origin) = match &entry.node {
                Node::Directory | Node::Symlink(_) => continue,
                Node::Written(bytes) => {
                    (Content::of(bytes), Sha1::digest(bytes).into(), Identity::default(), None)
                }
                Node::Copy(origin) => {
                    let (content, sha1, identity) = digest::digest(origin).map_err(|fault| {
                        SbomError::File { origin: origin.clone(), path: path.clone(), fault }
                    })?;
                    (content, sha1, identity, Some(origin))
                }
            };
            let mode = entry.mode;
            let ownership = Ownership::Written;
            files.push(Item { path: path.clone(), mode, content, sha1, identity, ownership });
            origins.push(origin.cloned());
        }
        let digest = Lock::new(manifest, files.iter().map(|file| file.content)).digest();
        let distribution = Distribution::of(root);
        let packages = assign(&mut files, &origins, root, packages).map_err(SbomError::Packages)?;
        Ok(Inventory { name: name.to_owned(), digest, distribution, packages, files })
    }
}

/// Says whose each file is, and gives the packages that own one.
fn assign(
    files: &mut [Item],
    origins: &[Option<HostPath>],
    root: &SourceRoot,
    packages: Option<&Packages>,
) -> Result<Vec<Owner>, PackagesError> {
    let inside = |origin: &HostPath| -> Option<PathBuf> {
        let relative = origin.as_path().strip_prefix(root.path()).ok()?;
        Some(Path::new("/").join(relative))
    };
    let paths: Vec<_> = origins.iter().map(|origin| origin.as_ref().and_then(inside)).collect();
    let wanted = paths.iter().flatten().map(PathBuf::as_path);
    let owners: Option<Owners> = packages.map(|packages| packages.owners(root, wanted)).transpose()?;
    let copies = |index: &usize| origins[*index].is_some();
    let (Some(packages), Some(owners)) = (packages, owners) else {
        // Where no database tells, the file's own word is better than nothing.
        let mut found: BTreeMap<Owner, Vec<usize>> = BTreeMap::new();
        for index in (0..files.len()).filter(copies) {
            files[index].ownership = Ownership::Unknown;
            if let Some(owner) = claimed(&files[index].identity) {
                found.entry(owner).or_default().push(index);
            }
        }
        hand_over(files, found.values());
        return Ok(found.into_keys().collect());
    };
    // By the package's index, which follows its name.
    let mut found: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for index in (0..files.len()).filter(copies) {
        files[index].ownership = Ownership::Nobody;
        let of_file = paths[index].as_ref().and_then(|path| owners.get(path));
        for owner in of_file.into_iter().flatten().take(MAXIMUM_OWNERS) {
            found.entry(*owner).or_default().push(index);
        }
    }
    hand_over(files, found.values());
    let owner = |index: usize| Owner {
        kind: packages.kind().to_owned(),
        package: packages.installed()[index].clone(),
    };
    Ok(found.into_keys().map(owner).collect())
}

/// Gives each list of files to the owner with the list's number.
fn hand_over<'a>(files: &mut [Item], lists: impl Iterator<Item = &'a Vec<usize>>) {
    for (owner, list) in lists.enumerate() {
        for file in list {
            match &mut files[*file].ownership {
                Ownership::Packages(owners) => owners.push(owner),
                other => *other = Ownership::Packages(vec![owner]),
            }
        }
    }
}

/// The package that an ELF file says it was built for.
fn claimed(identity: &Identity) -> Option<Owner> {
    let note = identity.package.as_ref()?;
    let text = |key: &str| {
        let text = note.get(key)?.as_str().filter(|text| !text.is_empty() && text.len() <= 256)?;
        Some(text.to_owned())
    };
    let kind = text("type").filter(|kind| matches!(kind.as_str(), "deb" | "rpm" | "apk" | "alpm"))?;
    let package = Package {
        name: text("name")?,
        version: Some(text("version")?),
        architecture: text("architecture"),
        ..Package::default()
    };
    Some(Owner { kind, package })
}

/// Text of a database or a note as it may stand in a document.
fn clean(text: &str) -> String {
    printable(text.as_ref()).to_string()
}
