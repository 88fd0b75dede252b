//! What every jail's tree has beside its closure: mount points, device links, the user's name.

use std::path::PathBuf;

use super::{Manifest, ManifestError, Node, jail};
use crate::closure::Reason;
use crate::spec::{Network, RESOLVER, Spec};

const DIRECTORIES: &[(&str, u32)] = &[
    ("/", 0o755),
    ("/dev", 0o755),
    ("/dev/pts", 0o755),
    ("/dev/shm", 0o755),
    ("/etc", 0o755),
    ("/home", 0o755),
    ("/proc", 0o755),
    ("/root", 0o755),
    ("/run", 0o755),
    ("/tmp", 0o1777),
    ("/var", 0o755),
    ("/var/tmp", 0o1777),
];

/// The tree is nodev: a device is a bind mount on an empty file.
const DEVICES: &[&str] = &["/dev/full", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero"];

const LINKS: &[(&str, &str)] = &[
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
];

/// Adds the skeleton; what the closure brings below /etc under the same name stays.
pub(super) fn add(manifest: &mut Manifest, spec: &Spec) -> Result<(), ManifestError> {
    for (path, mode) in DIRECTORIES {
        manifest.demand(&jail(path), Node::Directory, *mode, &Reason::Skeleton)?;
    }
    manifest.demand(&spec.process.home(), Node::Directory, 0o755, &Reason::Skeleton)?;
    if spec.workspace.is_some() {
        manifest.demand(&jail("/workspace"), Node::Directory, 0o755, &Reason::Skeleton)?;
    }
    if spec.network == Network::Host && !spec.brings(RESOLVER) {
        manifest.demand(&jail(RESOLVER), Node::Written(Vec::new()), 0o444, &Reason::Skeleton)?;
    }
    for path in DEVICES {
        manifest.demand(&jail(path), Node::Written(Vec::new()), 0o444, &Reason::Skeleton)?;
    }
    for (path, target) in LINKS {
        manifest.demand(&jail(path), Node::Symlink(PathBuf::from(target)), 0o777, &Reason::Skeleton)?;
    }
    let configuration = [
        ("/etc/group", Node::Written(group(&spec.process.user).into_bytes()), 0o444),
        ("/etc/hostname", Node::Written(format!("{}\n", spec.name).into_bytes()), 0o444),
        ("/etc/mtab", Node::Symlink(PathBuf::from("/proc/self/mounts")), 0o777),
        ("/etc/passwd", Node::Written(passwd(&spec.process.user, shell(manifest)).into_bytes()), 0o444),
    ];
    for (path, node, mode) in configuration {
        match manifest.get(&jail(path)) {
            Some(entry) if entry.node != Node::Directory => {}
            _ => manifest.demand(&jail(path), node, mode, &Reason::Skeleton)?,
        }
    }
    Ok(())
}

fn shell(manifest: &Manifest) -> &'static str {
    let bash = manifest.resolve(&jail("/bin/bash"));
    match bash.and_then(|path| manifest.get(&path)).is_some_and(|entry| entry.node.is_file()) {
        true => "/bin/bash",
        false => "/bin/sh",
    }
}

/// passwd(5): the user, and the two names that tools print for uid 0 and for unmapped owners.
fn passwd(user: &str, shell: &str) -> String {
    let mut text = String::new();
    if user != "root" {
        text.push_str("root:x:0:0:root:/root:/usr/sbin/nologin\n");
    }
    text.push_str(&format!("{user}:x:1000:1000:{user}:/home/{user}:{shell}\n"));
    if user != "nobody" {
        text.push_str("nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n");
    }
    text
}

/// group(5)
fn group(user: &str) -> String {
    let fixed = [("root", 0), (user, 1000), ("nobody", 65534)];
    fixed
        .iter()
        .filter(|(name, id)| *name != user || *id == 1000)
        .map(|(name, id)| format!("{name}:x:{id}:\n"))
        .collect()
}
