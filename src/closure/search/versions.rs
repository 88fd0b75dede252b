//! Symbol versions: whether each library that was found has what is needed of it.
//!
//! Source: glibc's elf/dl-version.c. musl starts a program whatever the versions.

use std::ffi::OsString;
use std::rc::Rc;

use super::super::elf::{Object, Version};
use super::{Outcome, Resolution, Search};

/// A library that is not of the version that is needed: glibc does not start such a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionMismatch {
    /// Index of the object that needs it.
    pub by: usize,
    /// Index of the library.
    pub of: usize,
    /// The version.
    pub version: OsString,
}

/// Every mismatch of a program; pairs that fit are remembered, for programs share their libraries.
pub fn mismatches(search: &mut Search<'_>, resolution: &Resolution) -> Vec<VersionMismatch> {
    let mut out = Vec::new();
    for (by, loaded) in resolution.objects.iter().enumerate() {
        let asks = search.files.asks(loaded.file, &loaded.object, &mut search.names);
        for (index, (need, file)) in loaded.object.version_needs.iter().zip(&asks.versions).enumerate() {
            // Equal names are one allocation.
            let file = search.names.text(*file);
            let edges = &resolution.edges[loaded.requests.clone()];
            for edge in edges.iter().filter(|edge| Rc::ptr_eq(&edge.name, file)) {
                let Outcome::Found { object: of, .. } = edge.outcome else { continue };
                let library = &resolution.objects[of];
                let pair = (loaded.file, index, library.file);
                if search.fitting.contains(&pair) {
                    continue;
                }
                let before = out.len();
                for version in lacking(&need.versions, &library.object) {
                    out.push(VersionMismatch { by, of, version: version.name.clone() });
                }
                if out.len() == before {
                    search.fitting.insert(pair);
                }
            }
        }
    }
    out
}

fn lacking<'a>(needed: &'a [Version], library: &Object) -> impl Iterator<Item = &'a Version> {
    // A library whose symbols have no versions answers to every one.
    let has = |name: &OsString| library.versions.as_ref().is_none_or(|versions| versions.contains(name));
    needed.iter().filter(move |version| !version.weak && !has(&version.name)).collect::<Vec<_>>().into_iter()
}
