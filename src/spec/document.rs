//! What one text says, and the rule by which several make one [`Spec`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::path::PathBuf;

use super::refusal::{Refusal, SpecError};
use super::{
    Capability, Degradable, Demand, FileRule, Hardening, Limits, Mount, Network, Placed, Position, Process,
    RootfsSpec, SeccompProfile, Source, Spec, Workspace, WorkspaceMode,
};
use crate::path::JailPath;

/// One text: everything optional.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub name: Option<Placed<String>>,
    pub include: Vec<Placed<String>>,
    pub rootfs: RootfsSpec,
    pub process: ProcessPart,
    pub workspace: Option<WorkspacePart>,
    pub mounts: Vec<Placed<Mount>>,
    pub tmpfs: BTreeMap<JailPath, Placed<u64>>,
    pub limits: Limits,
    pub network: Option<Network>,
    pub landlock: Option<Demand>,
    pub seccomp: Option<SeccompProfile>,
    pub degrade: Vec<Degradable>,
    pub keep: Vec<Placed<Capability>>,
}

/// `[process]` as far as written.
#[derive(Debug, Default)]
pub(super) struct ProcessPart {
    pub command: Option<Vec<String>>,
    pub directory: Option<JailPath>,
    pub user: Option<String>,
    pub env: BTreeMap<String, String>,
    pub pass_env: Vec<String>,
}

/// `[workspace]` as far as written.
#[derive(Debug)]
pub(super) struct WorkspacePart {
    pub at: Position,
    pub path: Option<Placed<PathBuf>>,
    pub mode: Option<WorkspaceMode>,
    pub hide: Vec<Placed<String>>,
    pub protect: Vec<Placed<String>>,
}

impl Document {
    /// Puts `later` over this one: lists add, tables add by key, of single values the later holds.
    pub(super) fn merge(&mut self, later: Document) {
        let rootfs = &mut self.rootfs;
        rootfs.from = later.rootfs.from.or(rootfs.from.take());
        rootfs.programs.extend(later.rootfs.programs);
        rootfs.libraries.extend(later.rootfs.libraries);
        rootfs.dlopen.extend(later.rootfs.dlopen);
        rootfs.files.extend(later.rootfs.files);
        rootfs.exclude.extend(later.rootfs.exclude);
        rootfs.packages.extend(later.rootfs.packages);
        rootfs.symlinks.extend(later.rootfs.symlinks);
        rootfs.directories.extend(later.rootfs.directories);

        let process = &mut self.process;
        process.command = later.process.command.or(process.command.take());
        process.directory = later.process.directory.or(process.directory.take());
        process.user = later.process.user.or(process.user.take());
        process.env.extend(later.process.env);
        process.pass_env.extend(later.process.pass_env);

        self.workspace = match (self.workspace.take(), later.workspace) {
            (Some(earlier), Some(later)) => Some(WorkspacePart {
                at: later.at,
                path: later.path.or(earlier.path),
                mode: later.mode.or(earlier.mode),
                hide: earlier.hide.into_iter().chain(later.hide).collect(),
                protect: earlier.protect.into_iter().chain(later.protect).collect(),
            }),
            (earlier, later) => later.or(earlier),
        };
        // What an earlier spec has in memory, a later one may keep on the host.
        self.tmpfs.retain(|path, _| !later.mounts.iter().any(|mount| mount.value.to == *path));
        self.mounts.extend(later.mounts);
        self.tmpfs.extend(later.tmpfs);

        let limits = &mut self.limits;
        limits.memory = later.limits.memory.or(limits.memory);
        limits.swap = later.limits.swap.or(limits.swap);
        limits.cpus = later.limits.cpus.or(limits.cpus);
        limits.processes = later.limits.processes.or(limits.processes);
        limits.weight = later.limits.weight.or(limits.weight);
        limits.open_files = later.limits.open_files.or(limits.open_files);
        limits.disk = later.limits.disk.or(limits.disk);
        limits.time = later.limits.time.or(limits.time);

        self.network = later.network.or(self.network);
        self.landlock = later.landlock.or(self.landlock);
        self.seccomp = later.seccomp.or(self.seccomp.take());
        self.degrade.extend(later.degrade);
        self.keep.extend(later.keep);
    }

    /// Fills in the defaults and checks what only the whole can show.
    pub(super) fn complete(self, name: String, sources: Vec<Source>) -> Result<Spec, SpecError> {
        let Document { mut rootfs, process, mut mounts, tmpfs, mut degrade, keep, .. } = self;
        let network = self.network.unwrap_or(Network::None);
        once_each(&mut rootfs.programs, |name| name.value.clone());
        once_each(&mut rootfs.libraries, |name| name.value.clone());
        once_each(&mut rootfs.exclude, |glob| glob.value.clone());
        once_each(&mut rootfs.packages, |name| name.value.clone());
        once_each(&mut rootfs.directories, |path| path.value.clone());
        rootfs.files = last_of_each_target(rootfs.files)?;
        let mut pass_env = process.pass_env;
        once_each(&mut pass_env, String::clone);
        let mut kept = Vec::new();
        degrade.retain(|layer| !kept.contains(layer) && (kept.push(*layer), true).1);

        let keep = capabilities(keep, network)?;

        same_mounts_once(&mut mounts);
        targets_are_distinct(&mounts, &tmpfs, self.workspace.is_some())?;
        Ok(Spec {
            name,
            sources,
            rootfs,
            process: Process {
                command: process.command.unwrap_or_else(|| vec!["sh".into()]),
                directory: process.directory,
                user: process.user.unwrap_or_else(|| "agent".into()),
                env: process.env,
                pass_env,
            },
            workspace: self.workspace.map(|part| Workspace {
                path: part.path.unwrap_or(Placed { value: PathBuf::from("."), at: part.at }),
                mode: part.mode.unwrap_or(WorkspaceMode::ReadOnly),
                hide: part.hide,
                protect: part.protect,
            }),
            mounts: mounts.into_iter().map(|mount| mount.value).collect(),
            tmpfs: tmpfs.into_iter().map(|(path, size)| (path, size.value)).collect(),
            limits: self.limits,
            network,
            hardening: Hardening {
                landlock: self.landlock.unwrap_or(Demand::Required),
                seccomp: self.seccomp.unwrap_or(SeccompProfile::Default),
                keep,
                degrade,
            },
        })
    }
}

/// Each once. A port of the host's network is the host's to give: the kernel asks for the capability in the
/// namespace that owns the network.
fn capabilities(keep: Vec<Placed<Capability>>, network: Network) -> Result<Vec<Capability>, SpecError> {
    let mut kept = Vec::new();
    for Placed { value: capability, at } in keep {
        if capability == Capability::NetBindService && network == Network::Host {
            return Err(SpecError::Refused { at, source: Refusal::PortsOfHost });
        }
        if !kept.contains(&capability) {
            kept.push(capability);
        }
    }
    Ok(kept)
}

/// Drops what an earlier element says already.
fn once_each<T, K: Hash + Eq>(list: &mut Vec<T>, key: impl Fn(&T) -> K) {
    let mut seen = HashSet::new();
    list.retain(|element| seen.insert(key(element)));
}

/// Of the rules that write one path, the one of the last spec holds, as for any single value; two in
/// one file are a mistake. The same glob is kept once.
fn last_of_each_target(rules: Vec<Placed<FileRule>>) -> Result<Vec<Placed<FileRule>>, SpecError> {
    let mut kept: Vec<Placed<FileRule>> = Vec::with_capacity(rules.len());
    let mut targets: HashMap<JailPath, usize> = HashMap::new();
    let mut globs = HashSet::new();
    for rule in rules {
        let to = match &rule.value {
            FileRule::Copy { to, .. } | FileRule::Content { to, .. } => to.clone(),
            FileRule::Glob { pattern, optional } => {
                if globs.insert((pattern.clone(), *optional)) {
                    kept.push(rule);
                }
                continue;
            }
        };
        match targets.get(&to) {
            Some(earlier) if kept[*earlier].at.file == rule.at.file => {
                let first = kept[*earlier].at.clone();
                let source = Refusal::Taken { target: to.to_string(), first };
                return Err(SpecError::Refused { at: rule.at, source });
            }
            Some(earlier) => kept[*earlier] = rule,
            None => {
                targets.insert(to, kept.len());
                kept.push(rule);
            }
        }
    }
    Ok(kept)
}

/// A mount that two specs write alike is one mount; one spec that writes it twice is mistaken.
fn same_mounts_once(mounts: &mut Vec<Placed<Mount>>) {
    let mut files = HashMap::new();
    mounts.retain(|Placed { value: mount, at }| {
        let Mount { from, to, access, exec, create, optional } = mount;
        let writable = *access == super::Access::ReadWrite;
        let key = (from.value.clone(), to.clone(), writable, *exec, *create, *optional);
        let first = files.entry(key).or_insert_with(|| at.file.clone());
        *first == at.file
    });
}

fn targets_are_distinct(
    mounts: &[Placed<Mount>],
    tmpfs: &BTreeMap<JailPath, Placed<u64>>,
    workspace: bool,
) -> Result<(), SpecError> {
    let all = tmpfs
        .iter()
        .map(|(path, size)| (path, &size.at))
        .chain(mounts.iter().map(|mount| (&mount.value.to, &mount.at)));
    let mut taken: HashMap<&JailPath, &Position> = HashMap::new();
    for (path, at) in all {
        let source = if workspace && path.as_path() == super::WORKSPACE {
            Refusal::TakenByWorkspace
        } else if let Some(first) = taken.insert(path, at) {
            Refusal::Taken { target: path.to_string(), first: first.clone() }
        } else {
            continue;
        };
        return Err(SpecError::Refused { at: at.clone(), source });
    }
    Ok(())
}
