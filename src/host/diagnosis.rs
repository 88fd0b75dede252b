//! Why the host refuses a primitive, and the cure: the knobs that distributions and containers turn.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::unistd::geteuid;

use super::child::Verdict;

/// For a container whose system call filter is too strict.
pub const LOOSEN_FILTER: &str = "if this is a container, start it with a system call filter that allows it, \
                                 for instance `--security-opt seccomp=unconfined`";

/// The settings that decide whether this user may create user namespaces.
#[derive(Clone, Copy, Debug, Default)]
struct Knobs {
    /// Debian's and others' kernel.unprivileged_userns_clone is 0.
    clone_disabled: bool,
    /// user.max_user_namespaces is 0.
    none_allowed: bool,
    /// Ubuntu's kernel.apparmor_restrict_unprivileged_userns is 1.
    apparmor: bool,
    /// A seccomp filter is on this process.
    filtered: bool,
    /// This is root in its user namespace.
    root: bool,
}

impl Knobs {
    fn read() -> Knobs {
        let is = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
        Knobs {
            clone_disabled: is("/proc/sys/kernel/unprivileged_userns_clone", "0"),
            none_allowed: is("/proc/sys/user/max_user_namespaces", "0"),
            apparmor: is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
            filtered: is_filtered(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
            root: geteuid().is_root(),
        }
    }
}

/// Whether /proc/PID/status shows a seccomp filter (mode 2, proc_pid_status(5)).
fn is_filtered(status: &str) -> bool {
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

/// The verdict on a refused unshare(CLONE_NEWUSER).
pub fn no_user_namespace(errno: Errno) -> Verdict {
    explain_user_namespace(errno, Knobs::read())
}

/// The verdict on a refused id map. `Knobs::root` is not asked for: inside the new namespace nobody is.
pub fn no_id_map(error: io::Error) -> Verdict {
    explain_id_map(error, Knobs::read())
}

fn explain_user_namespace(errno: Errno, knobs: Knobs) -> Verdict {
    let (why, cure) = match errno {
        Errno::EINVAL => ("the kernel has none", "use a kernel with CONFIG_USER_NS"),
        Errno::ENOSPC | Errno::EUSERS if knobs.none_allowed => {
            ("user.max_user_namespaces is 0", "as root: `sysctl -w user.max_user_namespaces=15000`")
        }
        Errno::ENOSPC | Errno::EUSERS => (
            "too many, or nested too deep",
            "as root: raise `user.max_user_namespaces`; do not run jailmk in a jail",
        ),
        _ if knobs.clone_disabled && !knobs.root => (
            "kernel.unprivileged_userns_clone is 0",
            "as root: `sysctl -w kernel.unprivileged_userns_clone=1`",
        ),
        _ if knobs.filtered => ("a system call filter around this process refuses it", LOOSEN_FILTER),
        _ if knobs.apparmor && !knobs.root => ("AppArmor restricts them to named programs", APPARMOR_CURE),
        Errno::EPERM => ("this process may be in a chroot", "run jailmk outside of the chroot"),
        _ => return Verdict::failed("create a user namespace", errno),
    };
    Verdict::missing(format!("cannot create a user namespace: {errno}; {why}")).cure(cure)
}

/// AppArmor's restriction lets the namespace be created and takes the capabilities in it away.
fn explain_id_map(error: io::Error, knobs: Knobs) -> Verdict {
    if knobs.apparmor {
        let why = "AppArmor takes the capabilities in it away";
        return Verdict::missing(format!("cannot map ids into a user namespace: {error}; {why}"))
            .cure(APPARMOR_CURE);
    }
    Verdict::failed("map ids into a user namespace", error)
}

const APPARMOR_CURE: &str = "as root: load an AppArmor profile for jailmk that has the rule `userns,`, or \
                             `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`";

/// The cure for a refusal that has nothing to do with the primitive itself.
pub fn around_us(error: &io::Error) -> Option<&'static str> {
    let refused = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOSYS));
    let knobs = if refused { Knobs::read() } else { return None };
    if knobs.filtered {
        Some(LOOSEN_FILTER)
    } else if knobs.apparmor {
        Some(APPARMOR_CURE)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cure(errno: Errno, knobs: Knobs) -> String {
        explain_user_namespace(errno, knobs).cure.unwrap_or_default()
    }

    #[test]
    fn each_knob_gets_its_own_cure() {
        let none = Knobs::default();
        let cases = [
            (Errno::ENOSPC, Knobs { none_allowed: true, ..none }, "sysctl -w user.max_user_namespaces=15000"),
            (Errno::EPERM, Knobs { clone_disabled: true, ..none }, "kernel.unprivileged_userns_clone=1"),
            (Errno::EACCES, Knobs { apparmor: true, ..none }, "AppArmor profile"),
            (Errno::EPERM, Knobs { filtered: true, ..none }, "seccomp=unconfined"),
            (Errno::EINVAL, none, "CONFIG_USER_NS"),
            (Errno::EPERM, none, "chroot"),
        ];
        for (errno, knobs, words) in cases {
            let cure = cure(errno, knobs);
            assert!(cure.contains(words), "{errno}, {knobs:?}: {cure}");
        }
    }

    #[test]
    fn a_knob_for_ordinary_users_is_not_blamed_for_root() {
        let knobs = Knobs { clone_disabled: true, apparmor: true, root: true, ..Knobs::default() };
        assert!(cure(Errno::EPERM, knobs).contains("chroot"));
    }

    #[test]
    fn a_refused_id_map_is_blamed_on_apparmor_where_it_restricts() {
        let error = || io::Error::from_raw_os_error(libc::EPERM);
        let knobs = Knobs { apparmor: true, ..Knobs::default() };
        assert!(
            explain_id_map(error(), knobs).detail.ends_with("AppArmor takes the capabilities in it away")
        );
        assert!(explain_id_map(error(), Knobs::default()).detail.ends_with("(os error 1)"));
    }

    #[test]
    fn a_filter_is_recognised_by_its_mode() {
        assert!(is_filtered("NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!is_filtered("Seccomp:\t0\nSeccomp_filters:\t0\n"));
    }
}
