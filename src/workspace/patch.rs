//! Changes as a patch that `git apply` takes, byte for byte.
//!
//! What a patch cannot say stands in it as a line that begins with `#`, which git passes over: binary and very
//! large files, permission bits other than the owner's `x`, empty directories, devices.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use nix::sys::stat::FileStat;
use similar::{Algorithm, DiffOp, DiffTag, capture_diff_slices_deadline, group_diff_ops};

use super::changes::{Change, Kind};
use super::path::WorkPath;
use super::renames::Renames;
use super::tree::{Node, Tree};

/// Larger files are named only.
const LARGEST: u64 = 16 << 20;
/// Lines around a change.
const CONTEXT: usize = 3;
/// After this time the rest of a file counts as replaced.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Where a NUL byte makes a file binary, as for git.
const LOOKED_AT: usize = 8000;

/// The two trees that are compared.
pub struct Sides<'a> {
    /// What the jail wrote.
    pub upper: &'a Tree,
    /// The host's.
    pub host: &'a Tree,
    /// Files that only have another name.
    pub renames: &'a Renames,
}

/// What a file holds.
enum Content {
    Text(Vec<u8>),
    Binary,
    Large,
}

/// How many lines a change adds and removes; `None` for what has no lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Lines that are new.
    pub added: usize,
    /// Lines that are gone.
    pub removed: usize,
}

/// One side of a change that a patch can show.
struct Side {
    mode: &'static str,
    bits: u32,
    content: Content,
}

impl Sides<'_> {
    /// Writes the patch of one change.
    ///
    /// # Errors
    /// The file cannot be read, or `out` not be written.
    pub fn write(&self, change: &Change, out: &mut dyn Write) -> io::Result<()> {
        let path = &change.path;
        if let Some(never) = change.never {
            return note(out, format_args!("{}: {never}", change.kind.word()), path);
        }
        if self.renames.is_old_name(path) && change.kind == Kind::Deleted {
            return Ok(());
        }
        if let Some(old) = self.renames.old_name(path) {
            return self.renamed(old, change, out);
        }
        if change.node() == Node::Directory && change.kind != Kind::Type {
            return match change.kind {
                Kind::Mode => note(out, format_args!("mode {}", modes(change)), path),
                _ => note(out, format_args!("{} directory", change.kind.word()), path),
            };
        }
        let old = self.side(self.host, path, change.host.as_deref())?;
        let new = self.side(self.upper, path, change.jail.as_deref())?;
        // Another kind of file is one that goes and one that comes.
        if change.kind == Kind::Type {
            if old.is_some() {
                one(path, old, None, out)?;
            }
            return if new.is_some() { one(path, None, new, out) } else { Ok(()) };
        }
        one(path, old, new, out)
    }

    /// Counts the lines of one change.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn count(&self, change: &Change) -> io::Result<Option<Count>> {
        if change.never.is_some() {
            return Ok(None);
        }
        if self.renames.old_name(&change.path).is_some() {
            return Ok(Some(Count::default()));
        }
        let text = |side: Option<Side>| match side.map(|side| side.content) {
            None => Some(Vec::new()),
            Some(Content::Text(text)) => Some(text),
            Some(_) => None,
        };
        let old = text(self.side(self.host, &change.path, change.host.as_deref())?);
        let new = text(self.side(self.upper, &change.path, change.jail.as_deref())?);
        let (Some(old), Some(new)) = (old, new) else { return Ok(None) };
        let (old, new) = (lines(&old), lines(&new));
        let mut count = Count::default();
        for op in differences(&old, &new, patience()) {
            if op.tag() != DiffTag::Equal {
                count.added += op.new_range().len();
                count.removed += op.old_range().len();
            }
        }
        Ok(Some(count))
    }

    fn renamed(&self, old: &WorkPath, change: &Change, out: &mut dyn Write) -> io::Result<()> {
        let new = &change.path;
        writeln_bytes(out, &[b"diff --git ", &quoted("a/", old), b" ", &quoted("b/", new)])?;
        let before = self.host.status(old).ok().flatten();
        if let (Some(before), Some(after)) =
            (before.as_ref().map(git_mode), change.jail.as_deref().map(git_mode))
            && before != after
        {
            writeln!(out, "old mode {before}\nnew mode {after}")?;
        }
        writeln!(out, "similarity index 100%")?;
        writeln_bytes(out, &[b"rename from ", &quoted("", old)])?;
        writeln_bytes(out, &[b"rename to ", &quoted("", new)])
    }

    fn side(&self, tree: &Tree, path: &WorkPath, stat: Option<&FileStat>) -> io::Result<Option<Side>> {
        let Some(stat) = stat else { return Ok(None) };
        let content = match Node::of(stat) {
            Node::Symlink => Content::Text(tree.link_target(path)?.into_vec()),
            Node::File if stat.st_size.unsigned_abs() > LARGEST => Content::Large,
            Node::File => {
                let mut bytes = Vec::new();
                tree.open_file_at(path)?.take(LARGEST).read_to_end(&mut bytes)?;
                if is_text(&bytes) { Content::Text(bytes) } else { Content::Binary }
            }
            _ => return Ok(None),
        };
        Ok(Some(Side { mode: git_mode(stat), bits: stat.st_mode & 0o777, content }))
    }
}

/// Whether git would take it for text.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    !bytes.iter().take(LOOKED_AT).any(|byte| *byte == 0)
}

fn git_mode(stat: &FileStat) -> &'static str {
    match Node::of(stat) {
        Node::Symlink => "120000",
        _ if stat.st_mode & 0o100 != 0 => "100755",
        _ => "100644",
    }
}

fn modes(change: &Change) -> String {
    let bits = |stat: Option<&FileStat>| stat.map_or(0, |stat| stat.st_mode & 0o777);
    format!("{:04o} to {:04o}", bits(change.host.as_deref()), bits(change.jail.as_deref()))
}

fn note(out: &mut dyn Write, what: std::fmt::Arguments<'_>, path: &WorkPath) -> io::Result<()> {
    writeln_bytes(out, &[format!("# {what}: ").as_bytes(), &quoted("", path)])
}

/// The patch of one file, from nothing or to nothing.
fn one(path: &WorkPath, old: Option<Side>, new: Option<Side>, out: &mut dyn Write) -> io::Result<()> {
    if let (Some(old), Some(new)) = (&old, &new)
        && old.bits != new.bits
        && old.mode == new.mode
    {
        note(out, format_args!("mode {:04o} to {:04o}", old.bits, new.bits), path)?;
    }
    let text = |side: &Option<Side>| match side.as_ref().map(|side| &side.content) {
        None | Some(Content::Text(_)) => Ok(()),
        Some(Content::Binary) => Err("binary"),
        Some(Content::Large) => Err("more than 16 MiB"),
    };
    let verb = match (&old, &new) {
        (None, _) => "added",
        (_, None) => "deleted",
        _ => "changed",
    };
    if let Err(what) = text(&old).and_then(|()| text(&new)) {
        return note(out, format_args!("{verb}, {what}"), path);
    }
    let bytes = |side: &Option<Side>| match side {
        Some(Side { content: Content::Text(text), .. }) => text.clone(),
        _ => Vec::new(),
    };
    let (before, after) = (bytes(&old), bytes(&new));
    let (a, b) = (quoted("a/", path), quoted("b/", path));
    let mut head = Vec::new();
    writeln_bytes(&mut head, &[b"diff --git ", &a, b" ", &b])?;
    match (&old, &new) {
        (None, Some(new)) => writeln!(head, "new file mode {}", new.mode)?,
        (Some(old), None) => writeln!(head, "deleted file mode {}", old.mode)?,
        (Some(old), Some(new)) if old.mode != new.mode => {
            writeln!(head, "old mode {}\nnew mode {}", old.mode, new.mode)?;
        }
        (Some(_), Some(_)) if before == after => return Ok(()),
        _ => {}
    }
    out.write_all(&head)?;
    if before == after {
        return Ok(());
    }
    // A name with a space in it is ended by a tab, as git does.
    let tab: &[u8] = if path.as_bytes().contains(&b' ') { b"\t" } else { b"" };
    let nothing = b"/dev/null".as_slice();
    match &old {
        Some(_) => writeln_bytes(out, &[b"--- ", &a, tab])?,
        None => writeln_bytes(out, &[b"--- ", nothing])?,
    }
    match &new {
        Some(_) => writeln_bytes(out, &[b"+++ ", &b, tab])?,
        None => writeln_bytes(out, &[b"+++ ", nothing])?,
    }
    hunks(&before, &after, out)
}

/// A changed file in parts that can be taken one by one.
pub struct Parts {
    before: Vec<u8>,
    after: Vec<u8>,
    groups: Vec<Vec<DiffOp>>,
}

impl Parts {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.groups.len()
    }

    /// One as a patch shows it.
    pub fn text(&self, index: usize) -> Vec<u8> {
        let mut text = Vec::new();
        if let Some(group) = self.groups.get(index) {
            hunk(&lines(&self.before), &lines(&self.after), group, &mut text)
                .expect("BUG: a vector takes whatever is written to it");
        }
        text
    }

    /// The file as it was, with the parts for which `taken` says so.
    pub fn with(&self, taken: &[bool]) -> Vec<u8> {
        let (old, new) = (lines(&self.before), lines(&self.after));
        let mut text = Vec::new();
        let mut copied = 0;
        for (group, _) in self.groups.iter().zip(taken).filter(|(_, taken)| **taken) {
            for op in group.iter().filter(|op| op.tag() != DiffTag::Equal) {
                text.extend(old[copied..op.old_range().start].concat());
                text.extend(new[op.new_range()].concat());
                copied = op.old_range().end;
            }
        }
        text.extend(old[copied..].concat());
        text
    }
}

impl Sides<'_> {
    /// A changed text file in parts; `None` for what is none, or has one part only.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn parts(&self, change: &Change) -> io::Result<Option<Parts>> {
        if change.kind != Kind::Changed || change.never.is_some() || change.node() != Node::File {
            return Ok(None);
        }
        let old = self.side(self.host, &change.path, change.host.as_deref())?.map(|side| side.content);
        let new = self.side(self.upper, &change.path, change.jail.as_deref())?.map(|side| side.content);
        let (Some(Content::Text(before)), Some(Content::Text(after))) = (old, new) else { return Ok(None) };
        let groups = group_diff_ops(differences(&lines(&before), &lines(&after), patience()), CONTEXT);
        Ok((groups.len() > 1).then_some(Parts { before, after, groups }))
    }
}

fn hunks(before: &[u8], after: &[u8], out: &mut dyn Write) -> io::Result<()> {
    let (old, new) = (lines(before), lines(after));
    for group in group_diff_ops(differences(&old, &new, patience()), CONTEXT) {
        hunk(&old, &new, &group, out)?;
    }
    Ok(())
}

fn hunk(old: &[&[u8]], new: &[&[u8]], group: &[DiffOp], out: &mut dyn Write) -> io::Result<()> {
    let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(()) };
    let range = |start: usize, end: usize| match end - start {
        // An empty range is named by the line before it.
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        length => format!("{},{length}", start + 1),
    };
    let from = range(first.old_range().start, last.old_range().end);
    let to = range(first.new_range().start, last.new_range().end);
    writeln!(out, "@@ -{from} +{to} @@")?;
    for op in group {
        if op.tag() == DiffTag::Equal {
            print_lines(out, b" ", &old[op.old_range()])?;
        } else {
            print_lines(out, b"-", &old[op.old_range()])?;
            print_lines(out, b"+", &new[op.new_range()])?;
        }
    }
    Ok(())
}

fn print_lines(out: &mut dyn Write, mark: &[u8], lines: &[&[u8]]) -> io::Result<()> {
    for line in lines {
        out.write_all(mark)?;
        out.write_all(line)?;
        if !line.ends_with(b"\n") {
            out.write_all(b"\n\\ No newline at end of file\n")?;
        }
    }
    Ok(())
}

/// Lines with their ends; only `\n` ends one.
pub(super) fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

fn patience() -> Instant {
    Instant::now() + PATIENCE
}

/// The differences of two lists of lines, found by `until`; what is not counts as replaced. Lines are compared
/// once, then by number.
pub(super) fn differences<'t>(old: &[&'t [u8]], new: &[&'t [u8]], until: Instant) -> Vec<DiffOp> {
    let mut numbers: HashMap<&'t [u8], usize> = HashMap::new();
    let mut numbered = Vec::with_capacity(old.len() + new.len());
    for line in old.iter().chain(new) {
        let next = numbers.len();
        numbered.push(*numbers.entry(line).or_insert(next));
    }
    let (old, new) = numbered.split_at(old.len());
    one_after_the_other(&capture_diff_slices_deadline(Algorithm::Myers, old, new, Some(until)))
}

/// Where `similar` moves a change up or down to join it with another, it leaves the place of an insertion or
/// deletion in the other text as it was: only the lengths are right.
fn one_after_the_other(ops: &[DiffOp]) -> Vec<DiffOp> {
    let (mut old_index, mut new_index) = (0, 0);
    let place = |op: &DiffOp| {
        let (old_len, new_len) = (op.old_range().len(), op.new_range().len());
        let placed = match op.tag() {
            DiffTag::Equal => DiffOp::Equal { old_index, new_index, len: old_len },
            DiffTag::Delete => DiffOp::Delete { old_index, old_len, new_index },
            DiffTag::Insert => DiffOp::Insert { old_index, new_index, new_len },
            DiffTag::Replace => DiffOp::Replace { old_index, old_len, new_index, new_len },
        };
        old_index += old_len;
        new_index += new_len;
        placed
    };
    ops.iter().map(place).collect()
}

/// A path as git writes it: in quotes with escapes when it holds anything but plain ASCII.
fn quoted(prefix: &str, path: &WorkPath) -> Vec<u8> {
    let bytes = path.as_bytes();
    let plain = |byte: &u8| (0x20..0x7f).contains(byte) && !matches!(byte, b'"' | b'\\');
    let mut text = prefix.as_bytes().to_vec();
    if bytes.iter().all(plain) {
        text.extend_from_slice(bytes);
        return text;
    }
    text.insert(0, b'"');
    for byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', *byte]),
            b'\n' => text.extend_from_slice(b"\\n"),
            b'\t' => text.extend_from_slice(b"\\t"),
            b'\r' => text.extend_from_slice(b"\\r"),
            byte if plain(byte) => text.push(*byte),
            byte => text.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
        }
    }
    text.push(b'"');
    text
}

fn writeln_bytes(out: &mut dyn Write, parts: &[&[u8]]) -> io::Result<()> {
    for part in parts {
        out.write_all(part)?;
    }
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn names_are_quoted_as_git_quotes_them() {
        let path = WorkPath::new(OsStr::from_bytes(b"a b/\xc3\xa9\n\"")).unwrap();
        assert_eq!(quoted("a/", &path), br#""a/a b/\303\251\n\"""#);
        assert_eq!(quoted("b/", &WorkPath::new("a b").unwrap()), b"b/a b");
    }

    #[test]
    fn a_file_is_put_together_from_the_parts_that_are_taken() {
        let before: Vec<u8> = (0..40).flat_map(|n| format!("{n}\n").into_bytes()).collect();
        let after: Vec<u8> = (0..40)
            .filter(|n| *n != 5)
            .flat_map(|n| format!("{}\n", if n == 30 { 300 } else { n }).into_bytes())
            .collect();
        let groups = group_diff_ops(differences(&lines(&before), &lines(&after), patience()), CONTEXT);
        let parts = Parts { before: before.clone(), after: after.clone(), groups };
        assert_eq!(parts.count(), 2);
        assert_eq!(parts.with(&[false, false]), before);
        assert_eq!(parts.with(&[true, true]), after);
        let one = String::from_utf8(parts.with(&[false, true])).unwrap();
        assert!(one.contains("\n5\n") && one.contains("\n300\n") && !one.contains("\n30\n"));
    }

    #[test]
    fn differences_follow_each_other_and_are_all_there() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut below = |end: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % end as u64).unwrap()
        };
        // Few kinds of lines: there is much to choose from.
        let mut text = || (0..below(14)).flat_map(|_| [b"abc"[below(3)], b'\n']).collect::<Vec<u8>>();
        for _ in 0..2_000 {
            let (before, after) = (text(), text());
            let (old, new) = (lines(&before), lines(&after));
            let (mut at, mut there) = (0, 0);
            for op in differences(&old, &new, patience()) {
                assert_eq!((op.old_range().start, op.new_range().start), (at, there), "{before:?} {after:?}");
                (at, there) = (op.old_range().end, op.new_range().end);
                assert!(op.tag() != DiffTag::Equal || old[op.old_range()] == new[op.new_range()]);
            }
            assert_eq!((at, there), (old.len(), new.len()), "{before:?} {after:?}");
        }
    }

    #[test]
    fn hunks_count_lines_as_patch_does() {
        let mut out = Vec::new();
        hunks(b"", b"a\nb", &mut out).unwrap();
        assert_eq!(out, b"@@ -0,0 +1,2 @@\n+a\n+b\n\\ No newline at end of file\n");
        out.clear();
        hunks(b"a\r\nb\rc\n", b"a\r\n", &mut out).unwrap();
        assert_eq!(out, b"@@ -1,2 +1 @@\n a\r\n-b\rc\n");
    }
}
