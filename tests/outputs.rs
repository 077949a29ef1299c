//! What is in the way of an output is somebody's: it is never removed, followed or waited for.

use crate::common::goldens;
use parity::checkpoint::megatron::MegatronCheckpoint;
use parity::convert::{ByteSize, Converted, Event, Options, convert};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Runs parity in a folder, and no longer than it needs.
fn parity(folder: &Path, command: &str) -> Output {
    let goldens = goldens();
    let words = command.split_whitespace();
    let words = words.map(|word| word.replace("GOLDENS", &goldens.to_string_lossy()));
    let mut parity = Command::new(env!("CARGO_BIN_EXE_parity"));
    let began = Instant::now();
    let done = parity
        .current_dir(folder)
        .args(words)
        .output()
        .expect("parity runs");
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{command} waited"
    );
    done
}

const CONVERT: &str =
    "convert GOLDENS/megatron_core_llama/checkpoints/torch_bf16_tp1 --output model";

/// A command that is refused with these words, and what is in the folder is as it was.
fn refused(folder: &Path, command: &str, words: &str) {
    let before = listing(folder);
    let done = parity(folder, command);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(2), "{command}: {said}");
    assert!(
        said.contains(words) && said.lines().count() == 1,
        "{command}: {said}"
    );
    assert_eq!(listing(folder), before, "{command}");
}

/// Everything below a folder, links as what they name.
fn listing(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in next.read_dir().expect("a folder").flatten() {
            let path = entry.path();
            let kind = path.symlink_metadata().expect("an entry");
            let what = if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).expect("a link").display())
            } else if kind.is_dir() {
                folders.push(path.clone());
                "/".to_owned()
            } else if kind.is_file() {
                String::from_utf8_lossy(&fs::read(&path).expect("a file")).into_owned()
            } else {
                "special".to_owned()
            };
            all.push(format!("{} {what}", path.display()));
        }
    }
    all.sort();
    all
}

fn fifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().expect("mkfifo");
    assert!(made.success());
}

#[test]
fn what_is_beside_a_conversion_is_left_alone() {
    type Setup = fn(&Path);
    let setups: [(&str, Setup, &str); 7] = [
        (
            CONVERT,
            |at| {
                fs::create_dir(at.join("model.incomplete")).expect("made");
                fs::write(at.join("model.incomplete/thesis.txt"), "years of work")
                    .expect("written");
            },
            "thesis.txt: expected nothing but what parity made",
        ),
        (
            CONVERT,
            |at| {
                // Not a record of ours, although it is called so.
                fs::create_dir(at.join("model.incomplete")).expect("made");
                fs::write(at.join("model.incomplete/.parity-output"), "mine\n").expect("written");
            },
            "expected a record of what parity made",
        ),
        (
            CONVERT,
            |at| {
                fs::create_dir(at.join("elsewhere")).expect("made");
                fs::write(at.join("elsewhere/mine.txt"), "mine").expect("written");
                symlink("elsewhere", at.join("model.incomplete")).expect("linked");
            },
            "found a link",
        ),
        (
            CONVERT,
            |at| {
                fs::write(at.join("mine.txt"), "mine").expect("written");
                fs::create_dir(at.join("model.incomplete")).expect("made");
                symlink("../mine.txt", at.join("model.incomplete/.parity-output")).expect("linked");
            },
            "cannot open",
        ),
        (
            CONVERT,
            |at| {
                fs::create_dir(at.join("model.incomplete")).expect("made");
                fifo(&at.join("model.incomplete/.parity-output"));
            },
            "expected a record of what parity made",
        ),
        (
            CONVERT,
            |at| fifo(&at.join("model.incomplete")),
            "found a file",
        ),
        (
            "convert GOLDENS/megatron_core_llama/checkpoints/torch_bf16_tp1 --force --output model",
            |at| {
                fs::create_dir_all(at.join("model/config.json/deep")).expect("made");
                fs::write(at.join("model/model.safetensors"), "the one before").expect("written");
            },
            "config.json: expected a file that is replaced, or nothing, found a folder; move it away",
        ),
    ];
    for (command, setup, words) in setups {
        let folder = tempfile::tempdir().expect("a folder");
        setup(folder.path());
        refused(folder.path(), command, words);
    }
}

/// A file of the right name is no file of an unfinished run if that did not write its name down.
#[test]
fn links_in_an_unfinished_folder_are_not_written_through() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    fs::write(at.join("mine.txt"), "mine").expect("written");
    fs::create_dir(at.join("model.incomplete")).expect("made");
    symlink("../mine.txt", at.join("model.incomplete/model.safetensors")).expect("linked");
    refused(
        at,
        CONVERT,
        "model.safetensors: expected nothing but what parity made",
    );
}

#[test]
fn reports_are_written_beside_and_never_through() {
    let two = "diff GOLDENS/transformers_llama3_fp32 GOLDENS/transformers_llama3_fp32 --output json=report.json";
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    fs::write(at.join("mine.txt"), "mine").expect("written");
    symlink("mine.txt", at.join(".report.json.parity-incomplete")).expect("linked");
    refused(at, two, "expected a file to write, or nothing");
    fs::remove_file(at.join(".report.json.parity-incomplete")).expect("removed");
    fifo(&at.join("report.json"));
    refused(at, two, "a pipe that somebody reads");
    fs::remove_file(at.join("report.json")).expect("removed");
    // A link is replaced, not what it names.
    symlink("mine.txt", at.join("report.json")).expect("linked");
    assert_eq!(parity(at, two).status.code(), Some(0));
    assert_eq!(
        fs::read_to_string(at.join("mine.txt")).expect("a file"),
        "mine"
    );
    assert!(
        at.join("report.json")
            .symlink_metadata()
            .expect("a report")
            .is_file()
    );
}

#[test]
fn what_fails_leaves_no_folder_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("dump")).expect("made");
    fs::write(folder.path().join("dump/config.json"), "{}").expect("written");
    refused(
        folder.path(),
        "import dump --from megatron-core --output new/parents/golden",
        "",
    );
    // Nor does a conversion that does not fit the type.
    let done = parity(folder.path(), "convert dump --output new/parents/model");
    assert_eq!(done.status.code(), Some(2));
    assert!(!folder.path().join("new").exists());
}

/// A second run waits for none, and a folder that is linked is the folder.
#[test]
fn runs_keep_out_of_each_others_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    fs::create_dir(at.join("model.incomplete")).expect("made");
    let held = File::open(at.join("model.incomplete")).expect("opened");
    held.lock().expect("locked");
    refused(at, CONVERT, "no other run that writes the same folder");
    drop(held);
    assert_eq!(parity(at, CONVERT).status.code(), Some(0));
    fs::rename(at.join("model"), at.join("real")).expect("renamed");
    symlink("real", at.join("model")).expect("linked");
    let done = parity(at, &format!("{CONVERT} --force"));
    assert_eq!(
        done.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(
        at.join("model")
            .symlink_metadata()
            .expect("a link")
            .is_symlink()
    );
    assert_eq!(at.join("real").read_dir().expect("a folder").count(), 2);
}

/// What appears where the goal has to be stays, and what is written is kept for the next run.
#[test]
fn a_goal_that_appears_meanwhile_is_not_overwritten() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = goldens().join("megatron_core_llama/checkpoints/torch_bf16_tp1");
    let checkpoint = MegatronCheckpoint::open(&checkpoint, &[]).expect("a checkpoint");
    let model = Converted::new(checkpoint, None, None).expect("a model");
    let options = Options {
        dtype: None,
        max_shard_size: ByteSize(1 << 30),
        force: false,
        verify: true,
    };
    let output = folder.path().join("model");
    let appears: [fn(&Path); 2] = [
        |goal| {
            fs::create_dir(goal).expect("made");
            fs::write(goal.join("mine.txt"), "mine").expect("written");
        },
        |goal| fs::write(goal, "mine").expect("written"),
    ];
    for appear in appears {
        let run = convert(&model, &output, &options, &|event| {
            if let Event::Verifying { .. } = event {
                appear(&output);
            }
        });
        let error = run.expect_err("refused").to_string();
        assert!(error.contains("appeared while it was written"), "{error}");
        let mine = if output.is_dir() {
            output.join("mine.txt")
        } else {
            output.clone()
        };
        assert_eq!(fs::read_to_string(mine).expect("a file"), "mine");
        if output.is_dir() {
            fs::remove_dir_all(&output).expect("removed");
        } else {
            fs::remove_file(&output).expect("removed");
        }
    }
    let report = convert(&model, &output, &options, &|_| {}).expect("converted");
    assert_eq!(report.resumed, report.files);
    assert_eq!(folder.path().read_dir().expect("a folder").count(), 1);
}
