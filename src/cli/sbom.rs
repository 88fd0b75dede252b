//! `jailmk sbom`.

use crate::caller::Caller;
use crate::cli::build::source_root;
use crate::cli::{Format, Outcome, Sbom, print, say};
use crate::closure::packages::Packages;
use crate::closure::resolve;
use crate::error::Causes;
use crate::manifest::Manifest;
use crate::sbom::{Inventory, cyclonedx, spdx};

impl Sbom {
    /// Prints the inventory of the tree that a build would make.
    pub(super) fn run(self) -> Outcome {
        let spec = self.spec.load()?;
        let from = self.from.as_deref().map(|path| Caller::current().locate(path)).transpose()?;
        let root = source_root(&spec, from.as_ref())?;
        let closure = resolve(&spec, &root)?;
        let manifest = Manifest::plan(&spec, &closure)?;
        let packages = Packages::read(&root).unwrap_or_else(|error| {
            say(format_args!("note: the owners of files are not known: {}", Causes(&error)));
            None
        });
        let inventory = Inventory::take(&spec.name, &manifest, &root, packages.as_ref())?;
        let document = match self.format {
            Format::Spdx => spdx(&inventory),
            Format::Cyclonedx => cyclonedx(&inventory),
        };
        print(format_args!("{document:#}\n"))?;
        Ok(0)
    }
}
