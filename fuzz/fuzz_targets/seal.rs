//! Any bytes as the seal of a tree.
#![no_main]

use jailmk::rootfs::Seal;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Seal::parse(data.to_vec());
});
