//! A profile as JSON has it: the format of the OCI runtime specification ("seccomp" in config-linux.md),
//! with what Docker's and Podman's own files have beside it.
//!
//! Unknown keys are refused: one that is not understood could be a condition.

use nix::errno::Errno;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Ground, version_of};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Document {
    pub default_action: Action,
    pub default_errno_ret: Option<u32>,
    pub default_errno: Option<String>,
    pub architectures: Option<Vec<String>>,
    pub arch_map: Option<Vec<ArchitectureMap>>,
    pub syscalls: Option<Vec<Entry>>,
    pub listener_path: Option<String>,
    /// Of the filter's flags jailmk sets none; see [`crate::sys::seccomp`].
    #[serde(rename = "flags")]
    _flags: Option<IgnoredAny>,
    #[serde(rename = "listenerMetadata")]
    _listener_metadata: Option<IgnoredAny>,
    #[serde(rename = "comment")]
    _comment: Option<IgnoredAny>,
}

/// An architecture with those that the same processor also runs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ArchitectureMap {
    pub architecture: String,
    /// jailmk kills calls by any other numbers than those of the machine itself.
    #[serde(rename = "subArchitectures")]
    _sub_architectures: Option<IgnoredAny>,
}

/// One element of `syscalls`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Entry {
    pub names: Option<Vec<String>>,
    pub name: Option<String>,
    pub action: Action,
    pub errno_ret: Option<u32>,
    pub errno: Option<String>,
    pub args: Option<Vec<Argument>>,
    pub includes: Option<Filter>,
    pub excludes: Option<Filter>,
    #[serde(rename = "comment")]
    _comment: Option<IgnoredAny>,
}

/// A comparison of one argument.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Argument {
    pub index: u32,
    pub value: u64,
    pub value_two: Option<u64>,
    pub op: Operator,
}

/// For which jails and hosts an entry is meant.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Filter {
    pub caps: Option<Vec<String>>,
    pub arches: Option<Vec<String>>,
    pub min_kernel: Option<String>,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Action {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD", alias = "SCMP_ACT_KILL_PROCESS")]
    Kill,
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Operator {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// The machine's architecture in the words of libseccomp, and in Go's.
#[cfg(target_arch = "x86_64")]
pub(super) const ARCHITECTURE: (&str, &str) = ("SCMP_ARCH_X86_64", "amd64");
/// The machine's architecture in the words of libseccomp, and in Go's.
#[cfg(target_arch = "aarch64")]
pub(super) const ARCHITECTURE: (&str, &str) = ("SCMP_ARCH_AARCH64", "arm64");

impl Document {
    /// The architectures that it says it is for; `None` when it says nothing.
    pub(super) fn for_architectures(&self) -> Option<Vec<&str>> {
        let mapped = self.arch_map.iter().flatten().map(|map| map.architecture.as_str());
        let listed = self.architectures.iter().flatten().map(String::as_str);
        let all: Vec<&str> = mapped.chain(listed).collect();
        (!all.is_empty()).then_some(all)
    }
}

impl Entry {
    /// Both spellings of the names.
    pub(super) fn all_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().flatten().chain(&self.name).map(String::as_str)
    }

    /// Whether it counts there; as Docker decides it.
    pub(super) fn counts(&self, ground: &Ground) -> bool {
        let held = |name: &String| ground.capabilities.contains(name);
        let here = |name: &String| name == ARCHITECTURE.1;
        let reached = |version: &String| version_of(version).is_some_and(|wanted| ground.kernel >= wanted);
        let excluded = self.excludes.as_ref().is_some_and(|filter| {
            filter.caps.iter().flatten().any(held)
                || filter.arches.iter().flatten().any(here)
                || filter.min_kernel.as_ref().is_some_and(reached)
        });
        let included = self.includes.as_ref().is_none_or(|filter| {
            filter.caps.iter().flatten().all(held)
                && filter.arches.as_ref().is_none_or(|arches| arches.is_empty() || arches.iter().any(here))
                && filter.min_kernel.as_ref().is_none_or(reached)
        });
        included && !excluded
    }
}

/// An error number by its name, or as it is written; EPERM where neither is.
pub(super) fn errno(number: Option<u32>, name: Option<&str>) -> Option<i32> {
    // MAX_ERRNO of the kernel; a filter cannot return more.
    const MOST: u32 = 4095;
    match (number, name) {
        (Some(number), _) => i32::try_from(number).ok().filter(|_| number <= MOST),
        (None, None) => Some(libc::EPERM),
        (None, Some(name)) => (1..=133).find(|number| format!("{:?}", Errno::from_raw(*number)) == name),
    }
}
