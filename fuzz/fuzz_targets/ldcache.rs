//! Any bytes as /etc/ld.so.cache; and what is read can be written and read again.
#![no_main]

use jailmk::closure::ldcache;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(entries) = ldcache::read(data) {
        let written = ldcache::write(&entries);
        assert!(ldcache::read(&written).is_ok(), "a written cache is readable");
    }
});
