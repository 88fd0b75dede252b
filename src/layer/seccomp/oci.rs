//! System call filters from files, in the format of the OCI runtime specification that Docker and Podman
//! have their profiles in.
//!
//! ```text
//! JSON ─ read ─▶ Profile (one rule per call that it names) ─ compile ─▶ a program of its own
//! ```
//!
//! A profile only tightens: its program runs beside jailmk's own, and the kernel takes the stricter of the two
//! answers. Docker's profile is made for root in a container of its own kernel interfaces and allows what no jail
//! of jailmk has use for; what a profile does not know of (a call that came after it was written, a trick
//! with high bits) stays refused by jailmk's.

use std::collections::{BTreeMap, HashMap};

use super::program::{self, LONGEST, TABLE_LEN, Table};
use super::rule::{Check, Condition, Relation, Rule, Verdict};

mod document;
mod name;

use document::{Action, Argument, Document, Entry, Operator};
use name::Named;

/// What is wrong with a profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileFault {
    /// It is no such JSON.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// It is made for other machines.
    #[error("it is for {0}, and this machine is {ours}", ours = document::ARCHITECTURE.0)]
    Architecture(String),
    /// Somebody would have to answer.
    #[error("SCMP_ACT_NOTIFY and `listenerPath` want a process outside that decides, and a jail has none")]
    Notify,
    /// No such argument.
    #[error("a system call has the arguments 0 to 5, and not {0}")]
    Argument(u32),
    /// No such error.
    #[error("{0} is no error number")]
    Errno(String),
    /// The kernel would not take it.
    #[error("it has more rules than fit in a filter of {LONGEST} instructions")]
    TooLong,
}

/// Where a jail is to be made, as far as profiles ask.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    /// As OCI names them (`CAP_NET_BIND_SERVICE`).
    pub capabilities: Vec<String>,
    /// The first two numbers of the kernel's version.
    pub kernel: (u32, u32),
}

/// The first two numbers of a version such as `6.1.0-18-amd64`.
pub(super) fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Comparisons in all; more do not fit in a program, whatever their calls.
const MOST_CONDITIONS: usize = LONGEST;

/// What a profile says here: on this architecture, this kernel, for a jail with these capabilities.
#[derive(Debug)]
pub(super) struct Profile {
    default: Verdict,
    rules: BTreeMap<usize, Vec<OwnCheck>>,
    /// Names of no call that jailmk knows. Unknown calls are refused anyhow.
    pub unknown: Vec<String>,
}

#[derive(Clone, Debug)]
struct OwnCheck {
    when: Vec<OwnCondition>,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug)]
struct OwnCondition {
    argument: u32,
    mask: u64,
    value: u64,
    relation: Relation,
}

/// Reads a profile.
///
/// # Errors
/// Everything in [`ProfileFault`] but [`ProfileFault::TooLong`] for its instructions.
pub(super) fn read(text: &str, ground: &Ground) -> Result<Profile, ProfileFault> {
    let document: Document = serde_json::from_str(text)?;
    if let Some(architectures) = document.for_architectures()
        && !architectures.contains(&document::ARCHITECTURE.0)
    {
        return Err(ProfileFault::Architecture(architectures.join(", ")));
    }
    if document.listener_path.is_some() {
        return Err(ProfileFault::Notify);
    }
    let default =
        verdict(document.default_action, document.default_errno_ret, document.default_errno.as_deref())?;
    let mut profile = Profile { default, rules: BTreeMap::new(), unknown: Vec::new() };
    let mut room = MOST_CONDITIONS;
    let names = name::index();
    for entry in document.syscalls.iter().flatten().filter(|entry| entry.counts(ground)) {
        profile.add(entry, &names, &mut room)?;
    }
    for checks in profile.rules.values_mut() {
        // Where several hold, the strictest decides; nothing is asked after one that always holds.
        checks.sort_by_key(|check| std::cmp::Reverse(strictness(check.verdict)));
        if let Some(last) = checks.iter().position(|check| check.when.is_empty()) {
            checks.truncate(last + 1);
        }
    }
    profile.unknown.sort_unstable();
    profile.unknown.dedup();
    Ok(profile)
}

impl Profile {
    fn add(
        &mut self,
        entry: &Entry,
        names: &HashMap<&str, Named>,
        room: &mut usize,
    ) -> Result<(), ProfileFault> {
        let verdict = verdict(entry.action, entry.errno_ret, entry.errno.as_deref())?;
        let checks = checks(entry.args.as_deref().unwrap_or_default(), verdict)?;
        let weight = checks.iter().map(|check| 1 + check.when.len()).sum::<usize>();
        for name in entry.all_names() {
            match names.get(name) {
                Some(Named::Here(number)) => {
                    *room = room.checked_sub(weight).ok_or(ProfileFault::TooLong)?;
                    self.rules.entry(*number as usize).or_default().extend_from_slice(&checks);
                }
                Some(Named::Elsewhere) => {}
                None => self.unknown.push(name.to_owned()),
            }
        }
        Ok(())
    }

    /// Its program. `own` is jailmk's table, whose error numbers stay where the profile refuses by its default
    /// what jailmk refuses too: a call that is not there says so, and libraries fall back.
    ///
    /// # Errors
    /// [`ProfileFault::TooLong`].
    pub(super) fn compile(&self, own: &Table<'_>) -> Result<(Vec<libc::sock_filter>, usize), ProfileFault> {
        let conditions: Vec<Vec<Vec<Condition<'_>>>> =
            self.rules.values().map(|checks| checks.iter().map(OwnCheck::conditions).collect()).collect();
        let checks: Vec<Vec<Check<'_>>> = self
            .rules
            .values()
            .zip(&conditions)
            .map(|(checks, conditions)| {
                checks
                    .iter()
                    .zip(conditions)
                    .map(|(check, when)| Check { when, verdict: check.verdict })
                    .collect()
            })
            .collect();
        let rules: Vec<Rule<'_>> = checks
            .iter()
            .map(|checks| match checks.as_slice() {
                [Check { when: [], verdict }] => Rule::Always(*verdict),
                checks => Rule::Checked { checks, otherwise: self.default },
            })
            .collect();
        let default = Rule::Always(self.default);
        let refuses = matches!(self.default, Verdict::Errno(_));
        let mut table: Table<'_> = std::array::from_fn(|number| match own[number] {
            Rule::Always(Verdict::Errno(_)) if refuses => &Rule::ALLOW,
            _ => &default,
        });
        for (number, rule) in self.rules.keys().zip(&rules) {
            table[*number] = rule;
        }
        let allowed = (0..TABLE_LEN).filter(|n| table[*n].may_allow() && own[*n].may_allow()).count();
        let program = program::compile(&table);
        if program.len() > LONGEST { Err(ProfileFault::TooLong) } else { Ok((program, allowed)) }
    }
}

impl OwnCheck {
    fn conditions(&self) -> Vec<Condition<'_>> {
        self.when.iter().map(OwnCondition::borrowed).collect()
    }
}

impl OwnCondition {
    fn borrowed(&self) -> Condition<'_> {
        let values = std::slice::from_ref(&self.value);
        Condition { argument: self.argument, mask: self.mask, values, relation: self.relation }
    }
}

/// As runc reads them: all must hold, but two on one argument are alternatives, as is then every other.
fn checks(arguments: &[Argument], verdict: Verdict) -> Result<Vec<OwnCheck>, ProfileFault> {
    let mut when = Vec::with_capacity(arguments.len());
    for argument in arguments {
        when.push(condition(argument, verdict)?);
    }
    let repeated =
        (0..6).any(|index| arguments.iter().filter(|argument| argument.index == index).count() > 1);
    Ok(match repeated {
        false => vec![OwnCheck { when, verdict }],
        true => when.into_iter().map(|condition| OwnCheck { when: vec![condition], verdict }).collect(),
    })
}

fn condition(argument: &Argument, verdict: Verdict) -> Result<OwnCondition, ProfileFault> {
    const ALL: u64 = u64::MAX;
    const INT: u64 = 0xffff_ffff;
    if argument.index > 5 {
        return Err(ProfileFault::Argument(argument.index));
    }
    let value = argument.value;
    let (mask, value, relation) = match argument.op {
        // Of an `int` the kernel reads the low half; a refusal that compared both would not see a value with
        // high bits set (CVE-2019-10063).
        Operator::Equal if verdict != Verdict::Allow && value <= INT => (INT, value, Relation::Among),
        Operator::Equal => (ALL, value, Relation::Among),
        Operator::NotEqual => (ALL, value, Relation::Outside),
        Operator::GreaterOrEqual => (ALL, value, Relation::AtLeast),
        Operator::Less => (ALL, value, Relation::Below),
        // Beside the greatest number there is no greater: the mask makes all arguments 0.
        Operator::Greater => match value.checked_add(1) {
            Some(next) => (ALL, next, Relation::AtLeast),
            None => (0, 1, Relation::Among),
        },
        Operator::LessOrEqual => match value.checked_add(1) {
            Some(next) => (ALL, next, Relation::Below),
            None => (0, 0, Relation::Among),
        },
        // `value` is the mask, as libseccomp has it; bits outside of it are never equal.
        Operator::MaskedEqual => match argument.value_two.unwrap_or(0) {
            wanted if wanted & !value == 0 => (value, wanted, Relation::Among),
            _ => (0, 1, Relation::Among),
        },
    };
    Ok(OwnCondition { argument: argument.index, mask, value, relation })
}

fn verdict(action: Action, errno: Option<u32>, name: Option<&str>) -> Result<Verdict, ProfileFault> {
    Ok(match action {
        // Nothing of a jail goes to the host's log.
        Action::Allow | Action::Log => Verdict::Allow,
        Action::Errno => {
            let written = || errno.map_or_else(|| name.unwrap_or_default().to_owned(), |n| n.to_string());
            Verdict::Errno(document::errno(errno, name).ok_or_else(|| ProfileFault::Errno(written()))?)
        }
        // What the kernel says without a tracer; one in the jail must not decide.
        Action::Trace => Verdict::Errno(libc::ENOSYS),
        Action::Trap => Verdict::Trap,
        // Never one thread alone: the others would wait for it.
        Action::Kill => Verdict::KillProcess,
        Action::Notify => return Err(ProfileFault::Notify),
    })
}

/// The kernel's order.
fn strictness(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Allow => 0,
        Verdict::Errno(_) => 1,
        Verdict::Trap => 2,
        Verdict::KillProcess => 3,
    }
}

#[cfg(test)]
mod tests;
