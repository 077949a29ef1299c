//! The libraries beside the driver: cuBLAS, cuBLASLt and NVRTC, loaded when a GPU is first asked for.
//!
//! They are loaded by their own path and their functions looked up one by one, so that exactly the
//! library that was named is called, and one that lacks a function is an error instead of a panic.
//! Types and constants are cudarc's; where it has one for each library, cuBLAS's.

use super::failure::unavailable;
use super::settings::CudaSettings;
use crate::error::{Error, Result};
use cudarc::cublas::sys::{
    cublasComputeType_t, cublasGemmAlgo_t, cublasHandle_t, cublasOperation_t, cudaDataType_t,
};
use cudarc::cublaslt::sys as lt;
use cudarc::nvrtc::sys::nvrtcProgram;
use std::ffi::{c_char, c_int, c_longlong, c_void};
use std::fs;
use std::path::{Path, PathBuf};

/// The major versions that are called: their functions take the same arguments.
const MAJORS: [u32; 2] = [13, 12];

/// A loaded library.
pub(super) struct Library {
    handle: libloading::Library,
    /// Libraries that it opens itself, by a name that only the system's folders are searched for.
    _companions: Vec<libloading::Library>,
    name: &'static str,
    /// The file, where the system tells.
    path: Option<PathBuf>,
}

impl Library {
    /// Loads `lib{name}` from one of the folders that are named, or as the system finds it if none is.
    fn open(name: &'static str, settings: &CudaSettings) -> Result<Self> {
        let candidates = candidates(name, &settings.libraries);
        let mut reasons = Vec::new();
        for candidate in &candidates {
            let companions = companions(name, candidate);
            // SAFETY: loading runs the library's initialisers; it is the CUDA library of this name in
            // a place that the user or the system names for it.
            #[expect(unsafe_code, reason = "foreign libraries are loaded here only")]
            match unsafe { libloading::Library::new(candidate) } {
                Ok(handle) => {
                    return Ok(Self {
                        handle,
                        _companions: companions,
                        name,
                        path: loaded_path(name),
                    });
                }
                Err(error) => reasons.push(error.to_string()),
            }
        }
        let places = match settings.libraries.as_slice() {
            [] => "the system's library path".to_owned(),
            folders => {
                let folders: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
                folders.join(" or ")
            }
        };
        let found = reasons.first().map_or("no such file", String::as_str);
        Err(unavailable(format!(
            "no lib{name}.so of CUDA {} or {} in {places} ({found}); name its folder with --cuda-libs \
             or {}",
            MAJORS[1],
            MAJORS[0],
            CudaSettings::LIBRARIES
        )))
    }

    /// The file it was loaded from, where the system tells.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn lacks(&self, what: &str) -> Error {
        let file = match &self.path {
            Some(path) => path.display().to_string(),
            None => format!("lib{}", self.name),
        };
        unavailable(format!(
            "{file} has no function {what}: a library of CUDA {} or {} is needed; name its folder \
             with --cuda-libs",
            MAJORS[1], MAJORS[0]
        ))
    }

    /// Refuses versions whose functions are not known to take the same arguments.
    pub(super) fn check_major(&self, major: u32) -> Result<()> {
        if MAJORS.contains(&major) {
            return Ok(());
        }
        let file = self.path.as_ref().map(|path| path.display().to_string());
        Err(unavailable(format!(
            "expected lib{} of CUDA {} or {}, found version {major} ({}); name the folder of another \
             with --cuda-libs",
            self.name,
            MAJORS[1],
            MAJORS[0],
            file.unwrap_or_else(|| "path unknown".into()),
        )))
    }
}

/// The driver's library, which cudarc calls: opened here by the same names in the same order, so that
/// what it lacks is known before.
pub(super) struct Driver {
    handle: libloading::Library,
}

impl Driver {
    pub(super) fn open() -> Result<Self> {
        let mut reasons = Vec::new();
        for name in cudarc::get_lib_name_candidates("cuda") {
            // SAFETY: as of the other libraries.
            #[expect(unsafe_code, reason = "foreign libraries are loaded here only")]
            match unsafe { libloading::Library::new(name) } {
                Ok(handle) => return Ok(Self { handle }),
                Err(reason) => reasons.push(reason.to_string()),
            }
        }
        // The last name is the one that drivers have.
        let reason = reasons.pop().unwrap_or_default();
        Err(unavailable(format!(
            "no NVIDIA driver can be loaded ({reason}); install one, or use --device cpu"
        )))
    }

    /// The first of these functions that it lacks.
    pub(super) fn lacking(&self, functions: &[&'static str]) -> Option<&'static str> {
        let is_there = |name: &str| {
            // SAFETY: looked up, never called through this type.
            #[expect(unsafe_code, reason = "foreign functions are looked up here only")]
            let found = unsafe { self.handle.get::<unsafe extern "C" fn()>(name.as_bytes()) };
            found.is_ok()
        };
        functions.iter().copied().find(|name| !is_there(name))
    }
}

/// The files to try, the likeliest first.
fn candidates(name: &str, folders: &[PathBuf]) -> Vec<PathBuf> {
    let versioned = MAJORS.map(|major| format!("lib{name}.so.{major}"));
    if folders.is_empty() {
        let plain = format!("lib{name}.so");
        return versioned
            .into_iter()
            .chain([plain])
            .map(PathBuf::from)
            .collect();
    }
    let prefix = format!("lib{name}.so");
    folders
        .iter()
        .flat_map(|folder| named(folder, &prefix))
        .collect()
}

/// Loads what lies beside a file and is opened by it: NVRTC opens `libnvrtc-builtins`. One that is
/// loaded already is found by its name.
fn companions(name: &str, file: &Path) -> Vec<libloading::Library> {
    let Some(folder) = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    else {
        return Vec::new();
    };
    let files = named(folder, &format!("lib{name}-builtins.so"));
    // SAFETY: as of the library that they belong to.
    #[expect(unsafe_code, reason = "foreign libraries are loaded here only")]
    let loaded = files
        .into_iter()
        .filter_map(|file| unsafe { libloading::Library::new(file) }.ok());
    loaded.collect()
}

/// The files in a folder that are named so, with or without a version after it: the highest version
/// first.
fn named(folder: &Path, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let versioned = entries.filter_map(|entry| {
        let path = entry.path();
        let rest = path.file_name()?.to_str()?.strip_prefix(name)?;
        let numbers = rest.split('.').skip(1).map(|number| number.parse().ok());
        let version: Vec<u32> = numbers.collect::<Option<_>>()?;
        (rest.is_empty() || rest.starts_with('.')).then_some((version, path))
    });
    let mut files: Vec<(Vec<u32>, PathBuf)> = versioned.collect();
    files.sort_by(|a, b| b.cmp(a));
    files.into_iter().map(|(_, path)| path).collect()
}

/// The file of this process that is mapped under the library's name.
pub(super) fn loaded_path(name: &str) -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let prefix = format!("lib{name}.so");
    let paths = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    let named = |path: &&Path| {
        let file = path.file_name().and_then(|file| file.to_str());
        file.is_some_and(|file| file.starts_with(&prefix))
    };
    paths.into_iter().find(named).map(Path::to_owned)
}

/// A library's functions that are called. Every status is an integer here: a newer library may return
/// one that no enumeration of ours has.
macro_rules! functions {
    ($(#[$doc:meta])* $table:ident, $library:literal, {
        $($symbol:ident: fn($($argument:ty),* $(,)?) $(-> $result:ty)?;)*
    }) => {
        $(#[$doc])*
        #[allow(non_snake_case, reason = "the functions' own names")]
        pub(super) struct $table {
            $(pub(super) $symbol: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            pub(super) library: Library,
        }

        impl $table {
            /// Loads the library and finds every function.
            pub(super) fn load(settings: &CudaSettings) -> Result<Self> {
                let library = Library::open($library, settings)?;
                Ok(Self {
                    $($symbol: {
                        let name = concat!(stringify!($symbol), "\0");
                        // SAFETY: the type is the one that CUDA's headers declare for the function of
                        // this name, in every version that is accepted; the library stays loaded as
                        // long as this table.
                        #[expect(unsafe_code, reason = "foreign functions are looked up here only")]
                        let symbol = unsafe { library.handle.get(name.as_bytes()) };
                        *symbol.map_err(|_| library.lacks(stringify!($symbol)))?
                    },)*
                    library,
                })
            }
        }
    };
}

functions!(
    /// cuBLAS.
    Cublas, "cublas", {
    cublasCreate_v2: fn(*mut cublasHandle_t) -> c_int;
    cublasDestroy_v2: fn(cublasHandle_t) -> c_int;
    cublasGetProperty: fn(c_int, *mut c_int) -> c_int;
    cublasSetStream_v2: fn(cublasHandle_t, *mut c_void) -> c_int;
    cublasSetWorkspace_v2: fn(cublasHandle_t, *mut c_void, usize) -> c_int;
    // A combination of flags is no member of cudarc's enumeration.
    cublasSetMathMode: fn(cublasHandle_t, u32) -> c_int;
    cublasSgemm_v2: fn(
        cublasHandle_t, cublasOperation_t, cublasOperation_t, c_int, c_int, c_int, *const f32,
        *const f32, c_int, *const f32, c_int, *const f32, *mut f32, c_int,
    ) -> c_int;
    cublasSgemmStridedBatched: fn(
        cublasHandle_t, cublasOperation_t, cublasOperation_t, c_int, c_int, c_int, *const f32,
        *const f32, c_int, c_longlong, *const f32, c_int, c_longlong, *const f32, *mut f32, c_int,
        c_longlong, c_int,
    ) -> c_int;
    cublasGemmEx: fn(
        cublasHandle_t, cublasOperation_t, cublasOperation_t, c_int, c_int, c_int, *const c_void,
        *const c_void, cudaDataType_t, c_int, *const c_void, cudaDataType_t, c_int, *const c_void,
        *mut c_void, cudaDataType_t, c_int, cublasComputeType_t, cublasGemmAlgo_t,
    ) -> c_int;
    cublasGemmStridedBatchedEx: fn(
        cublasHandle_t, cublasOperation_t, cublasOperation_t, c_int, c_int, c_int, *const c_void,
        *const c_void, cudaDataType_t, c_int, c_longlong, *const c_void, cudaDataType_t, c_int,
        c_longlong, *const c_void, *mut c_void, cudaDataType_t, c_int, c_longlong, c_int,
        cublasComputeType_t, cublasGemmAlgo_t,
    ) -> c_int;
});

functions!(
    /// cuBLASLt. Its functions take a handle of cuBLAS for one of their own, as torch gives it.
    CublasLt, "cublasLt", {
    cublasLtGetVersion: fn() -> usize;
    cublasLtMatmulDescCreate: fn(
        *mut lt::cublasLtMatmulDesc_t, cublasComputeType_t, cudaDataType_t,
    ) -> c_int;
    cublasLtMatmulDescDestroy: fn(lt::cublasLtMatmulDesc_t) -> c_int;
    cublasLtMatmulDescSetAttribute: fn(
        lt::cublasLtMatmulDesc_t, lt::cublasLtMatmulDescAttributes_t, *const c_void, usize,
    ) -> c_int;
    cublasLtMatrixLayoutCreate: fn(
        *mut lt::cublasLtMatrixLayout_t, cudaDataType_t, u64, u64, i64,
    ) -> c_int;
    cublasLtMatrixLayoutDestroy: fn(lt::cublasLtMatrixLayout_t) -> c_int;
    cublasLtMatmulPreferenceCreate: fn(*mut lt::cublasLtMatmulPreference_t) -> c_int;
    cublasLtMatmulPreferenceDestroy: fn(lt::cublasLtMatmulPreference_t) -> c_int;
    cublasLtMatmulPreferenceSetAttribute: fn(
        lt::cublasLtMatmulPreference_t, lt::cublasLtMatmulPreferenceAttributes_t, *const c_void,
        usize,
    ) -> c_int;
    cublasLtMatmulAlgoGetHeuristic: fn(
        cublasHandle_t, lt::cublasLtMatmulDesc_t, lt::cublasLtMatrixLayout_t,
        lt::cublasLtMatrixLayout_t, lt::cublasLtMatrixLayout_t, lt::cublasLtMatrixLayout_t,
        lt::cublasLtMatmulPreference_t, c_int, *mut Heuristic, *mut c_int,
    ) -> c_int;
    cublasLtMatmulAlgoConfigGetAttribute: fn(
        *const lt::cublasLtMatmulAlgo_t, lt::cublasLtMatmulAlgoConfigAttributes_t, *mut c_void,
        usize, *mut usize,
    ) -> c_int;
    cublasLtMatmul: fn(
        cublasHandle_t, lt::cublasLtMatmulDesc_t, *const c_void, *const c_void,
        lt::cublasLtMatrixLayout_t, *const c_void, lt::cublasLtMatrixLayout_t, *const c_void,
        *const c_void, lt::cublasLtMatrixLayout_t, *mut c_void, lt::cublasLtMatrixLayout_t,
        *const lt::cublasLtMatmulAlgo_t, *mut c_void, usize, *mut c_void,
    ) -> c_int;
});

functions!(
    /// The compiler.
    Nvrtc, "nvrtc", {
    nvrtcVersion: fn(*mut c_int, *mut c_int) -> c_int;
    nvrtcCreateProgram: fn(
        *mut nvrtcProgram, *const c_char, *const c_char, c_int, *const *const c_char,
        *const *const c_char,
    ) -> c_int;
    nvrtcDestroyProgram: fn(*mut nvrtcProgram) -> c_int;
    nvrtcCompileProgram: fn(nvrtcProgram, c_int, *const *const c_char) -> c_int;
    nvrtcGetCUBINSize: fn(nvrtcProgram, *mut usize) -> c_int;
    nvrtcGetCUBIN: fn(nvrtcProgram, *mut c_char) -> c_int;
    nvrtcGetProgramLogSize: fn(nvrtcProgram, *mut usize) -> c_int;
    nvrtcGetProgramLog: fn(nvrtcProgram, *mut c_char) -> c_int;
});

/// `cublasLtMatmulHeuristicResult_t` with its status as an integer.
#[repr(C)]
pub(super) struct Heuristic {
    pub(super) algorithm: lt::cublasLtMatmulAlgo_t,
    pub(super) workspace: usize,
    pub(super) state: c_int,
    pub(super) waves: f32,
    pub(super) reserved: [c_int; 4],
}

impl Nvrtc {
    /// `13.0`; refuses versions that are not known.
    pub(super) fn version(&self) -> Result<String> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are valid for writes.
        #[expect(unsafe_code, reason = "a foreign function")]
        let status = unsafe { (self.nvrtcVersion)(&mut major, &mut minor) };
        if status != 0 {
            return Err(unavailable(format!(
                "nvrtcVersion failed with status {status}"
            )));
        }
        self.library.check_major(major.unsigned_abs())?;
        Ok(format!("{major}.{minor}"))
    }
}

impl Cublas {
    /// `13.1.0`; refuses versions that are not known.
    pub(super) fn version(&self) -> Result<String> {
        let mut parts = [0; 3];
        for (property, part) in (0..).zip(&mut parts) {
            // SAFETY: the pointer is valid for writes.
            #[expect(unsafe_code, reason = "a foreign function")]
            let status = unsafe { (self.cublasGetProperty)(property, part) };
            if status != 0 {
                return Err(unavailable(format!(
                    "cublasGetProperty failed with status {status}"
                )));
            }
        }
        let [major, minor, patch] = parts;
        self.library.check_major(major.unsigned_abs())?;
        Ok(format!("{major}.{minor}.{patch}"))
    }
}

impl CublasLt {
    /// As [`Cublas::version`]; 130100 is 13.1.0.
    pub(super) fn version(&self) -> Result<String> {
        // SAFETY: takes nothing and returns a number.
        #[expect(unsafe_code, reason = "a foreign function")]
        let version = unsafe { (self.cublasLtGetVersion)() };
        let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
        self.library
            .check_major(u32::try_from(major).unwrap_or_default())?;
        Ok(format!("{major}.{minor}.{patch}"))
    }
}
