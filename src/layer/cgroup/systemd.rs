//! Asks a systemd manager for a delegated scope around this process (systemd, CGROUP_DELEGATION, "Three
//! Scenarios"): the caller's own manager, or for root the system's.
//!
//! Over the manager's private socket, as systemctl(1) does, and not by way of a message bus: one call,
//! no broker that has to run, and the manager takes who called from the socket itself.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};
use nix::unistd::{Uid, geteuid};

use super::bus::{self, Call, Malformed, Message, Writer};
use crate::path::printable;

/// How long the manager may take in all.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of messages that are read at most while waiting for the one that counts.
const ALL_MESSAGES_MAX: usize = 4 << 20;

/// Why no manager has made a scope.
#[derive(Debug, thiserror::Error)]
pub enum ManagerFault {
    /// There is no socket to reach it by: no systemd, or no login session and no lingering.
    #[error("no systemd manager answers at {}", printable(path.as_os_str()))]
    Absent {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Somebody else listens at the socket.
    #[error("{} belongs to uid {uid}", printable(path.as_os_str()))]
    Foreign {
        /// The socket.
        path: PathBuf,
        /// Whose it is.
        uid: Uid,
    },
    /// It took too long.
    #[error("the systemd manager did not answer within {} s", PATIENCE.as_secs())]
    Silent,
    /// It does not take this user for who he is.
    #[error("the systemd manager refused the login")]
    Login,
    /// It said no.
    #[error("the systemd manager refused a scope: {words}")]
    Refused {
        /// In its words.
        words: String,
    },
    /// It said yes, and could not do it.
    #[error("the systemd manager could not start a scope (its job ended as `{result}`)")]
    Failed {
        /// The job's result.
        result: String,
    },
    /// The conversation broke.
    #[error("the systemd manager said nothing that makes sense")]
    Garbled(#[source] io::Error),
}

impl From<Malformed> for ManagerFault {
    fn from(malformed: Malformed) -> ManagerFault {
        ManagerFault::Garbled(io::Error::other(malformed))
    }
}

impl From<io::Error> for ManagerFault {
    fn from(error: io::Error) -> ManagerFault {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ManagerFault::Silent,
            _ => ManagerFault::Garbled(error),
        }
    }
}

/// Has the manager put this process into a new scope of this name, whose cgroup below belongs to it. The
/// scope goes when the last process in it ends, whoever ends it and however.
///
/// # Errors
/// This process stays where it is, or, if the manager was late, is in a scope that goes all the same.
pub fn enter_scope(name: &str) -> Result<(), ManagerFault> {
    scope_from(socket_path(), PATIENCE, name)
}

fn scope_from(path: PathBuf, patience: Duration, name: &str) -> Result<(), ManagerFault> {
    let mut conversation = Conversation::begin(path, patience)?;
    conversation.log_in()?;
    conversation.start_scope(name)
}

/// Where the manager listens.
fn socket_path() -> PathBuf {
    if geteuid().is_root() {
        return "/run/systemd/private".into();
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    runtime.unwrap_or_else(|| format!("/run/user/{}", geteuid()).into()).join("systemd/private")
}

struct Conversation {
    stream: UnixStream,
    until: Instant,
    received: Vec<u8>,
    total: usize,
}

impl Conversation {
    fn begin(path: PathBuf, patience: Duration) -> Result<Conversation, ManagerFault> {
        let stream = match connected(&path) {
            Ok(stream) => stream,
            // A full queue: the manager hangs.
            Err(Errno::EAGAIN) => return Err(ManagerFault::Silent),
            Err(cause) => return Err(ManagerFault::Absent { path, cause: cause.into() }),
        };
        // The variable may name any place, and what listens there gets to move this process.
        let peer = getsockopt(&stream, PeerCredentials).map_err(io::Error::from)?;
        let uid = Uid::from_raw(peer.uid());
        if uid != geteuid() && !uid.is_root() {
            return Err(ManagerFault::Foreign { path, uid });
        }
        Ok(Conversation { stream, until: Instant::now() + patience, received: Vec::new(), total: 0 })
    }

    fn left(&self) -> Result<Option<Duration>, ManagerFault> {
        match self.until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(ManagerFault::Silent),
            left => Ok(Some(left)),
        }
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), ManagerFault> {
        self.stream.set_write_timeout(self.left()?)?;
        Ok(self.stream.write_all(bytes)?)
    }

    fn hear(&mut self) -> Result<(), ManagerFault> {
        self.stream.set_read_timeout(self.left()?)?;
        let mut piece = [0; 4096];
        let length = match self.stream.read(&mut piece) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            read => read?,
        };
        self.total += length;
        if self.total > ALL_MESSAGES_MAX {
            return Err(Malformed.into());
        }
        self.received.extend_from_slice(&piece[..length]);
        Ok(())
    }

    /// D-Bus Specification, "Authentication Protocol": EXTERNAL, the socket tells who this is.
    fn log_in(&mut self) -> Result<(), ManagerFault> {
        let uid: String = geteuid().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        self.say(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let line = loop {
            if let Some(end) = self.received.windows(2).position(|pair| pair == b"\r\n") {
                break self.received.drain(..end + 2).collect::<Vec<u8>>();
            }
            self.hear()?;
        };
        if !line.starts_with(b"OK ") {
            return Err(ManagerFault::Login);
        }
        self.say(b"BEGIN\r\n")
    }

    fn start_scope(&mut self, name: &str) -> Result<(), ManagerFault> {
        const SERIAL: u32 = 1;
        let call = Call {
            destination: "org.freedesktop.systemd1",
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member: "StartTransientUnit",
            signature: "ssa(sv)a(sa(sv))",
        };
        self.say(&call.message(SERIAL, &scope(name)))?;
        let mut job: Option<String> = None;
        // The job may end before the call is answered.
        let mut ended: Vec<(String, String)> = Vec::new();
        loop {
            let bytes = self.next_message()?;
            match Message::parse(&bytes)? {
                Message::Return { to: SERIAL, mut body } => job = Some(body.string()?.to_owned()),
                Message::Error { to: SERIAL, name, text } => {
                    let words: String = format!("{name}: {text}").chars().take(300).collect();
                    return Err(ManagerFault::Refused { words: printable(words.as_ref()).to_string() });
                }
                Message::Signal { member: "JobRemoved", mut body } => {
                    let _id = body.u32()?;
                    let path = body.string()?.to_owned();
                    let _unit = body.string()?;
                    ended.push((path, body.string()?.to_owned()));
                }
                _ => {}
            }
            let result = job.as_ref().and_then(|job| ended.iter().find(|(path, _)| path == job));
            match result.map(|(_, result)| result.as_str()) {
                None => {}
                Some("done") => return Ok(()),
                Some(result) => {
                    return Err(ManagerFault::Failed { result: printable(result.as_ref()).to_string() });
                }
            }
        }
    }

    fn next_message(&mut self) -> Result<Vec<u8>, ManagerFault> {
        loop {
            if let Some(length) = bus::length(&self.received)?
                && length <= self.received.len()
            {
                return Ok(self.received.drain(..length).collect());
            }
            self.hear()?;
        }
    }
}

/// connect(2) that never waits.
fn connected(path: &PathBuf) -> Result<UnixStream, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let socket = UnixStream::from(socket);
    connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &UnixAddr::new(path)?)?;
    socket.set_nonblocking(false).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    Ok(socket)
}

/// The arguments of StartTransientUnit (org.freedesktop.systemd1(5)).
fn scope(name: &str) -> Writer {
    let mut arguments = Writer::default();
    arguments.string(name);
    arguments.string("fail");
    arguments.array(8, |properties| {
        properties.property("Description", "s", |value| value.string("jailmk: a jail and its supervisor"));
        // 0 is whoever is at the other end of the socket: right also from another PID namespace.
        properties.property("PIDs", "au", |value| value.array(4, |pids| pids.u32(0)));
        // Which also makes OOMPolicy= `continue` (systemd 253): the manager would end the supervisor with its
        // jail, before that could tell why.
        properties.property("Delegate", "b", |value| value.u32(1));
        // Nothing stays to be reset when the kernel has killed for want of memory.
        properties.property("CollectMode", "s", |value| value.string("inactive-or-failed"));
    });
    // No auxiliary units.
    arguments.array(8, |_| {});
    arguments
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::bus::spoken::{answer, refusal, signal};
    use super::*;

    /// What comes of asking a manager that lets one log in by `login` and then says `words`.
    fn asking(login: &'static str, words: Vec<u8>, patience: Duration) -> Result<(), ManagerFault> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("jailmk-manager.{}.{count}", std::process::id()));
        let listener = UnixListener::bind(&path).expect("listen");
        let manager = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut heard = [0; 4096];
            let length = stream.read(&mut heard).expect("hear");
            assert!(heard.starts_with(b"\0AUTH EXTERNAL ") && heard[..length].ends_with(b"\r\n"));
            stream.write_all(login.as_bytes()).expect("let log in");
            let _ = stream.read(&mut heard);
            // In pieces, as a socket may deliver it.
            for piece in words.chunks(7) {
                let _ = stream.write_all(piece);
            }
            // Until the caller goes.
            while stream.read(&mut heard).is_ok_and(|length| length > 0) {}
        });
        let result = scope_from(path.clone(), patience, "a.scope");
        manager.join().expect("the manager");
        std::fs::remove_file(path).expect("remove the socket");
        result
    }

    fn job_removed(job: &str, result: &str) -> Vec<u8> {
        signal("JobRemoved", |body| {
            body.u32(5);
            body.string(job);
            body.string("a.scope");
            body.string(result);
        })
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_scope_is_there_when_its_job_is_done_however_the_messages_are_ordered() {
        let call = answer(1, |body| body.string("/job/5"));
        let others = [signal("UnitNew", |body| body.string("x")), job_removed("/job/4", "failed")].concat();
        let done = job_removed("/job/5", "done");
        for words in [[others.clone(), call.clone(), done.clone()], [done, others, call]] {
            asking("OK 1234\r\n", words.concat(), LONG).expect("a scope");
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_managers_words() {
        let words = refusal(1, "org.freedesktop.DBus.Error.AccessDenied", "no\x1b[2Jway");
        let error = asking("OK 1234\r\n", words, LONG).expect_err("a refusal").to_string();
        assert!(error.contains("AccessDenied: no") && !error.contains('\x1b'), "{error}");
        let error = asking("REJECTED EXTERNAL\r\n", Vec::new(), LONG).expect_err("a refusal");
        assert!(matches!(error, ManagerFault::Login), "{error}");
    }

    #[test]
    fn a_job_that_failed_is_no_scope() {
        let words = [answer(1, |body| body.string("/job/5")), job_removed("/job/5", "failed")].concat();
        let error = asking("OK 1234\r\n", words, LONG).expect_err("a failure");
        assert!(matches!(error, ManagerFault::Failed { .. }), "{error}");
    }

    #[test]
    fn a_manager_that_says_nothing_is_not_waited_for() {
        let short = Duration::from_millis(50);
        let error = asking("", Vec::new(), short).expect_err("nothing");
        assert!(matches!(error, ManagerFault::Silent), "{error}");
        let error = asking("OK 1234\r\n", vec![b'l', 4, 0, 1], short).expect_err("nothing");
        assert!(matches!(error, ManagerFault::Silent), "{error}");
    }

    #[test]
    fn nonsense_is_not_taken_for_an_answer() {
        let error = asking("OK 1234\r\n", vec![b'x'; 100], LONG).expect_err("nonsense");
        assert!(matches!(error, ManagerFault::Garbled(_)), "{error}");
        let endless = signal("Noise", |_| {}).repeat(ALL_MESSAGES_MAX / 16);
        let error = asking("OK 1234\r\n", endless, LONG).expect_err("nonsense");
        assert!(matches!(error, ManagerFault::Garbled(_)), "{error}");
        let absent = scope_from("/nowhere/private".into(), LONG, "a.scope").expect_err("nobody");
        assert!(matches!(absent, ManagerFault::Absent { .. }), "{absent}");
    }
}
