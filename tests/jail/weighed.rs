//! What `jailmk check SPEC` weighs.

use serde_json::Value;

use super::Jail;

/// What a directory of root's counts for when root calls.
pub const AS_ROOT: f64 = 1.0;

/// The answer of `check --json`, whatever its exit status.
pub fn weighed(jail: &Jail) -> Value {
    let ran = jail.jailmk("check", &["--json"]);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran}"))
}

/// One row of the table.
pub fn row<'a>(weighed: &'a Value, name: &str) -> &'a Value {
    let rows = weighed["rows"].as_array().expect("rows");
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no row {name} in {weighed:#}"))
}

/// What a row counts for.
pub fn points(row: &Value) -> f64 {
    row["exposure"].as_f64().expect("a number")
}

/// The same of the row of that name.
pub fn exposure(weighed: &Value, name: &str) -> f64 {
    points(row(weighed, name))
}

/// What all count for.
pub fn total(weighed: &Value) -> f64 {
    weighed["exposure"].as_f64().expect("a number")
}

/// What a row says.
pub fn found<'a>(weighed: &'a Value, name: &str) -> &'a str {
    row(weighed, name)["found"].as_str().expect("a text")
}
