//! The JSON Schema of a spec, so that editors complete and check it.

use serde_json::{Map, Value, json};

use super::keys::{self, Form, Kind, SECTIONS, Section};

/// The schema of a whole spec, JSON Schema 2020-12, made from the table of keys.
pub fn json_schema() -> Value {
    let mut properties = properties("");
    for section in SECTIONS {
        let schema = match section.form {
            Form::Top | Form::Element => continue,
            Form::Table => object(section),
            Form::List => json!({ "type": "array", "items": object(section) }),
            Form::Sizes => json!({
                "type": "object",
                "description": section.doc,
                "propertyNames": kind(Kind::JailPath),
                "additionalProperties": kind(Kind::Size),
            }),
        };
        properties.insert(section.name.into(), schema);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "jailmk spec",
        "description": "What a jail is made from and what it may do.",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}

fn object(section: &Section) -> Value {
    json!({
        "type": "object",
        "description": section.doc,
        "properties": properties(section.name),
        "required": required(section),
        "additionalProperties": false,
    })
}

/// The keys without which the reader refuses the section.
fn required(section: &Section) -> &'static [&'static str] {
    if section.form == Form::List { &["from", "to"] } else { &[] }
}

fn properties(section: &str) -> Map<String, Value> {
    keys::of_section(section)
        .map(|key| {
            let mut schema = kind(key.kind);
            schema["description"] = json!(format!("{} Default: {}.", key.doc, key.default));
            (key.name.to_owned(), schema)
        })
        .collect()
}

fn kind(kind: Kind) -> Value {
    match kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Label => {
            json!({ "type": "string", "pattern": "^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$" })
        }
        Kind::UserName => json!({
            "type": "string",
            "pattern": "^[a-z_][a-z0-9_-]{0,31}$",
            "not": { "const": "root" },
        }),
        Kind::HostPath => json!({ "type": "string", "minLength": 1, "maxLength": 4095 }),
        Kind::JailPath => json!({ "type": "string", "pattern": "^/", "maxLength": 4095 }),
        Kind::Mode => json!({ "type": "string", "pattern": "^0?[0-7]{3}$" }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Size => json!({ "type": ["string", "integer"], "pattern": "^[0-9]+[KMGT]?$", "minimum": 0 }),
        Kind::Duration => json!({
            "type": ["string", "integer"],
            "pattern": "^([0-9]+|(?=.)([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?)$",
            "minimum": 1,
        }),
        Kind::Number => json!({ "type": "number", "minimum": 0.01 }),
        Kind::Count(most) => json!({ "type": "integer", "minimum": 1, "maximum": most }),
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::ChoiceOrFile(words) => {
            json!({ "anyOf": [{ "enum": words }, { "type": "string", "pattern": "/|\\.json$" }] })
        }
        Kind::Choices(words) => json!({ "type": "array", "items": { "enum": words } }),
        Kind::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Files => {
            let table = json!({
                "type": "object",
                "properties": properties(keys::FILES),
                "oneOf": [{ "required": ["from"] }, { "required": ["content", "to"] }],
                "additionalProperties": false,
            });
            json!({ "type": "array", "items": { "anyOf": [{ "type": "string", "pattern": "^/" }, table] } })
        }
        Kind::TextTable => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        Kind::LinkTable => json!({
            "type": "object",
            "propertyNames": { "pattern": "^/" },
            "additionalProperties": { "type": "string", "minLength": 1 },
        }),
    }
}
