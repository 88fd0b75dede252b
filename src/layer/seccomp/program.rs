//! Rules → a classic BPF program.
//!
//! The numbers with equal rules are joined to ranges, and the ranges become a balanced search tree of
//! one instruction per border. A rule that reads arguments is a block of its own, shared by every call
//! that has it.
//!
//! BPF jumps only forwards, and a conditional one at most 255 instructions. So the program is written
//! from its end to its beginning: every target is known when a jump to it is written, and where it is
//! too far away, a copy of the return, or a long jump, is written first.

use libc::sock_filter;

use super::rule::{Condition, Relation, Rule, Verdict};

/// Call numbers that a table has a rule for; the greatest of Linux 6.18 is 469.
pub(super) const TABLE_LEN: usize = 512;

/// One rule per call number. Numbers above are [`UNKNOWN`].
pub(super) type Table<'r> = [&'r Rule<'r>; TABLE_LEN];

/// What happens to calls that no profile names: as on a kernel that does not have them.
pub(super) static UNKNOWN: Rule<'static> = Rule::refuse(libc::ENOSYS);

/// What happens to x32 calls: they are the same calls by other numbers, which no rule would see.
static OTHER_ABI: Rule<'static> = Rule::Always(Verdict::KillProcess);

/// Instructions that the kernel takes (BPF_MAXINSNS in linux/bpf_common.h).
pub(super) const LONGEST: usize = 4096;

/// Set in every x32 call number (__X32_SYSCALL_BIT in asm/unistd.h).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// A tracer's way to skip a call, such as strace's fault injection; it has the x32 bit and is none.
pub(super) const SKIPPED_CALL: u32 = u32::MAX;

/// AUDIT_ARCH_* of the architecture this is compiled for (linux/audit.h).
#[cfg(target_arch = "x86_64")]
pub(super) const ARCHITECTURE: u32 = 0xc000_003e;
/// AUDIT_ARCH_* of the architecture this is compiled for (linux/audit.h).
#[cfg(target_arch = "aarch64")]
pub(super) const ARCHITECTURE: u32 = 0xc000_00b7;

/// Offsets in `struct seccomp_data` (linux/seccomp.h); the low half of an argument comes first, for both
/// architectures are little endian.
const NUMBER_OFFSET: u32 = 0;
const ARCHITECTURE_OFFSET: u32 = 4;
const ARGUMENTS_OFFSET: u32 = 16;

const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const JUMP_IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const JUMP_IF_NOT_LESS: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const JUMP_IF_GREATER: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// A target nearer than this can still be reached after the other target of the same jump was moved.
const REACH: usize = 250;

/// A stretch of call numbers with one rule, up to the next one's `first`.
#[derive(Clone, Copy)]
pub(super) struct Range<'r> {
    pub first: u32,
    pub rule: &'r Rule<'r>,
}

/// The table as ranges from 0 to `u32::MAX`, neighbours differing.
pub(super) fn ranges<'r>(table: &Table<'r>) -> Vec<Range<'r>> {
    let beyond = [(TABLE_LEN as u32, &UNKNOWN), (X32_BIT, &OTHER_ABI), (SKIPPED_CALL, &UNKNOWN)];
    let numbered = (0u32..).zip(table.iter().copied()).chain(beyond);
    let mut ranges: Vec<Range<'r>> = Vec::with_capacity(256);
    for (first, rule) in numbered {
        if ranges.last().is_none_or(|last| !std::ptr::eq(last.rule, rule) && last.rule != rule) {
            ranges.push(Range { first, rule });
        }
    }
    ranges
}

/// The program that judges every call by `table`. Of jailmk's own tables it is shorter than
/// [`LONGEST`].
pub(super) fn compile(table: &Table<'_>) -> Vec<sock_filter> {
    let mut program =
        Assembler { reversed: Vec::with_capacity(512), returns: Vec::new(), blocks: Vec::new() };
    let root = program.tree(&ranges(table));
    program.fall_into(root);
    let number = program.push(LOAD_WORD, NUMBER_OFFSET);
    program.branch(JUMP_IF_EQUAL, ARCHITECTURE, Target::At(number), Target::Verdict(Verdict::KillProcess));
    program.push(LOAD_WORD, ARCHITECTURE_OFFSET);
    program.reversed.reverse();
    program.reversed
}

/// An instruction already written, by its place counted from the program's end.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Label(usize);

/// Where a jump goes.
#[derive(Clone, Copy)]
enum Target {
    Verdict(Verdict),
    At(Label),
}

struct Assembler<'r> {
    /// The program, last instruction first.
    reversed: Vec<sock_filter>,
    /// The newest return of each verdict.
    returns: Vec<(Verdict, Label)>,
    /// The blocks written.
    blocks: Vec<(&'r Rule<'r>, Label)>,
}

impl<'r> Assembler<'r> {
    fn push(&mut self, code: u32, k: u32) -> Label {
        self.push_jump(code, k, 0, 0)
    }

    fn push_jump(&mut self, code: u32, k: u32, jt: u8, jf: u8) -> Label {
        self.reversed.push(sock_filter { code: code as u16, jt, jf, k });
        Label(self.reversed.len() - 1)
    }

    /// Instructions that a jump written now skips to get to `label`.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - label.0 - 1
    }

    /// A label for `target` that a conditional jump can reach.
    fn near(&mut self, target: Target) -> Label {
        match target {
            Target::At(label) if self.distance(label) < REACH => label,
            Target::At(label) => self.push(JUMP, self.distance(label) as u32),
            Target::Verdict(verdict) => {
                let known = self.returns.iter().position(|(of, _)| *of == verdict);
                if let Some(index) = known
                    && self.distance(self.returns[index].1) < REACH
                {
                    return self.returns[index].1;
                }
                let label = self.push(RETURN, return_value(verdict));
                match known {
                    Some(index) => self.returns[index].1 = label,
                    None => self.returns.push((verdict, label)),
                }
                label
            }
        }
    }

    /// Makes `target` what runs when the instruction written next is done.
    fn fall_into(&mut self, target: Target) {
        match target {
            Target::At(label) if self.distance(label) == 0 => {}
            Target::At(label) => {
                self.push(JUMP, self.distance(label) as u32);
            }
            Target::Verdict(verdict) => {
                self.push(RETURN, return_value(verdict));
            }
        }
    }

    fn branch(&mut self, code: u32, k: u32, yes: Target, no: Target) -> Label {
        let yes = self.near(yes);
        let no = self.near(no);
        let offset = |label| u8::try_from(self.distance(label)).expect("BUG: a target was made near");
        self.push_jump(code, k, offset(yes), offset(no))
    }

    /// A search for the number in A among `ranges`, which must not be empty.
    fn tree(&mut self, ranges: &[Range<'r>]) -> Target {
        if let [range] = ranges {
            return self.rule(range.rule);
        }
        let (below, above) = ranges.split_at(ranges.len() / 2);
        let border = above[0].first;
        let above = self.tree(above);
        let below = self.tree(below);
        Target::At(self.branch(JUMP_IF_NOT_LESS, border, above, below))
    }

    fn rule(&mut self, rule: &'r Rule<'r>) -> Target {
        match rule {
            Rule::Always(verdict) => Target::Verdict(*verdict),
            Rule::Checked { checks, otherwise } => {
                if let Some((_, label)) = self.blocks.iter().find(|(of, _)| *of == rule) {
                    return Target::At(*label);
                }
                let mut next = Target::Verdict(*otherwise);
                for check in checks.iter().rev() {
                    let mut holds = Target::Verdict(check.verdict);
                    for condition in check.when.iter().rev() {
                        holds = self.condition(condition, holds, next);
                    }
                    next = holds;
                }
                if let Target::At(label) = next {
                    self.blocks.push((rule, label));
                }
                next
            }
        }
    }

    /// A comparison that goes to `holds` or to `fails`.
    fn condition(&mut self, condition: &Condition<'_>, holds: Target, fails: Target) -> Target {
        let (among, outside) = match condition.relation {
            Relation::Among => (holds, fails),
            Relation::Outside => (fails, holds),
            Relation::AtLeast => return self.comparison(condition, holds, fails),
            Relation::Below => return self.comparison(condition, fails, holds),
        };
        let low_mask = condition.mask as u32;
        let high_mask = (condition.mask >> 32) as u32;
        let low = ARGUMENTS_OFFSET + 8 * condition.argument;
        let high = low + 4;
        let mut next = outside;
        for (index, value) in condition.values.iter().enumerate().rev() {
            let other = next;
            next = Target::At(self.branch(JUMP_IF_EQUAL, *value as u32, among, other));
            // Without an upper half, A still holds what the first comparison loaded.
            if high_mask != 0 || index == 0 {
                next = self.load(low, low_mask, next);
            }
            if high_mask != 0 {
                next = Target::At(self.branch(JUMP_IF_EQUAL, (*value >> 32) as u32, next, other));
                next = self.load(high, high_mask, next);
            }
        }
        next
    }

    /// Whether the argument is at least the condition's first value: by the upper halves, and where they are
    /// the same, by the lower.
    fn comparison(&mut self, condition: &Condition<'_>, at_least: Target, below: Target) -> Target {
        let value = condition.values.first().copied().unwrap_or(0);
        let offset = ARGUMENTS_OFFSET + 8 * condition.argument;
        let low = Target::At(self.branch(JUMP_IF_NOT_LESS, value as u32, at_least, below));
        let low = self.load(offset, condition.mask as u32, low);
        let upper = (value >> 32) as u32;
        let not_greater = Target::At(self.branch(JUMP_IF_EQUAL, upper, low, below));
        let high = Target::At(self.branch(JUMP_IF_GREATER, upper, at_least, not_greater));
        self.load(offset + 4, (condition.mask >> 32) as u32, high)
    }

    fn load(&mut self, offset: u32, mask: u32, next: Target) -> Target {
        self.fall_into(next);
        if mask != u32::MAX {
            self.push(AND, mask);
        }
        Target::At(self.push(LOAD_WORD, offset))
    }
}

/// The kernel's word for a verdict (linux/seccomp.h).
fn return_value(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Allow => libc::SECCOMP_RET_ALLOW,
        Verdict::Errno(errno) => libc::SECCOMP_RET_ERRNO | (errno as u32 & libc::SECCOMP_RET_DATA),
        Verdict::Trap => libc::SECCOMP_RET_TRAP,
        Verdict::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
    }
}
