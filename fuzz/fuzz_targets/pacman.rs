//! Any bytes as the two files of a package of pacman: every path that is listed is absolute.
#![no_main]

use jailmk::closure::packages::pacman;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(package) = pacman::description(data) {
        assert!(!package.name.is_empty());
    }
    pacman::each_listed(data, &mut |path| assert_eq!(path.first(), Some(&b'/')));
});
