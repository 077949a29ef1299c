//! A GPU that is none: libcuda, cuBLAS, cuBLASLt and NVRTC on the CPU (tests/simt), which run the
//! project's own kernels and find races and stray copies.

use super::cpp::compile;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The folder of the libraries; `None` where there is no C++ compiler.
fn libraries() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<tempfile::TempDir>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cuda = folder.path().join("libcuda.so.1");
        let linked = cuda.to_str().expect("UTF-8").to_owned();
        let hidden = "-fvisibility=hidden";
        let named = |name: &str| format!("-Wl,-soname,{name}");
        let object = folder.path().join("driver.o");
        // A compiler takes one core, and whoever needs a GPU waits here: what the kernels' own tests will ask
        // for is compiled beside.
        std::thread::spawn(crate::kernels::prepare);
        if !compile("driver.cpp", &object, &[hidden, "-c"]) {
            return None;
        }
        let object = object.to_str().expect("UTF-8");
        compile(object, &cuda, &[&named("libcuda.so.1")]);
        let build = |source: &str, name: &str| {
            let args = [hidden, &linked, &named(name), "-Wl,-rpath,$ORIGIN"];
            compile(source, &folder.path().join(name), &args);
        };
        std::thread::scope(|threads| {
            threads.spawn(|| build("blas.cpp", "libcublas.so.13"));
            threads.spawn(|| build("blaslt.cpp", "libcublasLt.so.13"));
            build("nvrtc.cpp", "libnvrtc.so.13");
        });
        // The first name that is tried.
        std::os::unix::fs::symlink(&cuda, folder.path().join("libcuda.so")).expect("a link");
        Some(folder)
    });
    built.as_ref().map(tempfile::TempDir::path)
}

/// The fake GPU, and what it is to do.
pub struct FakeGpu {
    libraries: &'static Path,
    /// Of this run alone.
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl FakeGpu {
    /// `None`, with a word on stderr, where there is no C++ compiler.
    pub fn new() -> Option<Self> {
        Some(Self {
            libraries: libraries()?,
            folder: tempfile::tempdir().expect("a temporary folder"),
            environment: Vec::new(),
        })
    }

    /// Sets `PARITY_FAKE_{name}`.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment
            .push((format!("PARITY_FAKE_{name}"), value.into()));
        self
    }

    pub fn libraries(&self) -> &Path {
        self.libraries
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// What the libraries were asked for, a line a call.
    pub fn log(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.log_file()).expect("a log");
        log.lines().map(str::to_owned).collect()
    }

    /// Runs `parity` on it.
    pub fn parity(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_parity"));
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(args)
            .env("LD_LIBRARY_PATH", self.libraries)
            .env("PARITY_CUDA_LIBS", self.libraries)
            .env("XDG_CACHE_HOME", self.folder.path())
            .env("PARITY_FAKE_LOG", self.log_file());
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command.output().expect("parity runs")
    }
}
