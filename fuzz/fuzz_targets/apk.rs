//! Any bytes as apk's database: every path that it lists is absolute.
#![no_main]

use jailmk::closure::packages::apk::Apk;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let apk = Apk::parse("/lib/apk/db/installed", data.to_vec());
    for index in 0..apk.packages().len() {
        apk.each_file(index, &mut |path| assert_eq!(path.first(), Some(&b'/')));
    }
});
