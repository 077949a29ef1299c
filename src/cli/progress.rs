//! A progress bar on standard error, where that is a terminal.

use crate::convert;
use crate::diff::Event;
use crate::words;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Turns events into a bar.
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(super) fn new() -> Self {
        // Hidden by indicatif itself where standard error is no terminal.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let template = "{prefix} [{bar:30}] {pos}/{len} {elapsed} {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar }
    }

    pub(super) fn on(&mut self, event: &Event<'_>) {
        match event {
            Event::Started { case, steps } => {
                self.bar.reset();
                self.bar.set_prefix(words::name(case).to_string());
                self.bar.set_length(*steps as u64);
            }
            Event::Step { id } => {
                self.bar.set_message(words::name(id).to_string());
                self.bar.inc(1);
            }
            Event::Explaining { stage, hypotheses } => {
                self.bar.reset();
                self.bar.set_prefix("explaining");
                self.bar.set_message(words::name(stage).to_string());
                self.bar.set_length(*hypotheses as u64);
            }
            Event::Injecting { bug, number, of } => {
                self.bar.set_prefix("selftest");
                self.bar.set_message((*bug).to_owned());
                self.bar.set_length(*of as u64);
                self.bar.set_position(*number as u64);
            }
            Event::Tried => self.bar.inc(1),
            Event::Judged(_) => {}
            Event::Finished => self.bar.finish_and_clear(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // An error in mid-run must not be printed after half a bar.
        self.bar.finish_and_clear();
    }
}

/// Turns the events of a conversion into a bar of bytes.
pub(super) struct Bytes {
    bar: ProgressBar,
}

impl Bytes {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let template = "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar }
    }

    pub(super) fn on(&self, event: convert::Event) {
        let start = |name: &'static str, total| {
            self.bar.reset();
            self.bar.set_prefix(name);
            self.bar.set_length(total);
        };
        match event {
            convert::Event::Writing { total } => start("writing", total),
            convert::Event::Verifying { total } => start("verifying", total),
            convert::Event::Bytes(bytes) => self.bar.inc(bytes),
            convert::Event::Finished => self.bar.finish_and_clear(),
        }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
