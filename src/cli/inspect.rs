//! The commands that only look: `tree`, `why`, `verify`, `schema`; and `init`, which writes one
//! file.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use crate::caller::Caller;
use crate::cli::build::resolve;
use crate::cli::{Init, Outcome, Tree, Verify, Why, print};
use crate::closure::Reason;
use crate::closure::root::SourceRoot;
use crate::closure::tree;
use crate::error::StageError;
use crate::manifest::Manifest;
use crate::path::{HostPath, JailPath, JailPathError, printable};
use crate::rootfs::{Rootfs, State};

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
enum InspectError {
    #[error("cannot look `{path}` up")]
    Path {
        path: String,
        #[source]
        cause: JailPathError,
    },
    #[error("cannot verify {name}: it has not been built")]
    NotBuilt { name: String },
    #[error("cannot write {path}")]
    Init {
        path: HostPath,
        #[source]
        cause: io::Error,
    },
}

impl StageError for InspectError {
    fn hints(&self) -> Vec<String> {
        match self {
            InspectError::Path { .. } => vec!["name it as it is seen inside the jail".into()],
            InspectError::NotBuilt { name } => vec![format!("`jailmk build {name}` makes it")],
            InspectError::Init { cause, .. } if cause.kind() == io::ErrorKind::AlreadyExists => {
                vec!["it exists already: edit it, or remove it first".into()]
            }
            InspectError::Init { .. } => Vec::new(),
        }
    }
}

impl Tree {
    /// Prints the closures.
    pub(super) fn run(self) -> Outcome {
        let root = SourceRoot::host()?;
        let directory = Caller::current().directory;
        let trees = tree::tree(&root, &self.programs, directory.as_ref());
        if self.json {
            print(format_args!("{:#}\n", serde_json::json!(trees)))?;
        } else if self.paths {
            let lines: Vec<String> =
                tree::paths(&root, &trees).iter().map(|path| format!("{path}\n")).collect();
            print(lines.concat())?;
        } else {
            let texts: Vec<String> = trees.iter().map(ToString::to_string).collect();
            print(texts.concat())?;
        }
        let broken =
            |tree: &tree::Tree| tree.error.is_some() || tree.libraries.iter().any(|l| l.error.is_some());
        Ok(u8::from(trees.iter().any(broken)))
    }
}

impl Why {
    /// Prints the chain from the path to the spec.
    pub(super) fn run(self) -> Outcome {
        let spec = self.spec.load()?;
        let path = JailPath::new(&self.path).map_err(|cause| InspectError::Path {
            path: printable(self.path.as_os_str()).to_string(),
            cause,
        })?;
        let closure = resolve(&spec, None)?;
        let manifest = Manifest::plan(&spec, &closure)?;
        let Some(mut here) = manifest.resolve(&path).filter(|real| manifest.get(real).is_some()) else {
            print(format_args!("{path} is not in the jail {}\n", spec.name))?;
            return Ok(1);
        };
        let mut lines = Vec::new();
        if here != path {
            lines.push(format!("{path} is {here}\n"));
        }
        // Each path is named once: a library that needs itself in a circle ends the chain.
        let mut seen = std::collections::BTreeSet::new();
        while seen.insert(here.clone()) {
            let Some(entry) = manifest.get(&here) else { break };
            match &entry.reason {
                Reason::NeededBy { by, how } => {
                    lines.push(format!("{here}: needed by {by} ({how})\n"));
                    here = by.clone();
                }
                reason => {
                    lines.push(format!("{here}: {reason}\n"));
                    break;
                }
            }
        }
        print(lines.concat())?;
        Ok(0)
    }
}

impl Verify {
    /// Lists what differs; 1 when anything does.
    pub(super) fn run(self) -> Outcome {
        let spec = self.spec.load()?;
        let not_built = || InspectError::NotBuilt { name: spec.name.clone() };
        let (rootfs, _) = Rootfs::current(&State::open()?, &spec)?.ok_or_else(not_built)?;
        let differences = rootfs.verify()?;
        let lines: Vec<String> = differences.iter().map(|difference| format!("{difference}\n")).collect();
        print(lines.concat())?;
        if differences.is_empty() {
            print(format_args!("{} is as it was built: {}\n", spec.name, rootfs.tree()))?;
        }
        Ok(u8::from(!differences.is_empty()))
    }
}

impl Init {
    /// Writes `jail.toml`, unless there is one.
    pub(super) fn run(self) -> Outcome {
        let caller = Caller::current();
        let path = caller.locate("jail.toml".as_ref())?;
        let name = self.name.unwrap_or_else(|| {
            let directory = caller.directory.as_ref().and_then(|directory| directory.as_path().file_name());
            directory.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        });
        let text = crate::spec::init_text(&name);
        // Checked before it is written: a bad name must not leave a bad file.
        crate::spec::parse(&text, "jail.toml")?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path.as_path())
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|cause| InspectError::Init { path: path.clone(), cause })?;
        print(format_args!("wrote {path}; `jailmk enter` builds and enters it\n"))?;
        Ok(0)
    }
}

/// Prints the schema.
pub(super) fn schema() -> Outcome {
    print(format_args!("{:#}\n", crate::spec::json_schema()))?;
    Ok(0)
}
