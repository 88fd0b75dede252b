//! The profiles: for each call of the architecture, what happens to it.
//!
//! Every call is named once, also those that a call unknown to the profile would be like: what is not
//! allowed is a decision with a reason, not an oversight.

use libc::c_long;

use super::program::{TABLE_LEN, Table, UNKNOWN};
use super::rule::Rule;
use crate::spec::{Capability, SeccompProfile};

mod allowed;
mod checked;
mod refused;

/// Calls with one reason and one rule.
pub(super) struct Group {
    calls: &'static [c_long],
    rule: Rule<'static>,
}

/// The groups of a profile.
pub(super) fn groups(profile: &SeccompProfile) -> impl Iterator<Item = &'static Group> + use<> {
    let (allowed, checked, refused) = match profile {
        SeccompProfile::Default | SeccompProfile::File(_) => {
            (allowed::DEFAULT, checked::DEFAULT, refused::DEFAULT)
        }
        SeccompProfile::Strict => (allowed::STRICT, checked::STRICT, refused::STRICT),
    };
    [allowed::EVERYWHERE, allowed, checked::EVERYWHERE, checked, refused::EVERYWHERE, refused]
        .into_iter()
        .flatten()
}

/// The rule of every call number, for a command that keeps these capabilities.
pub(super) fn table(profile: &SeccompProfile, keep: &[Capability]) -> Table<'static> {
    let mut table: Table<'static> = [&UNKNOWN; TABLE_LEN];
    for group in groups(profile) {
        for call in group.calls {
            table[*call as usize] = &group.rule;
        }
    }
    if keep.contains(&Capability::SysChroot) {
        table[libc::SYS_chroot as usize] = &Rule::ALLOW;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILES: [SeccompProfile; 2] = [SeccompProfile::Default, SeccompProfile::Strict];

    /// Numbers that the architecture's table gives to calls (6.18).
    fn numbers() -> impl Iterator<Item = usize> {
        let own = if cfg!(target_arch = "x86_64") { 0..=336 } else { 0..=294 };
        let unused = if cfg!(target_arch = "x86_64") { 0..0 } else { 244..260 };
        own.filter(move |number| !unused.contains(number)).chain(424..=469)
    }

    #[test]
    fn every_call_of_the_architecture_is_named_exactly_once() {
        for profile in PROFILES {
            let mut named = [0; TABLE_LEN];
            for call in groups(&profile).flat_map(|group| group.calls) {
                named[*call as usize] += 1;
            }
            for number in numbers() {
                assert_eq!(named[number], 1, "call {number} in {profile:?}");
            }
            assert_eq!(
                named.iter().sum::<i32>(),
                numbers().count() as i32,
                "{profile:?} names other numbers"
            );
        }
    }

    #[test]
    fn strict_allows_nothing_that_default_does_not() {
        let default = table(&SeccompProfile::Default, &[]);
        let strict = table(&SeccompProfile::Strict, &[]);
        for (number, (default, strict)) in default.iter().zip(strict).enumerate() {
            assert!(default.may_allow() || !strict.may_allow(), "call {number}");
        }
    }
}
