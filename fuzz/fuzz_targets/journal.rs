//! Any bytes as the journal of a review, and as the record of a replacement under way.
#![no_main]

use jailmk::workspace::journal::Journal;
use jailmk::workspace::pending;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(journal) = Journal::parse(data) {
        // What was read is written so that it is read again as the same.
        assert_eq!(Journal::parse(&journal.bytes()), Some(journal));
    }
    let _ = pending::parse(data);
});
