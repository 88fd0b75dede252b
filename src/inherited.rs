//! What the calling process leaves to this one by no word of its own, made what jailmk relies on.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use crate::error::StageError;
use crate::sys::signal;

/// The kernel, or a filter around this process, does not let it.
#[derive(Debug, thiserror::Error)]
#[error("cannot undo what the caller blocked and ignored of signals")]
pub struct InheritedError(#[from] Errno);

impl StageError for InheritedError {}

/// First of all that the program does: signals that the caller blocked or ignored would be missing.
///
/// # Errors
/// As sigaction(2) and sigprocmask(2).
pub fn settle() -> Result<(), InheritedError> {
    // Ignored, children would leave no status, and the jail's first process would never hear of them.
    signal::reset(Signal::SIGCHLD)?;
    // Ends a probe of `jailmk check` that hangs.
    signal::reset(Signal::SIGALRM)?;
    // By default a write beyond the limit of file sizes (`ulimit -f`) ends the program without a word; ignored,
    // it fails.
    signal::ignore(Signal::SIGXFSZ)?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Lets this process open as many files as its caller could have let it: a jail with many mounts holds a
/// descriptor for each. What the jail gets is the spec's to say.
pub fn raise_open_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // The kernel allows it to everybody; where a filter does not, what is too much is told when it is.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
