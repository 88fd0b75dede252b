//! No capabilities, or the few that the spec keeps: all five sets, locked that way (capabilities(7)).
//!
//! What is kept counts in the jail's own user namespace and in what that owns: its network, its mounts. The
//! kernel asks for it nowhere else.

use std::fmt;

use caps::CapSet;
use nix::errno::Errno;

use crate::spec::Capability;
use crate::sys::process;

/// The capabilities to drop, and those to keep.
#[derive(Debug)]
pub struct Armed {
    dropped: Vec<u8>,
    kept: Vec<Capability>,
}

fn number(capability: Capability) -> u8 {
    match capability {
        Capability::NetBindService => caps::Capability::CAP_NET_BIND_SERVICE,
        Capability::SysChroot => caps::Capability::CAP_SYS_CHROOT,
    }
    .index()
}

impl Armed {
    /// Lists them, so that the child need not.
    pub fn new(keep: &[Capability]) -> Armed {
        let all = caps::all().into_iter().map(|capability| capability.index());
        Armed {
            dropped: all.filter(|index| !keep.iter().any(|kept| number(*kept) == *index)).collect(),
            kept: keep.to_vec(),
        }
    }

    /// The capabilities that the command has.
    pub fn kept(&self) -> &[Capability] {
        &self.kept
    }

    /// Leaves what is kept in the bounding, ambient, effective, permitted and inheritable sets, nothing else,
    /// and locks the securebits.
    ///
    /// # Errors
    /// As prctl(2) and capset(2).
    pub fn apply(&self) -> Result<(), Errno> {
        // ORDER: the bounding set and the securebits need CAP_SETPCAP, which the last step gives up.
        for capability in &self.dropped {
            match process::drop_from_bounding_set(*capability) {
                // A capability that this kernel does not know cannot be held either.
                Ok(()) | Err(Errno::EINVAL) => {}
                Err(error) => return Err(error),
            }
        }
        caps::clear(None, CapSet::Ambient).map_err(|_| Errno::last())?;
        let kept = self.kept.iter().fold(0, |set, kept| set | 1 << number(*kept));
        if kept != 0 {
            process::set_inheritable_capabilities(kept)?;
            // Ambient, for a file has no capabilities here that could meet the inheritable ones.
            for capability in &self.kept {
                process::raise_ambient(number(*capability))?;
            }
        }
        // ORDER: afterwards nothing can be raised any more.
        process::lock_securebits()?;
        process::set_capability_sets(kept)
    }
}

impl fmt::Display for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kept.is_empty() {
            return f.write_str("empty all capability sets and lock the securebits");
        }
        let names: Vec<&str> = self.kept.iter().map(|kept| kept.name()).collect();
        write!(f, "keep {} of the capabilities and lock the securebits", names.join(" and "))
    }
}
