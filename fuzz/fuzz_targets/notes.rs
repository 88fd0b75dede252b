//! Any bytes as an ELF file with notes.
#![no_main]

use jailmk::closure::elf::identity::identity;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let identity = identity(data);
    assert!(identity.build_id.is_none_or(|build_id| build_id.len() <= 64));
});
