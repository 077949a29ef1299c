//! `parity diff`.

use super::args::DiffArgs;
use super::print::print;
use super::progress::Progress;
use crate::backend;
use crate::case::{ArithmeticName, Case, Rules};
use crate::diff::{CaseOutcome, Options, Verdict, diff, diff_dumps};
use crate::error::{BadInput, Error};
use crate::golden::Golden;
use crate::output::OutputFile;
use crate::report::overall;
use anyhow::Result;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Folder of the cases that are run when none is named.
const CASES: &str = "cases";

pub(super) fn run(args: &DiffArgs) -> Result<Verdict> {
    let options = Options {
        device: args.device,
        modes: args.mode,
        stages: args.stages.clone(),
        fail_fast: args.fail_fast,
        ..Options::default()
    };
    // What is wrong with the arguments shows before any work is done.
    backend::open(args.device)?;
    let mut outputs = Vec::new();
    for output in &args.output {
        outputs.push((output.format, OutputFile::create(&output.path)?));
    }
    let outcomes = outcomes(args, &options)?;
    for (format, mut file) in outputs {
        let text = anstream::adapter::strip_str(&format.render(&outcomes)).to_string();
        file.write_all(text.as_bytes())?;
        file.commit()?;
    }
    print(&args.format.render(&outcomes))?;
    Ok(overall(&outcomes))
}

fn outcomes(args: &DiffArgs, options: &Options) -> Result<Vec<CaseOutcome>> {
    let mut progress = Progress::new();
    if let (Some(reference), Some(candidate)) = (&args.reference, &args.candidate) {
        let (reference, candidate) = (Golden::open(reference)?, Golden::open(candidate)?);
        let mut on = |event: crate::diff::Event<'_>| progress.on(&event);
        let outcome = diff_dumps(&reference, &candidate, &Rules::default(), options, &mut on)?;
        return Ok(vec![outcome]);
    }
    let mut outcomes: Vec<CaseOutcome> = Vec::new();
    for mut case in cases(args)? {
        case.arithmetic = args.arithmetic.or(case.arithmetic);
        if args.tp.is_some() {
            case.arithmetic = Some(ArithmeticName::Megatron);
            case.tensor_parallel = args.tp;
        }
        let outcome = diff(&case, options, &mut |event| progress.on(&event))?;
        let failed = outcome.verdict() == Verdict::Fail;
        outcomes.push(outcome);
        if failed && options.fail_fast {
            break;
        }
    }
    Ok(outcomes)
}

fn cases(args: &DiffArgs) -> Result<Vec<Case>> {
    if let (Some(golden), Some(model)) = (&args.golden, &args.model) {
        let name = golden.file_name().unwrap_or(golden.as_os_str());
        return Ok(vec![Case {
            name: name.to_string_lossy().into_owned(),
            golden: golden.clone(),
            model: model.clone(),
            arithmetic: None,
            tensor_parallel: None,
            rules: Rules::default(),
        }]);
    }
    let paths = match args.cases.as_slice() {
        [] => all_cases(Path::new(CASES))?,
        named => named.to_vec(),
    };
    let cases = paths.iter().map(|path| Case::open(path));
    Ok(cases.collect::<Result<_, _>>()?)
}

fn all_cases(folder: &Path) -> Result<Vec<PathBuf>> {
    let none = |found: String| -> Error {
        BadInput::new(folder, "a folder of case files", found)
            .remedy("name a case file, or --golden and --model")
            .into()
    };
    let entries = folder.read_dir().map_err(|e| none(e.to_string()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(none("no .toml file".into()).into());
    }
    paths.sort();
    Ok(paths)
}
