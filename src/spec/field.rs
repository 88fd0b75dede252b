//! Typed access to the tree that the TOML parser makes: a value of the right type with a right
//! content, or the refusal with its place.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::keys::{self, Key, Kind};
use super::position::Places;
use super::read::unhandled;
use super::refusal::{Refusal, SpecError};
use super::value::{self, ValueError};
use super::{Placed, Position};
use crate::path::JailPath;

pub(super) type Name<'v> = Spanned<Cow<'v, str>>;
pub(super) type Value<'v> = Spanned<DeValue<'v>>;
pub(super) type Result<T, E = SpecError> = std::result::Result<T, E>;

/// A key that the table knows, with what it is set to.
#[derive(Clone, Copy)]
pub(super) struct Field<'v> {
    pub key: &'static Key,
    pub value: &'v Value<'v>,
}

/// What is needed to read one text.
pub(super) struct Reader<'t> {
    pub places: Places<'t>,
    /// What relative paths in `files` are joined to.
    pub directory: Option<&'t Path>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(file: Arc<str>, text: &'t str, directory: Option<&'t Path>) -> Reader<'t> {
        Reader { places: Places::new(file, text), directory }
    }
}

/// Keys.
impl Reader<'_> {
    pub(super) fn field<'v>(
        &self,
        section: &'static str,
        name: &Name<'_>,
        value: &'v Value<'v>,
    ) -> Result<Field<'v>> {
        match keys::find(section, name.get_ref()) {
            Some(key) => Ok(Field { key, value }),
            None => Err(self.unknown(section, name)),
        }
    }

    pub(super) fn fields<'v>(&self, section: &'static str, table: &'v DeTable<'v>) -> Result<Vec<Field<'v>>> {
        in_order(table).into_iter().map(|(name, value)| self.field(section, name, value)).collect()
    }

    pub(super) fn section<'v>(&self, name: &'static str, value: &'v Value<'v>) -> Result<&'v DeTable<'v>> {
        match value.get_ref() {
            DeValue::Table(table) => Ok(table),
            other => {
                let refusal = Refusal::Type { key: name, expected: "a table", found: type_name(other) };
                Err(self.refused(refusal, value.span()))
            }
        }
    }
}

/// Values.
impl Reader<'_> {
    pub(super) fn text<'v, T>(
        &self,
        field: &Field<'v>,
        check: impl Fn(&'v str) -> Result<T, ValueError>,
    ) -> Result<T> {
        match field.value.get_ref() {
            DeValue::String(text) => self.check(field.key, text, field.value.span(), check),
            other => Err(self.wrong_type(field.key, other, field.value.span())),
        }
    }

    pub(super) fn placed<T: for<'a> From<&'a str>>(
        &self,
        field: &Field<'_>,
        check: fn(&str) -> Result<&str, ValueError>,
    ) -> Result<Placed<T>> {
        let text = self.text(field, check)?;
        Ok(self.places.place(T::from(text), field.value.span()))
    }

    pub(super) fn array<'v>(&self, field: &Field<'v>) -> Result<&'v [Value<'v>]> {
        match field.value.get_ref() {
            DeValue::Array(elements) => Ok(elements),
            other => Err(self.wrong_type(field.key, other, field.value.span())),
        }
    }

    pub(super) fn texts<'v, T>(
        &self,
        field: &Field<'v>,
        check: impl Fn(&'v str) -> Result<T, ValueError>,
    ) -> Result<Vec<Placed<T>>> {
        let elements = self.array(field)?.iter().map(|element| match element.get_ref() {
            DeValue::String(text) => {
                let value = self.check(field.key, text, element.span(), &check)?;
                Ok(self.places.place(value, element.span()))
            }
            other => Err(self.element_type(field.key, other, element.span())),
        });
        elements.collect()
    }

    /// The pairs of a table of strings, in the order of the text.
    pub(super) fn text_table<'v>(&self, field: &Field<'v>) -> Result<Vec<(&'v Name<'v>, Spanned<&'v str>)>> {
        let DeValue::Table(table) = field.value.get_ref() else {
            return Err(self.wrong_type(field.key, field.value.get_ref(), field.value.span()));
        };
        let pairs = in_order(table).into_iter().map(|(name, value)| match value.get_ref() {
            DeValue::String(text) => Ok((name, Spanned::new(value.span(), text.as_ref()))),
            other => Err(self.element_type(field.key, other, value.span())),
        });
        pairs.collect()
    }

    pub(super) fn boolean(&self, field: &Field<'_>) -> Result<bool> {
        match field.value.get_ref() {
            DeValue::Boolean(value) => Ok(*value),
            other => Err(self.wrong_type(field.key, other, field.value.span())),
        }
    }

    pub(super) fn choice(&self, field: &Field<'_>) -> Result<&'static str> {
        self.chosen(field.key, field.value)
    }

    pub(super) fn chosen(&self, key: &'static Key, value: &Value<'_>) -> Result<&'static str> {
        let (Kind::Choice(allowed) | Kind::ChoiceOrFile(allowed) | Kind::Choices(allowed)) = key.kind else {
            unhandled(key.name)
        };
        let DeValue::String(text) = value.get_ref() else {
            return Err(match key.kind {
                Kind::Choices(_) => self.element_type(key, value.get_ref(), value.span()),
                _ => self.wrong_type(key, value.get_ref(), value.span()),
            });
        };
        allowed.iter().find(|word| *word == text).copied().ok_or_else(|| {
            let refusal = Refusal::Choice { key: key.name, value: text.to_string(), allowed };
            self.refused(refusal, value.span())
        })
    }

    pub(super) fn size(&self, field: &Field<'_>) -> Result<u64> {
        let result = match field.value.get_ref() {
            DeValue::String(text) => value::size(text),
            DeValue::Integer(number) => {
                whole(number, ValueError::Size, ValueError::SizeRange).and_then(value::bytes)
            }
            other => return Err(self.wrong_type(field.key, other, field.value.span())),
        };
        result.map_err(|error| self.bad_value(field, error))
    }

    pub(super) fn positive_size(&self, field: &Field<'_>) -> Result<u64> {
        match self.size(field)? {
            0 => Err(self.bad_value(field, ValueError::Zero)),
            size => Ok(size),
        }
    }

    pub(super) fn duration(&self, field: &Field<'_>) -> Result<Duration> {
        let result = match field.value.get_ref() {
            DeValue::String(text) => value::duration(text),
            DeValue::Integer(number) => {
                whole(number, ValueError::Duration, ValueError::DurationRange).and_then(value::seconds)
            }
            other => return Err(self.wrong_type(field.key, other, field.value.span())),
        };
        result.map_err(|error| self.bad_value(field, error))
    }

    pub(super) fn cpus(&self, field: &Field<'_>) -> Result<f64> {
        let number = match field.value.get_ref() {
            DeValue::Float(number) => number.as_str().parse().map_err(|_| ValueError::Cpus),
            DeValue::Integer(number) => {
                whole(number, ValueError::Cpus, ValueError::Cpus).map(|number| number as f64)
            }
            other => return Err(self.wrong_type(field.key, other, field.value.span())),
        };
        number.and_then(value::cpus).map_err(|error| self.bad_value(field, error))
    }

    pub(super) fn count(&self, field: &Field<'_>) -> Result<u64> {
        let Kind::Count(most) = field.key.kind else { unhandled(field.key.name) };
        match field.value.get_ref() {
            DeValue::Integer(number) => whole(number, ValueError::Count(most), ValueError::Count(most))
                .and_then(|count| value::count(count, most))
                .map_err(|error| self.bad_value(field, error)),
            other => Err(self.wrong_type(field.key, other, field.value.span())),
        }
    }
}

/// Refusals.
impl Reader<'_> {
    pub(super) fn check<'v, T>(
        &self,
        key: &'static Key,
        text: &'v str,
        span: Range<usize>,
        check: impl Fn(&'v str) -> Result<T, ValueError>,
    ) -> Result<T> {
        let refusal = |source| Refusal::Value { key: key.name, value: text.to_owned(), source };
        check(text).map_err(|error| self.refused(refusal(error), span))
    }

    pub(super) fn bad_value(&self, field: &Field<'_>, source: ValueError) -> SpecError {
        let value = match field.value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            other => type_name(other).into(),
        };
        self.refused(Refusal::Value { key: field.key.name, value, source }, field.value.span())
    }

    pub(super) fn wrong_type(&self, key: &'static Key, found: &DeValue<'_>, span: Range<usize>) -> SpecError {
        let refusal = Refusal::Type { key: key.name, expected: key.kind.expected(), found: type_name(found) };
        self.refused(refusal, span)
    }

    pub(super) fn element_type(
        &self,
        key: &'static Key,
        found: &DeValue<'_>,
        span: Range<usize>,
    ) -> SpecError {
        let expected = key.kind.expected_element();
        self.refused(Refusal::ElementType { key: key.name, expected, found: type_name(found) }, span)
    }

    pub(super) fn unknown(&self, section: &'static str, name: &Name<'_>) -> SpecError {
        self.refused(Refusal::UnknownKey { section, key: name.get_ref().to_string() }, name.span())
    }

    pub(super) fn taken(&self, target: &JailPath, first: Position, span: Range<usize>) -> SpecError {
        self.refused(Refusal::Taken { target: target.to_string(), first }, span)
    }

    pub(super) fn refused(&self, source: Refusal, span: Range<usize>) -> SpecError {
        SpecError::Refused { at: self.places.at(span.start), source }
    }
}

/// The pairs in the order of the text, so that the first mistake is the one that is reported.
pub(super) fn in_order<'v>(table: &'v DeTable<'v>) -> Vec<(&'v Name<'v>, &'v Value<'v>)> {
    let mut pairs: Vec<_> = table.iter().collect();
    pairs.sort_by_key(|(name, _)| name.span().start);
    pairs
}

pub(super) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A number that TOML lets be of any size, in any of its notations.
fn whole(number: &DeInteger<'_>, negative: ValueError, large: ValueError) -> Result<u64, ValueError> {
    let error = if number.as_str().starts_with('-') { negative } else { large };
    u64::from_str_radix(number.as_str(), number.radix()).map_err(|_| error)
}
