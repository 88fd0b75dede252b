//! Any bytes as dpkg's status file.
#![no_main]

use jailmk::closure::packages::dpkg;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let paragraphs = dpkg::status(data);
    assert!(paragraphs.iter().all(|paragraph| !paragraph.package.name.is_empty()));
});
