//! `parity import`.

use super::args::ImportArgs;
use crate::golden::{Content, import};
use anyhow::Result;
use std::io::Write;

pub(super) fn run(args: &ImportArgs) -> Result<()> {
    let imported = import(&args.dumps, args.from, &args.output, args.statistics_only)?;
    let manifest = &imported.manifest;
    let mut out = anstream::stdout();
    writeln!(
        out,
        "{}: {} stages of a {} model from {} ({})",
        args.output.display(),
        manifest.stages.len(),
        manifest.dtype,
        manifest.provenance.framework,
        manifest.arithmetic,
    )?;
    for record in &manifest.stages {
        if let Content::Full {
            rank_drift: Some(drift),
            ..
        } = record.content
        {
            let stage = &record.stage;
            writeln!(
                out,
                "  {stage}: ranks differ by up to {drift:e}; rank 0 is kept"
            )?;
        }
    }
    for name in &imported.unmapped {
        writeln!(out, "  {name}: no stage is known for this dump; left out")?;
    }
    Ok(())
}
