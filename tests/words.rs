//! Names from files, wherever they are printed, are words on a line: no line, cell, colour or element of their own.

use crate::common::{Copy, goldens};
use parity::diff::{CaseOutcome, Options, diff_paths};
use parity::report::{Detail, Format};
use parity::tensor::{Tensor, npy};
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What a name must not do.
const FORGED: &str = "x\npass dumps: forged";

fn dump(folder: &Path, name: &str, value: f32) {
    fs::create_dir_all(folder).expect("a folder");
    let tensor = Tensor::from_vec(&[2, 2], vec![value; 4]).expect("four");
    npy::write(&folder.join(format!("{name}.npy")), &tensor).expect("written");
}

fn compared(name: &str) -> CaseOutcome {
    let folder = tempfile::tempdir().expect("a folder");
    let [a, b] = ["a", "b"].map(|side| folder.path().join(side));
    dump(&a, name, 1.0);
    dump(&b, name, 2.0);
    dump(&b, &format!("{name}.other"), 2.0);
    let (rules, options) = (parity::case::Rules::default(), Options::default());
    diff_paths([&a, &b], None, &rules, &options, &mut |_| {}).expect("compared")
}

#[test]
fn a_stage_cannot_forge_a_line() {
    let outcome = compared(FORGED);
    let text = Format::Terminal.render(std::slice::from_ref(&outcome), Detail::Stages);
    assert!(
        !text
            .lines()
            .any(|line| line.contains("pass dumps") && !line.contains("x\\n")),
        "{text}"
    );
    let lines = |format: Format, outcome: &CaseOutcome| {
        format
            .render(std::slice::from_ref(outcome), Detail::Stages)
            .lines()
            .count()
    };
    let plain = compared("x");
    for format in [Format::Terminal, Format::Markdown] {
        assert_eq!(lines(format, &outcome), lines(format, &plain));
    }
}

#[test]
fn a_name_is_no_markdown() {
    let outcome = compared("<img src=x onerror=alert(1)> ` | [a](b:c) <details>");
    let text = Format::Markdown.render(std::slice::from_ref(&outcome), Detail::Stages);
    let named: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("onerror"))
        .collect();
    assert!(named.len() > 2, "{text}");
    for line in named {
        // In code, or escaped; a cell ends where ours do.
        let outside: String = line.split('`').step_by(2).collect();
        assert!(
            !outside.contains(['<', '>']) && !outside.contains("](b"),
            "{line}"
        );
        assert!(!line.replace("\\|", "").contains("` | \\["), "{line}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever a tensor is called, as many lines are printed, and none with a control character of its own.
    #[test]
    fn any_name_is_one_word(name in "[^/\\x00]{1,60}") {
        prop_assume!(name != "." && name != ".." && name.len() < 200);
        let outcome = compared(&name);
        let plain = compared("x");
        for format in [Format::Terminal, Format::Markdown] {
            let [text, other] = [&outcome, &plain]
                .map(|outcome| format.render(std::slice::from_ref(outcome), Detail::Stages));
            prop_assert_eq!(text.lines().count(), other.lines().count());
            let is_active = |c: char| c.is_control() && c != '\n' && c != '\u{1b}';
            prop_assert!(!text.contains(is_active));
        }
    }
}

/// An error is one line, whatever it is about.
#[test]
fn errors_are_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let named = folder.path().join("a\nb");
    dump(&named, FORGED, 1.0);
    let error = |args: &[&Path]| {
        let mut parity = Command::new(env!("CARGO_BIN_EXE_parity"));
        let done = parity.arg("diff").args(args).output().expect("parity runs");
        assert_eq!(done.status.code(), Some(2));
        String::from_utf8_lossy(&done.stderr).into_owned()
    };
    let other = folder.path().join("c");
    dump(&other, "another", 1.0);
    let said = error(&[&named, &other]);
    assert_eq!(said.lines().count(), 1, "{said}");
    // A megabyte in a file is not a megabyte in a terminal.
    let copy = Copy::of("bloom_fp32_tp1");
    let long = "b".repeat(1 << 20);
    copy.replace("golden.json", "\"h.0.mlp.gelu\"", &format!("\"{long}\""));
    let mut parity = Command::new(env!("CARGO_BIN_EXE_parity"));
    let model = goldens().join("bloom_fp32_tp1/hf");
    let done = parity
        .arg("diff")
        .arg("--golden")
        .arg(copy.golden())
        .arg("--model")
        .arg(model)
        .output();
    let done = done.expect("parity runs");
    assert!(
        done.stderr.len() + done.stdout.len() < 40_000,
        "{}",
        done.stderr.len() + done.stdout.len()
    );
}
