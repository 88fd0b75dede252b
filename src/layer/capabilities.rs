//! No capabilities: all five sets empty and locked that way (capabilities(7)).

use std::fmt;

use caps::{CapSet, Capability};
use nix::errno::Errno;

use crate::sys::process;

/// The capabilities to drop: every one there is.
#[derive(Debug)]
pub struct Armed {
    bounding: Vec<Capability>,
}

impl Armed {
    /// Lists them, so that the child need not.
    pub fn new() -> Armed {
        Armed { bounding: caps::all().into_iter().collect() }
    }

    /// Empties the bounding, ambient, effective, permitted and inheritable sets and locks the
    /// securebits.
    ///
    /// # Errors
    /// As prctl(2) and capset(2).
    pub fn apply(&self) -> Result<(), Errno> {
        // ORDER: the bounding set and the securebits need CAP_SETPCAP, which the last step gives up.
        for capability in &self.bounding {
            match process::drop_from_bounding_set(capability.index()) {
                // A capability that this kernel does not know cannot be held either.
                Ok(()) | Err(Errno::EINVAL) => {}
                Err(error) => return Err(error),
            }
        }
        process::lock_securebits()?;
        caps::clear(None, CapSet::Ambient).map_err(|_| Errno::last())?;
        process::drop_capability_sets()
    }
}

impl Default for Armed {
    fn default() -> Armed {
        Armed::new()
    }
}

impl fmt::Display for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("empty all capability sets and lock the securebits")
    }
}
