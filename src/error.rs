//! What every error of the crate can give beside its message: advice and an exit status.
//!
//! Each stage has its own enum beside its code. Its `Display` says what was attempted on what
//! (`cannot VERB OBJECT`), its `source()` why; [`Report`] joins them into one line and puts the
//! advice on lines of its own.

use std::error::Error;
use std::fmt;

/// An error of one stage of the pipeline.
pub trait StageError: Error {
    /// Cures, each one sentence; empty where none is known.
    fn hints(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Exit statuses that are jailmk's own and not the command's.
pub mod status {
    /// `enter`: the time limit ended the command.
    pub const TIMED_OUT: u8 = 124;
    /// `enter`: jailmk itself failed.
    pub const FAILED: u8 = 125;
    /// `enter`: the command exists and cannot be executed.
    pub const NOT_EXECUTABLE: u8 = 126;
    /// `enter`: the command is not in the jail.
    pub const NOT_FOUND: u8 = 127;
}

/// An error with its causes on one line.
pub struct Causes<'a>(pub &'a dyn Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// An error as it is shown: one line that joins the causes, then one `hint:` line for each cure.
pub struct Report<'a>(pub &'a dyn StageError);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "jailmk: {}", Causes(self.0))?;
        for hint in self.0.hints() {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

/// The candidate nearest to a mistyped `word`, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(word.len()) / 5)
        .min_by_key(|(distance, candidate)| (*distance, candidate.len()))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_and_a_far_one_is_not() {
        assert_eq!(nearest("pyhton3", ["python3", "perl", "sh"]), Some("python3"));
        assert_eq!(nearest("frobnicate", ["python3", "perl", "sh"]), None);
        // Two letters of four are another word.
        assert_eq!(nearest("node", ["more", "mode", "nose2"]), Some("mode"));
        assert_eq!(nearest("node", ["more", "nohup"]), None);
    }
}
