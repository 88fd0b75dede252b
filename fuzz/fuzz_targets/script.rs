//! Any bytes as the head of a script.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = jailmk::closure::script::parse(data);
});
