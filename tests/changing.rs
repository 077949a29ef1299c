//! Files that change while they are read: an error, never a verdict, a signal or a mixture.

use parity::tensor::{Tensor, npy};
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// An array that takes a while to look at.
fn large(path: &Path) {
    let small = Tensor::from_vec(&[1 << 23], vec![0.0_f32; 1 << 23]).expect("as many");
    npy::write(path, &small).expect("written");
}

/// A comparison of two such arrays, in folders, of which the second is looked at last.
fn diff(folder: &Path) -> Child {
    let mut parity = Command::new(env!("CARGO_BIN_EXE_parity"));
    let parity = parity
        .arg("diff")
        .args([folder.join("a"), folder.join("b")]);
    let parity = parity.stdout(Stdio::piped()).stderr(Stdio::piped());
    parity.spawn().expect("parity runs")
}

fn two(folder: &Path) -> PathBuf {
    let [first, second] = ["a", "b"].map(|side| folder.join(side).join("large.npy"));
    for path in [&first, &second] {
        fs::create_dir(path.parent().expect("a folder")).expect("created");
        large(path);
    }
    second
}

/// Waits until the program has mapped the file.
fn mapped(child: &Child, path: &Path) {
    let (maps, name) = (format!("/proc/{}/maps", child.id()), path.to_string_lossy());
    let began = Instant::now();
    while !fs::read_to_string(&maps).is_ok_and(|maps| maps.contains(&*name)) {
        assert!(began.elapsed() < Duration::from_secs(20), "never mapped");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn refused(done: &Output, path: &Path, words: &str) {
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{:?}: {said}", done.status);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains(words) && said.contains(&*path.to_string_lossy()),
        "{said}"
    );
    assert!(done.stdout.is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_cut_short_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = two(folder.path());
    let child = diff(folder.path());
    mapped(&child, &path);
    OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|file| file.set_len(4096))
        .expect("cut short");
    refused(
        &child.wait_with_output().expect("it ends"),
        &path,
        "found it cut short",
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_written_to_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = two(folder.path());
    let child = diff(folder.path());
    mapped(&child, &path);
    let mut file = OpenOptions::new().write(true).open(&path).expect("opened");
    file.seek(SeekFrom::Start(4096))
        .and_then(|_| file.write_all(&[1; 64]))
        .expect("written");
    file.sync_all().expect("synced");
    refused(
        &child.wait_with_output().expect("it ends"),
        &path,
        "one that changed",
    );
    // As is one that another takes the place of.
    let child = diff(folder.path());
    mapped(&child, &path);
    let other = folder.path().join("other");
    File::create(&other).expect("a file");
    fs::rename(&other, &path).expect("renamed");
    refused(
        &child.wait_with_output().expect("it ends"),
        &path,
        "one that changed",
    );
}

/// What a run writes itself and moves into place is no file that somebody changed.
#[test]
fn an_import_of_large_arrays_is_done() {
    let folder = tempfile::tempdir().expect("a folder");
    let dump = folder.path().join("dump");
    fs::create_dir(&dump).expect("created");
    let config = r#"{"model_type": "llama", "hidden_size": 524288, "num_attention_heads": 4096,
        "num_hidden_layers": 1, "dtype": "fp32"}"#;
    let tokens = Tensor::from_vec(&[1, 2], vec![1_i64, 2]).expect("as many");
    npy::write(&dump.join("tokens.npy"), &tokens).expect("written");
    let wide = Tensor::from_vec(&[1, 2, 1 << 19], vec![1.5_f32; 1 << 20]).expect("as many");
    npy::write(&dump.join("000.embed_tokens.output.npy"), &wide).expect("written");
    let config: serde_json::Value = serde_json::from_str(config).expect("JSON");
    let described = serde_json::json!({
        "parity_dump": 1, "framework": "transformers", "dtype": "fp32", "config": config,
    });
    fs::write(dump.join("dump.json"), described.to_string()).expect("written");
    let mut parity = Command::new(env!("CARGO_BIN_EXE_parity"));
    let parity = parity.arg("import").arg(&dump).arg("--output");
    let done = parity
        .arg(folder.path().join("golden"))
        .output()
        .expect("parity runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(0), "{said}");
}
