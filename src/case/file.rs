//! Case files: TOML.
//!
//! ```toml
//! golden = "../goldens/bloom_fp32_tp1"    # paths are relative to the case file
//! model = "../goldens/bloom_fp32_tp1/hf"
//! arithmetic = "transformers"             # or "megatron"; as the model's format has it if absent
//! tensor_parallel = 2                     # ranks of Megatron's arithmetic; as the model or the
//!                                         # golden has it if absent
//! dtype = "bf16"                          # weights cast on loading; as they are if absent
//!
//! [[tolerance]]                           # any number; every bound in one must hold
//! stages = "h.*.mlp.*"
//! device = "cpu"                          # every device if absent
//! mode = "isolated"                       # or "chained"; both if absent
//! rel = 1e-6                              # bounds: exact, abs, rel, close, ulp, stat, stat_rms, and, where
//!                                         # stages are isolated, rounding = true and flips
//! close = { atol = 1e-5, rtol = 1e-4 }
//! ```
//!
//! Of two dumps of any model, `reference` and `candidate` take the place of `golden` and `model`, with a
//! `map` of names where these differ.

use super::case::{ArithmeticName, Case};
use super::dumps::DumpCase;
use super::rules::{Rule, Rules};
use super::{Mode, Pattern};
use crate::backend::Device;
use crate::compare::{Bound, Close, Tolerance};
use crate::error::{BadInput, Error, Result};
use crate::tensor::{DType, MappedFile};
use serde::Deserialize;
use std::num::NonZeroUsize;
use std::path::Path;
use toml::Spanned;

/// Largest case file believed.
const MAX_BYTES: usize = 1 << 20;

/// The most tolerances in one: each is tried on every stage.
const MOST_TOLERANCES: usize = 1000;

/// Every key of a case; for "did you mean".
const KEYS: &[&str] = &[
    "golden",
    "model",
    "reference",
    "candidate",
    "map",
    "arithmetic",
    "tensor_parallel",
    "dtype",
    "tolerance",
];

/// Every key of a tolerance.
const TOLERANCE_KEYS: &[&str] = &[
    "stages",
    "device",
    "mode",
    "exact",
    "abs",
    "rel",
    "close",
    "ulp",
    "stat",
    "stat_rms",
    "stat_rounding",
    "rounding",
    "flips",
    "atol",
    "rtol",
];

/// What a case file names.
#[derive(Clone, Debug)]
pub enum CaseFile {
    /// A model and a golden.
    Model(Case),
    /// Two dumps.
    Dumps(DumpCase),
}

#[derive(Deserialize)]
struct Keys {
    golden: Option<String>,
    model: Option<String>,
    reference: Option<String>,
    candidate: Option<String>,
    map: Option<String>,
    arithmetic: Option<ArithmeticName>,
    tensor_parallel: Option<NonZeroUsize>,
    dtype: Option<DType>,
    #[serde(default)]
    tolerance: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    stages: String,
    device: Option<Device>,
    mode: Option<Mode>,
    exact: Option<bool>,
    abs: Option<f64>,
    rel: Option<f64>,
    close: Option<CloseEntry>,
    ulp: Option<u64>,
    stat: Option<f64>,
    stat_rms: Option<f64>,
    stat_rounding: Option<bool>,
    rounding: Option<bool>,
    flips: Option<f64>,
}

#[derive(Deserialize)]
struct CloseEntry {
    atol: f64,
    rtol: f64,
}

impl CaseFile {
    /// Reads a case file.
    ///
    /// # Errors
    /// As [`parse`], and if the file cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let file = MappedFile::open(path)?;
        parse(path, &file)
    }

    /// The case of a model.
    ///
    /// # Errors
    /// If it is one of two dumps, where no model could be run.
    pub fn of_model(self) -> Result<Case> {
        match self {
            Self::Model(case) => Ok(case),
            Self::Dumps(case) => {
                let expected = "a golden and a model: what is asked for runs one";
                let fault = BadInput::new(case.name, expected, "two dumps");
                Err(fault.remedy("compare them with parity diff").into())
            }
        }
    }

    /// Its tolerances.
    pub fn rules_mut(&mut self) -> &mut Rules {
        match self {
            Self::Model(case) => &mut case.rules,
            Self::Dumps(case) => &mut case.rules,
        }
    }
}

impl Case {
    /// Reads a case file that names a model and a golden.
    ///
    /// # Errors
    /// As [`parse`], and if the file cannot be read or names two dumps.
    pub fn open(path: &Path) -> Result<Self> {
        CaseFile::open(path)?.of_model()
    }
}

/// Reads a case from the bytes of its file; `path` is what its paths are relative to.
///
/// # Errors
/// [`BadInput`] with line and column if it is no TOML, a key is missing, wrongly typed or unknown
/// (with the nearest known one), a pattern is malformed, or a bound is no number that can hold.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<CaseFile> {
    let fault = |expected: &str, found: String| BadInput::new(path, expected, found);
    if bytes.len() > MAX_BYTES {
        let expected = format!("a case file of at most {MAX_BYTES} bytes");
        return Err(fault(&expected, format!("{} bytes", bytes.len())).into());
    }
    let text = std::str::from_utf8(bytes).map_err(|e| fault("UTF-8 text", e.to_string()))?;
    let malformed = |e: toml::de::Error| -> Error {
        let fault = fault("a case file", e.message().to_owned());
        match e.span() {
            Some(span) => fault.at(line(text, span.start)).into(),
            None => fault.into(),
        }
    };
    let mut unknown = Vec::new();
    let parsed = toml::Deserializer::parse(text).map_err(malformed)?;
    let file: Keys = serde_ignored::deserialize(parsed, |key| unknown.push(readable(&key)))
        .map_err(malformed)?;
    if let Some(key) = unknown.first() {
        let name = key.rsplit('.').next().unwrap_or(key);
        let keys = match key.split('.').next() {
            Some("tolerance") if name != key => TOLERANCE_KEYS,
            _ => KEYS,
        };
        let nearest = keys
            .iter()
            .max_by(|a, b| similarity(name, a).total_cmp(&similarity(name, b)))
            .filter(|known| similarity(name, known) > 0.6);
        let fault = fault("keys that case files have", format!("`{key}`"));
        return Err(match nearest {
            Some(nearest) => fault.remedy(format!("did you mean `{nearest}`?")).into(),
            None => fault
                .remedy(format!("the keys are {}", keys.join(", ")))
                .into(),
        });
    }
    if file.tolerance.len() > MOST_TOLERANCES {
        let expected = format!("at most {MOST_TOLERANCES} tolerances");
        return Err(fault(&expected, file.tolerance.len().to_string()).into());
    }
    let rules = file
        .tolerance
        .into_iter()
        .map(|entry| {
            let line = line(text, entry.span().start);
            entry.into_inner().rule(path, line)
        })
        .collect::<Result<_>>()?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let name = path.file_stem().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let rules = Rules { rules };
    let is_run =
        file.arithmetic.is_some() || file.tensor_parallel.is_some() || file.dtype.is_some();
    match (file.golden, file.model, file.reference, file.candidate) {
        (Some(golden), Some(model), None, None) if file.map.is_none() => {
            Ok(CaseFile::Model(Case {
                name,
                golden: folder.join(golden),
                model: folder.join(model),
                arithmetic: file.arithmetic,
                tensor_parallel: file.tensor_parallel,
                dtype: file.dtype,
                rules,
            }))
        }
        (None, None, Some(reference), Some(candidate)) if !is_run => {
            Ok(CaseFile::Dumps(DumpCase {
                name,
                reference: folder.join(reference),
                candidate: folder.join(candidate),
                map: file.map.map(|map| folder.join(map)),
                rules,
            }))
        }
        (golden, model, reference, candidate) => {
            let keys = [
                ("golden", golden.is_some()),
                ("model", model.is_some()),
                ("reference", reference.is_some()),
                ("candidate", candidate.is_some()),
                ("map", file.map.is_some()),
                ("arithmetic, tensor_parallel or dtype", is_run),
            ];
            let found = keys.iter().filter(|(_, is_there)| *is_there);
            let found: Vec<&str> = found.map(|(key, _)| *key).collect();
            let expected =
                "`golden` and `model`, or of two dumps `reference` and `candidate` (and `map`)";
            let found = if found.is_empty() {
                "neither".into()
            } else {
                found.join(", ")
            };
            Err(fault(expected, found).into())
        }
    }
}

impl Entry {
    fn rule(self, path: &Path, line: String) -> Result<Rule> {
        let fault = |expected: &str, found: String| -> Error {
            BadInput::new(path, expected, found).at(line.clone()).into()
        };
        let stages: Pattern = self
            .stages
            .parse()
            .map_err(|e| fault("a stage pattern", e))?;
        if self.mode == Some(Mode::Recorded) {
            return Err(fault(
                "mode \"isolated\" or \"chained\"",
                "\"recorded\"".into(),
            ));
        }
        let close = self
            .close
            .map(|CloseEntry { atol, rtol }| Close { atol, rtol });
        let bounds: Vec<Bound> = [
            self.exact.filter(|exact| *exact).map(|_| Bound::Exact),
            self.abs.map(Bound::Abs),
            self.rel.map(Bound::Rel),
            close.map(Bound::Close),
            self.ulp.map(Bound::Ulp),
            self.stat.map(Bound::Stat),
            self.stat_rms.map(Bound::StatRms),
            self.stat_rounding
                .filter(|on| *on)
                .map(|_| Bound::StatRounding),
            self.rounding.filter(|on| *on).map(|_| Bound::Rounding),
            self.flips.map(Bound::Flips),
        ]
        .into_iter()
        .flatten()
        .collect();
        if bounds.is_empty() {
            return Err(fault(
                "at least one bound: exact, abs, rel, close, ulp, stat, stat_rms, stat_rounding, rounding or flips",
                "none".into(),
            ));
        }
        let figures = bounds.iter().flat_map(|bound| match bound {
            Bound::Abs(x)
            | Bound::Rel(x)
            | Bound::Stat(x)
            | Bound::StatRms(x)
            | Bound::Flips(x) => vec![*x],
            Bound::Close(close) => vec![close.atol, close.rtol],
            _ => Vec::new(),
        });
        if let Some(bad) = figures.into_iter().find(|x| !(x.is_finite() && *x >= 0.0)) {
            return Err(fault(
                "bounds that are finite and not negative",
                bad.to_string(),
            ));
        }
        let chance = self.flips.filter(|least| *least <= 0.0 || *least >= 1.0);
        if let Some(least) = chance {
            let expected = "flips between 0 and 1, the least probability of so many mismatches";
            return Err(fault(expected, least.to_string()));
        }
        let tolerance = Tolerance { bounds };
        if self.mode == Some(Mode::Chained) && tolerance.needs_budget() {
            let expected =
                "rounding, stat_rounding and flips in mode \"isolated\", where inputs are the same";
            return Err(fault(expected, "\"chained\"".into()));
        }
        Ok(Rule {
            stages,
            device: self.device,
            mode: self.mode,
            tolerance,
            origin: format!("{}:{}", path.display(), line.trim_start_matches("line ")),
        })
    }
}

/// A key's path without the wrappers that serde puts into it.
fn readable(key: &serde_ignored::Path<'_>) -> String {
    let key = key.to_string();
    let parts = key
        .split('.')
        .filter(|part| !part.starts_with('$') && *part != "?");
    parts.collect::<Vec<_>>().join(".")
}

fn line(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    format!("line {}", before.matches('\n').count() + 1)
}

fn similarity(a: &str, b: &str) -> f64 {
    strsim::jaro_winkler(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(text: &str) -> Result<Case> {
        parse(Path::new("cases/x.toml"), text.as_bytes())?.of_model()
    }

    fn error(text: &str) -> String {
        let paths = "golden = \"g\"\nmodel = \"m\"\n";
        case(&format!("{paths}{text}")).unwrap_err().to_string()
    }

    #[test]
    fn a_case_names_its_folders_relative_to_itself() {
        let case = case("golden = \"../g\"\nmodel = \"/m\"\n[[tolerance]]\nstages = \"h.*\"\nrel = 1e-6\nulp = 2\n").unwrap();
        assert_eq!(case.name, "x");
        assert_eq!(case.golden, Path::new("cases/../g"));
        assert_eq!(case.model, Path::new("/m"));
        assert_eq!(case.rules.rules[0].tolerance.to_string(), "rel 1e-6, ulp 2");
        assert_eq!(case.rules.rules[0].origin, "cases/x.toml:3");
    }

    #[test]
    fn faults_are_placed_and_the_nearest_key_is_named() {
        insta::assert_snapshot!(error("arithmetik = \"megatron\""), @"cases/x.toml: expected keys that case files have, found `arithmetik`; did you mean `arithmetic`?");
        insta::assert_snapshot!(error("[[tolerance]]\nstage = \"h\"\nstages = \"h\"\nrel = 1"), @"cases/x.toml: expected keys that case files have, found `tolerance.0.stage`; did you mean `stages`?");
        insta::assert_snapshot!(error("[[tolerance]]\nstages = \"h[\"\nrel = 1.0"), @"cases/x.toml: line 3: expected a stage pattern, found error parsing glob 'h[': unclosed character class; missing ']'");
        insta::assert_snapshot!(error("[[tolerance]]\nstages = \"h\""), @"cases/x.toml: line 3: expected at least one bound: exact, abs, rel, close, ulp, stat, stat_rms, stat_rounding, rounding or flips, found none");
        insta::assert_snapshot!(error("[[tolerance]]\nstages = \"h\"\nrel = -1.0"), @"cases/x.toml: line 3: expected bounds that are finite and not negative, found -1");
        insta::assert_snapshot!(error("[[tolerance]]\nstages = \"h\"\nmode = \"chained\"\nrounding = true"), @r#"cases/x.toml: line 3: expected rounding, stat_rounding and flips in mode "isolated", where inputs are the same, found "chained""#);
        for least in ["0.0", "1.0", "2.0"] {
            let text = format!("[[tolerance]]\nstages = \"h\"\nflips = {least}");
            assert!(error(&text).contains("flips between 0 and 1"), "{least}");
        }
        insta::assert_snapshot!(error("[[tolerance]]\nstages = \"h\"\nrel = nan"), @"cases/x.toml: line 3: expected bounds that are finite and not negative, found NaN");
        insta::assert_snapshot!(error("[[tolerance]]\nstages = \"h\"\nrel = \"much\""), @r#"cases/x.toml: line 5: expected a case file, found invalid type: string "much", expected f64"#);
        insta::assert_snapshot!(error("arithmetic = \"jax\""), @"cases/x.toml: line 3: expected a case file, found unknown variant `jax`, expected `transformers` or `megatron`");
        insta::assert_snapshot!(error("= 1"), @"cases/x.toml: line 3: expected a case file, found unquoted keys cannot be empty, expected letters, numbers, `-`, `_`");
        insta::assert_snapshot!(case("model = \"m\"").unwrap_err().to_string(), @"cases/x.toml: expected `golden` and `model`, or of two dumps `reference` and `candidate` (and `map`), found model");
    }

    #[test]
    fn every_key_is_known_to_the_parser() {
        // A key of the list that the parser did not know would be reported as unknown.
        let text = "golden = \"g\"\nmodel = \"m\"\narithmetic = \"megatron\"\n\
                    tensor_parallel = 2\ndtype = \"bf16\"\n[[tolerance]]\nstages = \"h\"\n\
                    device = \"cpu\"\nmode = \"isolated\"\nexact = true\nabs = 1.0\nrel = 1.0\nulp = 1\nstat = 1.0\n\
                    stat_rms = 1.0\nstat_rounding = true\nrounding = true\nflips = 1e-6\nclose = { atol = 1.0, rtol = 1.0 }\n";
        assert_eq!(
            case(text).unwrap().rules.rules[0].tolerance.bounds.len(),
            10
        );
        let of_dumps = "reference = \"r\"\ncandidate = \"c\"\nmap = \"m\"\n";
        assert!(matches!(
            parse(Path::new("cases/x.toml"), of_dumps.as_bytes()),
            Ok(CaseFile::Dumps(_))
        ));
        assert!(
            KEYS.iter()
                .chain(TOLERANCE_KEYS)
                .all(|key| text.contains(key) || of_dumps.contains(key))
        );
    }
}
