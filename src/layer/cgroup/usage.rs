//! What a jail used, as the kernel counted it in the jail's leaf.

use std::path::Path;

use serde::Serialize;

use super::hierarchy::read;

/// What the jail used and which limits it hit. What the kernel does not count is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The most memory that was in use at once, in bytes; Linux 5.19.
    pub memory_peak: Option<u64>,
    /// The most swap space that was in use at once, in bytes; Linux 6.5.
    pub swap_peak: Option<u64>,
    /// Times that the leaf's own limit of memory left no way but to kill.
    pub oom: u64,
    /// Processes that the kernel killed for want of memory, be it the leaf's or the host's.
    pub oom_kills: u64,
    /// The most processes and threads at once; Linux 6.1.
    pub processes_peak: Option<u64>,
    /// Times that a fork was refused by the limit of processes.
    pub pids_max_hits: u64,
    /// Processor time of the programs themselves in µs.
    pub user_usec: u64,
    /// Processor time of the kernel for them in µs.
    pub system_usec: u64,
    /// Time without memory.
    pub memory_pressure: Option<Pressure>,
    /// Time without a processor.
    pub cpu_pressure: Option<Pressure>,
    /// Time without a disk.
    pub io_pressure: Option<Pressure>,
    /// What went to and from disks, where the io controller was to be had.
    pub transfer: Option<Transfer>,
}

/// Pressure stall information (Documentation/accounting/psi.rst), totals in µs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pressure {
    /// At least one task waited.
    #[serde(rename = "some-usec")]
    pub some: u64,
    /// All tasks waited; not told for processors before Linux 5.13.
    #[serde(rename = "full-usec", skip_serializing_if = "Option::is_none")]
    pub full: Option<u64>,
}

/// Bytes of all disks together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// Read.
    #[serde(rename = "read-bytes")]
    pub read: u64,
    /// Written.
    #[serde(rename = "write-bytes")]
    pub written: u64,
}

impl Usage {
    /// Reads the files of a leaf.
    pub(super) fn read(leaf: &Path) -> Usage {
        let text = |file: &str| read(&leaf.join(file)).ok();
        let number = |file: &str| text(file)?.trim().parse().ok();
        let memory = text("memory.events").unwrap_or_default();
        let processor = text("cpu.stat").unwrap_or_default();
        let pressure = |file: &str| pressure(&text(file)?);
        Usage {
            memory_peak: number("memory.peak"),
            swap_peak: number("memory.swap.peak"),
            oom: value(&memory, "oom").unwrap_or(0),
            oom_kills: value(&memory, "oom_kill").unwrap_or(0),
            processes_peak: number("pids.peak"),
            pids_max_hits: value(&text("pids.events").unwrap_or_default(), "max").unwrap_or(0),
            user_usec: value(&processor, "user_usec").unwrap_or(0),
            system_usec: value(&processor, "system_usec").unwrap_or(0),
            memory_pressure: pressure("memory.pressure"),
            cpu_pressure: pressure("cpu.pressure"),
            io_pressure: pressure("io.pressure"),
            transfer: text("io.stat").map(|text| transfer(&text)),
        }
    }
}

/// The value of `key` in a flat-keyed file, one `KEY VALUE` a line.
fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The value of `key` in one line of a nested-keyed file, `NAME KEY=VALUE KEY=VALUE…`.
fn nested(line: &str, key: &str) -> Option<u64> {
    line.split_whitespace().find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn pressure(text: &str) -> Option<Pressure> {
    let total = |name: &str| nested(text.lines().find(|line| line.starts_with(name))?, "total");
    Some(Pressure { some: total("some ")?, full: total("full ") })
}

/// A line for each device, `8:0 rbytes=1 wbytes=2 rios=…`.
fn transfer(text: &str) -> Transfer {
    let sum = |key: &str| text.lines().filter_map(|line| nested(line, key)).fold(0, u64::saturating_add);
    Transfer { read: sum("rbytes"), written: sum("wbytes") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_keyed_file_is_read_by_whole_keys() {
        let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(value(events, "oom"), Some(3));
        assert_eq!(value(events, "oom_kill"), Some(2));
        assert_eq!(value("usage_usec 1234\nuser_usec 1000\n", "usage_usec"), Some(1234));
        assert_eq!(value("max max\n", "max"), None);
        assert_eq!(value("", "max"), None);
    }

    #[test]
    fn pressure_is_its_totals() {
        let text = "some avg10=1.53 avg60=0.27 total=170\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=12\n";
        assert_eq!(pressure(text), Some(Pressure { some: 170, full: Some(12) }));
        assert_eq!(pressure("some avg10=0.00 total=3\n"), Some(Pressure { some: 3, full: None }));
        assert_eq!(pressure(""), None);
    }

    #[test]
    fn the_transfers_of_all_disks_add_up() {
        let text = "8:0 rbytes=100 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=2\n253:0\n";
        assert_eq!(transfer(text), Transfer { read: 101, written: 22 });
        assert_eq!(transfer(""), Transfer::default());
    }
}
