//! The filesystems and mount calls of a jail, each tried below a user and a mount namespace.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{chdir, pivot_root as pivot_root_call};

use super::child::{self, SCRATCH, Step, Tried, Verdict, verdict};
use crate::sys::probe;

pub fn tmpfs() -> Verdict {
    verdict((|| {
        child::enter_with_scratch()?;
        let file = scratch("file");
        fs::write(&file, b"x").step("write to a tmpfs")?;
        let filled = fs::write(&file, vec![0; 2 << 20]);
        Ok(match filled {
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                Verdict::works("mounted, its size is kept")
            }
            _ => Verdict::missing("mounted, but it grows beyond its size"),
        })
    })())
}

pub fn proc() -> Verdict {
    verdict((|| {
        child::enter(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)?;
        child::make_private()?;
        Ok(child::run(|| match child::mount_at("proc", "/proc", "") {
            Ok(()) if fs::read_link("/proc/self").is_ok_and(|link| link == Path::new("1")) => {
                Verdict::works("mounted, shows its own PID namespace")
            }
            Ok(()) => Verdict::missing("mounted, but it shows another PID namespace"),
            Err(failed) => failed.cure(
                "in a container whose /proc is masked the kernel refuses a new one: start it with \
                 `--security-opt systempaths=unconfined` (docker) or `--security-opt unmask=ALL` (podman)",
            ),
        }))
    })())
}

pub fn devpts() -> Verdict {
    verdict((|| {
        child::enter_with_scratch()?;
        fs::create_dir(scratch("pts")).step("make a directory")?;
        std::os::unix::fs::symlink("pts/ptmx", scratch("ptmx")).step("make a link")?;
        child::mount_at("devpts", &scratch("pts"), "newinstance,ptmxmode=0666,mode=0620")?;
        let terminal = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).step("open a pseudo-terminal")?;
        grantpt(&terminal).step("grant a pseudo-terminal")?;
        unlockpt(&terminal).step("unlock a pseudo-terminal")?;
        let name = ptsname_r(&terminal).step("name a pseudo-terminal")?;
        open(name.as_str(), OFlag::O_RDWR | OFlag::O_NOCTTY, Mode::empty()).step("open its other end")?;
        Ok(Verdict::works(format!("mounted, pseudo-terminal {name}")))
    })())
}

pub fn detached_tree() -> Verdict {
    verdict((|| {
        child::enter_with_scratch()?;
        fs::create_dir(scratch("target")).step("make a directory")?;
        fs::write(scratch("file"), b"x").step("write a file")?;
        let tree = probe::open_tree(&c_path(SCRATCH)).step("copy a mount with open_tree")?;
        probe::move_mount(tree.as_fd(), &c_path(&scratch("target")))
            .step("attach a mount with move_mount")?;
        Ok(if Path::new(&scratch("target/file")).exists() {
            Verdict::works("a detached mount was attached")
        } else {
            Verdict::missing("the attached mount is empty")
        })
    })())
}

pub fn attributes() -> Verdict {
    verdict((|| {
        child::enter_with_scratch()?;
        fs::create_dir(scratch("target")).step("make a directory")?;
        let tree = probe::open_tree(&c_path(SCRATCH)).step("copy a mount with open_tree")?;
        let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
        probe::mount_setattr(tree.as_fd(), set, None).step("set mount attributes")?;
        probe::move_mount(tree.as_fd(), &c_path(&scratch("target")))
            .step("attach a mount with move_mount")?;
        Ok(match fs::write(scratch("target/file"), b"x") {
            Err(error) if error.raw_os_error() == Some(libc::EROFS) => {
                Verdict::works("a tree was made read-only")
            }
            _ => Verdict::missing("the tree that was made read-only can be written"),
        })
    })())
}

pub fn pivot_root() -> Verdict {
    verdict((|| {
        child::enter_with_scratch()?;
        fs::write(scratch("file"), b"x").step("write a file")?;
        chdir(SCRATCH).step("enter the new root")?;
        pivot_root_call(".", ".").step("switch the root")?;
        umount2(".", MntFlags::MNT_DETACH).step("unmount the old root")?;
        chdir("/").step("enter the root")?;
        let names = fs::read_dir("/").step("read the new root")?.count();
        Ok(if names == 1 {
            Verdict::works("the root was switched, the old one is gone")
        } else {
            Verdict::missing("something of the old root is left")
        })
    })())
}

pub fn overlay() -> Verdict {
    verdict((|| {
        child::enter_with_scratch()?;
        for directory in ["lower", "upper", "work", "merged"] {
            fs::create_dir(scratch(directory)).step("make a directory")?;
        }
        fs::write(scratch("lower/changed"), b"old").step("write a file")?;
        fs::write(scratch("lower/removed"), b"old").step("write a file")?;
        let options =
            format!("lowerdir={SCRATCH}/lower,upperdir={SCRATCH}/upper,workdir={SCRATCH}/work,userxattr");
        child::mount_at("overlay", &scratch("merged"), &options).map_err(|failed| {
            failed.cure(
                "load it as root: `modprobe overlay`; workspaces with `mode = \"direct\"` do without it",
            )
        })?;
        fs::write(scratch("merged/changed"), b"new").step("write through an overlay")?;
        fs::remove_file(scratch("merged/removed")).step("remove through an overlay")?;
        let kept = fs::read(scratch("lower/changed")).step("read below the overlay")? == b"old"
            && Path::new(&scratch("lower/removed")).exists();
        let seen = fs::read(scratch("merged/changed")).step("read through an overlay")? == b"new"
            && !Path::new(&scratch("merged/removed")).exists();
        Ok(if kept && seen {
            Verdict::works("changes stay in the upper directory")
        } else {
            Verdict::missing("changes do not stay in the upper directory")
        })
    })())
}

/// An idmapped copy of the working directory's mount: whether its filesystem can do it is the question.
pub fn idmapped() -> Verdict {
    verdict((|| {
        let namespace = mapped_namespace()?;
        unshare(CloneFlags::CLONE_NEWNS).step("create a mount namespace")?;
        child::make_private()?;
        let tree = probe::open_tree(c".").step("copy a mount with open_tree")?;
        let set = probe::mount_setattr(tree.as_fd(), libc::MOUNT_ATTR_IDMAP, Some(namespace.as_fd()));
        match set {
            Ok(()) => Ok(Verdict::works("the working directory's filesystem can be idmapped")),
            Err(Errno::EINVAL) => {
                Ok(Verdict::missing("the working directory's filesystem cannot be idmapped")
                    .cure("keep workspaces on ext4, xfs or btrfs, or on a newer kernel"))
            }
            Err(errno) => Err(Verdict::failed("idmap a mount", errno)),
        }
    })())
}

/// A user namespace with a map, kept by its descriptor; the process that made it ends here.
fn mapped_namespace() -> Tried<File> {
    let (mut ours, mut theirs) = UnixStream::pair().step("make a pair of sockets")?;
    let maker = probe::fork(move || {
        let made = unshare(CloneFlags::CLONE_NEWUSER).is_ok();
        let told = theirs.write_all(&[u8::from(made)]);
        u8::from(told.and_then(|()| theirs.read_exact(&mut [0])).is_err())
    })
    .step("fork")?;
    let namespace = (|| {
        let mut made = [0];
        ours.read_exact(&mut made).step("wait for a user namespace")?;
        if made != [1] {
            return Err(Verdict::missing("needs a user namespace"));
        }
        for map in ["uid_map", "gid_map"] {
            fs::OpenOptions::new()
                .write(true)
                .open(format!("/proc/{maker}/{map}"))
                .and_then(|mut file| file.write_all(b"0 100000 1\n"))
                .step("map ids into a user namespace")?;
        }
        File::open(format!("/proc/{maker}/ns/user")).step("open a user namespace")
    })();
    // One byte and not the end of the stream: the child holds a copy of this end as well.
    ours.write_all(&[0]).step("release a child")?;
    waitpid(maker, None).step("wait for a child")?;
    namespace
}

fn scratch(name: &str) -> String {
    format!("{SCRATCH}/{name}")
}

fn c_path(path: &str) -> CString {
    CString::new(path).expect("BUG: a NUL byte in a probe's path")
}
