use std::ffi::OsStr;

use super::*;
use crate::closure::{Closure, Entry, Node as Found};
use crate::manifest::tests::{nobody, spec};

fn sample() -> Lock {
    let hostile = JailPath::new(OsStr::from_bytes(b"/opt/a b\n%41\xff\xe2\x80\xaex")).unwrap();
    let origin = HostPath::absolute("/opt/other name").unwrap();
    let entries = [
        (
            hostile.clone(),
            Found::File { origin, mode: 0o444 },
            Reason::Spec { key: "files", value: "/opt/**\nforged".into() },
        ),
        (
            JailPath::new("/usr/bin/sh").unwrap(),
            Found::File { origin: HostPath::absolute("/usr/bin/sh").unwrap(), mode: 0o555 },
            Reason::NeededBy { by: hostile, how: "#! via PATH".into() },
        ),
        (JailPath::new("/bin").unwrap(), Found::Symlink("usr/b in".into()), Reason::Skeleton),
    ];
    let entries = entries.into_iter().map(|(path, node, reason)| (path, Entry { node, reason })).collect();
    let manifest =
        Manifest::plan_for(&spec(), &Closure { entries, ..Closure::default() }, &nobody()).unwrap();
    Lock::new(&manifest, std::iter::repeat(Content::of(b"x")))
}

#[test]
fn every_lock_is_read_back_as_it_was_written() {
    let lock = sample();
    let text = lock.to_string();
    assert_eq!(Lock::parse(text.as_bytes()).unwrap(), lock);
    assert_eq!(text.lines().count(), lock.entries().len() + 2);
    assert!(
        text.contains(" /opt/a%20b%0A%2541%FF%E2%80%AEx /opt/other%20name spec files /opt/**%0Aforged\n"),
        "{text}"
    );
    assert!(text.contains("l 0777 - - /bin -> usr/b%20in - skeleton\n"), "{text}");
    assert!(text.contains(" /usr/bin/sh = needed /opt/a%20b%0A%2541%FF%E2%80%AEx #! via PATH\n"), "{text}");
}

#[test]
fn a_malformed_line_is_refused_with_its_number() {
    let head = format!("{HEADER}d 0755 - - / - skeleton\n");
    let digest = "0".repeat(64);
    let cases = [
        ("d 0755 - - /a - skeleton", LockFault::Unfinished),
        ("d 755 - - /a - skeleton\n", LockFault::Number),
        ("d 4755 - - /a - skeleton\n", LockFault::Number),
        ("d 0755 - - /a/ - skeleton\n", LockFault::Text),
        ("d 0755 - - /a/../b - skeleton\n", LockFault::Text),
        ("d 0755 - - /%61 - skeleton\n", LockFault::Text),
        ("d 0755 - - /%0a - skeleton\n", LockFault::Text),
        ("d 0755 - - /a%00 - skeleton\n", LockFault::Text),
        ("d 0755 - - /a\t - skeleton\n", LockFault::Text),
        ("d 0755 - - / - skeleton\n", LockFault::Order),
        ("d 0755 - - /a/b - skeleton\n", LockFault::Orphan),
        ("d 0755 - - /a = skeleton\n", LockFault::Columns),
        ("d 0755 - - /a - because\n", LockFault::Columns),
        ("d 0755 - - /a -\n", LockFault::Columns),
        ("x 0755 - - /a - skeleton\n", LockFault::Columns),
        ("l 0777 - - /a - skeleton\n", LockFault::Columns),
        ("l 0777 - - /a ->  - skeleton\n", LockFault::Text),
        ("f 0444 00 1 /a = skeleton\n", LockFault::Number),
        ("f 0444 DIGEST 01 /a = skeleton\n", LockFault::Number),
        ("f 0644 DIGEST 1 /a = skeleton\n", LockFault::Number),
        ("f 0444 DIGEST 1 /a relative skeleton\n", LockFault::Text),
        ("f 0444 DIGEST 1 /a /a skeleton\n", LockFault::Text),
    ];
    for (line, fault) in cases {
        let text = format!("{head}{}", line.replace("DIGEST", &digest));
        assert_eq!(Lock::parse(text.as_bytes()), Err(LockError { line: 4, fault }), "{line:?}");
    }
    assert!(Lock::parse(b"").is_err() && Lock::parse(HEADER.as_bytes()).is_err());
    let file_above = format!("{head}f 0444 {digest} 1 /a = skeleton\nd 0755 - - /a/b - skeleton\n");
    assert_eq!(Lock::parse(file_above.as_bytes()).unwrap_err().fault, LockFault::Orphan);
}

#[test]
fn whatever_is_accepted_is_written_the_same_way() {
    let text = sample().to_string().into_bytes();
    // Every byte in turn made another: no panic, and no second spelling of a lock.
    for index in 0..text.len() {
        for byte in [b' ', b'%', b'\n', b'0', b'/', 0xff, b'-'] {
            let mut changed = text.clone();
            changed[index] = byte;
            if let Ok(lock) = Lock::parse(&changed) {
                assert_eq!(lock.to_string().as_bytes(), changed);
            }
        }
    }
}

#[test]
fn locks_of_equal_trees_differ_in_no_path() {
    let lock = sample();
    let mut other = lock.clone();
    other.entries[0].reason = LockedReason::Spec { key: "a".into(), value: "b".into() };
    assert!(lock.differences(&other).is_empty());
    other.entries[1].mode ^= 0o111;
    let gone = other.entries.pop().unwrap();
    let words = |differences: Vec<LockDifference>| -> Vec<String> {
        differences.iter().map(LockDifference::to_string).collect()
    };
    let forth = words(lock.differences(&other));
    let changed = &lock.entries[1].path;
    assert!(
        forth[0].starts_with(&format!("{changed} has mode ")) && forth[0].contains(", locked "),
        "{forth:?}"
    );
    assert_eq!(forth[1..], [format!("{} is in the lock file only", gone.path)]);
    assert_eq!(words(other.differences(&lock))[1], format!("{} is not in the lock file", gone.path));
}

#[test]
fn a_difference_says_what_is_there_and_what_was_locked() {
    let path = JailPath::new("/x").unwrap();
    let says = |found: (Kind, u32), locked: (Kind, u32)| {
        LockDifference { path: path.clone(), what: Difference::Other { locked, found } }.to_string()
    };
    let file = |text: &[u8]| (Kind::File(Content::of(text)), 0o444);
    let link = |target: &str| (Kind::Symlink(target.into()), 0o777);
    let content = says(file(b"abc"), file(b""));
    assert_eq!(
        content,
        "/x has other content (3 bytes, sha256 ba7816bf8f01…, locked 0 bytes, e3b0c44298fc…)"
    );
    assert_eq!(says(link("a\x1b"), link("b")), "/x links to a\\x1b, locked b");
    assert_eq!(says(file(b""), link("b")), "/x is a file, locked a symbolic link");
}
