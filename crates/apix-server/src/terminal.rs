//! Text for a person or a program on the other side of standard output.

use std::io::{self, Write as _};
use std::time::Duration;

/// Prints one line to standard output.
pub(crate) fn print_line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")
}

/// Prints one line to standard error. Where nobody reads it any more, there is nobody to tell.
pub(crate) fn say(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints a value as indented JSON.
pub(crate) fn print_json(value: &serde_json::Value) -> io::Result<()> {
    print_line(&format!("{value:#}"))
}

/// Prints JSON text as one line, byte for byte but for line breaks between its tokens; within a
/// JSON string none can stand as it is.
pub(crate) fn print_json_line(text: &str) -> io::Result<()> {
    if text.contains(['\n', '\r']) {
        return print_line(&text.replace(['\n', '\r'], " "));
    }
    print_line(text)
}

/// `text` with control characters escaped: what a producer wrote must not steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A count, or `-` where nobody knows.
pub(crate) fn count_or_dash(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Bytes in a form for people.
pub(crate) fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[allow(clippy::cast_precision_loss)] // shown with one decimal
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Milliseconds in a form for people.
pub(crate) fn age_text(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{} s", ms / 1_000),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        3_600_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// `done` in `elapsed` as a rate for people.
pub(crate) fn rate_text(done: u64, elapsed: Duration) -> String {
    #[allow(clippy::cast_precision_loss)] // shown without decimals
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
    format!("{rate:.0}/s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31m\u{9b}b"), "a\\u{1b}[31m\\u{9b}b");
        assert_eq!(printable("grüße"), "grüße");
    }

    #[test]
    fn sizes_and_ages() {
        assert_eq!(bytes_text(1023), "1023 B");
        assert_eq!(bytes_text(1536), "1.5 KiB");
        assert_eq!(age_text(999), "999 ms");
        assert_eq!(age_text(7_200_000), "2 h");
        assert_eq!(rate_text(500, Duration::from_secs(2)), "250/s");
    }
}
