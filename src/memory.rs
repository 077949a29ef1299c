//! How much memory a run may take.
//!
//! Tensors are counted as long as they are held, and whoever takes memory of a size that a file decides asks first
//! (`allow`): what is beyond the limit is an error that says how much was asked for, in place of a process that the
//! system ends. The limit is one a process, since the memory is.

use crate::error::{BadInput, Result};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static LIMIT: OnceLock<u64> = OnceLock::new();
static HELD: AtomicU64 = AtomicU64::new(0);

/// The most bytes that this process takes for values; what the machine has to give, if nobody said.
pub fn limit() -> u64 {
    *LIMIT.get_or_init(of_machine)
}

/// Says so, before anything is read. Of several, the first counts.
pub fn set_limit(bytes: u64) {
    let _ = LIMIT.set(bytes);
}

/// Whether so many bytes more may be taken; `at` is the file or the stage that asks, `what` for what.
///
/// # Errors
/// [`BadInput`] if they are more than the limit leaves.
pub(crate) fn allow(at: impl Into<PathBuf>, what: &str, bytes: u128) -> Result<()> {
    let held = HELD.load(Ordering::Relaxed);
    if bytes + u128::from(held) <= u128::from(limit()) {
        return Ok(());
    }
    let expected = format!("at most {} of memory in all", amount(limit().into()));
    let besides = match held {
        0 => String::new(),
        held => format!(", besides {} that are held", amount(held.into())),
    };
    let fault = BadInput::new(
        at,
        expected,
        format!("{} for {what}{besides}", amount(bytes)),
    );
    let remedy = "give --max-memory, if the machine has more";
    Err(fault.remedy(remedy).into())
}

/// The bytes of an array; as many as there can be if they are more.
pub(crate) fn bytes_of(shape: &[usize], size: usize) -> u128 {
    let extents = shape.iter().map(|extent| *extent as u128);
    extents.fold(size as u128, u128::saturating_mul)
}

/// Bytes that are held.
pub(crate) struct Held(u64);

impl Held {
    pub(crate) fn new(bytes: usize) -> Self {
        HELD.fetch_add(bytes as u64, Ordering::Relaxed);
        Self(bytes as u64)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// What is free now, of the machine and of the group of processes that this one is in.
fn of_machine() -> u64 {
    let of_group = std::fs::read_to_string("/sys/fs/cgroup/memory.max");
    let of_group = of_group.ok().and_then(|text| text.trim().parse().ok());
    let free = std::fs::read_to_string("/proc/meminfo").ok();
    let free = free.and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    });
    let least = [of_group, free].into_iter().flatten().min();
    least.unwrap_or(1 << 40)
}

/// Bytes as people read them.
fn amount(bytes: u128) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit]).replace(".0 B", " B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_refused() {
        assert!(allow("x", "values", 1).is_ok());
        let error = allow("x.npy", "values", u128::MAX / 2)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("x.npy: expected at most "), "{error}");
        assert!(error.contains("--max-memory"), "{error}");
        assert_eq!(bytes_of(&[1 << 60, 1 << 60, 1 << 60], 4), u128::MAX);
        assert_eq!(amount(1536), "1.5 KiB");
        assert_eq!(amount(7), "7 B");
    }
}
