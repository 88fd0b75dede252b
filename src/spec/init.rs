//! The commented spec that `jailmk init` writes.

use std::fmt::Write as _;

use super::keys::{self, Form, Key, SECTIONS, Section};
use super::value;

/// The keys that a first spec has; all others are there as comments.
const WRITTEN: &[(&str, &str)] =
    &[("", "name"), ("", "include"), ("workspace", "path"), ("workspace", "mode")];

/// A spec that parses, with every section and key explained; `name` becomes the jail's name, made
/// into a host name label where it is none.
pub fn init_text(name: &str) -> String {
    let mut text = String::from(
        "# A jail for jailmk. Lines that begin with `#` and a space explain; a line that begins with `#`\n\
         # and something else is an example: take the `#` away to set it.\n",
    );
    for section in SECTIONS.iter().filter(|section| section.form != Form::Element) {
        push_section(&mut text, section, &value::label_from(name));
    }
    text
}

fn push_section(text: &mut String, section: &Section, name: &str) {
    push(text, format_args!("\n# {}\n", section.doc));
    match section.form {
        Form::Top | Form::Element => {}
        // An empty table says nothing; a header that is left out would put the keys below it into
        // the section above it.
        Form::Table => push(text, format_args!("[{}]\n", section.name)),
        Form::List => push(text, format_args!("#[[{}]]\n", section.name)),
        Form::Sizes => push(text, format_args!("[{}]\n#\"/var/tmp\" = \"512M\"\n", section.name)),
    }
    for key in keys::of_section(section.name) {
        let mark = if is_written(key) { "" } else { "#" };
        push(text, format_args!("# {} Default: {}.\n", key.doc, key.default));
        match (key.section, key.name) {
            ("", "name") => push(text, format_args!("{mark}name = \"{name}\"\n")),
            _ => push(text, format_args!("{mark}{} = {}\n", key.name, key.sample)),
        }
    }
}

fn is_written(key: &Key) -> bool {
    WRITTEN.contains(&(key.section, key.name))
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line).expect("BUG: a String takes whatever is written to it");
}
