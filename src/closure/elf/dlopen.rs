//! `.note.dlopen`: libraries that an object opens by itself, as it says so.
//!
//! Source: UAPI.12, "ELF dlopen Metadata": a note of owner `FDO` whose descriptor is a JSON array. It is
//! found by owner and type in the `PT_NOTE` segments, for sections may be stripped.

use std::ffi::OsString;
use std::fmt;

use goblin::elf::program_header::{PT_NOTE, ProgramHeader};
use serde_json::Value;

use super::image::{Image, ReadAt};
use crate::path::printable;

/// The note's type, which its owner gives.
const TYPE: u64 = 0x407c_0c0a;
/// All notes of one object: systemd's largest has a few kilobytes.
const MAXIMUM_NOTES: u64 = 64 << 10;
/// Features of one object.
const MAXIMUM_FEATURES: usize = 256;
/// Libraries that may stand for one another.
const MAXIMUM_SONAMES: usize = 64;

/// How much an object misses a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// It does not work without it.
    Required,
    /// It should have it; what holds where a note does not say.
    Recommended,
    /// It can make use of it.
    Suggested,
}

impl Priority {
    /// The note's word.
    pub fn name(self) -> &'static str {
        match self {
            Priority::Required => "required",
            Priority::Recommended => "recommended",
            Priority::Suggested => "suggested",
        }
    }
}

/// One element of a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What it is for, a short word; empty where the note does not say.
    pub name: String,
    /// What it is for, a sentence.
    pub description: String,
    /// How much it matters.
    pub priority: Priority,
    /// Libraries of which one is enough, the best first.
    pub sonames: Vec<OsString>,
}

/// `libbpf.so.1 or libbpf.so.0 for its feature bpf (required)`.
impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, soname) in self.sonames.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { " or " }, printable(soname))?;
        }
        if !self.name.is_empty() {
            write!(f, " for its feature {}", printable(self.name.as_ref()))?;
        }
        write!(f, " ({})", self.priority.name())
    }
}

/// Why a dlopen note is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteDefect {
    /// It does not lie in its segment, or the segment not in the file.
    #[error("it is cut off")]
    CutOff,
    /// More than is read of any file.
    #[error("it is longer than {} KiB", MAXIMUM_NOTES >> 10)]
    TooLong,
    /// Not JSON, or nested deeper than JSON is read.
    #[error("it is no JSON")]
    Json,
    /// JSON of another shape.
    #[error("it is no list of objects with `soname`")]
    Shape,
    /// A soname that is no name of a file.
    #[error("it names a library by something else than a file's name")]
    Soname,
    /// A priority that the specification does not have.
    #[error("its priority is none of required, recommended, suggested")]
    Priority,
    /// More than any real object has.
    #[error("it has more than {MAXIMUM_FEATURES} features, or {MAXIMUM_SONAMES} libraries for one")]
    TooMany,
}

/// Every feature of the notes in `headers`.
pub fn features<S: ReadAt + ?Sized>(
    image: &Image<'_, '_, S>,
    headers: &[ProgramHeader],
) -> Result<Vec<Feature>, NoteDefect> {
    let mut features = Vec::new();
    let mut left = MAXIMUM_NOTES;
    for segment in headers.iter().filter(|header| header.p_type == PT_NOTE) {
        // Notes of 8 byte alignment have their descriptors aligned so; none else is in use.
        let align = if segment.p_align == 8 { 8 } else { 4 };
        let mut at = 0;
        while segment.p_filesz.saturating_sub(at) >= 12 {
            let mut head = [0; 16];
            let offset = segment.p_offset.checked_add(at).ok_or(NoteDefect::CutOff)?;
            let read = image.blocks.read(offset, &mut head).map_err(|_| NoteDefect::CutOff)?;
            if read < 12 {
                break;
            }
            let [name, length, kind] = [0, 4, 8].map(|field| image.number(&head[field..field + 4]));
            let start = (12 + name).next_multiple_of(align);
            let end = start + length;
            if name == 4 && kind == TYPE && &head[12..] == b"FDO\0" {
                if at + end > segment.p_filesz {
                    return Err(NoteDefect::CutOff);
                }
                left = left.checked_sub(end).ok_or(NoteDefect::TooLong)?;
                let mut text = vec![0; length as usize];
                let read = image.blocks.read(offset + start, &mut text).map_err(|_| NoteDefect::CutOff)?;
                if read < text.len() {
                    return Err(NoteDefect::CutOff);
                }
                features.extend(parse(&text)?);
                if features.len() > MAXIMUM_FEATURES {
                    return Err(NoteDefect::TooMany);
                }
            } else {
                // Each step is paid for, so that a segment of a gigabyte of empty notes ends here.
                left = left.checked_sub(12).ok_or(NoteDefect::TooLong)?;
            }
            at += end.next_multiple_of(align);
        }
    }
    Ok(features)
}

/// Reads the descriptor of one note.
///
/// # Errors
/// [`NoteDefect`]: a note is taken as a whole or not at all.
pub fn parse(text: &[u8]) -> Result<Vec<Feature>, NoteDefect> {
    if text.len() as u64 > MAXIMUM_NOTES {
        return Err(NoteDefect::TooLong);
    }
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    // serde_json goes 128 levels deep, no further.
    let elements = match serde_json::from_slice(&text[..end]).map_err(|_| NoteDefect::Json)? {
        Value::Array(elements) => elements,
        // Drafts of the specification had one object.
        element @ Value::Object(_) => vec![element],
        _ => return Err(NoteDefect::Shape),
    };
    if elements.len() > MAXIMUM_FEATURES {
        return Err(NoteDefect::TooMany);
    }
    elements.iter().map(feature).collect()
}

fn feature(element: &Value) -> Result<Feature, NoteDefect> {
    let text = |key| match element.get(key) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(NoteDefect::Shape),
    };
    let sonames = match element.get("soname") {
        Some(Value::Array(names)) => names.iter().map(soname).collect::<Result<Vec<_>, _>>()?,
        // As in drafts.
        Some(name @ Value::String(_)) => vec![soname(name)?],
        _ => return Err(NoteDefect::Shape),
    };
    if sonames.is_empty() {
        return Err(NoteDefect::Shape);
    }
    if sonames.len() > MAXIMUM_SONAMES {
        return Err(NoteDefect::TooMany);
    }
    let priority = match text("priority")?.as_str() {
        "required" => Priority::Required,
        "recommended" | "" => Priority::Recommended,
        "suggested" => Priority::Suggested,
        _ => return Err(NoteDefect::Priority),
    };
    Ok(Feature { name: text("feature")?, description: text("description")?, priority, sonames })
}

fn soname(name: &Value) -> Result<OsString, NoteDefect> {
    let Value::String(name) = name else { return Err(NoteDefect::Shape) };
    let is_name = !name.is_empty() && name.len() <= 255 && !name.contains(['/', '\0', '$']);
    if is_name { Ok(name.into()) } else { Err(NoteDefect::Soname) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_names_alternatives_and_how_much_they_matter() {
        let text = br#"[{"soname":["libbpf.so.1","libbpf.so.0"],"feature":"bpf","priority":"suggested"},
            {"soname":["libz.so.1"],"x":[]}]"#;
        let features = parse(&[text, &b"\0\0"[..]].concat()).unwrap();
        assert_eq!((features[0].name.as_str(), features[0].priority), ("bpf", Priority::Suggested));
        assert_eq!(features[0].sonames, ["libbpf.so.1", "libbpf.so.0"]);
        assert_eq!((features[1].name.as_str(), features[1].priority), ("", Priority::Recommended));
    }

    #[test]
    fn drafts_with_one_object_and_a_plain_name_are_read() {
        assert_eq!(parse(br#"{"soname":"liba.so"}"#).unwrap()[0].sonames, ["liba.so"]);
    }

    #[test]
    fn what_is_no_note_is_refused_as_a_whole() {
        let refused = |text: &str| parse(text.as_bytes()).unwrap_err();
        assert_eq!(refused("[{"), NoteDefect::Json);
        assert_eq!(refused("7"), NoteDefect::Shape);
        assert_eq!(refused(r#"[{"soname":[]}]"#), NoteDefect::Shape);
        assert_eq!(refused(r#"[{"soname":["liba.so"]},{"soname":["../liba.so"]}]"#), NoteDefect::Soname);
        assert_eq!(refused("[{\"soname\":[\"lib\\u0000.so\"]}]"), NoteDefect::Soname);
        assert_eq!(refused(r#"[{"soname":["liba.so"],"priority":"urgent"}]"#), NoteDefect::Priority);
        assert_eq!(refused(&"[".repeat(60_000)), NoteDefect::Json);
        assert_eq!(refused(&" ".repeat(70_000)), NoteDefect::TooLong);
        let many = vec![r#"{"soname":["a"]}"#; 300].join(",");
        assert_eq!(refused(&format!("[{many}]")), NoteDefect::TooMany);
    }
}
