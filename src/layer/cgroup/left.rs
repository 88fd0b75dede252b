//! Limits of the groups that a jail leaves when its leaf is made elsewhere: they hold for it no more.

use std::fmt;
use std::path::{Path, PathBuf};

use super::hierarchy::read;
use super::{Policy, Size};
use crate::path::printable;

/// The groups that are left whose limits are stricter than the jail's own, nearest first. What is not stricter
/// is no loss: systemd gives every unit a limit of processes, which is seldom below a jail's.
#[derive(Debug)]
pub(super) struct Left(Vec<(PathBuf, Bounds)>);

/// Finite limits of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Bounds {
    memory: Option<u64>,
    processes: Option<u64>,
    cpus: Option<f64>,
}

impl Left {
    /// What a process in `own` leaves that gets a leaf in `place`: the groups from its own up to, and without,
    /// the nearest that is above both. None where `place` is its own or below that.
    pub fn of(own: &Path, place: &Path, policy: &Policy) -> Left {
        Left::read_by(Bounds::read, own, place, policy)
    }

    fn read_by(read: impl Fn(&Path) -> Bounds, own: &Path, place: &Path, policy: &Policy) -> Left {
        let left = own.ancestors().take_while(|group| !place.starts_with(group));
        let bounds = left.map(|group| (group.to_owned(), read(group).stricter_than(policy)));
        Left(bounds.filter(|(_, bounds)| *bounds != Bounds::default()).collect())
    }

    /// One sentence with the cure; `None` when nothing is lost.
    pub fn weaker(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| {
            format!(
                "the limits of {self} do not hold for the jail, whose cgroup is elsewhere; they do with \
                 `Delegate=yes` in the unit that starts jailmk"
            )
        })
    }
}

impl Bounds {
    fn read(group: &Path) -> Bounds {
        let text = |file| read(&group.join(file)).unwrap_or_default();
        Bounds::parse(&text("memory.max"), &text("pids.max"), &text("cpu.max"))
    }

    fn parse(memory: &str, processes: &str, cpus: &str) -> Bounds {
        Bounds {
            memory: memory.trim().parse().ok(),
            processes: processes.trim().parse().ok(),
            cpus: processors(cpus),
        }
    }

    fn stricter_than(self, policy: &Policy) -> Bounds {
        Bounds {
            memory: self.memory.filter(|bytes| *bytes < policy.memory.value),
            processes: self.processes.filter(|count| *count < policy.processes.value),
            cpus: self.cpus.filter(|cpus| policy.cpus.is_none_or(|jails| *cpus < jails)),
        }
    }
}

/// Of `QUOTA PERIOD`, both in µs; the quota is `max` where there is none.
fn processors(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then_some(quota / period)
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (group, bounds)) in self.0.iter().enumerate() {
            let and = if index == 0 { "" } else { " and " };
            let name = group.file_name().unwrap_or_default();
            let unit = [".service", ".scope", ".slice"]
                .iter()
                .any(|kind| name.as_encoded_bytes().ends_with(kind.as_bytes()) && name.len() > kind.len());
            match unit {
                true => write!(f, "{and}the unit {} (", printable(name))?,
                false => write!(f, "{and}the cgroup {} (", printable(group.as_os_str()))?,
            }
            let words = [
                bounds.memory.map(|bytes| format!("memory {}", Size(bytes))),
                bounds.processes.map(|count| format!("{count} processes")),
                bounds.cpus.map(|cpus| format!("{cpus} processors")),
            ];
            write!(f, "{})", words.into_iter().flatten().collect::<Vec<_>>().join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Limits;

    fn bounds(memory: &str, processes: &str, cpus: &str) -> Bounds {
        Bounds::parse(memory, processes, cpus)
    }

    fn told(own: &str, place: &str, limits: &Limits, read: impl Fn(&str) -> Bounds) -> Option<String> {
        let read = |group: &Path| read(group.to_str().expect("UTF-8"));
        Left::read_by(read, Path::new(own), Path::new(place), &Policy::new(limits, 2 << 30)).weaker()
    }

    #[test]
    fn a_limit_of_a_group_that_is_left_is_told_and_one_that_still_holds_is_not() {
        let read = |group: &str| match group {
            "/c" => bounds("", "1\n", ""),
            "/c/a.slice" => bounds("max\n", "max\n", "50000 100000\n"),
            _ => bounds("67108864\n", "5\n", "max 100000\n"),
        };
        let limits = Limits::default();
        let unit = "/c/a.slice/b.service";
        let words = told(unit, "/c/jailmk", &limits, read).expect("a line");
        let start = "the limits of the unit b.service (memory 64 MiB, 5 processes) and the unit a.slice \
                     (0.5 processors) do not hold for the jail";
        assert!(words.starts_with(start) && words.contains("`Delegate=yes`"), "{words}");
        assert!(told(unit, "/c/a.slice", &limits, read).is_some_and(|words| !words.contains("a.slice")));
        for inside in [unit, "/c/a.slice/b.service/deeper"] {
            assert_eq!(told(unit, inside, &limits, read), None);
        }
    }

    #[test]
    fn a_limit_that_is_not_stricter_than_the_jails_own_is_no_loss() {
        let read = |group: &str| match group {
            "/c/plain" => bounds("67108864\n", "9\n", "150000 100000\n"),
            _ => Bounds::default(),
        };
        let limits =
            Limits { memory: Some(64 << 20), processes: Some(9), cpus: Some(1.5), ..Limits::default() };
        assert_eq!(told("/c/plain", "/c/jailmk", &limits, read), None);
        let more = Limits { memory: Some(65 << 20), ..limits };
        let words = told("/c/plain", "/c/jailmk", &more, read).expect("a line");
        assert!(words.contains("the cgroup /c/plain (memory 64 MiB) do"), "{words}");
    }
}
