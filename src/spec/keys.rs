//! Every key of the spec, once: the reader's checks, the JSON Schema, `jailmk init` and the manual
//! page's test all come from this table.

/// A part of the spec that has keys of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// As in the header; empty for the keys before the first header.
    pub name: &'static str,
    /// How it is written.
    pub form: Form,
    /// One sentence.
    pub doc: &'static str,
}

/// How a section is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Before the first header.
    Top,
    /// `[name]`
    Table,
    /// `[[name]]`, any number of times.
    List,
    /// `[name]` with keys that are paths in the jail and values that are sizes.
    Sizes,
    /// `{ … }` as an element of the list that the name points to.
    Element,
}

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The [`Section::name`] it belongs to.
    pub section: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What it may be set to.
    pub kind: Kind,
    /// What holds when it is not written, in words.
    pub default: &'static str,
    /// A value as an example, in TOML.
    pub sample: &'static str,
    /// One sentence.
    pub doc: &'static str,
}

/// What a key may be set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A host name label: letters, digits and `-`, at most 63.
    Label,
    /// A user name: `[a-z_][a-z0-9_-]{0,31}`, not `root`.
    UserName,
    /// A path on the host.
    HostPath,
    /// An absolute path in the jail.
    JailPath,
    /// Permission bits as a string of octal digits.
    Mode,
    /// `true` or `false`.
    Boolean,
    /// Bytes: a whole number, or a string of digits and `K`, `M`, `G` or `T`.
    Size,
    /// A time: a whole number of seconds, or a string such as `1h30m`.
    Duration,
    /// A positive number, which need not be whole.
    Number,
    /// A whole number from 1 to the one given.
    Count(u64),
    /// One of some words.
    Choice(&'static [&'static str]),
    /// One of some words, or the path of a JSON file: with a `/`, or ending in `.json`.
    ChoiceOrFile(&'static [&'static str]),
    /// A list of some words.
    Choices(&'static [&'static str]),
    /// A list of strings.
    Texts,
    /// A list of globs (strings) and tables of [`FILES`].
    Files,
    /// A table of strings.
    TextTable,
    /// A table of strings whose keys are paths in the jail.
    LinkTable,
}

impl Kind {
    /// What a message says was expected.
    pub fn expected(self) -> &'static str {
        match self {
            Kind::Text
            | Kind::Label
            | Kind::UserName
            | Kind::HostPath
            | Kind::Choice(_)
            | Kind::ChoiceOrFile(_) => "a string",
            Kind::JailPath => "a string such as \"/srv\"",
            Kind::Mode => "a string such as \"0644\"",
            Kind::Boolean => "true or false",
            Kind::Size => "a size such as \"512M\"",
            Kind::Duration => "a time such as \"30m\"",
            Kind::Number => "a number",
            Kind::Count(_) => "a whole number",
            Kind::Choices(_) | Kind::Texts => "a list of strings",
            Kind::Files => "a list of strings and tables",
            Kind::TextTable | Kind::LinkTable => "a table of strings",
        }
    }

    /// What a message says was expected of one element of the list or table.
    pub fn expected_element(self) -> &'static str {
        match self {
            Kind::Files => "a string or a table",
            _ => "a string",
        }
    }
}

/// The element tables of `rootfs.files`.
pub const FILES: &str = "rootfs.files";

/// The values of `workspace.mode`.
pub const WORKSPACE_MODES: &[&str] = &["review", "direct", "read-only"];
/// The values of `mount.mode`.
pub const MOUNT_MODES: &[&str] = &["read-only", "read-write"];
/// The values of `network.mode`.
pub const NETWORK_MODES: &[&str] = &["none", "loopback", "host"];
/// The values of `hardening.landlock`.
pub const DEMANDS: &[&str] = &["required", "best-effort", "off"];
/// The values of `hardening.seccomp`.
pub const SECCOMP_PROFILES: &[&str] = &["default", "strict"];
/// The elements of `hardening.keep`.
pub const CAPABILITIES: &[&str] = &["net_bind_service", "sys_chroot"];
/// The elements of `hardening.degrade`.
pub const DEGRADABLES: &[&str] = &["cgroup", "landlock"];

/// The kernel's PID_MAX_LIMIT on 64-bit machines; cgroup v2 pids.max takes no more.
const MAX_PROCESSES: u64 = 4_194_304;
/// The most that cpu.weight and io.weight take.
const MAX_WEIGHT: u64 = 10_000;
/// The most that the kernel lets `fs.nr_open` be.
const MAX_OPEN_FILES: u64 = 1_073_741_816;

/// Every section, in the order in which they are shown.
pub const SECTIONS: &[Section] = &[
    section("", Form::Top, "What the jail is called and what it is made from."),
    section("rootfs", Form::Table, "What is in the jail's file tree; all of it brings what it needs to run."),
    section(FILES, Form::Element, "One file or tree: copied (`from`) or written out (`content`)."),
    section("process", Form::Table, "What runs in the jail."),
    section("workspace", Form::Table, "The host directory that the jail works on; seen at /workspace."),
    section("mount", Form::List, "A further host file or directory that the jail sees."),
    section("tmpfs", Form::Sizes, "Writable places in memory: path in the jail = size."),
    section("limits", Form::Table, "What the jail may use; a limit that is written is enforced."),
    section("network", Form::Table, "Which network the jail sees."),
    section("hardening", Form::Table, "How the kernel's layers are used; the defaults are the strictest."),
];

/// Every key, by section in the order in which they are shown.
pub const KEYS: &[Key] = &[
    Key {
        section: "",
        name: "name",
        kind: Kind::Label,
        default: "the file's name without `.toml`",
        sample: "\"jail\"",
        doc: "The jail's host name, and what messages call it.",
    },
    Key {
        section: "",
        name: "include",
        kind: Kind::Texts,
        default: "none",
        sample: "[\"shell\"]",
        doc: "Other specs that are merged in first: lists add up, of single values the last one holds.",
    },
    Key {
        section: "rootfs",
        name: "from",
        kind: Kind::HostPath,
        default: "\"/\"",
        sample: "\"/srv/trixie\"",
        doc: "The root of the tree that files are taken from, relative to the spec.",
    },
    Key {
        section: "rootfs",
        name: "programs",
        kind: Kind::Texts,
        default: "none",
        sample: "[\"bash\", \"/usr/bin/env\"]",
        doc: "Programs by name or absolute path, each with its interpreter and libraries.",
    },
    Key {
        section: "rootfs",
        name: "libraries",
        kind: Kind::Texts,
        default: "none",
        sample: "[\"libnss_myhostname.so.2\"]",
        doc: "Libraries that a program opens by itself, by the name that it asks for.",
    },
    Key {
        section: "rootfs",
        name: "dlopen",
        kind: Kind::Texts,
        default: "none: what dlopen notes require or recommend, where it is there",
        sample: "[\"bpf\", \"!tpm\"]",
        doc: "Features of dlopen notes, as globs: taken as well, or with `!` in front left out.",
    },
    Key {
        section: "rootfs",
        name: "files",
        kind: Kind::Files,
        default: "none",
        sample: "[\"/usr/share/misc/**\", { content = \"hello\\n\", to = \"/etc/motd\" }]",
        doc: "Files by absolute glob, copied from elsewhere, or written out here.",
    },
    Key {
        section: "rootfs",
        name: "exclude",
        kind: Kind::Texts,
        default: "none",
        sample: "[\"**/__pycache__/**\"]",
        doc: "Globs of paths in the jail that `files` and `packages` leave out.",
    },
    Key {
        section: "rootfs",
        name: "packages",
        kind: Kind::Texts,
        default: "none",
        sample: "[\"ca-certificates\"]",
        doc: "Packages of the distribution, all of whose files are taken.",
    },
    Key {
        section: "rootfs",
        name: "symlinks",
        kind: Kind::LinkTable,
        default: "none",
        sample: "{ \"/usr/bin/python\" = \"python3\" }",
        doc: "Symbolic links: path in the jail = target.",
    },
    Key {
        section: "rootfs",
        name: "directories",
        kind: Kind::Texts,
        default: "none",
        sample: "[\"/srv\"]",
        doc: "Empty directories.",
    },
    Key {
        section: FILES,
        name: "from",
        kind: Kind::HostPath,
        default: "none: either `from` or `content` is needed",
        sample: "\"conf/gitconfig\"",
        doc: "A file or tree on the host, relative to the spec; without `to` an absolute glob.",
    },
    Key {
        section: FILES,
        name: "content",
        kind: Kind::Text,
        default: "none: either `from` or `content` is needed",
        sample: "\"hello\\n\"",
        doc: "The text of a file that needs no original.",
    },
    Key {
        section: FILES,
        name: "to",
        kind: Kind::JailPath,
        default: "for `from`: the same path",
        sample: "\"/etc/gitconfig\"",
        doc: "Where it goes in the jail.",
    },
    Key {
        section: FILES,
        name: "mode",
        kind: Kind::Mode,
        default: "the original's without write bits; for `content` 0444",
        sample: "\"0644\"",
        doc: "Permission bits, without setuid, setgid and sticky.",
    },
    Key {
        section: FILES,
        name: "optional",
        kind: Kind::Boolean,
        default: "false",
        sample: "true",
        doc: "Whether it is no error that `from` matches nothing.",
    },
    Key {
        section: "process",
        name: "command",
        kind: Kind::Texts,
        default: "[\"sh\"]",
        sample: "[\"bash\"]",
        doc: "The program and its arguments when `enter` is given none.",
    },
    Key {
        section: "process",
        name: "directory",
        kind: Kind::JailPath,
        default: "the workspace, else the home directory",
        sample: "\"/workspace\"",
        doc: "The working directory.",
    },
    Key {
        section: "process",
        name: "user",
        kind: Kind::UserName,
        default: "\"agent\"",
        sample: "\"agent\"",
        doc: "The user's name inside; its uid and gid are 1000, its home is /home/NAME.",
    },
    Key {
        section: "process",
        name: "env",
        kind: Kind::TextTable,
        default: "none",
        sample: "{ EDITOR = \"vi\" }",
        doc: "Environment variables that are set.",
    },
    Key {
        section: "process",
        name: "pass_env",
        kind: Kind::Texts,
        default: "none",
        sample: "[\"TERM\", \"COLORTERM\"]",
        doc: "Environment variables taken from the caller; no other gets in.",
    },
    Key {
        section: "workspace",
        name: "path",
        kind: Kind::HostPath,
        default: "\".\"",
        sample: "\".\"",
        doc: "The directory, relative to where `enter` is called; `~` is the caller's home.",
    },
    Key {
        section: "workspace",
        name: "mode",
        kind: Kind::Choice(WORKSPACE_MODES),
        default: "\"read-only\"",
        sample: "\"read-only\"",
        doc: "Where the jail's writes go: into a copy that you review, to the host directory at once, or nowhere.",
    },
    Key {
        section: "workspace",
        name: "hide",
        kind: Kind::Texts,
        default: "none",
        sample: "[\".env\", \".env.*\", \"**/*.pem\"]",
        doc: "Globs of files and directories of the workspace that are empty inside.",
    },
    Key {
        section: "workspace",
        name: "protect",
        kind: Kind::Texts,
        default: "none: the built-in list alone",
        sample: "[\"deploy/**\", \"*.service\"]",
        doc: "Globs of paths, at any depth, that `apply` holds back beside those of the built-in list.",
    },
    Key {
        section: "mount",
        name: "from",
        kind: Kind::HostPath,
        default: "none, it must be given",
        sample: "\"~/.cache/uv\"",
        doc: "The host path, relative to where `enter` is called; `~` is the caller's home.",
    },
    Key {
        section: "mount",
        name: "to",
        kind: Kind::JailPath,
        default: "none, it must be given",
        sample: "\"/home/agent/.cache/uv\"",
        doc: "Where the jail sees it; not /, /proc, /dev, /sys or below those three.",
    },
    Key {
        section: "mount",
        name: "mode",
        kind: Kind::Choice(MOUNT_MODES),
        default: "\"read-only\"",
        sample: "\"read-write\"",
        doc: "Whether the jail may write there.",
    },
    Key {
        section: "mount",
        name: "exec",
        kind: Kind::Boolean,
        default: "true",
        sample: "false",
        doc: "Whether the jail may execute files there.",
    },
    Key {
        section: "mount",
        name: "create",
        kind: Kind::Boolean,
        default: "false",
        sample: "true",
        doc: "Whether a missing host directory is made.",
    },
    Key {
        section: "mount",
        name: "optional",
        kind: Kind::Boolean,
        default: "false",
        sample: "true",
        doc: "Whether the mount is left out when the host path is missing.",
    },
    Key {
        section: "limits",
        name: "memory",
        kind: Kind::Size,
        default: "half of the host's memory",
        sample: "\"2G\"",
        doc: "Memory of all processes together.",
    },
    Key {
        section: "limits",
        name: "swap",
        kind: Kind::Size,
        default: "0",
        sample: "0",
        doc: "Swap space of all processes together.",
    },
    Key {
        section: "limits",
        name: "cpus",
        kind: Kind::Number,
        default: "all",
        sample: "1.5",
        doc: "Processors' worth of time, at least 0.01.",
    },
    Key {
        section: "limits",
        name: "processes",
        kind: Kind::Count(MAX_PROCESSES),
        default: "2048",
        sample: "512",
        doc: "Processes and threads.",
    },
    Key {
        section: "limits",
        name: "weight",
        kind: Kind::Count(MAX_WEIGHT),
        default: "100, as every other group",
        sample: "50",
        doc: "Share of the processors, and of disks that are shared by weight, when others want them too.",
    },
    Key {
        section: "limits",
        name: "open_files",
        kind: Kind::Count(MAX_OPEN_FILES),
        default: "65536, or the caller's limit if that is less",
        sample: "1024",
        doc: "Descriptors that one process may hold.",
    },
    Key {
        section: "limits",
        name: "disk",
        kind: Kind::Size,
        default: "half of the host's memory, and no bound on one file",
        sample: "\"4G\"",
        doc: "What the jail's own places, and its changes to a reviewed workspace, may hold, and the largest file that it may write.",
    },
    Key {
        section: "limits",
        name: "time",
        kind: Kind::Duration,
        default: "none",
        sample: "\"30m\"",
        doc: "Wall clock time after which the jail is ended.",
    },
    Key {
        section: "network",
        name: "mode",
        kind: Kind::Choice(NETWORK_MODES),
        default: "\"none\"",
        sample: "\"none\"",
        doc: "No TCP at all (none), TCP between the jail's own processes (loopback), or the host's network.",
    },
    Key {
        section: "hardening",
        name: "landlock",
        kind: Kind::Choice(DEMANDS),
        default: "\"required\"",
        sample: "\"required\"",
        doc: "Whether Landlock must be there.",
    },
    Key {
        section: "hardening",
        name: "seccomp",
        kind: Kind::ChoiceOrFile(SECCOMP_PROFILES),
        default: "\"default\"",
        sample: "\"strict\"",
        doc: "Which system calls are let through: for development (default), for daemons (strict), or fewer still by an OCI profile.",
    },
    Key {
        section: "hardening",
        name: "keep",
        kind: Kind::Choices(CAPABILITIES),
        default: "none",
        sample: "[\"net_bind_service\"]",
        doc: "Capabilities that the command keeps, over the jail's own namespaces only.",
    },
    Key {
        section: "hardening",
        name: "degrade",
        kind: Kind::Choices(DEGRADABLES),
        default: "none",
        sample: "[\"cgroup\"]",
        doc: "Layers that may be missing on a host that cannot give them.",
    },
];

const fn section(name: &'static str, form: Form, doc: &'static str) -> Section {
    Section { name, form, doc }
}

/// The keys of one section, in order.
pub fn of_section(section: &str) -> impl Iterator<Item = &'static Key> + '_ {
    KEYS.iter().filter(move |key| key.section == section)
}

/// The key of that name in that section.
pub fn find(section: &str, name: &str) -> Option<&'static Key> {
    of_section(section).find(|key| key.name == name)
}

/// The section with a header of that name.
pub fn find_section(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.name == name && section.form.has_header())
}

/// Every name that may stand in a section: at the top also those of the sections.
pub fn names_in(section: &str) -> Vec<&'static str> {
    let sections = SECTIONS.iter().filter(|s| section.is_empty() && s.form.has_header()).map(|s| s.name);
    of_section(section).map(|key| key.name).chain(sections).collect()
}

impl Form {
    fn has_header(self) -> bool {
        matches!(self, Form::Table | Form::List | Form::Sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_key_is_there_once_and_in_a_section_that_exists() {
        let mut seen = BTreeSet::new();
        for key in KEYS {
            assert!(seen.insert((key.section, key.name)), "{} twice", key.name);
            assert!(SECTIONS.iter().any(|s| s.name == key.section), "{}", key.section);
        }
    }

    #[test]
    fn every_doc_is_one_sentence() {
        for doc in KEYS.iter().map(|k| k.doc).chain(SECTIONS.iter().map(|s| s.doc)) {
            assert!(doc.ends_with('.') && !doc.contains('\n') && !doc.contains(". "), "{doc}");
        }
    }
}
