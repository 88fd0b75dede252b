//! What a profile can say about a system call.

/// What the kernel does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It runs.
    Allow,
    /// It does not run and returns this error number.
    Errno(i32),
    /// It does not run and the thread gets SIGSYS, which it may handle.
    Trap,
    /// The whole process dies by SIGSYS.
    KillProcess,
}

/// A statement about one argument: how `argument & mask` stands to `values`.
///
/// The kernel hands over all 64 bits of a register, but reads only the low 32 of an `int` parameter: a
/// mask that covers the upper half there would let a caller hide a value behind set upper bits
/// (CVE-2019-10063).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition<'r> {
    /// 0 to 5.
    pub argument: u32,
    /// The bits compared.
    pub mask: u64,
    /// Within `mask`.
    pub values: &'r [u64],
    /// What makes it true.
    pub relation: Relation,
}

/// How an argument stands to values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// It is one of them.
    Among,
    /// It is none of them.
    Outside,
    /// It is the first of them or greater, as a number without sign.
    AtLeast,
    /// It is less than the first of them.
    Below,
}

/// The low half of a register: what the kernel reads of an `int` or `unsigned int` parameter.
const INT: u64 = 0xffff_ffff;

impl<'r> Condition<'r> {
    /// The `int` parameter is one of `values`.
    pub const fn is(argument: u32, values: &'r [u64]) -> Condition<'r> {
        Condition { argument, mask: INT, values, relation: Relation::Among }
    }

    /// The `int` parameter is none of `values`.
    pub const fn is_not(argument: u32, values: &'r [u64]) -> Condition<'r> {
        Condition { argument, mask: INT, values, relation: Relation::Outside }
    }

    /// The bits of `mask` make up one of `values`.
    pub const fn bits_are(argument: u32, mask: u64, values: &'r [u64]) -> Condition<'r> {
        Condition { argument, mask, values, relation: Relation::Among }
    }

    /// The bits of `mask` make up none of `values`.
    pub const fn bits_are_not(argument: u32, mask: u64, values: &'r [u64]) -> Condition<'r> {
        Condition { argument, mask, values, relation: Relation::Outside }
    }

    /// At least one bit of `mask` is set.
    pub const fn any_bit(argument: u32, mask: u64) -> Condition<'r> {
        Condition { argument, mask, values: &[0], relation: Relation::Outside }
    }
}

/// A verdict for the calls that meet every one of the conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Check<'r> {
    /// All must hold.
    pub when: &'r [Condition<'r>],
    /// What then happens.
    pub verdict: Verdict,
}

/// What happens to a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule<'r> {
    /// The same whatever its arguments. The kernel remembers calls that are always allowed and does not
    /// run the filter for them (since 5.11).
    Always(Verdict),
    /// The first check that holds decides.
    Checked {
        /// In order.
        checks: &'r [Check<'r>],
        /// Where none holds.
        otherwise: Verdict,
    },
}

impl<'r> Rule<'r> {
    /// The call runs.
    pub const ALLOW: Rule<'static> = Rule::Always(Verdict::Allow);

    /// The call fails with `errno`.
    pub const fn refuse(errno: i32) -> Rule<'static> {
        Rule::Always(Verdict::Errno(errno))
    }

    /// The call runs unless a check holds.
    pub const fn allow_unless(checks: &'r [Check<'r>]) -> Rule<'r> {
        Rule::Checked { checks, otherwise: Verdict::Allow }
    }

    /// Whether there are arguments with which the call runs.
    pub fn may_allow(&self) -> bool {
        match self {
            Rule::Always(verdict) => *verdict == Verdict::Allow,
            Rule::Checked { checks, otherwise } => {
                *otherwise == Verdict::Allow || checks.iter().any(|check| check.verdict == Verdict::Allow)
            }
        }
    }
}

/// A check that refuses with `errno`.
pub(super) const fn refuse<'r>(errno: i32, when: &'r [Condition<'r>]) -> Check<'r> {
    Check { when, verdict: Verdict::Errno(errno) }
}

/// A check that lets the call run.
pub(super) const fn allow<'r>(when: &'r [Condition<'r>]) -> Check<'r> {
    Check { when, verdict: Verdict::Allow }
}
