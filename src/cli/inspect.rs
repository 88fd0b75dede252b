//! The commands that only look: `tree`, `verify`, `schema`; and `init`, which writes one file.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::unix::fs::OpenOptionsExt;

use serde_json::json;

use crate::caller::Caller;
use crate::cli::{Init, Outcome, Tree, Verify, print};
use crate::closure::root::{RootError, SourceRoot};
use crate::closure::search::Environment;
use crate::closure::tree::{self, Look};
use crate::error::StageError;
use crate::path::HostPath;
use crate::rootfs::{Rootfs, State};

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
enum InspectError {
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
        let environment = Environment { library_path: self.library_path, ..Environment::default() };
        // Taking thousands of objects apart would take a tenth of the time, and the process ends anyway.
        let mut look = ManuallyDrop::new(Look::new(&root, directory.as_ref(), environment));
        if self.paths {
            let found = look.paths(&self.programs);
            refuse_shortage(&root)?;
            let lines: Vec<String> = found.paths.iter().map(|path| format!("{path}\n")).collect();
            print(lines.concat())?;
            return Ok(u8::from(found.broken));
        }
        let trees: Vec<tree::Tree> = self.programs.iter().map(|program| look.tree(program)).collect();
        refuse_shortage(&root)?;
        if self.json {
            print(format_args!("{:#}\n", json!(trees)))?;
        } else {
            let texts: Vec<String> = trees.iter().map(ToString::to_string).collect();
            print(texts.concat())?;
        }
        Ok(u8::from(trees.iter().any(tree::Tree::is_broken)))
    }
}

fn refuse_shortage(root: &SourceRoot) -> Result<(), RootError> {
    root.shortage().map_or(Ok(()), Err)
}

impl Verify {
    /// Lists what differs; 1 when anything does.
    pub(super) fn run(self) -> Outcome {
        let spec = self.spec.load()?;
        let not_built = || InspectError::NotBuilt { name: spec.name.clone() };
        let (rootfs, _) = Rootfs::current(&State::open()?, &spec)?.ok_or_else(not_built)?;
        let differences = rootfs.verify()?;
        if self.json {
            let list: Vec<_> = differences
                .iter()
                .map(|difference| {
                    json!({ "path": difference.path.to_string(), "difference": difference.what.to_string() })
                })
                .collect();
            let tree = rootfs.tree().to_string();
            print(format_args!("{:#}\n", json!({ "name": spec.name, "tree": tree, "differences": list })))?;
            return Ok(u8::from(!differences.is_empty()));
        }
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
        if self.json {
            print(format_args!("{:#}\n", json!({ "spec": path.to_string() })))?;
        } else {
            print(format_args!("wrote {path}; `jailmk enter` builds and enters it\n"))?;
        }
        Ok(0)
    }
}

/// Prints the schema.
pub(super) fn schema() -> Outcome {
    print(format_args!("{:#}\n", crate::spec::json_schema()))?;
    Ok(0)
}
