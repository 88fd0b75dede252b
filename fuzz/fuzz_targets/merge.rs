//! Any bytes as three texts, with NUL between: what is merged has the lines of its sides, whoever is which.
#![no_main]

use std::time::{Duration, Instant};

use jailmk::workspace::threeway::{Apart, merge};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut texts = data.splitn(3, |byte| *byte == 0);
    let (Some(base), Some(host), Some(jail)) = (texts.next(), texts.next(), texts.next()) else { return };
    let until = Instant::now() + Duration::from_secs(2);
    let one = merge(base, host, jail, until);
    let other = merge(base, jail, host, until);
    let late = one == Err(Apart::Time) || other == Err(Apart::Time);
    assert!(late || one.as_ref().ok() == other.as_ref().ok());
    if let Ok(merged) = one {
        let known =
            |line: &[u8]| [base, host, jail].iter().any(|text| lines(text).any(|other| other == line));
        assert!(data.len() > 4096 || lines(&merged).all(known));
    }
    for (host, jail) in [(host, base), (base, host), (host, host)] {
        let merged = merge(base, host, jail, until);
        assert!(
            merged == Err(Apart::Time) || merged.as_deref() == Ok(if host == base { jail } else { host })
        );
    }
});

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n')
}
