//! Any bytes as the text of a dlopen note: features within bounds, or a defect.
#![no_main]

use std::os::unix::ffi::OsStrExt;

use jailmk::closure::elf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(features) = elf::parse_dlopen_note(data) {
        assert!(features.len() <= 256);
        for soname in features.iter().flat_map(|feature| &feature.sonames) {
            assert!(!soname.is_empty() && !soname.as_bytes().contains(&b'/'));
        }
    }
});
