//! Any bytes as a configuration of git's: each setting is a part of them.
#![no_main]

use jailmk::workspace::git_config::settings;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let settings = settings(data);
    let length: usize = settings.iter().map(|setting| setting.key.len() + setting.value.len() + 1).sum();
    assert!(length <= data.len());
    assert!(settings.iter().all(|setting| !setting.key.is_empty()));
});
