//! JSON text that was checked once and is then carried verbatim, and the writer of wire forms.
//!
//! A payload is never parsed and printed again: `1e400`, `{"a":1,"a":2}` and 2^53 + 1 arrive as
//! they were sent, byte for byte.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};

/// A JSON text (RFC 8259), byte for byte as its producer wrote it.
#[derive(Clone, PartialEq, Eq)]
pub struct Json(ByteString);

impl Json {
    /// Checks that `text` is one JSON value; the error names the line and column of the fault.
    /// Nesting may be as deep as the text is long: the check does not recurse.
    pub fn parse(text: impl Into<Bytes>) -> Result<Self> {
        let text = ByteString::try_from(text.into())
            .map_err(|_| Error::invalid("the JSON is not UTF-8; encode it as UTF-8"))?;
        serde_json::from_str::<IgnoredAny>(&text)
            .map_err(|fault| Error::invalid(format!("not valid JSON: {fault}")))?;
        Ok(Self(text))
    }

    /// The JSON form of a value.
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let text = serde_json::to_string(value)
            .map_err(|fault| Error::invalid(format!("cannot be written as JSON: {fault}")))?;
        Ok(Self(text.into()))
    }

    /// The part `raw` of the document `document` that it was parsed from, without a copy.
    ///
    /// # Panics
    /// If `raw` does not lie within `document`.
    pub fn slice_of(document: &Bytes, raw: &RawValue) -> Self {
        let part = document.slice_ref(raw.get().as_bytes());
        // A RawValue is text that serde_json has checked.
        Self(ByteString::try_from(part).unwrap_or_default())
    }

    /// Text that [`parse`](Self::parse) has checked before, as a store of a broker gives it back.
    pub fn from_checked(text: ByteString) -> Self {
        Self(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text as shared bytes.
    pub fn as_bytes(&self) -> &Bytes {
        self.0.as_bytes()
    }

    /// The length in bytes.
    #[allow(clippy::len_without_is_empty)] // JSON text is never empty
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The value.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.0)
            .map_err(|fault| Error::invalid(format!("the JSON has another shape: {fault}")))
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Box<RawValue>> for Json {
    fn from(raw: Box<RawValue>) -> Self {
        let text: Box<str> = raw.into();
        Self(String::from(text).into())
    }
}

/// Reads settings that a broker has stored. Another version may have written them: fields that this
/// one does not know are left out, and those that are not there have their defaults.
pub fn read_stored<T>(text: &str) -> Result<T>
where
    T: Serialize + DeserializeOwned + Default,
{
    let damaged = |fault: serde_json::Error| {
        Error::new(ErrorKind::Corrupt, "stored settings do not read back").with_source(fault)
    };
    let mut stored: Value = serde_json::from_str(text).map_err(damaged)?;
    let known = serde_json::to_value(T::default()).map_err(damaged)?;
    keep_known(&mut stored, &known);
    serde_json::from_value(stored).map_err(damaged)
}

fn keep_known(stored: &mut Value, known: &Value) {
    if let (Value::Object(stored), Value::Object(known)) = (stored, known) {
        stored.retain(|name, _| known.contains_key(name));
        for (name, value) in stored {
            known.get(name).into_iter().for_each(|known| keep_known(value, known));
        }
    }
}

/// Writes one JSON object into a buffer, field by field: values that are JSON already go in as
/// they are.
#[derive(Debug)]
pub struct ObjectWriter<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> ObjectWriter<'a> {
    /// Begins an object at the end of `out`.
    pub fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    fn name(&mut self, name: &str) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// A string field. `name` needs no escapes.
    pub fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        write_text(self.out, value);
    }

    /// A string field, where there is a value.
    pub fn optional_text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    /// A field whose value is JSON already.
    pub fn json(&mut self, name: &str, value: &str) {
        self.name(name);
        self.out.extend_from_slice(value.as_bytes());
    }

    /// A string field made by `Display`, whose form needs no escapes.
    pub fn plain(&mut self, name: &str, value: impl fmt::Display) {
        use std::io::Write;
        self.name(name);
        self.out.push(b'"');
        let _ = write!(self.out, "{value}");
        self.out.push(b'"');
    }

    /// A number.
    pub fn number(&mut self, name: &str, value: u64) {
        use std::io::Write;
        self.name(name);
        let _ = write!(self.out, "{value}");
    }

    /// Ends the object.
    pub fn end(self) {
        self.out.push(b'}');
    }

    /// Leaves the object open, for fields that somebody else appends.
    pub fn leave_open(self) {}
}

/// Appends `value` to `out` as a JSON string.
pub fn write_text(out: &mut Vec<u8>, value: &str) {
    // Writing a string into a Vec cannot fail.
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_json_stays_as_it_was() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let odd =
            [r#"{"a":1,"a":2}"#, "9007199254740993", "1e400", r#""\ud800""#, " [1 , 2] ", &deep];
        for text in odd {
            assert_eq!(Json::parse(text.to_owned()).unwrap().as_str(), text);
        }
        for text in ["", "{", "nul", "{} {}", "'a'", "[1,]", "\u{feff}1"] {
            assert!(Json::parse(text.to_owned()).is_err(), "{text:?}");
        }
        assert!(Json::parse(&b"\"\xff\""[..]).is_err());
    }

    #[test]
    fn settings_of_a_newer_version_are_read() {
        use crate::group::GroupSettings;
        let newer = r#"{"leaseMs":1234,"ordering":"key","backoff":{"baseMs":7,"curve":"cubic"}}"#;
        let settings: GroupSettings = read_stored(newer).unwrap();
        assert_eq!((settings.lease_ms, settings.backoff.base_ms), (1_234, 7));
        assert_eq!(settings.max_deliveries, GroupSettings::default().max_deliveries);
        assert_eq!(read_stored::<GroupSettings>("{").unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(serde_json::from_str::<GroupSettings>(newer).is_err(), "a caller is told");
    }
}
