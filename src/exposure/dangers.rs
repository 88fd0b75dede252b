//! What a host has that a jail should not: one table, by what it is good for.

use std::ffi::OsStr;

use super::located::Base;

/// Things of one kind on a host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// When it is mounted read-only.
    pub read: u32,
    /// When it can be written to. Where this is more than `read`, also what is not there yet counts: the jail
    /// can make it.
    pub write: u32,
    /// Why it counts when it can only be read.
    pub reads: &'static str,
    /// Why, when it can be written to.
    pub writes: &'static str,
    /// What to do instead.
    pub cure: &'static str,
}

const LEAVE_OUT: &str = "leave it out: nothing inside needs all of it";
const OWN_KEY: &str = "leave it out, and give the jail a key of its own that opens one thing";
const NARROW: &str = "mount the directories below that the command writes, and not what is run outside";

/// Points of a [`Kind`], and its words.
const fn kind(
    (read, write): (u32, u32),
    reads: &'static str,
    writes: &'static str,
    cure: &'static str,
) -> Kind {
    Kind { read, write, reads, writes, cure }
}

const KEYS: &Kind =
    &kind((40, 60), "keys to other machines", "keys to other machines, and who may come in here", OWN_KEY);
const CLOUDS: &Kind =
    &kind((40, 50), "keys to accounts", "keys to accounts, and programs that get them, run outside", OWN_KEY);
const ACCOUNTS: &Kind = &kind((30, 30), "keys to accounts", "keys to accounts", OWN_KEY);
const PASSWORDS: &Kind = &kind((40, 40), "passwords", "passwords", LEAVE_OUT);
const BROWSERS: &Kind = &kind(
    (40, 50),
    "cookies and passwords",
    "cookies, passwords, and programs that the browser runs",
    LEAVE_OUT,
);
const AGENTS: &Kind = &kind(
    (30, 60),
    "an agent's keys to accounts",
    "an agent's keys, and settings and hooks that it obeys outside of the jail",
    "give the agent inside a directory of its own for them, with a sign-in of its own",
);
const TOOLS: &Kind = &kind(
    (20, 50),
    "tokens of a package manager",
    "tokens of a package manager, and where it gets the programs that are run outside",
    OWN_KEY,
);
const STARTS: &Kind = &kind((1, 50), "what is run outside", "it is run outside of the jail", NARROW);
const GIT: &Kind = &kind(
    (2, 50),
    "git's settings",
    "it is run outside of the jail",
    "mode = \"read-only\", or user.name and user.email by `env` in [process]",
);
const SPECS: &Kind = &kind((1, 60), "the specs of jails", "the specs of jails", LEAVE_OUT);
const TREES: &Kind =
    &kind((10, 60), "the trees of jails", "the trees of jails, and changes for review", LEAVE_OUT);
const ENGINES: &Kind = &kind(
    (90, 90),
    "whoever reaches it is root on the host",
    "whoever reaches it is root on the host",
    "leave it out: a jail that starts containers is none",
);
const OWN_ENGINES: &Kind = &kind(
    (70, 70),
    "whoever reaches it runs containers as the caller",
    "whoever reaches it runs containers as the caller",
    "leave it out: a jail that starts containers is none",
);
const BUSES: &Kind = &kind(
    (60, 60),
    "services outside do what it asks",
    "services outside do what it asks",
    "leave it out, or a proxy that lets few names through",
);
const KEY_AGENTS: &Kind = &kind(
    (50, 50),
    "keys to other machines, as long as the jail runs",
    "keys to other machines, as long as the jail runs",
    OWN_KEY,
);
const SCREENS: &Kind = &kind(
    (50, 50),
    "it sees the screen and the keys pressed",
    "it sees the screen and the keys pressed",
    "leave it out, or a display server of the jail's own",
);
const SOUNDS: &Kind = &kind(
    (40, 40),
    "it hears the microphone, and has the sound server load modules",
    "it hears the microphone, and has the sound server load modules",
    LEAVE_OUT,
);
const CONTAINERS: &Kind =
    &kind((60, 90), "the files of all containers", "whoever writes there is root on the host", LEAVE_OUT);
const JOBS: &Kind = &kind((10, 90), "jobs of the host", "it is run outside of the jail", LEAVE_OUT);
const SHADOW: &Kind = &kind((40, 90), "the passwords of the host", "the passwords of the host", LEAVE_OUT);
const SYSTEM: &Kind =
    &kind((1, 90), "settings of the host", "it is run outside of the jail, as root", NARROW);
const KERNEL: &Kind = &kind((40, 90), "the host's kernel", "the host's kernel", LEAVE_OUT);
const BOOT: &Kind = &kind((5, 90), "the host's kernel", "the host's kernel", LEAVE_OUT);
const DEVICES: &Kind = &kind((60, 90), "the host's devices", "the host's devices", LEAVE_OUT);
const PROCESSES: &Kind = &kind((60, 90), "the host's processes", "the host's processes", LEAVE_OUT);

/// By kind, in each sorted. In both directions: a mount of it or below it, and a mount of what holds it.
pub(super) const DANGERS: &[(&Kind, Base, &[&str])] = &[
    (KEYS, Base::Home, &[".gnupg", ".ssh"]),
    (CLOUDS, Base::Home, &[".aws", ".azure", ".config/gcloud", ".docker", ".kube", ".oci"]),
    (
        ACCOUNTS,
        Base::Home,
        &[
            ".cargo/credentials",
            ".cargo/credentials.toml",
            ".config/containers/auth.json",
            ".config/git/credentials",
            ".git-credentials",
            ".my.cnf",
            ".netrc",
            ".pgpass",
            ".pypirc",
            ".terraform.d",
            ".vault-token",
        ],
    ),
    (
        PASSWORDS,
        Base::Home,
        &[
            ".config/Bitwarden",
            ".config/Bitwarden CLI",
            ".config/op",
            ".local/share/keyrings",
            ".local/share/kwalletd",
            ".password-store",
        ],
    ),
    (
        BROWSERS,
        Base::Home,
        &[
            ".config/BraveSoftware",
            ".config/chromium",
            ".config/google-chrome",
            ".config/microsoft-edge",
            ".config/opera",
            ".config/vivaldi",
            ".librewolf",
            ".mozilla",
            ".thunderbird",
            "snap/chromium",
            "snap/firefox",
        ],
    ),
    (
        AGENTS,
        Base::Home,
        &[
            ".agents",
            ".aider",
            ".aider.conf.yml",
            ".aider.model.metadata.json",
            ".aider.model.settings.yml",
            ".claude",
            ".claude.json",
            ".cline",
            ".codeium",
            ".codex",
            ".config/Claude",
            ".config/amp",
            ".config/crush",
            ".config/cursor",
            ".config/github-copilot",
            ".config/goose",
            ".config/opencode",
            ".continue",
            ".copilot",
            ".cursor",
            ".factory",
            ".gemini",
            ".kiro",
            ".local/share/crush",
            ".local/share/cursor-agent",
            ".local/share/goose",
            ".local/share/opencode",
            ".mcp.json",
            ".openhands",
            ".pi",
            ".qwen",
            ".roo",
            ".windsurf",
        ],
    ),
    (
        TOOLS,
        Base::Home,
        &[
            ".bundle",
            ".bunfig.toml",
            ".cargo/config",
            ".cargo/config.toml",
            ".composer",
            ".condarc",
            ".config/gh",
            ".config/pip",
            ".config/pnpm",
            ".config/uv",
            ".gem/credentials",
            ".gemrc",
            ".gradle",
            ".m2",
            ".npmrc",
            ".pip",
            ".yarnrc",
            ".yarnrc.yml",
        ],
    ),
    (
        STARTS,
        Base::Home,
        &[
            ".bash_aliases",
            ".bash_login",
            ".bash_logout",
            ".bash_profile",
            ".bashrc",
            ".bun/bin",
            ".cargo/bin",
            ".cargo/env",
            ".config/alacritty",
            ".config/autostart",
            ".config/direnv",
            ".config/environment.d",
            ".config/fish",
            ".config/helix",
            ".config/i3",
            ".config/kitty",
            ".config/mise",
            ".config/nvim",
            ".config/plasma-workspace",
            ".config/sway",
            ".config/systemd",
            ".config/tmux",
            ".config/vim",
            ".config/wezterm",
            ".config/zsh",
            ".cshrc",
            ".deno/bin",
            ".emacs",
            ".emacs.d",
            ".exrc",
            ".gdbinit",
            ".inputrc",
            ".kshrc",
            ".lesskey",
            ".local/bin",
            ".local/lib",
            ".local/share/applications",
            ".local/share/dbus-1",
            ".local/share/fish",
            ".local/share/nvim",
            ".local/share/systemd",
            ".login",
            ".nvm",
            ".oh-my-zsh",
            ".pam_environment",
            ".profile",
            ".pyenv",
            ".rbenv",
            ".rustup",
            ".screenrc",
            ".tcshrc",
            ".tmux",
            ".tmux.conf",
            ".vim",
            ".vimrc",
            ".volta",
            ".vscode",
            ".xinitrc",
            ".xprofile",
            ".xsession",
            ".zlogin",
            ".zlogout",
            ".zprofile",
            ".zshenv",
            ".zshrc",
            "bin",
            "go/bin",
        ],
    ),
    (GIT, Base::Home, &[".config/git/attributes", ".config/git/config", ".config/git/hooks", ".gitconfig"]),
    (SPECS, Base::Home, &[".config/jailmk"]),
    (TREES, Base::Home, &[".local/share/jailmk"]),
    (TREES, Base::Root, &["var/lib/jailmk"]),
    (OWN_ENGINES, Base::Runtime, &["containerd", "docker.sock", "podman/podman.sock"]),
    (BUSES, Base::Runtime, &["bus", "systemd"]),
    (KEY_AGENTS, Base::Runtime, &["gcr", "gnupg", "keyring", "openssh_agent", "ssh-agent.socket"]),
    (SCREENS, Base::Runtime, &["wayland-0", "wayland-1"]),
    (SOUNDS, Base::Runtime, &["pipewire-0", "pipewire-0-manager", "pulse"]),
    (
        ENGINES,
        Base::Root,
        &[
            "run/buildkit/buildkitd.sock",
            "run/containerd/containerd.sock",
            "run/crio/crio.sock",
            "run/docker.sock",
            "run/k3s/containerd/containerd.sock",
            "run/libvirt",
            "run/podman/podman.sock",
            "run/snapd.socket",
            "run/systemd/private",
            "var/lib/incus/unix.socket",
            "var/lib/lxd/unix.socket",
            "var/snap/lxd/common/lxd/unix.socket",
        ],
    ),
    (BUSES, Base::Root, &["run/dbus/system_bus_socket"]),
    (SCREENS, Base::Root, &["tmp/.X11-unix"]),
    (CONTAINERS, Base::Root, &["var/lib/containers", "var/lib/docker"]),
    (JOBS, Base::Root, &["var/spool/at", "var/spool/cron"]),
    (SHADOW, Base::Root, &["etc/gshadow", "etc/shadow"]),
    (
        SYSTEM,
        Base::Root,
        &[
            "etc/bash.bashrc",
            "etc/cron.d",
            "etc/cron.daily",
            "etc/cron.hourly",
            "etc/crontab",
            "etc/environment",
            "etc/init.d",
            "etc/jailmk",
            "etc/ld.so.conf.d",
            "etc/ld.so.preload",
            "etc/pam.d",
            "etc/passwd",
            "etc/profile",
            "etc/profile.d",
            "etc/ssh",
            "etc/sudoers",
            "etc/sudoers.d",
            "etc/systemd",
            "etc/udev",
        ],
    ),
    (BOOT, Base::Root, &["boot"]),
    (DEVICES, Base::Root, &["dev"]),
    (PROCESSES, Base::Root, &["proc"]),
    (KERNEL, Base::Root, &["sys"]),
];

/// What the socket is that `SSH_AUTH_SOCK` names.
pub(super) const KEY_AGENT: &Kind = KEY_AGENTS;

/// What a socket is by its name and that of its directory, wherever it lies: `*` at an end stands for anything.
const SOCKETS: &[(&Kind, &[(&str, &str)])] = &[
    (
        ENGINES,
        &[
            ("*", "buildkitd.sock"),
            ("*", "containerd.sock"),
            ("*", "crio.sock"),
            ("*", "docker.sock"),
            ("*", "libvirt-sock"),
            ("*", "podman.sock"),
            ("systemd", "private"),
        ],
    ),
    (BUSES, &[("*", "bus"), ("*", "dbus-*"), ("*", "system_bus_socket")]),
    (KEY_AGENTS, &[("*", "S.gpg-agent*"), ("*", "ssh-agent*"), ("keyring", "ssh"), ("ssh-*", "agent.*")]),
    (SCREENS, &[(".X11-unix", "X*"), ("*", "wayland-*")]),
    (SOUNDS, &[("*", "pipewire-*"), ("pulse", "native")]),
];

/// What a socket is by the name that it goes by.
pub(super) fn socket(path: &std::path::Path) -> Option<&'static Kind> {
    let name = path.file_name()?;
    let directory = path.parent().and_then(std::path::Path::file_name).unwrap_or_default();
    let is = |(above, pattern): &(&str, &str)| matches(above, directory) && matches(pattern, name);
    SOCKETS.iter().find(|(_, patterns)| patterns.iter().any(is)).map(|(kind, _)| *kind)
}

fn matches(pattern: &str, name: &OsStr) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.as_encoded_bytes().starts_with(start.as_bytes()),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn each_thing_is_in_the_table_once_and_each_kind_is_sorted() {
        let mut all = Vec::new();
        for (_, base, names) in DANGERS {
            assert!(names.is_sorted(), "{names:?}");
            all.extend(names.iter().map(|name| (*base, *name)));
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn a_socket_is_known_by_its_name_wherever_it_lies() {
        for (path, kind) in [
            ("/x/docker.sock", ENGINES),
            ("/run/user/1000/podman/podman.sock", ENGINES),
            ("/tmp/ssh-Xa1/agent.77", KEY_AGENTS),
            ("/home/a/.gnupg/S.gpg-agent.ssh", KEY_AGENTS),
            ("/run/user/7/wayland-3", SCREENS),
            ("/tmp/.X11-unix/X0", SCREENS),
            ("/run/user/7/pulse/native", SOUNDS),
            ("/tmp/dbus-abc", BUSES),
            ("/run/systemd/private", ENGINES),
        ] {
            assert_eq!(socket(Path::new(path)), Some(kind), "{path}");
        }
        for path in ["/tmp/x/agent.77", "/srv/api.sock", "/private", "/X0"] {
            assert!(socket(Path::new(path)).is_none(), "{path}");
        }
    }
}
