//! The command line: arguments in, reports and an exit code out. The only part that prints.

mod args;
mod convert;
mod device;
mod diff;
mod doctor;
mod exit;
mod explain;
mod import;
mod inspect;
mod print;
mod progress;
mod run;
mod selftest;

pub use run::run;
