//! One line on the terminal while a build takes longer than a moment; it is gone when the build ends.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::rootfs::Progress;

/// A build that takes less needs no comment.
const MOMENT: Duration = Duration::from_millis(500);
/// Often enough to be seen to move, seldom enough not to flicker.
const STEP: Duration = Duration::from_millis(100);
/// To the start of the line, and all of it away: ECMA-48.
const CLEAR: &str = "\r\x1b[K";

/// Runs `work` and shows how far it is, if standard error is a terminal that can clear a line.
pub(super) fn shown<T>(name: &str, work: impl FnOnce(&Progress) -> T) -> T {
    let progress = Progress::default();
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    if dumb || !io::stderr().is_terminal() {
        return work(&progress);
    }
    thread::scope(|scope| {
        let (ends, ended) = mpsc::channel::<()>();
        scope.spawn(|| show(name, &progress, ended));
        let result = work(&progress);
        // The line is cleared before anything else is said: the scope waits for it.
        drop(ends);
        result
    })
}

fn show(name: &str, progress: &Progress, ended: mpsc::Receiver<()>) {
    let mut wait = MOMENT;
    let mut shown = String::new();
    while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        wait = STEP;
        let line = match progress.files() {
            (_, 0) => format!("building {name}: looking at what is there"),
            (done, total) => format!("building {name}: {done} of {total} files"),
        };
        if line != shown {
            // A closed stderr is the caller's wish.
            let _ = write!(io::stderr().lock(), "{CLEAR}{line}");
            shown = line;
        }
    }
    if !shown.is_empty() {
        let _ = write!(io::stderr().lock(), "{CLEAR}");
    }
}
