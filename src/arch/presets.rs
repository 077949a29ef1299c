//! The dumper's presets: which modules' inputs are stages, and which of their arguments if several are,
//! as the stage tables have it. Held to the in `scripts/parity_dump.py` by a test, which `PARITY_UPDATE_DOCS=1` makes write it.

use super::stage::{self, is_placeholder};
use super::{ArchitectureName, Framework};
use clap::ValueEnum;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

const BEGIN: &str = "# BEGIN of what is generated from the stage tables in src/arch\n";
const END: &str = "# END of what is generated\n";

/// Modules whose input a hook of `framework` records, and which argument if it says.
fn inputs(framework: Framework) -> BTreeSet<(String, Option<&'static str>)> {
    let runnable = ArchitectureName::all().filter_map(|name| name.architecture().runnable());
    let hooks =
        runnable.flat_map(|runnable| stage::rows(runnable.stages).flat_map(|row| row.hooks));
    hooks
        .filter(|hook| hook.framework == framework)
        .filter_map(|hook| match hook.name.split_once(".input.") {
            Some((module, argument)) => Some((glob(module), Some(argument))),
            None => Some((glob(hook.name.strip_suffix(".input")?), None)),
        })
        .collect()
}

/// `h.{layer}.mlp.down` → `*.mlp.down`: frameworks count and wrap blocks differently.
fn glob(module: &str) -> String {
    let parts: Vec<&str> = module.split('.').collect();
    let numbered = parts.iter().rposition(|part| is_placeholder(part));
    let rest = &parts[numbered.map_or(0, |at| at + 1)..];
    format!("*.{}", rest.join("."))
}

fn block() -> String {
    let mut text = format!("{BEGIN}_STAGE_INPUTS = {{\n");
    let entries = |of: &dyn Fn(&str, Option<&str>) -> Option<String>| {
        let mut text = String::new();
        for framework in Framework::value_variants() {
            let inputs = inputs(*framework);
            let inputs = inputs
                .iter()
                .filter_map(|(glob, argument)| of(glob, *argument));
            let _ = writeln!(text, "    \"{framework}\": [");
            for entry in inputs {
                let _ = writeln!(text, "        {entry},");
            }
            text += "    ],\n";
        }
        text + "}\n"
    };
    text += &entries(&|glob, argument| argument.is_none().then(|| format!("\"{glob}\"")));
    text += "_STAGE_ARGUMENTS = {\n";
    text += &entries(&|glob, argument| argument.map(|of| format!("(\"{glob}\", \"{of}\")")));
    text + END
}

#[test]
fn the_dumper_has_the_tables_presets() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/parity_dump.py");
    let script = std::fs::read_to_string(&path).expect("the dumper");
    let (before, rest) = script.split_once(BEGIN).expect("the block's begin");
    let (_, after) = rest.split_once(END).expect("the block's end");
    let generated = format!("{before}{}{after}", block());
    if std::env::var_os("PARITY_UPDATE_DOCS").is_some() {
        std::fs::write(&path, generated).expect("written");
        return;
    }
    let remedy = "PARITY_UPDATE_DOCS=1 cargo test --lib presets";
    assert!(script == generated, "out of date: {remedy}");
}
