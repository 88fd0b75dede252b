//! Which features of `.note.dlopen` are followed.

use globset::{Glob, GlobMatcher};

use super::super::elf::{Feature, Priority};

/// Rules by the feature's name; the last that matches holds.
#[derive(Clone, Debug, Default)]
pub struct FeatureRules {
    rules: Vec<(GlobMatcher, bool)>,
}

impl FeatureRules {
    /// Adds a rule: a glob of features to follow, or with `!` in front of ones to leave out.
    ///
    /// # Errors
    /// It is no glob.
    pub fn add(&mut self, rule: &str) -> Result<(), globset::Error> {
        let (pattern, follow) = match rule.strip_prefix('!') {
            Some(pattern) => (pattern, false),
            None => (rule, true),
        };
        self.rules.push((Glob::new(pattern)?.compile_matcher(), follow));
        Ok(())
    }

    /// Whether a feature is followed: without a rule, unless it is only suggested.
    pub fn follow(&self, feature: &Feature) -> bool {
        let matching = self.rules.iter().rev().find(|(glob, _)| glob.is_match(&feature.name));
        matching.map_or(feature.priority != Priority::Suggested, |(_, follow)| *follow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggested_features_are_followed_on_demand_and_the_last_rule_holds() {
        let feature = |name: &str, priority| Feature {
            name: name.into(),
            description: String::new(),
            priority,
            sonames: Vec::new(),
        };
        let mut rules = FeatureRules::default();
        assert!(rules.follow(&feature("", Priority::Recommended)));
        assert!(!rules.follow(&feature("bpf", Priority::Suggested)));
        rules.add("b*").unwrap();
        assert!(rules.follow(&feature("bpf", Priority::Suggested)));
        rules.add("!bpf").unwrap();
        assert!(!rules.follow(&feature("bpf", Priority::Required)));
    }
}
