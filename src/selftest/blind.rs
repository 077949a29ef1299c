//! What a golden cannot see, whatever the bug.

use crate::diff::{Candidate, CaseOutcome};
use crate::error::Result;
use crate::golden::{Content, Golden};
use std::collections::BTreeSet;

/// In sentences; empty if there is nothing that is known.
pub(super) fn spots(
    golden: &Golden,
    candidate: &Candidate,
    baseline: &CaseOutcome,
) -> Result<Vec<String>> {
    let tokens = golden.tokens()?;
    let touched: BTreeSet<i64> = tokens.as_slice::<i64>()?.iter().copied().collect();
    let rows = candidate.model.vocab_size();
    let mut spots = Vec::new();
    if touched.len() < rows {
        spots.push(format!(
            "rows of the embedding that no token touches: {} of {rows}; record tokens that touch more",
            rows - touched.len()
        ));
    }
    spots.push(format!(
        "positions past {}: a scaling or a table that is wrong only beyond shows in longer sequences",
        tokens.row_len()
    ));
    let statistics: Vec<&str> = golden
        .manifest()
        .stages
        .iter()
        .filter(|record| matches!(record.content, Content::Statistics { .. }))
        .map(|record| record.stage.as_str())
        .collect();
    if let Some(first) = statistics.first() {
        spots.push(format!(
            "{} stages of which statistics are recorded ({first} first): isolated mode needs values, so that what \
             one stage does wrong is seen only after all before it have rounded; record all values",
            statistics.len()
        ));
    }
    let unrecorded = &baseline.coverage.unrecorded;
    if let Some(first) = unrecorded.first() {
        spots.push(format!(
            "{} stages that the golden does not hold ({first} first): they are judged by what comes after, over \
             more roundings",
            unrecorded.len()
        ));
    }
    Ok(spots)
}
