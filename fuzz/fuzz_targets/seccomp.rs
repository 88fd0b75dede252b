//! Any text as a system call profile: refused, or compiled to a filter that the kernel takes by its length.
#![no_main]

use jailmk::layer::seccomp::Policy;
use jailmk::spec::{Capability, Position, SeccompFile, SeccompProfile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let at = Position { file: "spec.toml".into(), line: 1, column: 1 };
    let file = SeccompFile { path: "/profile.json".into(), at, text: text.into() };
    let policy = Policy { profile: SeccompProfile::File(file), keep: vec![Capability::SysChroot] };
    if let Ok(armed) = policy.arm() {
        let profile = armed.profile().expect("a file is a profile");
        assert!((4..=4096).contains(&profile.instructions()));
        assert!(!armed.to_string().is_empty());
    }
});
