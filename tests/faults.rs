//! Every call that changes what is on disk may fail, or be the last: what was there is there, nothing is half-written,
//! and the next run succeeds with the same bytes. The calls are counted by a preloaded library (tests/faults/fault.c);
//! some of them fail by default, all in `scripts/full_check.sh`.

use crate::common::cpp::is_required;
use crate::common::{goldens, is_full, raw_dump};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Files of a folder and below by their paths from there; folders with a slash at the end.
type Tree = BTreeMap<String, Vec<u8>>;

fn tree(folder: &Path) -> Tree {
    let mut all = Tree::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in next.read_dir().into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path
                .strip_prefix(folder)
                .expect("below")
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                all.insert(name + "/", Vec::new());
                folders.push(path);
            } else {
                all.insert(name, fs::read(&path).expect("a file"));
            }
        }
    }
    all
}

/// The library, compiled once; `None` where there is no compiler.
fn library() -> Option<&'static Path> {
    static LIBRARY: OnceLock<Option<(tempfile::TempDir, PathBuf)>> = OnceLock::new();
    let compiled = LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let library = folder.path().join("fault.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/fault.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let mut command = Command::new(&compiler);
        command.args([
            "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o",
        ]);
        match command.arg(&library).arg(source).arg("-ldl").output() {
            Ok(done) => {
                assert!(
                    done.status.success(),
                    "{}",
                    String::from_utf8_lossy(&done.stderr)
                );
                Some((folder, library))
            }
            Err(reason) => {
                assert!(!is_required("c++"), "{compiler}: {reason}");
                eprintln!("not run: {compiler}: {reason}");
                None
            }
        }
    });
    compiled.as_ref().map(|(_, library)| library.as_path())
}

/// Something that parity writes below a folder.
struct Work {
    /// The command, with OUT for the folder.
    command: Vec<String>,
    /// What is in the folder before.
    before: Tree,
    /// What has to be there at any moment: of any of these, all.
    kept: Vec<&'static str>,
}

impl Work {
    fn new(command: &str, inputs: &[(&str, &Path)]) -> Self {
        let words = command.split_whitespace().map(|word| {
            let input = inputs.iter().find(|(name, _)| *name == word);
            input.map_or(word.to_owned(), |(_, path)| path.display().to_string())
        });
        Self {
            command: words.collect(),
            before: Tree::new(),
            kept: Vec::new(),
        }
    }

    fn before(mut self, files: &[(&'static str, &str)], kept: &[&'static str]) -> Self {
        for (name, text) in files {
            self.before
                .insert((*name).to_owned(), text.as_bytes().to_vec());
        }
        self.kept = kept.to_vec();
        self
    }

    fn prepare(&self, out: &Path) {
        for (name, bytes) in &self.before {
            let path = out.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, bytes).expect("written");
        }
    }

    fn run(&self, out: &Path, fault: &[(&str, String)]) -> Output {
        let mut parity = Command::new(env!("CARGO_BIN_EXE_parity"));
        let words = self
            .command
            .iter()
            .map(|word| word.replace("OUT", &out.to_string_lossy()));
        parity.args(words).env("RAYON_NUM_THREADS", "1");
        if !fault.is_empty() {
            parity.env("LD_PRELOAD", library().expect("compiled"));
            parity.env("FAULT_UNDER", out);
            parity.envs(fault.iter().map(|(name, value)| (name, value)));
        }
        parity.output().expect("parity runs")
    }

    /// Lets calls fail and be the last, one at a time, and looks at what is there and at what the next run makes of it.
    fn survives(&self, goal: &str) {
        const EIO: i32 = 5;
        const ENOSPC: i32 = 28;
        let place = tempfile::tempdir().expect("a folder");
        let whole = place.path().join("whole");
        self.prepare(&whole);
        let log = place.path().join("log");
        let done = self.run(&whole, &[("FAULT_LOG", log.display().to_string())]);
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        let expected = tree(&whole);
        let calls = fs::read_to_string(&log).expect("a log");
        let calls: Vec<&str> = calls.lines().collect();
        assert!(calls.len() > 4, "{calls:?}");
        // Writes in the middle are alike, and so are files of an import.
        let is_sampled = |number: &usize| {
            let (first, last) = (*number <= 6, *number + 7 > calls.len());
            let every = if calls[number - 1] == "write" { 97 } else { 17 };
            first || last || number.is_multiple_of(every)
        };
        let numbers = (1..=calls.len()).filter(|number| is_full() || is_sampled(number));
        for number in numbers {
            let hows = ["kill".to_owned(), EIO.to_string(), ENOSPC.to_string()];
            for how in hows.iter().take(if is_full() { 3 } else { 1 + number % 2 }) {
                let context = format!(
                    "{} {number} of {} ({how}) of {:?}",
                    calls[number - 1],
                    calls.len(),
                    self.command
                );
                let out = place.path().join(format!("{number}-{how}"));
                self.prepare(&out);
                let fault = [("FAULT_AT", number.to_string()), ("FAULT_HOW", how.clone())];
                let done = self.run(&out, &fault);
                let said = String::from_utf8_lossy(&done.stderr).into_owned();
                if how == "kill" {
                    assert_eq!(done.status.signal(), Some(9), "{context}: {said}");
                } else {
                    // A fault that changes nothing may be passed over.
                    let code = done.status.code();
                    assert!(
                        code == Some(2) || code == Some(0) && tree(&out) == expected,
                        "{context}: {code:?} {said}"
                    );
                }
                self.check(&tree(&out), &expected, goal, &context);
                if done.status.success() {
                    continue;
                }
                let done = self.run(&out, &[]);
                let said = String::from_utf8_lossy(&done.stderr).into_owned();
                assert!(done.status.success(), "again after {context}: {said}");
                assert!(
                    tree(&out) == expected,
                    "again after {context}: {:?}",
                    tree(&out).keys()
                );
                fs::remove_dir_all(&out).expect("removed");
            }
        }
    }

    /// The goal is what it was, or what it is to be, and nothing that has to stay is gone.
    fn check(&self, found: &Tree, expected: &Tree, goal: &str, context: &str) {
        let of = |tree: &Tree| -> Tree {
            let below = tree.iter().filter(|(name, _)| name.starts_with(goal));
            // The record goes last.
            let files =
                below.filter(|(name, _)| !name.ends_with('/') && !name.ends_with(".parity-output"));
            files
                .map(|(name, bytes)| (name.clone(), bytes.clone()))
                .collect()
        };
        let (found, expected) = (of(found), of(expected));
        let before = of(&self.before);
        assert!(
            found == expected || found == before,
            "{context}: {:?}",
            found.keys()
        );
        for name in &self.kept {
            assert_eq!(found.get(*name), before.get(*name), "{context}: {name}");
        }
    }
}

fn model() -> PathBuf {
    goldens().join("megatron_core_llama/checkpoints/torch_bf16_tp1")
}

#[test]
fn a_conversion_survives_every_fault() {
    if library().is_some() {
        let command = "convert MODEL --max-shard-size 200KB --output OUT/new/model";
        Work::new(command, &[("MODEL", &model())]).survives("new/model/");
    }
}

#[test]
fn a_replacement_survives_every_fault() {
    if library().is_some() {
        let kept = ["model/tokenizer.json", "model/notes/of/mine.txt"];
        let before = [
            (kept[0], "{}"),
            (kept[1], "years of work"),
            ("model/config.json", "the one before"),
            ("model/model-00001-of-00009.safetensors", "weights before"),
        ];
        Work::new(
            "convert MODEL --force --output OUT/model",
            &[("MODEL", &model())],
        )
        .before(&before, &kept)
        .survives("model/");
    }
}

#[test]
fn an_import_survives_every_fault() {
    if library().is_some() {
        let dump = raw_dump(&goldens().join("bloom_fp32_tp1"));
        let command = "import DUMP --from megatron-deepspeed --output OUT/new/golden";
        Work::new(command, &[("DUMP", dump.path())]).survives("new/golden/");
    }
}

#[test]
fn a_report_survives_every_fault() {
    if library().is_some() {
        let two = goldens().join("transformers_llama3_fp32");
        Work::new(
            "diff TWO TWO --output json=OUT/report.json",
            &[("TWO", &two)],
        )
        .before(
            &[("report.json", "the report before"), ("other.txt", "mine")],
            &["other.txt"],
        )
        .survives("report.json");
    }
}
