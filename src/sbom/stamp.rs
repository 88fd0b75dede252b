//! What makes a document one of its kind, without a clock and without chance.

use sha2::{Digest, Sha256};

use crate::date::{LAST, date};
use crate::manifest::lock::Hex;

/// SOURCE_DATE_EPOCH (reproducible-builds.org) as an RFC 3339 date.
pub fn time() -> Option<String> {
    let seconds = std::env::var("SOURCE_DATE_EPOCH").ok()?.parse().ok()?;
    (seconds <= LAST).then(|| date(seconds))
}

/// A UUID that stands for `content`: version 8 of RFC 9562, from SHA-256.
pub fn uuid(content: &str) -> String {
    let digest = Sha256::digest(content);
    let mut bytes: [u8; 16] = digest[..16].try_into().expect("BUG: SHA-256 has 32 bytes");
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = Hex(&bytes).to_string();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_content_has_an_equal_uuid_of_version_8() {
        assert_eq!(uuid("a"), uuid("a"));
        assert_ne!(uuid("a"), uuid("b"));
        assert_eq!(&uuid("a")[14..15], "8");
    }
}
