//! From CUDA C++ to what a GPU runs: NVRTC compiles the kernels to a CUBIN for its architecture, so
//! that no driver has to understand a newer compiler's PTX. Results are kept in the user's cache.

use super::failure::unavailable;
use super::kernel::kernels;
use super::library::Nvrtc;
use super::settings::CudaSettings;
use crate::digest::{sha256, sha256_of_parts};
use crate::error::{Error, Result};
use crate::output::OutputFile;
use crate::tensor::DType;
use crate::{compare, op};
use std::ffi::{CString, c_char, c_int};
use std::io::Write;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;
use std::{env, fs, ptr};

/// What all kernels compute with.
const NUMBERS: &str = include_str!("numbers.cuh");

/// An operator is one IEEE operation; a fused multiply-add is where a kernel writes one.
const OPTIONS: [&str; 5] = [
    "--std=c++17",
    "--fmad=false",
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
];

/// Largest compiled module that is taken from the cache.
const MAX_CACHED: u64 = 64 << 20;

/// Compiles the kernels; needs NVRTC and no GPU.
pub struct Compiler {
    nvrtc: Nvrtc,
}

impl Compiler {
    /// Loads NVRTC.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`](crate::Error::DeviceUnavailable) if it is not there.
    pub fn open(settings: &CudaSettings) -> Result<Self> {
        Nvrtc::load(settings).map(Self::new)
    }

    pub(super) fn new(nvrtc: Nvrtc) -> Self {
        Self { nvrtc }
    }

    /// The kernels as one translation unit of CUDA C++: those of the operations, and the comparison.
    pub fn source() -> String {
        [
            NUMBERS,
            &op::kernel_sources(),
            compare::KERNEL_SOURCE.text(),
        ]
        .concat()
    }

    /// The names of all kernels.
    pub fn kernels() -> Vec<String> {
        let source = Self::source();
        kernels(&source).into_iter().map(str::to_owned).collect()
    }

    /// The kernels on values stored as `dtype`, compiled for an architecture such as `sm_90`.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`](crate::Error::DeviceUnavailable) with the compiler's own words.
    pub fn compile(&self, dtype: DType, architecture: &str) -> Result<Vec<u8>> {
        let source = Self::source();
        let mut options: Vec<String> = OPTIONS.map(str::to_owned).into();
        options.push(format!("--gpu-architecture={architecture}"));
        let of_type = dtype.float().and_then(|float| float.kernel_macro);
        let of_type = of_type.ok_or_else(|| unavailable(format!("no kernels for {dtype}")))?;
        options.push(format!("-D{of_type}"));
        self.compile_source(&source, &options).map_err(|said| {
            unavailable(format!(
                "NVRTC cannot compile the kernels for {architecture}: {said}"
            ))
        })
    }

    /// As [`Self::compile`]; compiled once for every user, source, option and compiler.
    pub(super) fn compile_cached(&self, dtype: DType, architecture: &str) -> Result<Vec<u8>> {
        let file = self.cache_file(dtype, architecture);
        if let Some(image) = file.as_ref().and_then(read_cached) {
            return Ok(image);
        }
        let image = self.compile(dtype, architecture)?;
        if let Some(file) = file {
            // A cache that cannot be written costs time at the next start, and nothing else.
            let _ = write_cached(&file, &image);
        }
        Ok(image)
    }

    /// `None` where the user has no cache.
    fn cache_file(&self, dtype: DType, architecture: &str) -> Option<PathBuf> {
        let absolute = |name: &str| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|p| p.is_absolute())
        };
        let cache = absolute("XDG_CACHE_HOME")
            .or_else(|| Some(absolute("HOME")?.join(".cache")))?
            .join("parity");
        // The compiler is known by its file, size and age.
        let compiler = self.nvrtc.library.path()?;
        let file = fs::metadata(compiler).ok()?;
        let age = file.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        let identity = [file.len(), age.as_secs()].map(u64::to_le_bytes).concat();
        let source = Self::source();
        let asked = [source.as_str()].into_iter().chain(OPTIONS);
        let asked = asked.map(str::as_bytes);
        let key =
            sha256_of_parts(asked.chain([compiler.as_os_str().as_encoded_bytes(), &identity]));
        Some(cache.join(format!("{dtype}-{architecture}-{key:.32}.cubin")))
    }

    /// Fails with what NVRTC says.
    fn compile_source(&self, source: &str, options: &[String]) -> Result<Vec<u8>, String> {
        let text = |text: &str| CString::new(text).map_err(|e| e.to_string());
        let (source, name) = (text(source)?, text("parity.cu")?);
        let options: Vec<CString> = options.iter().map(|o| text(o)).collect::<Result<_, _>>()?;
        let options: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let mut program = Program {
            nvrtc: &self.nvrtc,
            handle: ptr::null_mut(),
        };
        // SAFETY: the strings end with a zero and live until the call returns; there are no headers.
        #[expect(unsafe_code, reason = "a foreign function")]
        let status = unsafe {
            (self.nvrtc.nvrtcCreateProgram)(
                &mut program.handle,
                source.as_ptr(),
                name.as_ptr(),
                0,
                ptr::null(),
                ptr::null(),
            )
        };
        if status != 0 {
            return Err(format!("status {status} before it began"));
        }
        let count = options.len() as c_int;
        // SAFETY: the program was created above; `options` holds `count` strings.
        #[expect(unsafe_code, reason = "a foreign function")]
        let status =
            unsafe { (self.nvrtc.nvrtcCompileProgram)(program.handle, count, options.as_ptr()) };
        if status != 0 {
            let log = program.read(
                self.nvrtc.nvrtcGetProgramLogSize,
                self.nvrtc.nvrtcGetProgramLog,
            );
            let log = String::from_utf8_lossy(&log.unwrap_or_default()).into_owned();
            let told = log
                .lines()
                .find(|line| line.contains("error"))
                .unwrap_or(&log);
            let told = told.trim_end_matches('\0').trim();
            return Err(format!(
                "{told} (status {status}); name an NVRTC of CUDA 12 or 13 with --cuda-libs"
            ));
        }
        program
            .read(self.nvrtc.nvrtcGetCUBINSize, self.nvrtc.nvrtcGetCUBIN)
            .map_err(|status| format!("status {status} when asked for the result"))
    }
}

/// A program that NVRTC holds.
struct Program<'a> {
    nvrtc: &'a Nvrtc,
    handle: cudarc::nvrtc::sys::nvrtcProgram,
}

type SizeOf = unsafe extern "C" fn(cudarc::nvrtc::sys::nvrtcProgram, *mut usize) -> c_int;
type CopyOf = unsafe extern "C" fn(cudarc::nvrtc::sys::nvrtcProgram, *mut c_char) -> c_int;

impl Program<'_> {
    /// Reads what NVRTC gives as a size and a copy; fails with its status.
    fn read(&self, size_of: SizeOf, copy_of: CopyOf) -> Result<Vec<u8>, c_int> {
        let mut size = 0;
        // SAFETY: the program is valid until it is dropped, and the pointer is valid for writes.
        #[expect(unsafe_code, reason = "a foreign function")]
        let status = unsafe { size_of(self.handle, &mut size) };
        if status != 0 {
            return Err(status);
        }
        let mut bytes = vec![0_u8; size];
        // SAFETY: as above; the vector holds as many bytes as NVRTC has just said it writes.
        #[expect(unsafe_code, reason = "a foreign function")]
        let status = unsafe { copy_of(self.handle, bytes.as_mut_ptr().cast()) };
        match status {
            0 => Ok(bytes),
            status => Err(status),
        }
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: created by NVRTC, and destroyed once. Its status tells nothing that matters here.
            #[expect(unsafe_code, reason = "a foreign function")]
            let _ = unsafe { (self.nvrtc.nvrtcDestroyProgram)(&mut self.handle) };
        }
    }
}

/// A cached file is its content's digest and its content: one that was cut short or changed is none.
fn read_cached(file: &PathBuf) -> Option<Vec<u8>> {
    // Anything else than a file might never end.
    let kind = fs::metadata(file).ok()?;
    if !kind.is_file() || kind.len() > MAX_CACHED {
        return None;
    }
    let bytes = fs::read(file).ok()?;
    let (digest, image) = bytes.split_at_checked(64)?;
    (sha256(image).as_bytes() == digest).then(|| image.to_vec())
}

fn write_cached(file: &PathBuf, image: &[u8]) -> Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder, "create the folder"))?;
    }
    let mut out = OutputFile::create(file)?;
    for part in [sha256(image).as_bytes(), image] {
        out.write_all(part).map_err(Error::io(file, "write"))?;
    }
    out.commit()
}
