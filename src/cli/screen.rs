//! Text that a jail may have written, on a terminal: nothing in it steers the terminal; colours are our own;
//! a pager shows what is long, as for git.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::process::{Command, Stdio};

/// Writes bytes to standard output: as they are to a file or pipe, escaped and coloured to a terminal.
///
/// # Errors
/// As write(2); a reader that went away wants no more.
pub(super) fn show(bytes: &[u8], colour: fn(&[u8]) -> Option<&'static str>) -> io::Result<()> {
    if !io::stdout().is_terminal() {
        return written(io::stdout().lock().write_all(bytes).and_then(|()| io::stdout().flush()));
    }
    let colour = if wants_colour() { colour } else { |_: &[u8]| None };
    let text = on_terminal(bytes, colour);
    match page(text.as_bytes()) {
        Some(result) => written(result),
        None => written(io::stdout().lock().write_all(text.as_bytes()).and_then(|()| io::stdout().flush())),
    }
}

/// The same without a pager: a question follows.
///
/// # Errors
/// As [`show`].
pub(super) fn show_here(bytes: &[u8], colour: fn(&[u8]) -> Option<&'static str>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let text = match io::stdout().is_terminal() {
        true => on_terminal(bytes, if wants_colour() { colour } else { |_: &[u8]| None }).into_bytes(),
        false => bytes.to_owned(),
    };
    written(out.write_all(&text).and_then(|()| out.flush()))
}

fn written(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn wants_colour() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// Each line in its colour, with everything that is no plain text escaped.
fn on_terminal(bytes: &[u8], colour: fn(&[u8]) -> Option<&'static str>) -> String {
    let mut text = String::with_capacity(bytes.len() + bytes.len() / 8);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let (body, end) = match line.strip_suffix(b"\n") {
            Some(body) => (body, "\n"),
            None => (line, ""),
        };
        let colour = colour(body);
        text.push_str(colour.unwrap_or_default());
        escape(body, &mut text);
        text.push_str(if colour.is_some() { "\x1b[m" } else { "" });
        text.push_str(end);
    }
    text
}

fn escape(bytes: &[u8], text: &mut String) {
    let hex = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            // A String takes whatever is written to it.
            let _ = write!(text, "\\x{byte:02x}");
        }
    };
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\t' || !(c.is_control() || reorders(c)) {
                text.push(c);
            } else {
                hex(text, c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        hex(text, chunk.invalid());
    }
}

/// Characters that are not seen, or that make others be seen elsewhere: a review must not be read in
/// another order than a compiler reads it.
fn reorders(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Through `$PAGER`, else less; `None` when there is none.
fn page(text: &[u8]) -> Option<io::Result<()>> {
    let pager = std::env::var_os("PAGER").unwrap_or_else(|| "less".into());
    if pager.is_empty() || pager == "cat" {
        return None;
    }
    let mut command = Command::new("sh");
    command.arg("-c").arg(&pager).stdin(Stdio::piped());
    if std::env::var_os("LESS").is_none() {
        // Colours, no paging of what fits on the screen.
        command.env("LESS", "FRX");
    }
    let mut child = command.spawn().ok()?;
    let mut stdin = child.stdin.take()?;
    let result = stdin.write_all(text);
    drop(stdin);
    match child.wait() {
        // The shell did not find it, and nobody has seen anything.
        Ok(status) if status.code() == Some(127) => None,
        Ok(_) => Some(result),
        Err(error) => Some(Err(error)),
    }
}

/// The colour of a line of a patch.
pub(super) fn of_patch(line: &[u8]) -> Option<&'static str> {
    let begins = |mark: &[u8]| line.starts_with(mark);
    match line.first() {
        _ if begins(b"diff --git ") || begins(b"--- ") || begins(b"+++ ") => Some("\x1b[1m"),
        Some(b'@') => Some("\x1b[36m"),
        Some(b'+') => Some("\x1b[32m"),
        Some(b'-') => Some("\x1b[31m"),
        Some(b'#') => Some("\x1b[33m"),
        _ => None,
    }
}

/// The colour of a line of a list.
pub(super) fn of_list(line: &[u8]) -> Option<&'static str> {
    match line.first() {
        _ if line.contains(&b'[') => Some("\x1b[33m"),
        Some(b'a') => Some("\x1b[32m"),
        Some(b'd') => Some("\x1b[31m"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_line_steers_the_terminal() {
        let text = on_terminal(b"+a\x1b]0;x\x07\tb\r\xff\xe2\x80\xae\n-c", of_patch);
        assert_eq!(text, "\x1b[32m+a\\x1b]0;x\\x07\tb\\x0d\\xff\\xe2\\x80\\xae\x1b[m\n\x1b[31m-c\x1b[m");
        assert_eq!(on_terminal("é".as_bytes(), |_| None), "é");
    }
}
