//! A terminal in front of a test: keys are pressed, and what comes is waited for.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jailmk::sys::terminal::set_size;
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};

use super::Jail;

/// The most that a terminal keeps a test waiting.
const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal and the command that is its session's leader.
pub struct Terminal {
    /// The master side, until it hangs up.
    pub keys: Option<File>,
    /// The side that the command has.
    pub slave: OwnedFd,
    screen: Arc<(Mutex<Screen>, Condvar)>,
    /// The session's leader.
    pub child: Child,
    _jail: Option<Jail>,
}

#[derive(Default)]
struct Screen {
    text: Vec<u8>,
    ended: bool,
}

impl Terminal {
    /// Starts `command` with the terminal as its controlling one, 24 lines of 80 columns.
    pub fn start(command: &Command, jail: Option<Jail>) -> Terminal {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("open a terminal");
        let mut leader = Command::new("setsid");
        leader.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args()).env_clear();
        leader.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(directory) = command.get_current_dir() {
            leader.current_dir(directory);
        }
        let stream = || pty.slave.try_clone().expect("duplicate a descriptor");
        leader.stdin(stream()).stdout(stream()).stderr(stream());
        let child = leader.spawn().expect("start setsid");
        let screen = Arc::new((Mutex::new(Screen::default()), Condvar::new()));
        let shown = Arc::clone(&screen);
        let mut output = File::from(pty.master.try_clone().expect("duplicate a descriptor"));
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            loop {
                let read = output.read(&mut chunk).unwrap_or(0);
                let mut screen = shown.0.lock().expect("the screen");
                screen.text.extend_from_slice(&chunk[..read]);
                screen.ended = read == 0;
                shown.1.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        Terminal { keys: Some(File::from(pty.master)), slave: pty.slave, screen, child, _jail: jail }
    }

    /// Starts a script in the jail.
    pub fn of(jail: Jail, script: &str) -> Terminal {
        let command = jail.enter(&["sh", "-c", script]);
        Terminal::start(&command, Some(jail))
    }

    /// Presses keys.
    pub fn press(&self, keys: &[u8]) {
        let mut master = self.keys.as_ref().expect("it has not hung up");
        master.write_all(keys).expect("press keys");
    }

    /// Waits until this is on the screen after `from`; returns where it ends.
    #[track_caller]
    pub fn see(&self, words: &str, from: usize) -> usize {
        let started = Instant::now();
        let mut screen = self.screen.0.lock().expect("the screen");
        loop {
            let text = screen.text.get(from..).unwrap_or_default();
            if let Some(at) = text.windows(words.len()).position(|window| window == words.as_bytes()) {
                return from + at + words.len();
            }
            let shown = String::from_utf8_lossy(&screen.text).into_owned();
            assert!(started.elapsed() < PATIENCE, "`{words}` never came: {shown}");
            screen = self.screen.1.wait_timeout(screen, Duration::from_millis(200)).expect("the screen").0;
        }
    }

    /// Waits for the end: exit status and what was shown.
    pub fn end(mut self) -> (Option<i32>, String) {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("look at the command") {
                break status;
            }
            assert!(started.elapsed() < PATIENCE, "it never ended: {}", self.shown());
            thread::sleep(Duration::from_millis(10));
        };
        // All that was written before the end is on its way to the screen; a mark comes after it.
        let mut slave = File::from(self.slave.try_clone().expect("duplicate a descriptor"));
        slave.write_all(b"(the end)").expect("write to the terminal");
        self.see("(the end)", 0);
        let shown = self.shown();
        (status.code(), shown.split("(the end)").next().unwrap_or_default().to_owned())
    }

    /// What has come until now, without the lines about what this host cannot enforce.
    pub fn shown(&self) -> String {
        let screen = self.screen.0.lock().expect("the screen");
        let text = String::from_utf8_lossy(&screen.text).replace("\r\n", "\n");
        text.lines()
            .filter(|line| !line.starts_with("jailmk: weaker: "))
            .map(|line| format!("{line}\n"))
            .collect()
    }

    /// Its modes.
    pub fn modes(&self) -> Termios {
        tcgetattr(&self.slave).expect("the modes of a terminal")
    }

    /// Whether each key is passed on at once.
    pub fn is_raw(&self) -> bool {
        !self.modes().local_flags.contains(LocalFlags::ICANON)
    }

    /// Changes its size, in one step as a terminal emulator does: stty(1) takes one for each dimension.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        set_size(self.slave.as_fd(), size).expect("resize the terminal");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
