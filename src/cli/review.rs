//! `jailmk diff`, `apply`, `discard`, `status`: what a jail did to a reviewed workspace.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::Serialize;

use super::{Apply, Diff, Discard, Failure, Outcome, OutputError, SpecArgument, Status, print, say, screen};
use crate::caller::Caller;
use crate::path::printable;
use crate::rootfs::State;
use crate::spec::{Spec, SpecError};
use crate::workspace::apply::{self, Choice, Decision, Left};
use crate::workspace::changes::{Change, Changes};
use crate::workspace::commit::{self, Committed, Request, Silent};
use crate::workspace::patch::{Count, Parts, Sides};
use crate::workspace::policy::{Judgement, Policy};
use crate::workspace::renames::Renames;
use crate::workspace::tree::{Node, Tree};
use crate::workspace::{Kind, ReviewError, Session, WorkPath, sessions};

/// One changed path, for programs.
#[derive(Serialize)]
struct Shown<'a> {
    path: String,
    /// The bytes of a path that is no UTF-8, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    change: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    renamed_from: Option<String>,
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conflict: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    never: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'a str>,
}

/// The session of a spec with what was changed, and what would become of it.
struct Review {
    changes: Changes,
    judgements: Vec<Judgement>,
    upper: Tree,
    host: Tree,
    /// Held until everything is read.
    _session: Session,
}

impl Review {
    fn open(whose: &Whose) -> Result<Option<Review>, ReviewError> {
        let Some(mut session) = whose.session()? else { return Ok(None) };
        match session.lock_to("look at") {
            // A jail that runs is looked at as well.
            Ok(()) | Err(ReviewError::Busy { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut changes = session.changes()?;
        let policy = Policy::new(whose.spec(), &session);
        let (upper, host) = (session.upper()?, session.host()?);
        let judgements = policy.judge(&mut changes, &upper, &host);
        Ok(Some(Review { changes, judgements, upper, host, _session: session }))
    }

    /// What is at or below one of the paths; everything when there is none.
    fn chosen(&self, paths: &[WorkPath]) -> Result<Vec<(&Change, &Judgement)>, ReviewError> {
        let all = || self.changes.iter().zip(&self.judgements).filter(|(change, _)| change.is_shown());
        for path in paths {
            if !all().any(|(change, _)| change.path.is_within(path)) {
                return Err(ReviewError::Unchanged { path: path.clone() });
            }
        }
        let chosen = |path: &WorkPath| paths.is_empty() || paths.iter().any(|chosen| path.is_within(chosen));
        Ok(all().filter(|(change, _)| chosen(&change.path)).collect())
    }
}

/// Whose changes are meant: a spec's, or those that one which is gone has left.
enum Whose {
    Spec(Box<Spec>),
    Gone(PathBuf),
}

impl Whose {
    /// # Errors
    /// As the spec's, which may be gone only where it has left changes.
    fn of(argument: &SpecArgument) -> Result<Whose, Failure> {
        let error = match argument.load() {
            Ok(spec) => return Ok(Whose::Spec(Box::new(spec))),
            Err(error) => error,
        };
        let gone = argument.path().filter(|_| matches!(error, SpecError::NotFound { .. })).map(Whose::Gone);
        match gone {
            Some(gone) if gone.session()?.is_some() => Ok(gone),
            _ => Err(error.into()),
        }
    }

    fn session(&self) -> Result<Option<Session>, ReviewError> {
        let (state, caller) = (State::open()?, Caller::current());
        match self {
            Whose::Spec(spec) => Session::find(&state, spec, &caller),
            Whose::Gone(path) => sessions::of_gone_spec(&state, path, &caller),
        }
    }

    fn spec(&self) -> Option<&Spec> {
        match self {
            Whose::Spec(spec) => Some(spec),
            Whose::Gone(_) => None,
        }
    }
}

fn work_paths(paths: &[OsString]) -> Result<Vec<WorkPath>, ReviewError> {
    let path = |path: &OsString| {
        WorkPath::new(path).map_err(|cause| ReviewError::Path { path: printable(path).to_string(), cause })
    };
    paths.iter().map(path).collect()
}

impl Diff {
    /// Prints what was changed.
    pub(super) fn run(self) -> Outcome {
        let whose = Whose::of(&self.spec)?;
        if whose.spec().is_none() {
            say("the spec is gone: what it protected beside the built-in names is not known");
        }
        let paths = work_paths(&self.paths)?;
        let text = match Review::open(&whose)? {
            Some(review) => self.text(whose.spec(), &review, &paths)?,
            None if self.json => b"[]\n".to_vec(),
            None => {
                hint_elsewhere(whose.spec())?;
                Vec::new()
            }
        };
        let colour: fn(&[u8]) -> Option<&'static str> = match self {
            Diff { patch: true, .. } => screen::of_patch,
            Diff { json: false, stat: false, .. } => screen::of_list,
            _ => |_| None,
        };
        screen::show(&text, colour).map_err(ReviewError::Output)?;
        Ok(0)
    }

    fn text(&self, spec: Option<&Spec>, review: &Review, paths: &[WorkPath]) -> Result<Vec<u8>, ReviewError> {
        let chosen = review.chosen(paths)?;
        let renames = Renames::find(chosen.iter().map(|(change, _)| *change), &review.upper, &review.host);
        let sides = Sides { upper: &review.upper, host: &review.host, renames: &renames };
        let mut text = Vec::new();
        if chosen.is_empty() {
            hint_elsewhere(spec)?;
        }
        if self.patch {
            for (change, _) in &chosen {
                sides.write(change, &mut text).map_err(ReviewError::Output)?;
            }
            return Ok(text);
        }
        if self.stat {
            return stat(&sides, &chosen).map(String::into_bytes).map_err(ReviewError::Output);
        }
        // A rename is one line, unless there is more to say of the old name.
        let listed = chosen.iter().filter(|(change, judgement)| {
            let silent = judgement.held.is_none() && change.conflict.is_none();
            !(silent && change.kind == Kind::Deleted && renames.is_old_name(&change.path))
        });
        if self.json {
            return Ok(list(listed.map(|(change, judgement)| json(change, judgement, &renames))));
        }
        text.extend(listed.flat_map(|(change, judgement)| line(change, judgement, &renames).into_bytes()));
        Ok(text)
    }
}

/// Lines that were added and removed, by file and in all.
fn stat(sides: &Sides<'_>, chosen: &[(&Change, &Judgement)]) -> std::io::Result<String> {
    let mut lines = Vec::new();
    let mut all = Count::default();
    for (change, _) in chosen.iter().filter(|(change, _)| change.node() != Node::Directory) {
        let count = sides.count(change)?;
        if let Some(count) = count {
            all.added += count.added;
            all.removed += count.removed;
        }
        lines.push((change.path.to_string(), count));
    }
    let width = lines.iter().map(|(path, _)| path.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (path, count) in &lines {
        let counted = match count {
            Some(count) => format!("+{} -{}", count.added, count.removed),
            None => "no text".to_owned(),
        };
        text.push_str(&format!("{path:width$} | {counted}\n"));
    }
    let files = if lines.len() == 1 { "file" } else { "files" };
    text.push_str(&format!("{} {files}, {} lines added, {} removed\n", lines.len(), all.added, all.removed));
    Ok(text)
}

/// As JSON, one after the other: the values of all at once would take many times what the text does.
fn list<'a>(all: impl Iterator<Item = Shown<'a>>) -> Vec<u8> {
    let mut text = String::from("[");
    for (index, shown) in all.enumerate() {
        text.push_str(if index == 0 { "\n" } else { ",\n" });
        let value = format!("{:#}", serde_json::json!(shown));
        let lines: Vec<String> = value.lines().map(|line| format!("  {line}")).collect();
        text.push_str(&lines.join("\n"));
    }
    text.push_str(if text.len() > 1 { "\n]\n" } else { "]\n" });
    text.into_bytes()
}

fn json<'a>(change: &'a Change, judgement: &'a Judgement, renames: &Renames) -> Shown<'a> {
    let bytes = change.path.as_bytes();
    let old = renames.old_name(&change.path);
    let text = std::str::from_utf8(bytes);
    let hex = || bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Shown {
        path: text.map_or_else(|_| change.path.to_string(), str::to_owned),
        path_bytes: text.is_err().then(hex),
        change: if old.is_some() { "renamed" } else { change.kind.word() },
        renamed_from: old.map(ToString::to_string),
        kind: change.node().word(),
        mode: change.jail.as_deref().map(|stat| format!("{:04o}", stat.st_mode & 0o7777)),
        size: change.jail.as_deref().map(|stat| stat.st_size.unsigned_abs()),
        held: judgement.held.as_deref(),
        conflict: change.conflict.map(|conflict| conflict.to_string()),
        never: change.never.map(|never| never.to_string()),
        warning: judgement.warning,
    }
}

/// One line for people.
fn line(change: &Change, judgement: &Judgement, renames: &Renames) -> String {
    let old = renames.old_name(&change.path);
    let word = match (change.kind, change.host.as_deref(), change.jail.as_deref()) {
        (Kind::Added, ..) if old.is_some() => {
            let old = old.map(ToString::to_string).unwrap_or_default();
            format!("renamed  {old} to {}", change.path)
        }
        (Kind::Type, Some(host), Some(jail)) => {
            let (from, to) = (Node::of(host), Node::of(jail));
            format!("type     {} ({} to {})", change.path, from.word(), to.word())
        }
        (Kind::Mode, Some(host), Some(jail)) => {
            let (from, to) = (host.st_mode & 0o777, jail.st_mode & 0o777);
            format!("mode     {} ({from:04o} to {to:04o})", change.path)
        }
        _ => {
            let slash = if change.node() == Node::Directory { "/" } else { "" };
            format!("{:8} {}{slash}", change.kind.word(), change.path)
        }
    };
    let mut notes = Vec::new();
    notes.extend(change.never.map(|never| Left::Never(never).to_string()));
    notes.extend(judgement.held.clone().map(|held| Left::Held(held).to_string()));
    notes.extend(change.conflict.map(|conflict| Left::from(conflict).to_string()));
    notes.extend(judgement.warning.map(|warning| format!("look at it: {warning}")));
    match notes.is_empty() {
        true => format!("{word}\n"),
        false => format!("{word}   [{}]\n", notes.join("; ")),
    }
}

impl Apply {
    /// Takes changes over.
    pub(super) fn run(self) -> Outcome {
        let spec = self.spec.load()?;
        let choice = Choice {
            paths: work_paths(&self.paths)?,
            protected: work_paths(&self.protected)?,
            overwrite: self.overwrite,
            merge: self.merge,
        };
        let Some(mut session) = Session::find(&State::open()?, &spec, &Caller::current())? else {
            self.say_nothing()?;
            hint_elsewhere(Some(&spec))?;
            return Ok(0);
        };
        let policy = Policy::new(Some(&spec), &session);
        let mut questions = Questions { verb: self.verb(), rest: None };
        let mut ask = |change: &Change, sides: &Sides<'_>| questions.ask(change, sides);
        let ask: Option<apply::Ask<'_>> = if self.interactive { Some(&mut ask) } else { None };
        let (outcome, made) = match self.request() {
            None => (apply::apply(&mut session, &policy, &choice, ask)?, None),
            Some(request) => {
                let Committed { branch, id, outcome, silent } =
                    commit::commit(&mut session, &policy, &choice, ask, &request)?;
                say_silent(silent);
                (outcome, id.map(|id| (branch, id)))
            }
        };
        for (kind, path, warning) in &outcome.applied {
            let word = if outcome.merged.contains(path) { "merged" } else { kind.word() };
            print(format_args!("{word:8} {path}\n"))?;
            if let Some(warning) = warning {
                say(format_args!("look at {path}: {warning}"));
            }
        }
        for (_, path, left) in &outcome.left {
            say(format_args!("left {path}: {left}"));
        }
        self.advise(&outcome);
        if let Some((branch, id)) = made {
            let branch = printable(branch.as_ref());
            print(format_args!("commit {id} on {branch}\n"))?;
            hint(&format!(
                "look with `git diff HEAD...{branch}`, take it with `git merge {branch}`; the changes stay until \
                 `jailmk apply` or `jailmk discard`"
            ));
        } else if outcome.applied.is_empty()
            && (self.commit.is_some() || outcome.left.is_empty() && !self.interactive)
        {
            self.say_nothing()?;
        }
        Ok(u8::from(!outcome.left.is_empty()))
    }

    fn verb(&self) -> &'static str {
        if self.commit.is_some() { "commit" } else { "apply" }
    }

    fn say_nothing(&self) -> Result<(), OutputError> {
        print(format_args!("nothing to {}\n", self.verb()))
    }

    fn request(&self) -> Option<Request> {
        let branch = self.branch.clone();
        self.commit.clone().map(|message| Request { message, branch })
    }

    fn advise(&self, outcome: &apply::Outcome) {
        let any = |wanted: fn(&Left) -> bool| outcome.left.iter().any(|(_, _, left)| wanted(left));
        if any(|left| matches!(left, Left::Held(_))) {
            hint("what is held back is applied when you name it: `--protected PATH`");
        }
        if any(|left| matches!(left, Left::Conflict(clash) if clash.can_merge)) {
            hint("`--merge` takes both sides' lines, where no line was changed by both");
        }
        if any(|left| matches!(left, Left::Conflict(_))) {
            hint("`jailmk discard SPEC -- PATH` keeps the host's side, `--overwrite` takes the jail's");
        }
    }
}

/// What a commit does not have, one line for each reason.
fn say_silent(silent: Silent) {
    let reasons = [
        (silent.ignored, "that git ignores"),
        (silent.in_git, "in a git directory"),
        (silent.unrecorded, "without a difference to the branch"),
    ];
    for (count, reason) in reasons.into_iter().filter(|(count, _)| *count > 0) {
        let changes = if count == 1 { "change" } else { "changes" };
        say(format_args!("not committed: {count} {changes} {reason}"));
    }
}

/// Asks about changes on standard error, and reads answers from standard input.
struct Questions {
    /// What is done with a change.
    verb: &'static str,
    /// The answer to all that is not asked any more.
    rest: Option<Decision>,
}

impl Questions {
    fn ask(&mut self, change: &Change, sides: &Sides<'_>) -> std::io::Result<Decision> {
        if let Some(rest) = &self.rest {
            return Ok(rest.clone());
        }
        let mut patch = Vec::new();
        sides.write(change, &mut patch)?;
        screen::show_here(&patch, screen::of_patch)?;
        let parts = sides.parts(change)?;
        let keys = if parts.is_some() { "y,n,s,a,q,?" } else { "y,n,a,q,?" };
        loop {
            match (answer(&format!("{} {} {} [{keys}]", self.verb, change.kind.word(), change.path))?, &parts)
            {
                (Some('y'), _) => return Ok(Decision::Whole),
                (Some('n'), _) => return Ok(Decision::Not),
                (Some('a'), _) => return Ok(self.rest.insert(Decision::Whole).clone()),
                (Some('q') | None, _) => return Ok(self.rest.insert(Decision::Not).clone()),
                (Some('s'), Some(parts)) => return self.by_part(parts),
                _ => say(
                    "y: yes, n: no, s: one part after the other, a: this and all that follow, q: none of them",
                ),
            }
        }
    }

    fn by_part(&mut self, parts: &Parts) -> std::io::Result<Decision> {
        let mut taken = vec![false; parts.count()];
        'parts: for (index, taken) in taken.iter_mut().enumerate() {
            screen::show_here(&parts.text(index), screen::of_patch)?;
            loop {
                match answer(&format!("{} part {} of {} [y,n,q,?]", self.verb, index + 1, parts.count()))? {
                    Some('y') => break *taken = true,
                    Some('n') => break,
                    Some('q') | None => {
                        self.rest = Some(Decision::Not);
                        break 'parts;
                    }
                    _ => say("y: yes, n: no, q: neither this nor what follows"),
                }
            }
        }
        Ok(match taken.iter().filter(|taken| **taken).count() {
            0 => Decision::Not,
            count if count == parts.count() => Decision::Whole,
            _ => Decision::Part(parts.with(&taken)),
        })
    }
}

/// The first letter of a line; `None` at the end.
fn answer(question: &str) -> std::io::Result<Option<char>> {
    use std::io::{BufRead, IsTerminal, Write};
    let mut out = std::io::stderr().lock();
    // A closed stderr is the caller's wish.
    let _ = write!(out, "{question} ").and_then(|()| out.flush());
    let mut line = String::new();
    let length = std::io::stdin().lock().read_line(&mut line)?;
    if !std::io::stdin().is_terminal() {
        // No terminal has shown the answer, nor the end of its line.
        let _ = writeln!(out, "{}", line.trim().escape_default());
    }
    match length {
        0 => Ok(None),
        _ => Ok(Some(line.trim().chars().next().unwrap_or('?'))),
    }
}

fn hint(text: &str) {
    super::complain(format_args!("hint: {text}"));
}

/// Where the spec's changes are, when there are none of the workspace that it means here.
fn hint_elsewhere(spec: Option<&Spec>) -> Result<(), ReviewError> {
    let Some(spec) = spec else { return Ok(()) };
    for other in sessions::elsewhere(&State::open()?, spec)? {
        hint(&format!("this spec has changes to {other}: call jailmk from where you entered that jail"));
    }
    Ok(())
}

impl Discard {
    /// Drops changes.
    pub(super) fn run(self) -> Outcome {
        let whose = Whose::of(&self.spec)?;
        let paths = work_paths(&self.paths)?;
        let Some(mut session) = whose.session()? else {
            print("nothing to discard\n")?;
            hint_elsewhere(whose.spec())?;
            return Ok(0);
        };
        if paths.is_empty() {
            session.discard_all()?;
            print("discarded all changes\n")?;
            return Ok(0);
        }
        for (kind, path) in apply::discard(&mut session, &paths)? {
            print(format_args!("{:8} {path}\n", kind.word()))?;
        }
        Ok(0)
    }
}

impl Status {
    /// Lists the jails that hold changes.
    pub(super) fn run(self) -> Outcome {
        let all = sessions::all(&State::open()?)?;
        if self.json {
            let json: Vec<_> = all
                .iter()
                .map(|one| {
                    serde_json::json!({
                        "name": one.name,
                        "spec": one.spec,
                        "spec_gone": one.spec_gone,
                        "workspace": one.workspace.to_string(),
                        "running": one.running,
                        "changes": one.changes,
                    })
                })
                .collect();
            print(format_args!("{:#}\n", serde_json::json!(json)))?;
            return Ok(0);
        }
        for one in all {
            let changes = match one.changes {
                Some(1) => "1 change".to_owned(),
                Some(count) => format!("{count} changes"),
                None => "changes that cannot be read".to_owned(),
            };
            let running = if one.running { ", in use" } else { "" };
            let gone = if one.spec_gone { ", which is gone" } else { "" };
            print(format_args!(
                "{}: {changes} to {} by {}{gone}{running}\n",
                one.name, one.workspace, one.spec
            ))?;
        }
        Ok(0)
    }
}
