use std::time::{Duration, Instant};

use super::*;

fn merged(base: &str, host: &str, jail: &str) -> Result<String, Apart> {
    let until = Instant::now() + Duration::from_secs(600);
    let merged = merge(base.as_bytes(), host.as_bytes(), jail.as_bytes(), until);
    merged.map(|bytes| String::from_utf8(bytes).expect("the sides are UTF-8"))
}

fn apart(base: &str, host: &str, jail: &str) -> String {
    merged(base, host, jail).expect_err("both changed one place").to_string()
}

/// Numbers without a pattern, the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).expect("small")
    }

    /// Few kinds of lines, so that they can be aligned in many ways; the last may lack its end.
    fn text(&mut self) -> String {
        let kinds = ["a\n", "b\n", "\n", "a\r\n", "c\n", "d"];
        (0..self.below(12)).map(|_| kinds[self.below(kinds.len())]).collect()
    }

    /// One stretch of it gone, another text in its place.
    fn edited(&mut self, text: &str) -> String {
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let start = self.below(lines.len() + 1);
        let end = start + self.below(3).min(lines.len() - start);
        let fresh = if self.below(2) == 0 { "new\n" } else { "" };
        format!("{}{fresh}{}", lines[..start].concat(), lines[end..].concat())
    }
}

#[test]
fn what_one_side_alone_changed_is_taken_whatever_it_is() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..2_000 {
        let (base, changed) = (random.text(), random.text());
        assert_eq!(merged(&base, &changed, &base), Ok(changed.clone()), "{base:?}");
        assert_eq!(merged(&base, &base, &changed), Ok(changed.clone()), "{base:?}");
        assert_eq!(merged(&base, &changed, &changed), Ok(changed.clone()), "{base:?}");
    }
}

#[test]
fn the_sides_can_change_places_and_a_merge_can_be_done_twice() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut clean = 0;
    for _ in 0..5_000 {
        let base = random.text();
        let (host, jail) = (random.edited(&base), random.edited(&base));
        let one = merged(&base, &host, &jail);
        let other = merged(&base, &jail, &host);
        assert_eq!(one.as_ref().ok(), other.as_ref().ok(), "{base:?} {host:?} {jail:?}");
        if let Ok(one) = one {
            clean += 1;
            // Every line comes from somewhere.
            for line in one.split_inclusive('\n') {
                let known =
                    [&base, &host, &jail].iter().any(|text| text.split_inclusive('\n').any(|l| l == line));
                assert!(known, "{line:?} of {base:?} {host:?} {jail:?}");
            }
        }
    }
    assert!(clean > 2_000, "{clean}");
}

#[test]
fn edits_in_different_places_come_together() {
    assert_eq!(
        merged("a\nb\nc\nd\ne\n", "A\nb\nc\nd\ne\n", "a\nb\nc\nd\nE\nf\n").unwrap(),
        "A\nb\nc\nd\nE\nf\n"
    );
    assert_eq!(merged("a\nb\nc\n", "b\nc\n", "a\nb\n").unwrap(), "b\n");
    assert_eq!(merged("a\nb\nc\n", "0\na\nb\nc\n", "a\nb\nc\n9\n").unwrap(), "0\na\nb\nc\n9\n");
}

#[test]
fn one_unchanged_line_between_two_edits_is_enough_and_none_is_not() {
    assert_eq!(merged("a\nb\nc\n", "A\nb\nc\n", "a\nb\nC\n").unwrap(), "A\nb\nC\n");
    assert_eq!(
        apart("a\nb\n", "A\nb\n", "a\nB\n"),
        "both changed lines 1-2 of the host's and lines 1-2 of the jail's"
    );
}

#[test]
fn what_both_insert_at_one_place_is_taken_only_if_it_is_the_same() {
    assert_eq!(merged("a\nb\n", "a\nx\nb\n", "a\nx\nb\n").unwrap(), "a\nx\nb\n");
    assert_eq!(
        apart("a\nb\n", "a\nx\nb\n", "a\ny\nz\nb\n"),
        "both changed line 2 of the host's and lines 2-3 of the jail's"
    );
    assert_eq!(apart("", "x\n", "y\n"), "both changed line 1 of the host's and line 1 of the jail's");
}

#[test]
fn all_places_that_both_changed_are_counted_and_the_first_are_named() {
    let text = |mark: &str| {
        (0..12)
            .map(|n| if n % 2 == 0 { format!("{n}\n") } else { format!("{n}{mark}\n") })
            .collect::<String>()
    };
    let told = apart(&text(""), &text("host"), &text("jail"));
    assert_eq!(
        told,
        "both changed line 2 of the host's and line 2 of the jail's, line 4 of the host's and line 4 of the jail's, \
         line 6 of the host's and line 6 of the jail's, and 3 more places"
    );
    assert_eq!(
        apart("a\nb\nc\n", "a\nc\n", "a\nB\nc\n"),
        "both changed what was after line 1 of the host's and line 2 of the jail's"
    );
    assert_eq!(apart("a\n", "", "b\n"), "both changed the beginning of the host's and line 1 of the jail's");
}

#[test]
fn the_end_of_a_line_is_part_of_it() {
    // No newline at the end: each side's own, and no two lines become one.
    assert_eq!(merged("a\nb\nc", "A\nb\nc", "a\nb\nc\n").unwrap(), "A\nb\nc\n");
    assert_eq!(
        apart("a\nb", "a\nb\nc", "a\nb\nd"),
        "both changed lines 2-3 of the host's and lines 2-3 of the jail's"
    );
    assert_eq!(merged("a\nb\nc", "a\nb\nc", "A\nb\nc").unwrap(), "A\nb\nc");
    // CRLF stays what it is, also when one side alone has it.
    assert_eq!(merged("a\r\nb\r\nc\r\n", "A\r\nb\r\nc\r\n", "a\r\nb\r\nC\r\n").unwrap(), "A\r\nb\r\nC\r\n");
    assert_eq!(merged("a\nb\nc\n", "a\r\nb\nc\n", "a\nb\nC\n").unwrap(), "a\r\nb\nC\n");
    assert!(merged("a\nb\n", "a\r\nb\r\n", "a\nB\n").is_err());
}

#[test]
fn bytes_that_are_no_utf_8_are_lines_as_well() {
    let until = Instant::now() + Duration::from_secs(600);
    assert_eq!(
        merge(b"\xff\nb\n\xfe\n", b"\xffx\nb\n\xfe\n", b"\xff\nb\n\xfey\n", until),
        Ok(b"\xffx\nb\n\xfey\n".to_vec())
    );
}

#[test]
fn when_the_time_is_up_nothing_is_put_together() {
    assert_eq!(merge(b"a\nb\nc\n", b"A\nb\nc\n", b"a\nb\nC\n", Instant::now()), Err(Apart::Time));
}
