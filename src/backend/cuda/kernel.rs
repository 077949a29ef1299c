//! Kernels by name, held to the CUDA source that defines them.

use super::array::CudaArray;
use crate::tensor::DType;

/// A file of CUDA C++, and what is defined in it.
#[derive(Clone, Copy)]
pub(crate) struct Source(&'static str);

/// A kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    pub(super) name: &'static str,
    /// Its parameters, as they are declared.
    parameters: &'static str,
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(crate) enum Arg<'a> {
    /// Where an array starts that the kernel reads.
    Array(&'a CudaArray),
    /// Where the result goes.
    Result,
    I64(i64),
    I32(i32),
    F32(f32),
    F64(f64),
}

impl Source {
    pub(crate) const fn new(text: &'static str) -> Self {
        Self(text)
    }

    pub(crate) const fn text(self) -> &'static str {
        self.0
    }

    /// The kernel of this name. To be called in a constant, where one that is not defined does not
    /// compile.
    ///
    /// # Panics
    /// If the source defines none.
    pub(crate) const fn kernel(self, name: &str) -> Kernel {
        let mut rest = self.0;
        while let Some((kernel, after)) = next_kernel(rest) {
            if equal(kernel.name, name) {
                return kernel;
            }
            rest = after;
        }
        panic!("the source defines no kernel of this name")
    }
}

impl Kernel {
    /// Whether these are what it is declared to take, where values are stored as `dtype`.
    pub(super) fn takes(&self, dtype: DType, args: &[Arg<'_>]) -> bool {
        let declared = self.parameters.split(',').map(str::trim);
        declared.clone().count() == args.len()
            && declared
                .zip(args)
                .all(|(declared, arg)| arg.is_a(declared, dtype))
    }
}

impl Arg<'_> {
    /// Whether it is what `type name` declares.
    fn is_a(&self, declaration: &str, dtype: DType) -> bool {
        let declared = declaration.rsplit_once(' ').map(|(declared, _)| declared);
        match (self, declared) {
            (Self::Array(array), Some("const Stored*")) => array.dtype == dtype,
            (Self::Array(array), Some("const float*")) => array.dtype == DType::F32,
            (Self::Array(array), Some("const i64*")) => array.dtype == DType::I64,
            (Self::Array(_), Some("const void*"))
            | (Self::Result, Some("Stored*" | "u64*"))
            | (Self::I64(_), Some("i64"))
            | (Self::I32(_), Some("int"))
            | (Self::F32(_), Some("float"))
            | (Self::F64(_), Some("double")) => true,
            _ => false,
        }
    }
}

impl<'a> From<&'a CudaArray> for Arg<'a> {
    fn from(array: &'a CudaArray) -> Self {
        Self::Array(array)
    }
}

impl From<usize> for Arg<'_> {
    /// An extent, of any size.
    fn from(extent: usize) -> Self {
        Self::I64(extent as i64)
    }
}

impl From<i32> for Arg<'_> {
    fn from(value: i32) -> Self {
        Self::I32(value)
    }
}

impl From<bool> for Arg<'_> {
    fn from(value: bool) -> Self {
        Self::I32(value.into())
    }
}

impl From<f32> for Arg<'_> {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl From<f64> for Arg<'_> {
    fn from(value: f64) -> Self {
        Self::F64(value)
    }
}

/// All kernels that a source defines.
pub(super) fn kernels(source: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = source;
    while let Some((name, _, after)) = next_definition(rest) {
        names.push(name);
        rest = after;
    }
    names
}

const fn next_kernel(source: &'static str) -> Option<(Kernel, &'static str)> {
    match next_definition(source) {
        Some((name, parameters, after)) => Some((Kernel { name, parameters }, after)),
        None => None,
    }
}

/// The next definition, `PARITY_KERNEL name(parameters)` at the start of a line, with
/// `__launch_bounds__(…)` before the name or without: the name, the parameters, what follows them.
const fn next_definition(source: &str) -> Option<(&str, &str, &str)> {
    const BOUNDS: &str = "__launch_bounds__(";
    let (_, rest) = match split(source, "\nPARITY_KERNEL") {
        Some(found) => found,
        None => return None,
    };
    let mut rest = rest.trim_ascii_start();
    if matches_at(rest, 0, BOUNDS) {
        rest = match split(rest, ")") {
            Some((_, after)) => after.trim_ascii_start(),
            None => return None,
        };
    }
    let (name, rest) = match split(rest, "(") {
        Some(found) => found,
        None => return None,
    };
    match split(rest, ")") {
        Some((parameters, rest)) => Some((name, parameters, rest)),
        None => None,
    }
}

// What `str` has, for constants.

const fn split<'a>(text: &'a str, at: &str) -> Option<(&'a str, &'a str)> {
    let mut place = 0;
    while place + at.len() <= text.len() {
        if matches_at(text, place, at) {
            let (before, rest) = text.split_at(place);
            return Some((before, rest.split_at(at.len()).1));
        }
        place += 1;
    }
    None
}

const fn equal(a: &str, b: &str) -> bool {
    a.len() == b.len() && matches_at(a, 0, b)
}

const fn matches_at(text: &str, place: usize, wanted: &str) -> bool {
    let (text, wanted) = (text.as_bytes(), wanted.as_bytes());
    let mut at = 0;
    while at < wanted.len() && place + at < text.len() && text[place + at] == wanted[at] {
        at += 1;
    }
    at == wanted.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Compiler;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    /// The files below a folder.
    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .flat_map(|path| {
                if path.is_dir() {
                    files(&path)
                } else {
                    vec![path]
                }
            })
            .collect()
    }

    /// That a kernel which Rust names is defined is known when it compiles, and that one which is
    /// named is launched is what `dead_code` is for. The other way round: every file of kernels is
    /// compiled, and every kernel has its name in the Rust beside it.
    #[test]
    fn every_kernel_is_compiled_and_launched() {
        let files = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        let named = |file: &&PathBuf, end: &str| file.to_str().unwrap().ends_with(end);
        let compiled = Compiler::source();
        let mut names = BTreeSet::new();
        for file in files.iter().filter(|file| named(file, ".cu")) {
            let source = fs::read_to_string(file).unwrap();
            assert!(compiled.contains(&source), "{} is compiled", file.display());
            let beside = files
                .iter()
                .filter(|rust| rust.parent() == file.parent() && named(rust, ".rs"));
            let rust: String = beside
                .map(|rust| fs::read_to_string(rust).unwrap())
                .collect();
            for kernel in kernels(&source) {
                let launched = rust.contains(&format!(".kernel(\"{kernel}\")"));
                assert!(launched, "{kernel} of {} is launched", file.display());
                assert!(names.insert(kernel.to_owned()), "one {kernel}");
            }
        }
        assert_eq!(names.into_iter().collect::<Vec<_>>(), {
            let mut all = Compiler::kernels();
            all.sort();
            all
        });
    }

    #[test]
    fn arguments_are_held_to_the_declaration() {
        const KERNEL: Kernel = Source::new(
            "// A kernel.\nPARITY_KERNEL __launch_bounds__(128)\nexample(Stored* out, i64 count,\n    \
             int each, float cap, double atol) {\n}\n",
        )
        .kernel("example");
        let takes = |args: &[Arg<'_>]| KERNEL.takes(DType::F16, args);
        let [count, each, cap, atol] = [Arg::I64(1), Arg::I32(1), Arg::F32(1.0), Arg::F64(1.0)];
        assert_eq!(KERNEL.name, "example");
        assert!(takes(&[Arg::Result, count, each, cap, atol]));
        assert!(!takes(&[Arg::Result, count, each, cap]));
        assert!(!takes(&[Arg::Result, each, count, cap, atol]));
        assert!(!takes(&[Arg::Result, count, each, cap, cap]));
        assert!(!takes(&[count, count, each, cap, atol]));
    }
}
