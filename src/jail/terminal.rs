//! The relay between the caller's terminal and the jail's own.
//!
//! The caller's terminal never enters the jail: bytes do, through the supervisor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{isatty, read, write};

use crate::sys::{process, terminal};

const CHUNK: usize = 16 * 1024;

/// The caller's terminal, if it has one, as it was found.
pub struct CallerTerminal {
    input: Option<BorrowedFd<'static>>,
    any: BorrowedFd<'static>,
    found: Termios,
}

impl CallerTerminal {
    /// Looks at the three standard streams.
    pub fn find() -> Option<CallerTerminal> {
        let [input, output, error] = process::standard_streams();
        let is_terminal = |fd: &BorrowedFd<'static>| isatty(fd).unwrap_or(false);
        let any = [output, error, input].into_iter().find(is_terminal)?;
        let found = tcgetattr(any).ok()?;
        Some(CallerTerminal { input: Some(input).filter(is_terminal), any, found })
    }

    /// Begins to relay: the jail's terminal gets the modes and size of the caller's, and the caller's
    /// passes every key on when the jail reads from it. Otherwise the caller's stays as it is, and it alone
    /// works on the output.
    ///
    /// # Errors
    /// As tcsetattr(3) and fcntl(2).
    pub fn relay(self, master: OwnedFd) -> Result<Relay, Errno> {
        let flags = OFlag::from_bits_truncate(fcntl(&master, FcntlArg::F_GETFL)?);
        fcntl(&master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let mut modes = self.found.clone();
        if self.input.is_none() {
            modes.output_flags.remove(OutputFlags::OPOST);
        }
        tcsetattr(&master, SetArg::TCSANOW, &modes)?;
        let relay = Relay {
            caller: self,
            master: Some(master),
            to_jail: Buffer::default(),
            to_caller: Buffer::default(),
            input_ended: false,
        };
        relay.resize();
        relay.make_raw()?;
        Ok(relay)
    }
}

/// Bytes on their way.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
}

/// A running relay. When it is dropped, however the supervisor ends, the caller's terminal is as it was.
pub struct Relay {
    caller: CallerTerminal,
    master: Option<OwnedFd>,
    to_jail: Buffer,
    to_caller: Buffer,
    input_ended: bool,
}

/// What a relay waits for, in the words of poll(2).
pub struct Interest<'a> {
    /// The caller's keys, when there is room for them.
    pub input: Option<BorrowedFd<'a>>,
    /// The jail's terminal, and whether bytes wait to be written to it.
    pub master: Option<(BorrowedFd<'a>, bool)>,
}

impl Relay {
    /// What to poll.
    pub fn interest(&self) -> Interest<'_> {
        let room = self.to_jail.bytes.len() < CHUNK && !self.input_ended && self.master.is_some();
        Interest {
            input: self.caller.input.filter(|_| room),
            master: self.master.as_ref().map(|fd| (fd.as_fd(), !self.to_jail.bytes.is_empty())),
        }
    }

    /// Takes the size of the caller's terminal over.
    pub fn resize(&self) {
        if let (Some(master), Ok(size)) = (&self.master, terminal::size(self.caller.any)) {
            // A terminal that has just gone needs no size.
            let _ = terminal::set_size(master.as_fd(), size);
        }
    }

    /// Whether the caller's terminal is gone.
    pub fn has_hung_up(&self) -> bool {
        has_hung_up(self.caller.any) || self.caller.input.is_some_and(has_hung_up)
    }

    /// The caller pressed keys.
    pub fn read_keys(&mut self) {
        let Some(input) = self.caller.input else { return };
        let mut chunk = [0; CHUNK];
        match read(input, &mut chunk) {
            Ok(0) => self.input_ended = true,
            Ok(length) => self.to_jail.bytes.extend(chunk.iter().take(length)),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => self.input_ended = true,
        }
        self.write_to_jail();
    }

    /// The jail's terminal takes bytes again.
    pub fn write_to_jail(&mut self) {
        let Some(master) = &self.master else { return };
        match write(master, &self.to_jail.bytes) {
            Ok(length) => drop(self.to_jail.bytes.drain(..length)),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => self.to_jail.bytes.clear(),
        }
    }

    /// The jail wrote: pass it on. Returns whether there may be more.
    pub fn pass_output(&mut self) -> bool {
        let Some(master) = &self.master else { return false };
        let mut chunk = [0; CHUNK];
        match read(master, &mut chunk) {
            Ok(length) if length > 0 => {
                self.to_caller.bytes.extend(chunk.iter().take(length));
                self.write_to_caller();
                true
            }
            Err(Errno::EINTR) => true,
            Err(Errno::EAGAIN) => false,
            // EIO: nobody in the jail holds the terminal any more.
            _ => {
                self.master = None;
                false
            }
        }
    }

    fn write_to_caller(&mut self) {
        while !self.to_caller.bytes.is_empty() {
            match write(self.caller.any, &self.to_caller.bytes) {
                Ok(length) => drop(self.to_caller.bytes.drain(..length)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => wait_writable(self.caller.any),
                Err(_) => self.to_caller.bytes.clear(),
            }
        }
    }

    /// Passes on what the jail wrote before it ended.
    pub fn drain(&mut self) {
        while self.pass_output() {}
    }

    /// Gives the caller its terminal back, for as long as the supervisor is stopped.
    pub fn restore(&self) {
        if let Some(input) = self.caller.input {
            // On every way out the terminal may be gone; there is nobody to tell.
            let _ = tcsetattr(input, SetArg::TCSADRAIN, &self.caller.found);
        }
    }

    /// Takes the terminal again after the supervisor was continued.
    ///
    /// # Errors
    /// As tcsetattr(3).
    pub fn make_raw(&self) -> Result<(), Errno> {
        let Some(input) = self.caller.input else { return Ok(()) };
        let mut raw = self.caller.found.clone();
        cfmakeraw(&mut raw);
        tcsetattr(input, SetArg::TCSADRAIN, &raw)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.restore();
    }
}

fn has_hung_up(terminal: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(terminal, PollFlags::empty())];
    let _ = poll(&mut fds, PollTimeout::ZERO);
    fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

fn wait_writable(fd: BorrowedFd<'_>) {
    let _ = poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::NONE);
}
