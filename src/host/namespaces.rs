//! The namespaces of a jail, each created below a user namespace and looked at from inside.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use nix::mount::{MsFlags, mount as mount_call};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{geteuid, gethostname, getpid, sethostname};

use super::child::{self, Step, Tried, Verdict, verdict};
use crate::sys::probe;

pub fn user() -> Verdict {
    match child::unshare_user() {
        Ok(_) if geteuid().as_raw() == overflow_id() => Verdict::works("created"),
        Ok(_) => Verdict::missing("created, but this process kept its ids"),
        Err(verdict) => verdict,
    }
}

/// The id that stands for those that are not mapped.
fn overflow_id() -> u32 {
    let text = fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
    text.trim().parse().unwrap_or(65534)
}

pub fn id_map() -> Verdict {
    verdict((|| {
        let ids = child::unshare_user().map_err(|_| Verdict::missing("needs a user namespace"))?;
        ids.write()?;
        Ok(if geteuid().is_root() {
            Verdict::works("one uid and gid mapped, setgroups denied")
        } else {
            Verdict::missing("the map was taken and has no effect")
        })
    })())
}

pub fn mount() -> Verdict {
    verdict((|| {
        child::enter(CloneFlags::CLONE_NEWNS)?;
        child::make_private()?;
        // Recursive: in a user namespace no mount may be taken away from above what it covers.
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount_call(Some("/"), child::SCRATCH, None::<&str>, flags, None::<&str>).step("mount in it")?;
        Ok(Verdict::works("created, mounts are private"))
    })())
}

pub fn pid() -> Verdict {
    verdict((|| {
        child::enter(CloneFlags::CLONE_NEWPID)?;
        Ok(child::run(|| match getpid().as_raw() {
            1 => Verdict::works("its first process is PID 1"),
            pid => Verdict::missing(format!("its first process is PID {pid}")),
        }))
    })())
}

pub fn network() -> Verdict {
    verdict((|| {
        child::enter(CloneFlags::CLONE_NEWNET)?;
        probe::loopback_up().step("set the loopback interface up")?;
        loopback_carries().step("connect over loopback")?;
        Ok(Verdict::works("created, loopback carries TCP"))
    })())
}

fn loopback_carries() -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"!")?;
    server.read_exact(&mut [0])
}

pub fn ipc() -> Verdict {
    created(CloneFlags::CLONE_NEWIPC, "ipc")
}

pub fn uts() -> Verdict {
    verdict((|| {
        child::enter(CloneFlags::CLONE_NEWUTS)?;
        sethostname("jailmk-check").step("set the host name in it")?;
        let name = gethostname().step("read the host name")?;
        Ok(if name == "jailmk-check" {
            Verdict::works("created, host name set")
        } else {
            Verdict::missing("the host name was set and has not changed")
        })
    })())
}

pub fn cgroup() -> Verdict {
    created(CloneFlags::CLONE_NEWCGROUP, "cgroup")
}

pub fn time() -> Verdict {
    // nix has no name for it, and clone(2) neither: the bit lies in its signal byte.
    let new_time = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);
    let tried: Tried = child::enter(CloneFlags::empty()).and_then(|()| unshare(new_time).step("create it"));
    match tried {
        Ok(()) => Verdict::works("created"),
        Err(failed) => Verdict::degraded(failed.detail),
    }
}

/// Tries a namespace of which nothing can be seen but that it is another.
fn created(flag: CloneFlags, name: &str) -> Verdict {
    let link = || fs::read_link(format!("/proc/self/ns/{name}"));
    verdict((|| {
        let before = link().step("look at this process's namespace")?;
        child::enter(flag)?;
        let after = link().step("look at the new namespace")?;
        Ok(if before == after {
            Verdict::missing("this process is in the old one still")
        } else {
            Verdict::works("created")
        })
    })())
}
