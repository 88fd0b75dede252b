//! What makes a document one of its kind, without a clock and without chance.

use sha2::{Digest, Sha256};

use crate::manifest::lock::Hex;

/// The last second of the year 9999, the last that a date of four digits can name.
const LAST: u64 = 253_402_300_799;

/// SOURCE_DATE_EPOCH (reproducible-builds.org) as an RFC 3339 date.
pub fn time() -> Option<String> {
    let seconds = std::env::var("SOURCE_DATE_EPOCH").ok()?.parse().ok()?;
    (seconds <= LAST).then(|| date(seconds))
}

/// Seconds since 1970 as an RFC 3339 date, by the proleptic Gregorian calendar.
pub fn date(seconds: u64) -> String {
    let (mut days, second) = (seconds / 86400, seconds % 86400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{:02}-{:02}T{hour:02}:{minute:02}:{:02}Z", month + 1, days + 1, second % 60)
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
    fn dates_are_those_of_the_calendar() {
        let known = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (LAST, "9999-12-31T23:59:59Z"),
        ];
        for (seconds, expected) in known {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn equal_content_has_an_equal_uuid_of_version_8() {
        assert_eq!(uuid("a"), uuid("a"));
        assert_ne!(uuid("a"), uuid("b"));
        assert_eq!(&uuid("a")[14..15], "8");
    }
}
