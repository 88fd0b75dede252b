//! Any bytes as a lock file: accepted exactly when it is what jailmk writes.
#![no_main]

use jailmk::manifest::lock::Lock;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(lock) = Lock::parse(data) {
        assert_eq!(lock.to_string().as_bytes(), data);
    }
});
