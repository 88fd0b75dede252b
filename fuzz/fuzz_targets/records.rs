//! Any bytes as the records of a state.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| jailmk::rootfs::read_records(data));
