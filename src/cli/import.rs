//! `parity import`.

use super::args::ImportArgs;
use super::print::print;
use crate::golden::{Content, import};
use crate::words;
use anyhow::Result;

pub(super) fn run(args: &ImportArgs) -> Result<()> {
    let imported = import(&args.dumps, args.from, &args.output, args.statistics_only)?;
    let manifest = &imported.manifest;
    let mut text = format!(
        "{}: {} stages of a {} model from {} ({})\n",
        args.output.display(),
        manifest.stages.len(),
        manifest.dtype,
        manifest.provenance.framework,
        manifest.arithmetic,
    );
    for record in &manifest.stages {
        if let Content::Full {
            rank_drift: Some(drift),
            ..
        } = record.content
        {
            let stage = &record.stage;
            text += &format!("  {stage}: ranks differ by up to {drift:e}; rank 0 is kept\n");
        }
    }
    for name in &imported.unmapped {
        let name = words::name(name);
        text += &format!("  {name}: no stage is known for this dump; left out\n");
    }
    print(&text)
}
