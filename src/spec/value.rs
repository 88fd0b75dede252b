//! The texts inside the spec's strings: sizes, times, modes, names.

use std::time::Duration;

use crate::path::{JailPath, JailPathError};

/// Why a value is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a size.
    #[error("a size is a whole number of bytes, or one followed by K, M, G or T")]
    Size,
    /// A size that no kernel interface takes.
    #[error("a size must be less than 8388608T")]
    SizeRange,
    /// Zero, which for the kernel often means "no limit".
    #[error("it must be more than zero")]
    Zero,
    /// Not a time.
    #[error("a time is a whole number of seconds, or such as \"90s\", \"30m\", \"1h30m\", \"2d\"")]
    Duration,
    /// A time beyond what timers take.
    #[error("a time must be at most {MAX_DAYS} days")]
    DurationRange,
    /// Not a mode.
    #[error("permission bits are three or four octal digits, such as \"0644\"")]
    Mode,
    /// setuid, setgid or sticky.
    #[error("setuid, setgid and sticky bits are not given in a jail")]
    SpecialMode,
    /// A count out of range.
    #[error("it must be a whole number from 1 to {0}")]
    Count(u64),
    /// A number of processors out of range.
    #[error("it must be a number from 0.01 to {MAX_CPUS}")]
    Cpus,
    /// A path that the jail cannot have.
    #[error(transparent)]
    JailPath(#[from] JailPathError),
    /// A path that no system call takes.
    #[error("a path has at most 4095 bytes, and each name in it at most 255")]
    PathLength,
    /// A place that belongs to the kernel's own file systems.
    #[error("/, /proc, /dev and /sys, and what is below the last three, are jailmk's own")]
    Reserved,
    /// An empty string.
    #[error("it must not be empty")]
    Empty,
    /// A NUL byte.
    #[error("it must not contain a NUL byte")]
    Nul,
    /// A relative path where a name is looked up.
    #[error("it must be a name without `/`, or an absolute path")]
    RelativeProgram,
    /// A path where a name is meant.
    #[error("it must be a name without `/`; a library's path belongs in `files`")]
    LibraryPath,
    /// Not a package's name.
    #[error("a package's name has letters, digits and any of + . _ : - and begins with a letter or digit")]
    Package,
    /// Not a host name label.
    #[error("a name has at most 63 letters, digits and `-`, and neither begins nor ends with `-`")]
    Label,
    /// Not a user name.
    #[error("a user name has at most 32 of a-z, 0-9, `_` and `-`, and begins with a letter or `_`")]
    UserName,
    /// `root`.
    #[error("nothing in a jail is root, and programs that see the name root behave as if they were")]
    UserRoot,
    /// Not a variable's name.
    #[error("the name of a variable is not empty and contains neither `=` nor a NUL byte")]
    Variable,
    /// A pattern where a name is meant.
    #[error("each variable is named in full: patterns could let in more than was meant")]
    VariablePattern,
    /// Not a glob.
    #[error("it is no glob: {0}")]
    Glob(String),
    /// A glob that is neither absolute nor for any directory.
    #[error("a glob must begin with `/` or `**`")]
    RelativeExclude,
    /// A glob that is not absolute.
    #[error("a glob must begin with `/`; a file beside the spec is written {{ from = …, to = … }}")]
    RelativeGlob,
    /// A glob that is absolute where the workspace is meant.
    #[error("a glob of the workspace is relative to it")]
    AbsoluteGlob,
    /// A pattern where one file is meant.
    #[error("with `to`, `from` is one file or directory and not a pattern")]
    PatternCopied,
    /// `~` where it has no meaning.
    #[error("`~` is not expanded here: a build must not depend on who calls it")]
    Tilde,
    /// `~name`.
    #[error("only `~` and `~/…` are expanded, for the caller's home")]
    TildeUser,
    /// A relative path in a built-in spec.
    #[error("a built-in spec has no directory that a path could be relative to")]
    NoDirectory,
}

/// Why a capability is not worth keeping; `None` for those that are, and for what is none.
pub(super) fn useless_capability(text: &str) -> Option<&'static str> {
    const ONE_ID: &str = "one id is mapped in a jail, so there is no other to act on or to become";
    const OF_THE_HOST: &str = "the kernel asks for it in the host's namespace, so it would do nothing here";
    const TOO_MUCH: &str = "it opens parts of the kernel that are made for root, which have given root often";
    Some(match text.to_ascii_lowercase().trim_start_matches("cap_") {
        "chown" | "dac_override" | "dac_read_search" | "fowner" | "fsetid" | "kill" | "setuid" | "setgid"
        | "setfcap" | "ipc_owner" => ONE_ID,
        "sys_module" | "sys_rawio" | "sys_pacct" | "sys_nice" | "sys_time" | "sys_tty_config" | "mknod"
        | "lease" | "audit_write" | "audit_control" | "audit_read" | "mac_override" | "mac_admin"
        | "syslog" | "wake_alarm" | "block_suspend" | "linux_immutable" | "ipc_lock" | "sys_boot" => {
            OF_THE_HOST
        }
        "sys_admin" | "net_admin" | "net_raw" | "net_broadcast" | "bpf" | "perfmon" | "sys_ptrace"
        | "sys_resource" | "setpcap" | "checkpoint_restore" => TOO_MUCH,
        _ => return None,
    })
}

const MAX_DAYS: u64 = 10_000;
const MAX_CPUS: f64 = 65_536.0;
/// The kernel's loff_t; rlimits take one bit more, but all ones there mean "no limit".
const MAX_SIZE: u64 = i64::MAX as u64;

/// `"512M"` → bytes.
pub(super) fn size(text: &str) -> Result<u64, ValueError> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        Some(b'T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number = whole(digits).ok_or(ValueError::Size)?.ok_or(ValueError::SizeRange)?;
    number.checked_mul(1 << shift).ok_or(ValueError::SizeRange).and_then(bytes)
}

/// A size that is written as a number.
pub(super) fn bytes(bytes: u64) -> Result<u64, ValueError> {
    if bytes <= MAX_SIZE { Ok(bytes) } else { Err(ValueError::SizeRange) }
}

/// `"1h30m"` → a time; larger units first, each at most once.
pub fn duration(text: &str) -> Result<Duration, ValueError> {
    const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];
    let mut seconds: u64 = 0;
    let mut units = UNITS.iter();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number = whole(&rest[..end]).ok_or(ValueError::Duration)?.ok_or(ValueError::DurationRange)?;
        let factor = match rest[end..].chars().next() {
            Some(unit) => units.find(|(name, _)| *name == unit).ok_or(ValueError::Duration)?.1,
            None if rest.len() == text.len() => 1,
            None => return Err(ValueError::Duration),
        };
        seconds = number
            .checked_mul(factor)
            .and_then(|part| part.checked_add(seconds))
            .ok_or(ValueError::DurationRange)?;
        rest = rest.get(end + 1..).unwrap_or("");
    }
    if text.is_empty() { Err(ValueError::Duration) } else { self::seconds(seconds) }
}

/// A time that is written as a number.
pub(super) fn seconds(seconds: u64) -> Result<Duration, ValueError> {
    match seconds {
        0 => Err(ValueError::Zero),
        1.. if seconds <= MAX_DAYS * 86_400 => Ok(Duration::from_secs(seconds)),
        _ => Err(ValueError::DurationRange),
    }
}

/// A number of things, at least one.
pub(super) fn count(count: u64, most: u64) -> Result<u64, ValueError> {
    if (1..=most).contains(&count) { Ok(count) } else { Err(ValueError::Count(most)) }
}

/// Digits → a number: `None` for no digits, `Some(None)` for too many.
fn whole(digits: &str) -> Option<Option<u64>> {
    let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| digits.parse().ok())
}

/// `"0644"` → permission bits.
pub(super) fn mode(text: &str) -> Result<u32, ValueError> {
    if !(3..=4).contains(&text.len()) || !text.bytes().all(|byte| matches!(byte, b'0'..=b'7')) {
        return Err(ValueError::Mode);
    }
    match u32::from_str_radix(text, 8) {
        Ok(bits) if bits <= 0o777 => Ok(bits),
        Ok(_) => Err(ValueError::SpecialMode),
        Err(_) => Err(ValueError::Mode),
    }
}

/// A number of processors.
pub(super) fn cpus(number: f64) -> Result<f64, ValueError> {
    // cgroup v2 takes no quota below 1 ms of its 100 ms period. A NaN is in no range.
    (0.01..=MAX_CPUS).contains(&number).then_some(number).ok_or(ValueError::Cpus)
}

/// A string for a system call: no NUL.
pub(super) fn text(text: &str) -> Result<&str, ValueError> {
    if text.contains('\0') { Err(ValueError::Nul) } else { Ok(text) }
}

/// A string that names something: not empty, no NUL.
pub(super) fn filled(name: &str) -> Result<&str, ValueError> {
    if name.is_empty() { Err(ValueError::Empty) } else { text(name) }
}

/// The length limits of path names.
fn path_length(path: &str) -> Result<&str, ValueError> {
    let fits = path.len() <= 4095 && path.split('/').all(|name| name.len() <= 255);
    if fits { filled(path) } else { Err(ValueError::PathLength) }
}

/// An absolute path in the jail.
pub(super) fn jail_path(path: &str) -> Result<JailPath, ValueError> {
    path_length(path)?;
    Ok(JailPath::new(path)?)
}

/// A path in the jail that something may be put at.
pub(super) fn jail_target(path: &str) -> Result<JailPath, ValueError> {
    let path = jail_path(path)?;
    let reserved = ["/proc", "/dev", "/sys"].iter().any(|own| path.as_path().starts_with(own));
    if path == JailPath::root() || reserved { Err(ValueError::Reserved) } else { Ok(path) }
}

/// A host path that is resolved when the jail is entered.
pub(super) fn caller_path(path: &str) -> Result<&str, ValueError> {
    if path.starts_with('~') && path != "~" && !path.starts_with("~/") {
        return Err(ValueError::TildeUser);
    }
    path_length(path)
}

/// A host path that is resolved when the rootfs is built.
pub(super) fn build_path(path: &str) -> Result<&str, ValueError> {
    if path.starts_with('~') {
        return Err(ValueError::Tilde);
    }
    path_length(path)
}

/// The target of a symbolic link.
pub(super) fn link_target(path: &str) -> Result<&str, ValueError> {
    path_length(path)
}

/// A program: a name, or an absolute path.
pub(super) fn program(name: &str) -> Result<&str, ValueError> {
    if name.starts_with("~/") {
        return Err(ValueError::Tilde);
    }
    if name.contains('/') && !name.starts_with('/') {
        return Err(ValueError::RelativeProgram);
    }
    path_length(name)
}

/// A soname.
pub(super) fn library(name: &str) -> Result<&str, ValueError> {
    if name.contains('/') { Err(ValueError::LibraryPath) } else { path_length(name) }
}

/// The name of a package of some distribution, optionally with `:architecture`.
pub(super) fn package(name: &str) -> Result<&str, ValueError> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"+._:-".contains(&byte);
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if begins && name.len() <= 255 && name.bytes().all(known) { Ok(name) } else { Err(ValueError::Package) }
}

/// A host name label.
pub(super) fn label(name: &str) -> Result<&str, ValueError> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let ok = (1..=63).contains(&name.len()) && name.bytes().all(known);
    if ok && !name.starts_with('-') && !name.ends_with('-') { Ok(name) } else { Err(ValueError::Label) }
}

/// The label nearest to any text: for proposals.
pub(super) fn label_from(text: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let label: String = text.chars().map(keep).skip_while(|c| *c == '-').take(63).collect();
    let label = label.trim_end_matches('-');
    if label.is_empty() { "jail".into() } else { label.into() }
}

/// A user name that is not root's.
pub(super) fn user_name(name: &str) -> Result<&str, ValueError> {
    if name == "root" {
        return Err(ValueError::UserRoot);
    }
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    if begins && name.len() <= 32 && name.bytes().all(known) { Ok(name) } else { Err(ValueError::UserName) }
}

/// The name of an environment variable.
pub(super) fn variable(name: &str) -> Result<&str, ValueError> {
    if name.is_empty() || name.contains(['=', '\0']) { Err(ValueError::Variable) } else { Ok(name) }
}

/// The name of a variable to be taken from the caller.
pub(super) fn passed_variable(name: &str) -> Result<&str, ValueError> {
    if name.contains(['*', '?', '[']) { Err(ValueError::VariablePattern) } else { variable(name) }
}

/// A glob of absolute paths.
pub(super) fn files_glob(pattern: &str) -> Result<&str, ValueError> {
    if pattern.starts_with('~') {
        return Err(ValueError::Tilde);
    }
    if !pattern.starts_with('/') && !pattern.is_empty() {
        return Err(ValueError::RelativeGlob);
    }
    glob(pattern)
}

/// A glob of paths in the jail.
pub(super) fn exclude_glob(pattern: &str) -> Result<&str, ValueError> {
    let anchored = pattern.starts_with('/') || pattern.starts_with("**");
    if !anchored && !pattern.is_empty() {
        return Err(ValueError::RelativeExclude);
    }
    glob(pattern)
}

/// A glob of feature names, perhaps with `!` in front.
pub(super) fn feature(rule: &str) -> Result<&str, ValueError> {
    let pattern = filled(rule.strip_prefix('!').unwrap_or(rule))?;
    match globset::Glob::new(pattern) {
        Ok(_) => Ok(rule),
        Err(error) => Err(ValueError::Glob(error.kind().to_string())),
    }
}

/// A glob of paths in the workspace.
pub(super) fn workspace_glob(pattern: &str) -> Result<&str, ValueError> {
    if pattern.starts_with('~') {
        return Err(ValueError::Tilde);
    }
    if pattern.starts_with('/') {
        return Err(ValueError::AbsoluteGlob);
    }
    glob(pattern)
}

fn glob(pattern: &str) -> Result<&str, ValueError> {
    path_length(pattern)?;
    if pattern.split('/').any(|name| name == "..") {
        return Err(JailPathError::Climbs.into());
    }
    match globset::GlobBuilder::new(pattern).literal_separator(true).build() {
        Ok(_) => Ok(pattern),
        Err(error) => Err(ValueError::Glob(error.kind().to_string())),
    }
}

/// The host path of a copy; `to` is given, so it is one path.
pub(super) fn copied(path: &str) -> Result<&str, ValueError> {
    if path.contains(['*', '?']) { Err(ValueError::PatternCopied) } else { build_path(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("1K"), Ok(1024));
        assert_eq!(size("2T"), Ok(2 << 40));
        assert_eq!(size("4096"), Ok(4096));
        for bad in ["", "M", "-1", "+1", "1.5G", "1m", "1MB", "1 M", "0x10", "١K"] {
            assert_eq!(size(bad), Err(ValueError::Size), "{bad}");
        }
        for huge in ["8388608T", "99999999999999999999999", "18446744073709551615"] {
            assert_eq!(size(huge), Err(ValueError::SizeRange), "{huge}");
        }
    }

    #[test]
    fn times_have_each_unit_once_and_the_larger_first() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        assert_eq!(duration("45"), Ok(Duration::from_secs(45)));
        for bad in ["", "m", "30m1h", "1h1h", "1h30", "1.5h", "-1s", "1w", "1hä", "30 m"] {
            assert_eq!(duration(bad), Err(ValueError::Duration), "{bad}");
        }
        assert_eq!(duration("0s"), Err(ValueError::Zero));
        assert_eq!(duration("99999999d"), Err(ValueError::DurationRange));
        assert_eq!(duration("9999999999999999999999s"), Err(ValueError::DurationRange));
    }

    #[test]
    fn modes_are_octal_strings_without_special_bits() {
        assert_eq!(mode("0644"), Ok(0o644));
        assert_eq!(mode("755"), Ok(0o755));
        for bad in ["", "64", "0o644", "888", "00644", "u+rwx"] {
            assert_eq!(mode(bad), Err(ValueError::Mode), "{bad}");
        }
        assert_eq!(mode("4755"), Err(ValueError::SpecialMode));
    }

    #[test]
    fn processors_are_a_positive_finite_number() {
        assert_eq!(cpus(1.5), Ok(1.5));
        for bad in [0.0, -1.0, 0.001, 1e300, f64::NAN, f64::INFINITY] {
            assert_eq!(cpus(bad), Err(ValueError::Cpus), "{bad}");
        }
    }

    #[test]
    fn any_text_has_a_label_near_it() {
        assert_eq!(label_from("my_agent"), "my-agent");
        assert_eq!(label_from("..."), "jail");
        assert!(label(&label_from(&"-ä-x".repeat(50))).is_ok());
    }
}
