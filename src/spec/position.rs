//! Byte offset → line and column, in a time that does not depend on how long lines are.

use std::ops::Range;
use std::sync::Arc;

use super::{Placed, Position};

/// Characters are counted up to each multiple of this, so that a file that is one long line is not
/// counted anew for each of its values.
const STRIDE: usize = 64;

/// The places of one text.
pub(super) struct Places<'t> {
    file: Arc<str>,
    text: &'t [u8],
    line_starts: Vec<usize>,
    characters: Vec<usize>,
}

impl<'t> Places<'t> {
    pub(super) fn new(file: Arc<str>, text: &'t str) -> Places<'t> {
        let text = text.as_bytes();
        let mut line_starts = vec![0];
        line_starts.extend(text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1));
        let mut characters = vec![0];
        let mut sum = 0;
        for stride in text.chunks(STRIDE) {
            sum += count(stride);
            characters.push(sum);
        }
        Places { file, text, line_starts, characters }
    }

    /// The place of the byte at `offset`, which may be the end.
    pub(super) fn at(&self, offset: usize) -> Position {
        let offset = offset.min(self.text.len());
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts[line - 1];
        let column = self.characters_before(offset) - self.characters_before(start) + 1;
        Position { file: self.file.clone(), line, column }
    }

    /// `value` with the place where `span` begins.
    pub(super) fn place<T>(&self, value: T, span: Range<usize>) -> Placed<T> {
        Placed { value, at: self.at(span.start) }
    }

    fn characters_before(&self, offset: usize) -> usize {
        let stride = offset / STRIDE;
        self.characters[stride] + count(&self.text[stride * STRIDE..offset])
    }
}

/// Characters that begin in `bytes`.
fn count(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| (**byte & 0xC0) != 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_lines_count_from_one() {
        let text = format!("a\nä=b\n{}", "ö".repeat(2000));
        let places = Places::new("f".into(), &text);
        let at = |offset| {
            let position = places.at(offset);
            (position.line, position.column)
        };
        assert_eq!(at(0), (1, 1));
        assert_eq!(at(text.find('=').unwrap()), (2, 2));
        assert_eq!(at(text.len()), (3, 2001));
        assert_eq!(at(usize::MAX), (3, 2001));
    }
}
