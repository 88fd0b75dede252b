//! The host files that a jail sees, each weighed by what it holds.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::Row;
use crate::caller::Caller;
use crate::jail::mounted::Mounted;
use crate::jail::plan::{Plan, Step};
use crate::layer::mounts::{self, Tree};
use crate::layer::place::Place;
use crate::spec::RESOLVER;

/// The most that one mount leaves open.
const MOST: u32 = 90;

/// Something on a host that a jail should not have.
struct Danger {
    /// Absolute, or below `~`, or below the runtime directory of the caller as `%`.
    path: &'static str,
    /// When it is read-only.
    read: u32,
    /// When it can be written to.
    write: u32,
    why: &'static str,
}

const fn danger(path: &'static str, read: u32, write: u32, why: &'static str) -> Danger {
    Danger { path, read, write, why }
}

const KEYS: &str = "keys to other machines";
const ACCOUNTS: &str = "keys to accounts";
const ROOT: &str = "whoever reaches it is root on the host";
const BUS: &str = "services outside do what it asks";
const STARTS: &str = "it is run outside of the jail";
const BROWSER: &str = "cookies and passwords";
const SCREEN: &str = "it sees the screen and the keys pressed";

/// In both directions: a mount of it or below it, and a mount of a directory that holds it.
const DANGERS: &[Danger] = &[
    danger("~/.ssh", 40, 60, KEYS),
    danger("~/.gnupg", 40, 60, KEYS),
    danger("~/.aws", 40, 40, ACCOUNTS),
    danger("~/.azure", 40, 40, ACCOUNTS),
    danger("~/.config/gcloud", 40, 40, ACCOUNTS),
    danger("~/.kube", 40, 40, ACCOUNTS),
    danger("~/.docker", 30, 40, ACCOUNTS),
    danger("~/.netrc", 30, 30, ACCOUNTS),
    danger("~/.git-credentials", 30, 30, ACCOUNTS),
    danger("~/.config/git/credentials", 30, 30, ACCOUNTS),
    danger("~/.config/gh", 30, 30, ACCOUNTS),
    danger("~/.npmrc", 20, 40, ACCOUNTS),
    danger("~/.pypirc", 30, 30, ACCOUNTS),
    danger("~/.cargo/credentials.toml", 30, 30, ACCOUNTS),
    danger("~/.vault-token", 40, 40, ACCOUNTS),
    danger("~/.password-store", 30, 40, ACCOUNTS),
    danger("~/.local/share/keyrings", 40, 40, ACCOUNTS),
    danger("~/.mozilla", 40, 50, BROWSER),
    danger("~/.config/google-chrome", 40, 50, BROWSER),
    danger("~/.config/chromium", 40, 50, BROWSER),
    danger("~/.bashrc", 1, 50, STARTS),
    danger("~/.bash_profile", 1, 50, STARTS),
    danger("~/.profile", 1, 50, STARTS),
    danger("~/.zshrc", 1, 50, STARTS),
    danger("~/.zshenv", 1, 50, STARTS),
    danger("~/.gitconfig", 2, 50, STARTS),
    danger("~/.config/git/config", 2, 50, STARTS),
    danger("~/.config/fish", 1, 50, STARTS),
    danger("~/.config/autostart", 1, 50, STARTS),
    danger("~/.config/systemd", 1, 50, STARTS),
    danger("~/.config/jailmk", 1, 50, "the specs of jails"),
    danger("~/.local/bin", 1, 50, STARTS),
    danger("~/.cargo/bin", 1, 50, STARTS),
    danger("/run/docker.sock", 90, 90, ROOT),
    danger("/run/containerd/containerd.sock", 90, 90, ROOT),
    danger("/run/crio/crio.sock", 90, 90, ROOT),
    danger("/run/podman/podman.sock", 90, 90, ROOT),
    danger("/run/libvirt", 90, 90, ROOT),
    danger("/run/systemd/private", 90, 90, ROOT),
    danger("/run/dbus/system_bus_socket", 60, 60, BUS),
    danger("%/bus", 60, 60, BUS),
    danger("%/systemd", 60, 60, BUS),
    danger("%/podman/podman.sock", 70, 70, "whoever reaches it runs containers as the caller"),
    danger("%/gnupg", 50, 50, KEYS),
    danger("%/keyring", 50, 50, KEYS),
    danger("%/wayland-0", 50, 50, SCREEN),
    danger("/tmp/.X11-unix", 50, 50, SCREEN),
    danger("/etc/shadow", 40, 90, "the passwords of the host"),
    danger("/etc/jailmk", 1, 90, "the specs of jails"),
    danger("/var/lib/docker", 60, 90, ROOT),
    danger("/var/lib/containers", 60, 90, ROOT),
    danger("/var/spool/cron", 10, 90, STARTS),
    danger("/boot", 5, 90, "the host's kernel"),
    danger("/dev", 60, 90, "the host's devices"),
    danger("/proc", 60, 90, "the host's processes"),
    danger("/sys", 40, 90, "the host's kernel"),
];

/// Directories that hold more than any command needs.
const WIDE: &[&str] = &["/", "/home", "/root", "/var", "/run", "/etc", "/mnt", "/media", "/srv", "/tmp"];

/// Directories of installed programs: there to be read, and run by others.
const INSTALLED: &[&str] = &["/usr", "/opt", "/bin", "/sbin", "/lib", "/lib64", "/nix", "/snap"];

/// One row for each host file or directory of the plan.
pub(super) fn rows(plan: &Plan, caller: &Caller) -> Vec<Row> {
    let dangers = located(caller);
    let mounted = plan.steps.iter().filter_map(|step| match step {
        Step::Mount(Mounted::Host(mount)) => Some((&mount.tree, &mount.place)),
        // What the jail writes reaches the host only when somebody has looked at it.
        Step::Mount(Mounted::Overlay(overlay)) => Some((&overlay.lower, &overlay.place)),
        _ => None,
    });
    // The file that names the host's resolvers comes with its network, and is weighed there.
    let mounted = mounted
        .filter(|(tree, place)| !(tree.flags.read_only && place.path().as_path() == Path::new(RESOLVER)));
    mounted.map(|(tree, place)| row(tree, place, &dangers, caller)).collect()
}

/// The dangers that this host has, by their paths without links.
fn located(caller: &Caller) -> Vec<(PathBuf, String, &'static Danger)> {
    let home = caller.home.as_ref().map(|home| home.as_path().to_owned());
    let runtime = Path::new("/run/user").join(caller.uid.to_string());
    let agent = std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from);
    static AGENT: Danger = danger("$SSH_AUTH_SOCK", 50, 50, KEYS);
    let named = DANGERS.iter().filter_map(|danger| {
        Some(match danger.path.as_bytes() {
            [b'~', b'/', ..] => (home.as_ref()?.join(&danger.path[2..]), danger.path.to_owned(), danger),
            [b'%', b'/', ..] => {
                let path = runtime.join(&danger.path[2..]);
                (path.clone(), path.to_string_lossy().into_owned(), danger)
            }
            _ => (PathBuf::from(danger.path), danger.path.to_owned(), danger),
        })
    });
    let agent = agent.map(|path| (path, AGENT.path.to_owned(), &AGENT));
    named
        .chain(agent)
        .filter_map(|(path, name, danger)| Some((std::fs::canonicalize(path).ok()?, name, danger)))
        .collect()
}

fn row(tree: &Tree, place: &Place, dangers: &[(PathBuf, String, &'static Danger)], caller: &Caller) -> Row {
    let source = tree.source.real_path();
    let flags = tree.flags;
    let writable = !flags.read_only;
    let home = caller.home.as_ref().and_then(|home| std::fs::canonicalize(home.as_path()).ok());
    let is_wide = WIDE.iter().any(|wide| Path::new(wide) == source)
        || home.is_some_and(|home| home.starts_with(source));
    let is_installed = INSTALLED.iter().any(|directory| source.starts_with(directory));

    let mut exposure = match (writable, flags.noexec) {
        (false, _) => 1,
        (true, true) => 4,
        (true, false) => 5,
    };
    let mut found = vec![mounts::Words(flags).to_string(), tree.source.to_string()];
    let mut advice = writable.then_some("mode = \"read-only\", if the command only reads");
    if is_wide {
        exposure = exposure.max(if writable { 60 } else { 20 });
        found.push("very wide".into());
        advice = Some("name the directories that the command needs");
    } else if writable && is_installed {
        exposure = exposure.max(70);
        found.push("programs of the host".into());
    } else if std::fs::metadata(source).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        exposure = exposure.max(20);
        found.push("a socket: the jail gets what its server gives".into());
    }
    for (path, name, danger) in dangers {
        let (relation, counts) = match () {
            () if source.starts_with(path) => ("is", true),
            () => ("holds", path.starts_with(source)),
        };
        let weight = if writable { danger.write } else { danger.read };
        if counts && weight > 1 {
            exposure = exposure.max(weight);
            found.push(format!("{relation} {name}: {}", danger.why));
            advice = Some("leave it out: nothing inside needs all of it");
        }
    }
    let row = Row::new(place.path().to_string(), exposure, MOST, found.join(", "));
    match advice {
        Some(advice) => row.advice(advice),
        None => row,
    }
}
