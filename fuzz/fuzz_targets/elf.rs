//! Any bytes as an ELF file: refused or read, never a panic, a hang or a large allocation.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = jailmk::closure::elf::parse(data);
});
