//! Every reason for every path, and the shortest chain from the spec to one of them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;

use super::Reason;
use crate::path::JailPath;

/// All that asked for each path. A build keeps the first reason it meets, which need not be the nearest to
/// the spec: a library that one program reaches through three others may be the next one's own.
#[derive(Debug, Default)]
pub struct Reasons {
    of: BTreeMap<JailPath, Vec<Reason>>,
}

/// One link of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is explained.
    pub path: JailPath,
    /// By what.
    pub because: Because,
}

/// What explains a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// Its own reason.
    Reason(Reason),
    /// It is the directory of something that has one.
    Holds(JailPath),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.because {
            Because::Reason(reason @ Reason::NeededBy { .. }) => {
                write!(f, "{}: needed by {reason}", self.path)
            }
            Because::Reason(reason) => write!(f, "{}: {reason}", self.path),
            Because::Holds(path) => write!(f, "{}: holds {path}", self.path),
        }
    }
}

impl Reasons {
    /// Adds a reason of `path`.
    pub(super) fn record(&mut self, path: &JailPath, reason: &Reason) {
        match self.of.get_mut(path) {
            // What many need, they often need one after the other in the same words.
            Some(reasons) if reasons.last() == Some(reason) => {}
            Some(reasons) => reasons.push(reason.clone()),
            None => {
                self.of.insert(path.clone(), vec![reason.clone()]);
            }
        }
    }

    /// All reasons of a path, in the order they were found.
    pub fn of(&self, path: &JailPath) -> impl Iterator<Item = &Reason> {
        let reasons = self.of.get(path).map(Vec::as_slice).unwrap_or_default();
        let is_first = |(index, reason): &(usize, &Reason)| !reasons[..*index].contains(reason);
        reasons.iter().enumerate().filter(is_first).map(|(_, reason)| reason)
    }

    /// The shortest chain that begins with `path` and ends with the spec or with what every jail has; of
    /// equally short ones the same each time. Empty for a path without a reason.
    pub fn chain(&self, path: &JailPath) -> Vec<Step> {
        let nearest = self.nearest();
        let mut chain = Vec::new();
        let mut here = path.clone();
        if !self.of.contains_key(path) {
            let below = self.of.keys().filter(|other| other.as_path().starts_with(path.as_path()));
            let held = below.filter_map(|other| Some((nearest.get(other)?.0, other))).min();
            let Some((_, held)) = held else { return chain };
            chain.push(Step { path: here, because: Because::Holds(held.clone()) });
            here = held.clone();
        }
        // Each step is nearer to the spec than the one before, so this ends.
        while let Some((_, reason)) = nearest.get(&here) {
            chain.push(Step { path: here, because: Because::Reason((*reason).clone()) });
            match reason {
                Reason::NeededBy { by, .. } => here = by.clone(),
                Reason::Spec { .. } | Reason::Skeleton => break,
            }
        }
        chain
    }

    /// The distance from the spec of every path, and the reason on that way: breadth first.
    fn nearest(&self) -> HashMap<&JailPath, (usize, &Reason)> {
        let mut nearest: HashMap<&JailPath, (usize, &Reason)> = HashMap::new();
        let mut needs: HashMap<&JailPath, Vec<(&JailPath, &Reason)>> = HashMap::new();
        let mut pending = VecDeque::new();
        for (path, reasons) in &self.of {
            for reason in reasons {
                match reason {
                    Reason::NeededBy { by, .. } => needs.entry(by).or_default().push((path, reason)),
                    Reason::Spec { .. } | Reason::Skeleton => {
                        if !nearest.contains_key(path) {
                            nearest.insert(path, (0, reason));
                            pending.push_back((0, path));
                        }
                    }
                }
            }
        }
        while let Some((distance, path)) = pending.pop_front() {
            for (needed, reason) in needs.remove(path).unwrap_or_default() {
                if !nearest.contains_key(needed) {
                    nearest.insert(needed, (distance + 1, reason));
                    pending.push_back((distance + 1, needed));
                }
            }
        }
        nearest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(path: &str) -> JailPath {
        JailPath::new(path).unwrap()
    }

    fn spec(value: &str) -> Reason {
        Reason::Spec { key: "programs", value: value.to_owned() }
    }

    fn needed(by: &str) -> Reason {
        Reason::NeededBy { by: path(by), how: "DT_NEEDED".to_owned() }
    }

    #[test]
    fn the_shortest_chain_is_given_and_not_the_first_found() {
        let mut reasons = Reasons::default();
        for (of, reason) in [
            ("/a", spec("a")),
            ("/b", needed("/a")),
            ("/c", needed("/b")),
            ("/z", spec("z")),
            ("/c", needed("/z")),
        ] {
            reasons.record(&path(of), &reason);
        }
        let chain: Vec<String> = reasons.chain(&path("/c")).iter().map(ToString::to_string).collect();
        assert_eq!(chain, ["/c: needed by /z (DT_NEEDED)", "/z: programs \"z\""]);
        assert_eq!(reasons.of(&path("/c")).count(), 2);
    }

    #[test]
    fn what_needs_itself_in_a_circle_has_a_chain_that_ends() {
        let mut reasons = Reasons::default();
        for (of, reason) in [("/a", needed("/b")), ("/b", needed("/a")), ("/a", spec("a"))] {
            reasons.record(&path(of), &reason);
        }
        assert_eq!(reasons.chain(&path("/b")).len(), 2);
        assert!(reasons.chain(&path("/nowhere")).is_empty());
    }

    #[test]
    fn a_directory_is_there_for_what_it_holds() {
        let mut reasons = Reasons::default();
        reasons.record(&path("/usr/lib/deep/x"), &needed("/usr/bin/a"));
        reasons.record(&path("/usr/bin/a"), &spec("a"));
        let chain: Vec<String> = reasons.chain(&path("/usr")).iter().map(ToString::to_string).collect();
        assert_eq!(chain, ["/usr: holds /usr/bin/a", "/usr/bin/a: programs \"a\""]);
    }
}
