//! Any text as a spec: a message or a spec.
#![no_main]

use jailmk::error::Report;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = jailmk::spec::parse(text, "spec.toml") {
        assert!(!Report(&error).to_string().is_empty());
    }
});
