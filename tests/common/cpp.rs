//! C++ compiled for tests.

use parity::backend::Compiler;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Whether the environment asks for something that tests can do without: `PARITY_REQUIRE` lists what
/// has to be there.
pub fn is_required(what: &str) -> bool {
    let required = std::env::var("PARITY_REQUIRE").unwrap_or_default();
    required.split(',').any(|asked| asked == what)
}

/// The kernels as NVRTC gets them, and a table of their names, for tests/simt/registry.hpp.
fn kernels() -> String {
    let named = |name: &String| format!("    {{\"{name}\", launcher<{name}>}},\n");
    let table: String = Compiler::kernels().iter().map(named).collect();
    let source = Compiler::source();
    format!("{source}\nstatic const Named KERNELS[] = {{\n{table}}};\n")
}

/// Compiles a file of tests/simt as a shared library, with the kernels beside it. False, with a word on
/// stderr, where there is no C++ compiler and the environment does not ask for one.
///
/// # Panics
/// If the compiler fails: that is a failure of the test.
pub fn compile(source: &str, to: &Path, args: &[&str]) -> bool {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/simt")
        .join(source);
    let folder = to.parent().expect("a folder");
    let included = folder.join("kernels.inc");
    if !included.exists() {
        fs::write(included, kernels()).expect("a file");
    }
    let mut command = Command::new(&compiler);
    command.arg("-I").arg(folder);
    command.args(["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC"]);
    command.args(["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]);
    if cfg!(target_arch = "x86_64") {
        command.arg("-mfma");
    }
    match command.arg("-o").arg(to).arg(source).args(args).output() {
        Ok(output) => {
            let log = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{log}");
            true
        }
        Err(reason) => {
            assert!(!is_required("c++"), "{compiler}: {reason}");
            eprintln!("not run: {compiler}: {reason}");
            false
        }
    }
}
