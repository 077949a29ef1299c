//! `parity convert`.

use super::args::ConvertArgs;
use super::print::print;
use super::progress::Bytes;
use crate::checkpoint::megatron::MegatronCheckpoint;
use crate::convert::{Converted, Options, Report, convert};
use crate::words;
use anyhow::Result;

pub(super) fn run(args: &ConvertArgs) -> Result<()> {
    let given = args
        .arg
        .iter()
        .map(|given| (given.name.clone(), given.value.clone()));
    let given: Vec<_> = given.collect();
    let checkpoint = MegatronCheckpoint::open(&args.checkpoint, &given)?;
    let checkpoint = checkpoint.without_arguments(&args.without_effect)?;
    let model = Converted::new(checkpoint, args.architecture, args.vocab_size)?;
    let options = Options {
        dtype: args.dtype,
        max_shard_size: args.max_shard_size,
        force: args.force,
        verify: args.verify,
    };
    let progress = Bytes::new();
    let report = convert(&model, &args.output, &options, &|event| progress.on(event))?;
    print(&summary(args, &model, &report))
}

fn summary(args: &ConvertArgs, model: &Converted, report: &Report) -> String {
    let checkpoint = model.checkpoint();
    let mut text = format!(
        "{}: a {} of {} tensors in {}, {} in {}, from {} on {}\n",
        args.output.display(),
        model.architecture(),
        report.tensors,
        report.dtype,
        megabytes(report.bytes),
        counted(report.files, "file"),
        checkpoint.format(),
        counted(checkpoint.ranks(), "tensor-parallel rank"),
    );
    if report.resumed > 0 {
        let files = counted(report.resumed, "file");
        text += &format!("  {files} of an interrupted run kept\n");
    }
    for note in model.notes() {
        text += &format!("  note: {}\n", words::sentence(note));
    }
    let drifts = model.drifts();
    for (name, drift) in drifts {
        let name = words::name(name);
        text += &format!("  {name}: ranks differ by up to {drift:e}; their fp32 mean is kept\n");
    }
    let largest = drifts.values().copied().fold(0.0, f64::max);
    if !drifts.is_empty() {
        let tensors = counted(drifts.len(), "replicated tensor");
        text += &format!("  {tensors} had drifted, by up to {largest:e}\n");
    }
    if report.verified {
        text += "  verified: every element is that of the shards; that it means the same is for parity diff to show\n";
    }
    text
}

fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
