//! One TOML text → [`Document`]: every key and value checked by hand against [`keys`], so that each
//! message has its place and says what was expected.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::document::{Document, ProcessPart, WorkspacePart};
use super::field::{Field, Reader, Result, Value, in_order, type_name};
use super::keys::{self, Key, Kind};
use super::refusal::{Refusal, SpecError};
use super::value::{self, ValueError};
use super::{
    Access, Capability, Degradable, Demand, FileRule, Limits, Mount, Network, Placed, Position, RootfsSpec,
    SeccompFile, SeccompProfile, WorkspaceMode,
};
use crate::path::{JailPath, printable};

/// Reads one spec. `directory` is what relative paths in `files` are joined to; a built-in spec has
/// none.
pub(super) fn document(text: &str, file: Arc<str>, directory: Option<&Path>) -> Result<Document, SpecError> {
    let reader = Reader::new(file, text, directory);
    match DeTable::parse(text) {
        Ok(table) => reader.top(table.get_ref()),
        Err(error) => {
            let at = reader.places.at(error.span().map_or(0, |span| span.start));
            let message = printable(error.message().as_ref()).to_string();
            Err(SpecError::Refused { at, source: Refusal::Syntax(message) })
        }
    }
}

impl Reader<'_> {
    fn top(&self, table: &DeTable<'_>) -> Result<Document> {
        let mut document = Document::default();
        for (name, value) in in_order(table) {
            let header = name.span();
            match name.get_ref().as_ref() {
                "name" => document.name = Some(self.placed(&self.field("", name, value)?, value::label)?),
                "include" => {
                    let field = self.field("", name, value)?;
                    document.include = self.texts(&field, |text| value::filled(text).map(str::to_owned))?;
                }
                "rootfs" => document.rootfs = self.rootfs(self.section("rootfs", value)?)?,
                "process" => document.process = self.process(self.section("process", value)?)?,
                "workspace" => {
                    let table = self.section("workspace", value)?;
                    document.workspace = Some(self.workspace(table, self.places.at(header.start))?);
                }
                "mount" => document.mounts = self.mounts(value)?,
                "tmpfs" => document.tmpfs = self.tmpfs(self.section("tmpfs", value)?)?,
                "limits" => document.limits = self.limits(self.section("limits", value)?)?,
                "network" => document.network = self.network(self.section("network", value)?)?,
                "hardening" => self.hardening(self.section("hardening", value)?, &mut document)?,
                _ => return Err(self.unknown("", name)),
            }
        }
        Ok(document)
    }

    fn rootfs(&self, table: &DeTable<'_>) -> Result<RootfsSpec> {
        let mut rootfs = RootfsSpec::default();
        for field in self.fields("rootfs", table)? {
            let owned =
                |check: fn(&str) -> Result<&str, ValueError>| move |t: &str| check(t).map(str::to_owned);
            match field.key.name {
                "from" => {
                    let from = self.beside(&field)?;
                    rootfs.from = Some(self.places.place(from, field.value.span()));
                }
                "programs" => rootfs.programs = self.texts(&field, owned(value::program))?,
                "libraries" => rootfs.libraries = self.texts(&field, owned(value::library))?,
                "dlopen" => rootfs.dlopen = self.texts(&field, owned(value::feature))?,
                "files" => rootfs.files = self.files(&field)?,
                "exclude" => rootfs.exclude = self.texts(&field, owned(value::exclude_glob))?,
                "packages" => rootfs.packages = self.texts(&field, owned(value::package))?,
                "symlinks" => rootfs.symlinks = self.symlinks(&field)?,
                "directories" => rootfs.directories = self.texts(&field, value::jail_target)?,
                other => unhandled(other),
            }
        }
        Ok(rootfs)
    }

    fn files(&self, field: &Field<'_>) -> Result<Vec<Placed<FileRule>>> {
        let mut rules = Vec::new();
        for element in self.array(field)? {
            let rule = match element.get_ref() {
                DeValue::String(pattern) => FileRule::Glob {
                    pattern: self.check(field.key, pattern, element.span(), value::files_glob)?.to_owned(),
                    optional: false,
                },
                DeValue::Table(table) => self.file_table(table, element.span())?,
                other => return Err(self.element_type(field.key, other, element.span())),
            };
            rules.push(self.places.place(rule, element.span()));
        }
        Ok(rules)
    }

    fn file_table(&self, table: &DeTable<'_>, span: Range<usize>) -> Result<FileRule> {
        let (mut from, mut content, mut to, mut mode, mut optional) = (None, None, None, None, None);
        for field in self.fields(keys::FILES, table)? {
            match field.key.name {
                "from" => from = Some(field),
                "content" => content = Some(self.text(&field, Ok)?.to_owned()),
                "to" => to = Some(self.text(&field, value::jail_target)?),
                "mode" => mode = Some(self.text(&field, value::mode)?),
                "optional" => optional = Some(self.boolean(&field)?),
                other => unhandled(other),
            }
        }
        let refuse = |refusal| Err(self.refused(refusal, span.clone()));
        match (from, content, to) {
            (Some(_), Some(_), _) => refuse(Refusal::Together { key: "from", other: "content" }),
            (None, None, _) => refuse(Refusal::Missing { section: keys::FILES, key: "from" }),
            (None, Some(_), None) => refuse(Refusal::Missing { section: keys::FILES, key: "to" }),
            (None, Some(_), Some(_)) if optional.is_some() => {
                refuse(Refusal::Together { key: "optional", other: "content" })
            }
            (None, Some(content), Some(to)) => Ok(FileRule::Content { content, to, mode }),
            (Some(_), None, None) if mode.is_some() => refuse(Refusal::Needs { key: "mode", other: "to" }),
            (Some(from), None, None) => Ok(FileRule::Glob {
                pattern: self.text(&from, value::files_glob)?.to_owned(),
                optional: optional.unwrap_or(false),
            }),
            (Some(from), None, Some(to)) => {
                let from = self.beside(&from)?;
                Ok(FileRule::Copy { from, to, mode, optional: optional.unwrap_or(false) })
            }
        }
    }

    /// A path on the host, relative to the spec.
    fn beside(&self, field: &Field<'_>) -> Result<PathBuf> {
        let path = Path::new(self.text(field, value::copied)?);
        match self.directory {
            _ if path.is_absolute() => Ok(path.to_owned()),
            Some(directory) => Ok(directory.join(path)),
            None => Err(self.bad_value(field, ValueError::NoDirectory)),
        }
    }

    fn symlinks(&self, field: &Field<'_>) -> Result<BTreeMap<JailPath, Placed<PathBuf>>> {
        let mut links: BTreeMap<JailPath, Placed<PathBuf>> = BTreeMap::new();
        for (path, target) in self.text_table(field)? {
            let at = self.check(field.key, path.get_ref(), path.span(), value::jail_target)?;
            let text = self.check(field.key, target.get_ref(), target.span(), value::link_target)?;
            let link = self.places.place(PathBuf::from(text), path.span());
            if let Some(first) = links.insert(at.clone(), link) {
                return Err(self.taken(&at, first.at, path.span()));
            }
        }
        Ok(links)
    }

    fn process(&self, table: &DeTable<'_>) -> Result<ProcessPart> {
        let mut process = ProcessPart::default();
        for field in self.fields("process", table)? {
            match field.key.name {
                "command" => process.command = Some(self.command(&field)?),
                "directory" => process.directory = Some(self.text(&field, value::jail_path)?),
                "user" => process.user = Some(self.text(&field, value::user_name)?.to_owned()),
                "env" => {
                    for (name, text) in self.text_table(&field)? {
                        let name = self.check(field.key, name.get_ref(), name.span(), value::variable)?;
                        let text = self.check(field.key, text.get_ref(), text.span(), value::text)?;
                        process.env.insert(name.to_owned(), text.to_owned());
                    }
                }
                "pass_env" => {
                    let names = self.texts(&field, |t| value::passed_variable(t).map(str::to_owned))?;
                    process.pass_env = names.into_iter().map(|name| name.value).collect();
                }
                other => unhandled(other),
            }
        }
        Ok(process)
    }

    fn command(&self, field: &Field<'_>) -> Result<Vec<String>> {
        let words = self.texts(field, |text| value::text(text).map(str::to_owned))?;
        match words.first() {
            Some(program) if !program.value.is_empty() => {
                Ok(words.into_iter().map(|word| word.value).collect())
            }
            _ => Err(self.refused(Refusal::EmptyCommand, field.value.span())),
        }
    }

    fn workspace(&self, table: &DeTable<'_>, at: Position) -> Result<WorkspacePart> {
        let mut workspace =
            WorkspacePart { at, path: None, mode: None, hide: Vec::new(), protect: Vec::new() };
        for field in self.fields("workspace", table)? {
            match field.key.name {
                "path" => workspace.path = Some(self.placed(&field, value::caller_path)?),
                "mode" => {
                    workspace.mode = Some(match self.choice(&field)? {
                        "review" => WorkspaceMode::Review,
                        "direct" => WorkspaceMode::Direct,
                        "read-only" => WorkspaceMode::ReadOnly,
                        other => unhandled(other),
                    });
                }
                "hide" => {
                    workspace.hide =
                        self.texts(&field, |text| value::workspace_glob(text).map(str::to_owned))?;
                }
                "protect" => {
                    workspace.protect =
                        self.texts(&field, |text| value::workspace_glob(text).map(str::to_owned))?
                }
                other => unhandled(other),
            }
        }
        Ok(workspace)
    }

    fn mounts(&self, value: &Value<'_>) -> Result<Vec<Placed<Mount>>> {
        let wrong = |found: &Value<'_>| {
            let expected = "written as [[mount]], once for each";
            let refusal = Refusal::Type { key: "mount", expected, found: type_name(found.get_ref()) };
            self.refused(refusal, found.span())
        };
        let DeValue::Array(elements) = value.get_ref() else { return Err(wrong(value)) };
        elements
            .iter()
            .map(|element| match element.get_ref() {
                DeValue::Table(table) => self.mount(table, element.span()),
                _ => Err(wrong(element)),
            })
            .collect()
    }

    fn mount(&self, table: &DeTable<'_>, span: Range<usize>) -> Result<Placed<Mount>> {
        let (mut from, mut to) = (None, None);
        let (mut access, mut exec, mut create, mut optional) = (Access::ReadOnly, true, false, false);
        for field in self.fields("mount", table)? {
            match field.key.name {
                "from" => from = Some(self.placed(&field, value::caller_path)?),
                "to" => to = Some(self.text(&field, value::jail_target)?),
                "mode" => {
                    access = match self.choice(&field)? {
                        "read-only" => Access::ReadOnly,
                        "read-write" => Access::ReadWrite,
                        other => unhandled(other),
                    }
                }
                "exec" => exec = self.boolean(&field)?,
                "create" => create = self.boolean(&field)?,
                "optional" => optional = self.boolean(&field)?,
                other => unhandled(other),
            }
        }
        let missing = |key| self.refused(Refusal::Missing { section: "mount", key }, span.clone());
        let from = from.ok_or_else(|| missing("from"))?;
        let to = to.ok_or_else(|| missing("to"))?;
        Ok(self.places.place(Mount { from, to, access, exec, create, optional }, span))
    }

    fn tmpfs(&self, table: &DeTable<'_>) -> Result<BTreeMap<JailPath, Placed<u64>>> {
        // Its keys are paths, so that each has the section's name in messages.
        static SIZE: Key =
            Key { section: "tmpfs", name: "tmpfs", kind: Kind::Size, default: "", sample: "", doc: "" };
        let mut places: BTreeMap<JailPath, Placed<u64>> = BTreeMap::new();
        for (path, value) in in_order(table) {
            let at = self.check(&SIZE, path.get_ref(), path.span(), value::jail_target)?;
            // The kernel takes size=0 as "no limit".
            let size = self.positive_size(&Field { key: &SIZE, value })?;
            if let Some(first) = places.insert(at.clone(), self.places.place(size, path.span())) {
                return Err(self.taken(&at, first.at, path.span()));
            }
        }
        Ok(places)
    }

    fn limits(&self, table: &DeTable<'_>) -> Result<Limits> {
        let mut limits = Limits::default();
        for field in self.fields("limits", table)? {
            match field.key.name {
                "memory" => limits.memory = Some(self.positive_size(&field)?),
                "swap" => limits.swap = Some(self.size(&field)?),
                "cpus" => limits.cpus = Some(self.cpus(&field)?),
                "processes" => limits.processes = Some(self.count(&field)?),
                "weight" => limits.weight = Some(self.count(&field)?),
                "open_files" => limits.open_files = Some(self.count(&field)?),
                "disk" => limits.disk = Some(self.positive_size(&field)?),
                "time" => limits.time = Some(self.duration(&field)?),
                other => unhandled(other),
            }
        }
        Ok(limits)
    }

    fn network(&self, table: &DeTable<'_>) -> Result<Option<Network>> {
        let mut network = None;
        for field in self.fields("network", table)? {
            network = Some(match (field.key.name, self.choice(&field)?) {
                ("mode", "none") => Network::None,
                ("mode", "loopback") => Network::Loopback,
                ("mode", "host") => Network::Host,
                (_, other) => unhandled(other),
            });
        }
        Ok(network)
    }

    fn hardening(&self, table: &DeTable<'_>, document: &mut Document) -> Result<()> {
        for field in self.fields("hardening", table)? {
            match field.key.name {
                "landlock" => {
                    document.landlock = Some(match self.choice(&field)? {
                        "required" => Demand::Required,
                        "best-effort" => Demand::BestEffort,
                        "off" => Demand::Off,
                        other => unhandled(other),
                    });
                }
                "seccomp" => {
                    document.seccomp = Some(self.seccomp(&field)?);
                }
                "degrade" => {
                    for element in self.array(&field)? {
                        let layer = match self.chosen(field.key, element)? {
                            "cgroup" => Degradable::Cgroup,
                            "landlock" => Degradable::Landlock,
                            other => unhandled(other),
                        };
                        document.degrade.push(layer);
                    }
                }
                "keep" => {
                    for element in self.array(&field)? {
                        document.keep.push(self.capability(&field, element)?);
                    }
                }
                other => unhandled(other),
            }
        }
        Ok(())
    }
}

/// Layers whose values are more than words.
impl Reader<'_> {
    fn seccomp(&self, field: &Field<'_>) -> Result<SeccompProfile> {
        let text = match field.value.get_ref() {
            DeValue::String(text) if text.contains('/') || text.ends_with(".json") => text,
            _ => {
                return Ok(match self.choice(field)? {
                    "default" => SeccompProfile::Default,
                    "strict" => SeccompProfile::Strict,
                    other => unhandled(other),
                });
            }
        };
        let path = Path::new(self.check(field.key, text, field.value.span(), value::copied)?);
        let path = match self.directory {
            _ if path.is_absolute() => path.to_owned(),
            Some(directory) => directory.join(path),
            None => return Err(self.bad_value(field, ValueError::NoDirectory)),
        };
        let at = self.places.at(field.value.span().start);
        Ok(SeccompProfile::File(SeccompFile { path, at, text: "".into() }))
    }

    fn capability(&self, field: &Field<'_>, element: &Value<'_>) -> Result<Placed<Capability>> {
        if let DeValue::String(text) = element.get_ref()
            && let Some(why) = value::useless_capability(text)
        {
            let refusal = Refusal::Capability { value: text.to_string(), why };
            return Err(self.refused(refusal, element.span()));
        }
        let capability = match self.chosen(field.key, element)? {
            "net_bind_service" => Capability::NetBindService,
            "sys_chroot" => Capability::SysChroot,
            other => unhandled(other),
        };
        Ok(self.places.place(capability, element.span()))
    }
}

/// The table of keys has something that this reader does not: a test reads every key and choice.
pub(super) fn unhandled(name: &str) -> ! {
    unreachable!("BUG: the reader does not know {name:?}, which the table of keys has")
}
