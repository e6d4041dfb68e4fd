//! What a person sees: tables, safe text, progress.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Prints one line to standard output.
pub(crate) fn print_line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")
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

/// A table of aligned columns.
pub(crate) struct Table {
    header: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

impl Table {
    pub(crate) fn new(header: impl Into<Vec<(&'static str, Align)>>) -> Self {
        Self { header: header.into(), rows: Vec::new() }
    }

    /// One cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn print(&self) -> io::Result<()> {
        io::stdout().lock().write_all(self.render().as_bytes())
    }

    fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            widest.max(self.header[column].0.len())
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let header: Vec<String> = self.header.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut out = String::new();
        for row in std::iter::once(&header).chain(&self.rows) {
            let cells = row.iter().zip(&self.header).zip(&widths);
            let cells: Vec<String> = cells
                .map(|((cell, (_, align)), &width)| match align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                })
                .collect();
            out.push_str(cells.join("  ").trim_end());
            out.push('\n');
        }
        out
    }
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

/// How many things, of how many, how fast: on standard error, only where a person watches and
/// only once there is more than a screenful.
pub(crate) struct Progress {
    bar: ProgressBar,
    started: Instant,
    shown: bool,
    total: Option<u64>,
    unit: &'static str,
}

/// What fits on a screen.
const SCREENFUL: u64 = 50;

impl Progress {
    pub(crate) fn new(total: Option<u64>, unit: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        Self { bar, started: Instant::now(), shown: false, total, unit }
    }

    /// Shows nothing, ever.
    pub(crate) fn hidden() -> Self {
        Self { shown: true, ..Self::new(None, "") }
    }

    /// `done` in all so far.
    pub(crate) fn at(&mut self, done: u64) {
        if !self.shown && done.max(self.total.unwrap_or(0)) > SCREENFUL {
            self.show();
        }
        self.bar.set_position(done);
    }

    fn show(&mut self) {
        self.shown = true;
        if !io::stderr().is_terminal() {
            return;
        }
        let bar = if self.total.is_some() {
            "{wide_bar} {human_pos}/{human_len}"
        } else {
            "{spinner} {human_pos}"
        };
        let template = format!("{bar} {} {{per_sec}} {{elapsed}}", self.unit);
        if let Ok(style) = ProgressStyle::with_template(&template) {
            self.bar.set_style(style);
        }
        self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    /// Writes a line above the bar.
    pub(crate) fn note(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    /// Takes the bar away and gives the time since the start.
    pub(crate) fn finish(&self) -> Duration {
        self.bar.finish_and_clear();
        self.started.elapsed()
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
    fn columns_are_aligned() {
        let mut table = Table::new([("NAME", Align::Left), ("N", Align::Right)]);
        table.row(vec!["orders".into(), "7".into()]);
        table.row(vec!["a".into(), "1234".into()]);
        assert_eq!(table.render(), "NAME       N\norders     7\na       1234\n");
    }

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
