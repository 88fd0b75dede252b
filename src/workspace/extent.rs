//! How much can be reviewed: the jail decides how many paths it changes and how long they are, and must not decide
//! how much memory the host takes to look at them.

use super::error::ReviewError;
use super::path::WorkPath;

/// Paths that may have changed.
pub const PATHS: usize = 500_000;
/// Bytes of all of them together.
pub const BYTES: usize = 64 << 20;

/// What may still be looked at.
pub(super) struct Extent {
    paths: usize,
    bytes: usize,
}

impl Extent {
    /// All of it.
    pub fn new() -> Extent {
        Extent { paths: PATHS, bytes: BYTES }
    }

    /// One path less.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn take(&mut self, path: &WorkPath) -> Result<(), ReviewError> {
        let left = self.paths.checked_sub(1).zip(self.bytes.checked_sub(path.as_bytes().len()));
        (self.paths, self.bytes) = left.ok_or(ReviewError::TooMany)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_bounded_in_number_and_in_length() {
        let short = WorkPath::new("a").unwrap();
        let mut extent = Extent::new();
        assert!((0..PATHS).all(|_| extent.take(&short).is_ok()));
        assert!(matches!(extent.take(&short), Err(ReviewError::TooMany)));
        let long = WorkPath::new("a".repeat(4096)).unwrap();
        let mut extent = Extent::new();
        assert!((0..BYTES / 4096).all(|_| extent.take(&long).is_ok()));
        assert!(matches!(extent.take(&short), Err(ReviewError::TooMany)));
    }
}
