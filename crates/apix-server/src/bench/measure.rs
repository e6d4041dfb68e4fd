//! One measurement: latencies of many callers, and the rate of them all.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;

use crate::table::{Align, Table};
use crate::terminal::{print_line, rate_text};

/// Latencies in microseconds, up to a minute, to three digits.
pub(super) struct Latencies(Mutex<Histogram<u64>>);

const LONGEST_US: u64 = 60_000_000;

impl Latencies {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(Mutex::new(empty()?)))
    }

    /// Takes over what one caller has measured.
    pub(super) fn merge(&self, of_one: &Histogram<u64>) -> Result<()> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.add(of_one).context("latencies do not fit")
    }

    pub(super) fn into_histogram(self) -> Histogram<u64> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller's own histogram, so that callers do not wait for each other.
pub(super) fn empty() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).context("histogram")
}

/// Records the time since `began`.
pub(super) fn record(histogram: &mut Histogram<u64>, began: Instant) {
    let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(LONGEST_US);
    histogram.saturating_record(us.clamp(1, LONGEST_US));
}

/// What came out.
pub(super) struct Measurement {
    /// What exactly was done, in words.
    pub(super) what: String,
    /// How many did it, with how much, and where.
    pub(super) setting: String,
    /// What a latency is the time of.
    pub(super) latency_of: &'static str,
    pub(super) events: u64,
    pub(super) elapsed: Duration,
    pub(super) latencies: Histogram<u64>,
    /// What else has to be said.
    pub(super) note: Option<String>,
}

/// The quantiles that are shown.
const QUANTILES: [(&str, f64); 4] = [("P50", 0.5), ("P90", 0.9), ("P99", 0.99), ("P99.9", 0.999)];

/// Prints measurements of one setting for people.
pub(super) fn print_table(all: &[Measurement]) -> io::Result<()> {
    if let Some(one) = all.first() {
        print_line(&one.setting)?;
        print_line("")?;
    }
    let mut header =
        vec![("MEASURED", Align::Left), ("EVENTS", Align::Right), ("RATE", Align::Right)];
    header.extend(QUANTILES.iter().map(|(name, _)| (*name, Align::Right)));
    header.push(("MAX", Align::Right));
    header.push(("LATENCY OF", Align::Left));
    let mut table = Table::new(header);
    for one in all {
        let mut row =
            vec![one.what.clone(), one.events.to_string(), rate_text(one.events, one.elapsed)];
        let at = |quantile: f64| latency_text(one.latencies.value_at_quantile(quantile));
        row.extend(QUANTILES.iter().map(|(_, quantile)| at(*quantile)));
        row.push(latency_text(one.latencies.max()));
        row.push(one.latency_of.to_owned());
        table.row(row);
    }
    table.print()?;
    for note in all.iter().filter_map(|one| one.note.as_ref()) {
        print_line(&format!("note: {note}"))?;
    }
    Ok(())
}

/// Prints measurements for programs.
pub(super) fn print_lines(all: &[Measurement]) -> io::Result<()> {
    for one in all {
        let mut line = serde_json::json!({
            "what": one.what,
            "setting": one.setting,
            "events": one.events,
            "seconds": one.elapsed.as_secs_f64(),
            "latencyOf": one.latency_of,
            "note": one.note,
        });
        for (name, quantile) in QUANTILES {
            let name = format!("{}Us", name.to_lowercase().replace('.', "_"));
            line[name] = one.latencies.value_at_quantile(quantile).into();
        }
        line["maxUs"] = one.latencies.max().into();
        print_line(&line.to_string())?;
    }
    Ok(())
}

fn latency_text(us: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // at most a minute
    let ms = us as f64 / 1_000.0;
    if ms < 10.0 { format!("{ms:.2} ms") } else { format!("{ms:.0} ms") }
}
