//! What a process of a jail is bound by, each tried on a child.

use std::fs::File;
use std::os::fd::AsFd;

use landlock::{ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetStatus};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, OpenHow, ResolveFlag, fcntl, openat2 as openat2_call};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::utsname::uname;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{getppid, pause};

use super::child::{Step, Tried, Verdict, verdict};
use crate::path::printable;
use crate::sys::probe;

/// The oldest kernel with every call that jailmk makes.
const KERNEL_FLOOR: (u32, u32) = (5, 13);

pub fn kernel() -> Verdict {
    verdict((|| {
        let name = uname().step("read the kernel's version")?;
        let release = printable(name.release()).to_string();
        let (major, minor) = KERNEL_FLOOR;
        Ok(match version(&release) {
            Some(version) if version >= KERNEL_FLOOR => Verdict::works(format!("Linux {release}")),
            _ => Verdict::missing(format!("Linux {release} is older than {major}.{minor}"))
                .cure(format!("boot Linux {major}.{minor} or newer")),
        })
    })())
}

/// The first two numbers of a release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// What each ABI added, for the sentence about those that are missing (landlock(7)).
const LANDLOCK_ABIS: [(u32, &str, &str); 5] = [
    (2, "5.19", "renames between directories"),
    (3, "6.2", "truncation"),
    (4, "6.7", "TCP ports"),
    (5, "6.10", "device ioctls"),
    (6, "6.12", "abstract sockets and signals"),
];

pub fn landlock() -> Verdict {
    verdict((|| {
        let abi = match probe::landlock_abi() {
            Ok(abi) => abi,
            Err(Errno::EOPNOTSUPP) => {
                return Ok(Verdict::missing("the kernel has it and it is switched off")
                    .cure("boot with `landlock` in the list of `lsm=` on the kernel command line"));
            }
            Err(Errno::ENOSYS) => {
                return Ok(Verdict::missing("the kernel has none")
                    .cure("use a kernel with CONFIG_SECURITY_LANDLOCK"));
            }
            Err(errno) => return Err(Verdict::failed("ask for the Landlock ABI", errno)),
        };
        let restricted = Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V1))
            .and_then(|ruleset| ruleset.create())
            .and_then(|ruleset| ruleset.restrict_self());
        match restricted {
            Ok(status) if status.ruleset == RulesetStatus::NotEnforced => {
                return Ok(Verdict::missing("the ruleset is not enforced"));
            }
            Ok(_) => {}
            Err(error) => return Ok(Verdict::missing(format!("cannot restrict a process: {error}"))),
        }
        Ok(match File::open("/proc/self/status") {
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => landlock_verdict(abi),
            _ => Verdict::missing("a file that the ruleset denies can be read"),
        })
    })())
}

fn landlock_verdict(abi: u32) -> Verdict {
    let lacking: Vec<_> = LANDLOCK_ABIS.iter().filter(|(since, ..)| *since > abi).collect();
    let Some((_, kernel, _)) = lacking.last() else {
        return Verdict::works(format!("ABI {abi}, a ruleset denies"));
    };
    let what: Vec<&str> = lacking.iter().map(|(.., what)| *what).collect();
    Verdict::degraded(format!("ABI {abi}, a ruleset denies, but not {}", what.join(", ")))
        .cure(format!("boot Linux {kernel} or newer"))
}

pub fn seccomp() -> Verdict {
    verdict((|| {
        let child = probe::fork(|| {
            let installed = prctl::set_no_new_privs().and_then(|()| probe::kill_at_getppid());
            match installed {
                Ok(()) => {
                    let _ = getppid();
                    0
                }
                Err(errno) => u8::try_from(errno as i32).unwrap_or(u8::MAX),
            }
        })
        .step("fork")?;
        Ok(match waitpid(child, None).step("wait for a child")? {
            WaitStatus::Signaled(_, Signal::SIGSYS, _) => Verdict::works("a filter killed the process"),
            WaitStatus::Exited(_, 0) => Verdict::missing("a filter was installed and has no effect"),
            WaitStatus::Exited(_, errno) => Verdict::failed("install a filter", Errno::from_raw(errno))
                .cure("use a kernel with CONFIG_SECCOMP_FILTER"),
            status => Verdict::missing(format!("the filtered process ended otherwise ({status:?})")),
        })
    })())
}

pub fn no_new_privs() -> Verdict {
    verdict((|| {
        prctl::set_no_new_privs().step("set no_new_privs")?;
        Ok(match prctl::get_no_new_privs().step("read no_new_privs")? {
            true => Verdict::works("set"),
            false => Verdict::missing("set and without effect"),
        })
    })())
}

pub fn close_range() -> Verdict {
    verdict((|| {
        let file = File::open("/").step("open a directory")?;
        fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).step("clear close-on-exec")?;
        probe::close_range_on_exec(3).step("mark descriptors close-on-exec")?;
        let flags = fcntl(&file, FcntlArg::F_GETFD).step("read descriptor flags")?;
        Ok(if FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC) {
            Verdict::works("descriptors marked close-on-exec")
        } else {
            Verdict::missing("descriptors were marked close-on-exec and are not")
        })
    })())
}

pub fn openat2() -> Verdict {
    verdict((|| {
        let directory = File::open("/proc/self").step("open a directory")?;
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
        openat2_call(&directory, "../../status", how).step("open a path within a tree")?;
        Ok(match openat2_call(&directory, "root", how.flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC)) {
            Err(Errno::ELOOP) => Verdict::works("paths stay within a tree, magic links are refused"),
            _ => Verdict::missing("a magic link was followed"),
        })
    })())
}

pub fn session_keyring() -> Verdict {
    verdict((|| {
        probe::new_session_keyring().step("join a new session keyring")?;
        Ok(Verdict::works("joined a new one"))
    })())
}

pub fn pidfd() -> Verdict {
    verdict((|| {
        let child = probe::fork(|| {
            pause();
            0
        })
        .step("fork")?;
        let tried: Tried = (|| {
            let descriptor = probe::pidfd_open(child).step("open a process")?;
            probe::pidfd_kill(descriptor.as_fd()).step("signal a process by descriptor")
        })();
        if tried.is_err() {
            nix::sys::signal::kill(child, Signal::SIGKILL).step("kill a child")?;
        }
        let status = waitpid(child, None).step("wait for a child")?;
        tried?;
        Ok(match status {
            WaitStatus::Signaled(_, Signal::SIGKILL, _) => {
                Verdict::works("a process was signalled by descriptor")
            }
            status => Verdict::missing(format!("the signalled process ended otherwise ({status:?})")),
        })
    })())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("5.9.0"), Some((5, 9)));
        assert!(version("5.9.0").unwrap() < KERNEL_FLOOR);
        assert!(version("5.13.0-rc1").unwrap() >= KERNEL_FLOOR);
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn an_old_landlock_is_said_to_lack_what_came_later() {
        use crate::host::Status;
        let old = landlock_verdict(4);
        assert_eq!(old.status, Status::Degraded);
        assert!(old.detail.ends_with("not device ioctls, abstract sockets and signals"), "{}", old.detail);
        assert_eq!(old.cure.as_deref(), Some("boot Linux 6.12 or newer"));
        assert_eq!(landlock_verdict(6).status, Status::Works);
    }
}
