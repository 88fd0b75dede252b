//! What the supervisor and the jail's first process tell each other, over a pair of datagram sockets
//! that no process of the command holds.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use crate::sys::socket;

/// From the jail to its supervisor.
#[derive(Debug)]
pub enum Report {
    /// A step of the plan failed.
    StepFailed {
        /// Its index.
        step: usize,
        /// Why.
        errno: Errno,
    },
    /// The master side of the jail's terminal.
    Terminal(OwnedFd),
    /// Every layer is in place; execve(2) comes next.
    Ready {
        /// The inode of the cgroup namespace; 0 when it could not be looked at.
        cgroup_namespace: u32,
    },
    /// The command cannot be executed.
    ExecFailed(Errno),
    /// The command was stopped by this signal.
    Stopped(i32),
    /// The time is over, and the command has been told.
    TimeOver,
    /// The command ended with this exit status.
    Exited(i32),
    /// The command was ended by this signal.
    Killed(i32),
}

/// From the supervisor to the jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The ids are mapped.
    Mapped,
    /// The tree has been found as it was built, and the terminal is relayed: go on to the command.
    Proceed,
}

const SIZE: usize = 9;

/// One end of the pair.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Takes one end of a SOCK_SEQPACKET pair.
    pub fn new(socket: OwnedFd) -> Channel {
        Channel(socket)
    }

    /// For poll(2).
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Tells the supervisor. Allocates nothing.
    ///
    /// # Errors
    /// As sendmsg(2): EPIPE when the supervisor is gone.
    pub fn report(&self, report: &Report) -> Result<(), Errno> {
        let (kind, a, b, fd) = match report {
            Report::StepFailed { step, errno } => {
                (b'F', i32::try_from(*step).unwrap_or(-1), *errno as i32, None)
            }
            Report::Terminal(master) => (b'T', 0, 0, Some(master.as_fd())),
            Report::Ready { cgroup_namespace } => (b'R', cgroup_namespace.cast_signed(), 0, None),
            Report::ExecFailed(errno) => (b'E', *errno as i32, 0, None),
            Report::Stopped(signal) => (b'S', *signal, 0, None),
            Report::TimeOver => (b'O', 0, 0, None),
            Report::Exited(status) => (b'X', *status, 0, None),
            Report::Killed(signal) => (b'K', *signal, 0, None),
        };
        let mut message = [0; SIZE];
        let words = [kind].into_iter().chain(a.to_ne_bytes()).chain(b.to_ne_bytes());
        for (to, from) in message.iter_mut().zip(words) {
            *to = from;
        }
        socket::send(self.0.as_fd(), &message, fd)
    }

    /// The next report; `None` when the jail's first process is gone, or sent what it never sends.
    ///
    /// # Errors
    /// As recvmsg(2).
    pub fn next_report(&self) -> Result<Option<Report>, Errno> {
        let mut message = [0; SIZE];
        let (length, fd) = socket::receive(self.0.as_fd(), &mut message)?;
        if length != SIZE {
            return Ok(None);
        }
        let [kind, a0, a1, a2, a3, b0, b1, b2, b3] = message;
        let a = i32::from_ne_bytes([a0, a1, a2, a3]);
        let b = i32::from_ne_bytes([b0, b1, b2, b3]);
        Ok(match (kind, fd) {
            (b'F', _) => Some(Report::StepFailed {
                step: usize::try_from(a).unwrap_or(usize::MAX),
                errno: Errno::from_raw(b),
            }),
            (b'T', Some(master)) => Some(Report::Terminal(master)),
            (b'R', _) => Some(Report::Ready { cgroup_namespace: a.cast_unsigned() }),
            (b'E', _) => Some(Report::ExecFailed(Errno::from_raw(a))),
            (b'S', _) => Some(Report::Stopped(a)),
            (b'O', _) => Some(Report::TimeOver),
            (b'X', _) => Some(Report::Exited(a)),
            (b'K', _) => Some(Report::Killed(a)),
            _ => None,
        })
    }

    /// Tells the jail. One that is gone needs no order: it has reported why.
    ///
    /// # Errors
    /// As sendmsg(2). The jail would wait for ever.
    pub fn order(&self, order: Order) -> Result<(), Errno> {
        let byte = match order {
            Order::Mapped => b'm',
            Order::Proceed => b'p',
        };
        match socket::send(self.0.as_fd(), &[byte], None) {
            Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
            sent => sent,
        }
    }

    /// Waits for an order. Allocates nothing.
    ///
    /// # Errors
    /// ECANCELED when the supervisor is gone or says something else.
    pub fn await_order(&self, order: Order) -> Result<(), Errno> {
        let mut byte = [0];
        loop {
            match socket::receive(self.0.as_fd(), &mut byte) {
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
                Ok((1, _)) if byte == [b'm'] && order == Order::Mapped => return Ok(()),
                Ok((1, _)) if byte == [b'p'] && order == Order::Proceed => return Ok(()),
                Ok(_) => return Err(Errno::ECANCELED),
            }
        }
    }
}
