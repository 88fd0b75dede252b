//! Any bytes as what a systemd manager says.
#![no_main]

use jailmk::layer::cgroup::bus::{Message, length};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(Some(length)) = length(data) else { return };
    let Some(whole) = data.get(..length) else { return };
    if let Ok(Message::Return { mut body, .. } | Message::Signal { mut body, .. }) = Message::parse(whole) {
        let _ = body.u32();
        while body.string().is_ok() {}
    }
});
