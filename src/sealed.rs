//! The program itself, out of the jail's reach where Landlock does not keep it there.
//!
//! A script that the command is, or that it starts from, can name `/proc/self/exe` as its interpreter: at
//! execve(2) that is still jailmk, of which the host has one file for all (CVE-2019-5736). Landlock denies
//! it: the file is not below the jail's root. Without Landlock jailmk runs from a copy in memory that nobody can
//! write to any more, not even its owner.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl;
use nix::unistd::fexecve;

use crate::error::StageError;

/// There is no such copy.
#[derive(Debug, thiserror::Error)]
#[error("cannot run jailmk from a sealed copy of itself")]
pub struct SealedError(#[source] io::Error);

impl StageError for SealedError {
    fn hints(&self) -> Vec<String> {
        vec!["with Landlock no copy is needed: `jailmk check` says what it lacks here".into()]
    }
}

const SEALS: SealFlag = SealFlag::F_SEAL_SEAL
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// Returns in a process whose program is such a copy; the first time by starting over in one.
///
/// # Errors
/// As memfd_create(2) and execveat(2).
pub fn ensure() -> Result<(), SealedError> {
    let program = File::open("/proc/self/exe").map_err(SealedError)?;
    // Other file systems do not know seals.
    if fcntl(&program, FcntlArg::F_GET_SEALS).is_ok_and(|seals| seals & SEALS.bits() == SEALS.bits()) {
        // Started by a descriptor, the process is called after its number.
        let _ = prctl::set_name(c"jailmk");
        return Ok(());
    }
    start_over(program).map_err(SealedError)
}

fn start_over(mut program: File) -> io::Result<()> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let copy = match memfd_create(c"jailmk", flags | MFdFlags::from_bits_retain(libc::MFD_EXEC)) {
        // Before Linux 6.3 all can be executed.
        Err(Errno::EINVAL) => memfd_create(c"jailmk", flags)?,
        made => made?,
    };
    let mut copy = File::from(copy);
    io::copy(&mut program, &mut copy)?;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(SEALS))?;
    let text = |words: Vec<Vec<u8>>| words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    let arguments = text(std::env::args_os().map(OsStringExt::into_vec).collect())?;
    // As they are: what is no NAME=VALUE is passed on too.
    let environment = fs::read("/proc/self/environ")?;
    let environment = environment.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
    let environment = text(environment.map(<[u8]>::to_vec).collect())?;
    let Err(error) = fexecve(&copy, &arguments, &environment);
    Err(error.into())
}
