//! `parity diff`.

use super::args::{CaseArgs, DiffArgs, ReportArgs};
use super::print::print;
use super::progress::Progress;
use crate::backend::AnyBackend;
use crate::case::{ArithmeticName, Case, CaseFile, Pattern, Rule, Rules};
use crate::compare::Tolerance;
use crate::diff::{CaseOutcome, Options, Verdict, diff_case, diff_paths};
use crate::dump::{Dump, NameMap, Pairs};
use crate::error::{BadInput, Error};
use crate::output::OutputFile;
use crate::report::{Detail, Format, overall};
use anyhow::Result;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Folder of the cases that are run when none is named.
const CASES: &str = "cases";

pub(super) fn run(args: &DiffArgs) -> Result<Verdict> {
    let options = Options {
        backend: AnyBackend::default(),
        modes: args.mode,
        stages: args.stages.clone(),
        confidence: args.cases.confidence,
        oracle: args.oracle,
        explain: args.explain,
        fail_fast: args.fail_fast,
        coverage: args.require_coverage,
    };
    let report = Report::open(&args.report, Detail::Stages)?;
    let outcomes = match dumps(args) {
        Some(dumps) => vec![of_dumps(args, dumps, &options)?],
        None => outcomes(&args.cases, options)?,
    };
    report.write(&outcomes)
}

/// The two dumps that are named, if it is dumps: by name, or as two paths of which none is a case file.
fn dumps(args: &DiffArgs) -> Option<[&Path; 2]> {
    let is_case = |path: &&PathBuf| path.extension().is_some_and(|ending| ending == "toml");
    match (
        &args.reference,
        &args.candidate,
        args.cases.files.as_slice(),
    ) {
        (Some(reference), Some(candidate), _) => Some([reference, candidate]),
        (_, _, [first, second]) if !is_case(&first) && !is_case(&second) => Some([first, second]),
        _ => None,
    }
}

fn of_dumps(args: &DiffArgs, dumps: [&Path; 2], options: &Options) -> Result<CaseOutcome> {
    if args.oracle || args.explain {
        let asked = if args.oracle { "--oracle" } else { "--explain" };
        let fault = BadInput::new(dumps[0], "a golden and a model", "two dumps");
        return Err(Error::from(fault.at(asked).remedy(format!("leave {asked} out"))).into());
    }
    let mut notes = Vec::new();
    let map = match &args.map {
        None => None,
        Some(path) if path.exists() => Some(NameMap::open(path)?),
        Some(path) => {
            let (reference, candidate) = (Dump::open(dumps[0])?, Dump::open(dumps[1])?);
            let pairs = Pairs::new(&reference, &candidate, &NameMap::default())?;
            let map = NameMap::proposed(&pairs)?;
            if map.is_empty() && pairs.pairs.is_empty() {
                let expected =
                    "tensors of one shape, of the same layers, with values that are near";
                let fault = BadInput::new(path, expected, "none: no map can be proposed");
                let remedy =
                    "write one by hand: a JSON object of the reference's names and the candidate's";
                return Err(Error::from(fault.remedy(remedy)).into());
            }
            let mut file = OutputFile::create(path)?;
            file.write_all(map.to_json().as_bytes())?;
            file.commit()?;
            notes.push(format!(
                "{} pairs of names proposed in {}, by shapes and values: check them",
                map.len(),
                path.display()
            ));
            Some(map)
        }
    };
    let mut progress = Progress::new();
    let mut on = |event: crate::diff::Event<'_>| progress.on(&event);
    let rules = rules(&args.cases).unwrap_or_default();
    let mut outcome = diff_paths(dumps, map.as_ref(), &rules, options, &mut on)?;
    outcome.notes.extend(notes);
    Ok(outcome)
}

/// Runs the cases that arguments name.
pub(super) fn outcomes(args: &CaseArgs, options: Options) -> Result<Vec<CaseOutcome>> {
    // What is wrong with the arguments shows before any work is done.
    let options = Options {
        backend: args.device.open()?,
        ..options
    };
    let mut progress = Progress::new();
    let mut outcomes: Vec<CaseOutcome> = Vec::new();
    for case in adjusted_cases(args)? {
        let outcome = diff_case(&case, &options, &mut |event| progress.on(&event))?;
        let failed = outcome.verdict() == Verdict::Fail;
        outcomes.push(outcome);
        if failed && options.fail_fast {
            break;
        }
    }
    Ok(outcomes)
}

/// Where a report goes: files that are opened before any work is done, and standard output.
pub(super) struct Report {
    format: Format,
    detail: Detail,
    files: Vec<(Format, OutputFile)>,
}

impl Report {
    pub(super) fn open(args: &ReportArgs, detail: Detail) -> Result<Self> {
        let mut files = Vec::new();
        for output in &args.output {
            files.push((output.format, OutputFile::create(&output.path)?));
        }
        Ok(Self {
            format: args.format,
            detail,
            files,
        })
    }

    pub(super) fn write(self, outcomes: &[CaseOutcome]) -> Result<Verdict> {
        for (format, mut file) in self.files {
            let text = format.render(outcomes, self.detail);
            let text = anstream::adapter::strip_str(&text).to_string();
            file.write_all(text.as_bytes())?;
            file.commit()?;
        }
        print(&self.format.render(outcomes, self.detail))?;
        Ok(overall(outcomes))
    }
}

/// The tolerances named on the command line, in place of all others.
fn rules(args: &CaseArgs) -> Option<Rules> {
    let rule = Rule {
        stages: Pattern::all(),
        device: None,
        mode: None,
        tolerance: Tolerance {
            bounds: args.tolerance.clone(),
        },
        origin: "--tolerance".into(),
    };
    let rules = vec![rule];
    (!args.tolerance.is_empty()).then_some(Rules { rules })
}

/// The cases that arguments name, with what else these say of them.
pub(super) fn adjusted_cases(args: &CaseArgs) -> Result<Vec<CaseFile>> {
    let mut cases = cases(args)?;
    for case in &mut cases {
        if let CaseFile::Model(case) = case {
            case.arithmetic = args.arithmetic.or(case.arithmetic);
            case.dtype = args.dtype.or(case.dtype);
            if args.tp.is_some() {
                case.arithmetic = Some(ArithmeticName::Megatron);
                case.tensor_parallel = args.tp;
            }
        }
        if let Some(rules) = rules(args) {
            *case.rules_mut() = rules;
        }
    }
    Ok(cases)
}

fn cases(args: &CaseArgs) -> Result<Vec<CaseFile>> {
    if let (Some(golden), Some(model)) = (&args.golden, &args.model) {
        let name = golden.file_name().unwrap_or(golden.as_os_str());
        return Ok(vec![CaseFile::Model(Case {
            name: name.to_string_lossy().into_owned(),
            golden: golden.clone(),
            model: model.clone(),
            arithmetic: None,
            tensor_parallel: None,
            dtype: None,
            rules: Rules::default(),
        })]);
    }
    let paths = match args.files.as_slice() {
        [] => all_cases(Path::new(CASES))?,
        named => named.to_vec(),
    };
    let cases = paths.iter().map(|path| CaseFile::open(path));
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
