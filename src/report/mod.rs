//! What a reader gets: a terminal's table, JSON, Markdown. Knows outcomes, not how they came about.

mod format;
mod json;
mod markdown;
mod summary;
mod table;
mod terminal;

pub use format::{Detail, Format};
pub use summary::{describe_failure, overall};
