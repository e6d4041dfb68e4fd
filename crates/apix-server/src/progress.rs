//! How far a long piece of work is.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

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
        let template = format!("{bar} {} {{rate}} {{elapsed}}", self.unit);
        if let Ok(style) = ProgressStyle::with_template(&template) {
            let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
                // What cannot be written here is only missing from the bar.
                let _ = write!(out, "{:.0}/s", state.per_sec());
            };
            self.bar.set_style(style.with_key("rate", rate));
        }
        self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    /// Writes a line above the bar.
    pub(crate) fn note(&self, text: &str) {
        self.bar.suspend(|| crate::terminal::say(format_args!("{text}")));
    }

    /// Takes the bar away and gives the time since the start.
    pub(crate) fn finish(&self) -> Duration {
        self.bar.finish_and_clear();
        self.started.elapsed()
    }
}
