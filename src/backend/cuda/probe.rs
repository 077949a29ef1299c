//! Is there a GPU that can be used, and what is missing if not. Nothing else of this backend calls CUDA
//! before the probe has found it.

use super::failure::{driver, unavailable};
use super::library::{Cublas, CublasLt, Driver, Nvrtc, loaded_path};
use super::settings::CudaSettings;
use crate::backend::gpu::environment;
use crate::backend::{Gpu, GpuFlags};
use crate::error::Result;
use cudarc::driver::sys::{self, CUdevice_attribute_enum};
use cudarc::driver::{CudaContext, result};
use std::ffi::c_int;
use std::path::Path;

/// The oldest driver that has all of [`Probe::DRIVER_FUNCTIONS`]: CUDA 12.8.
const OLDEST_DRIVER: c_int = 12_080;
/// The oldest GPU that kernels compile for: Ampere, the first with bf16.
const OLDEST_CAPABILITY: (i32, i32) = (8, 0);

/// What was found of one thing that is needed.
#[derive(Debug)]
pub struct Found {
    /// The thing: `driver`, `gpu`, `nvrtc`, `cublas`, `cublasLt`.
    pub what: &'static str,
    /// Its version and place, or what is missing.
    pub found: Result<String>,
}

/// Everything that a GPU needs to be used.
pub struct Probe {
    /// A line for each, for people.
    pub lines: Vec<Found>,
}

/// What a usable GPU is used through.
pub(super) struct Usable {
    pub(super) gpu: Gpu,
    pub(super) capability: (i32, i32),
    pub(super) cublas: Cublas,
    pub(super) lt: CublasLt,
    pub(super) nvrtc: Nvrtc,
}

impl Probe {
    /// Functions of the driver that are called, by cudarc or here. cudarc panics at the first call of
    /// one that is missing, so they are looked up before.
    pub const DRIVER_FUNCTIONS: &[&str] = &[
        "cuCtxGetCurrent",
        "cuCtxSetCurrent",
        "cuCtxSynchronize",
        "cuDeviceGet",
        "cuDeviceGetAttribute",
        "cuDeviceGetCount",
        "cuDeviceGetName",
        "cuDevicePrimaryCtxRelease_v2",
        "cuDevicePrimaryCtxRetain",
        "cuDeviceTotalMem_v2",
        "cuDriverGetVersion",
        "cuEventCreate",
        "cuEventDestroy_v2",
        "cuEventElapsedTime_v2",
        "cuEventRecord",
        "cuEventSynchronize",
        "cuGetErrorName",
        "cuGetErrorString",
        "cuInit",
        "cuLaunchKernel",
        "cuMemAllocAsync",
        "cuMemAlloc_v2",
        "cuMemFreeAsync",
        "cuMemFreeHost",
        "cuMemFree_v2",
        "cuMemHostAlloc",
        "cuMemcpyDtoDAsync_v2",
        "cuMemcpyDtoHAsync_v2",
        "cuMemcpyHtoDAsync_v2",
        "cuMemsetD8Async",
        "cuModuleGetFunction",
        "cuModuleLoadData",
        "cuModuleUnload",
        "cuStreamCreate",
        "cuStreamDestroy_v2",
        "cuStreamSynchronize",
        "cuStreamWaitEvent",
    ];

    /// Looks for everything; what is missing does not keep it from looking for the rest.
    pub fn run(settings: &CudaSettings) -> Self {
        let driver = find_driver();
        let driver = driver.map(|version| {
            let path = loaded_path("cuda");
            described(driver_version(version), path.as_deref())
        });
        let gpu = match &driver {
            Ok(_) => find_gpu().map(|gpu| gpu.to_string()),
            Err(_) => Err(unavailable("not looked for without a driver")),
        };
        let nvrtc = Nvrtc::load(settings).and_then(|nvrtc| {
            let version = nvrtc.version()?;
            Ok(described(version, nvrtc.library.path()))
        });
        // Kept loaded: cuBLAS needs it, and finds the one that is there.
        let lt = CublasLt::load(settings);
        let cublas = Cublas::load(settings).and_then(|cublas| {
            let version = cublas.version()?;
            Ok(described(version, cublas.library.path()))
        });
        let lt = lt.and_then(|lt| {
            let version = lt.version()?;
            Ok(described(version, lt.library.path()))
        });
        let lines = [
            ("driver", driver),
            ("gpu", gpu),
            ("nvrtc", nvrtc),
            ("cublas", cublas),
            ("cublasLt", lt),
        ];
        Self {
            lines: lines.map(|(what, found)| Found { what, found }).into(),
        }
    }
}

/// A device as the driver describes it.
struct Device {
    name: String,
    capability: (i32, i32),
    multiprocessors: i32,
    memory: usize,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor) = self.capability;
        write!(
            f,
            "{} (sm_{major}{minor}), {} multiprocessors, {:.1} GiB",
            self.name,
            self.multiprocessors,
            self.memory as f64 / f64::from(1 << 30)
        )
    }
}

impl Usable {
    /// Finds everything, or says what is missing first.
    pub(super) fn find(settings: &CudaSettings) -> Result<Self> {
        let driver = find_driver()?;
        let device = find_gpu()?;
        if device.capability < OLDEST_CAPABILITY {
            let (major, minor) = OLDEST_CAPABILITY;
            return Err(unavailable(format!(
                "{device} is older than sm_{major}{minor}, for which kernels can be compiled; use --device cpu"
            )));
        }
        let nvrtc = Nvrtc::load(settings)?;
        nvrtc.version()?;
        // cuBLAS needs cuBLASLt: whichever is loaded first is the one that it finds.
        let lt = CublasLt::load(settings)?;
        let lt_version = lt.version()?;
        let cublas = Cublas::load(settings)?;
        let version = cublas.version()?;
        let release = |version: &str| version.split('.').next().map(str::to_owned);
        if release(&version) != release(&lt_version) {
            return Err(unavailable(format!(
                "expected cuBLAS and cuBLASLt of one release, found {version} and {lt_version}; name their \
                 folder with --cuda-libs"
            )));
        }
        let (major, minor) = device.capability;
        Ok(Self {
            gpu: Gpu {
                name: device.name,
                compute_capability: format!("{major}.{minor}"),
                multiprocessors: device.multiprocessors.unsigned_abs(),
                driver: Some(driver_version(driver)),
                cublas: Some(version),
                cublaslt: Some(lt_version),
                cublas_sha256: None,
                cublaslt_sha256: None,
                flags: GpuFlags::default(),
                environment: environment(),
            },
            capability: device.capability,
            cublas,
            lt,
            nvrtc,
        })
    }
}

fn described(version: String, path: Option<&Path>) -> String {
    match path {
        Some(path) => format!("{version}, {}", path.display()),
        None => version,
    }
}

/// 13000 → `CUDA 13.0`.
fn driver_version(version: c_int) -> String {
    format!("CUDA {}.{}", version / 1000, version % 1000 / 10)
}

/// The version of the driver.
fn find_driver() -> Result<c_int> {
    let library = Driver::open()?;
    if let Some(lacking) = library.lacking(Probe::DRIVER_FUNCTIONS) {
        return Err(unavailable(format!(
            "the NVIDIA driver (libcuda.so) has no function {lacking}: install a driver of {} or later, \
             or use --device cpu",
            driver_version(OLDEST_DRIVER)
        )));
    }
    let mut version = 0;
    // SAFETY: the pointer is valid for writes; the function was found above.
    #[expect(unsafe_code, reason = "a foreign function")]
    let status = unsafe { sys::cuDriverGetVersion(&mut version) };
    status
        .result()
        .map_err(driver("ask for the driver's version"))?;
    if version < OLDEST_DRIVER {
        return Err(unavailable(format!(
            "expected a driver of {} or later, found {}; install a newer one, or use --device cpu",
            driver_version(OLDEST_DRIVER),
            driver_version(version)
        )));
    }
    Ok(version)
}

/// The first GPU.
fn find_gpu() -> Result<Device> {
    result::init().map_err(driver("start the driver"))?;
    let count = CudaContext::device_count().map_err(driver("count the GPUs"))?;
    if count == 0 {
        return Err(unavailable(
            "the driver is there, but no GPU: see nvidia-smi and CUDA_VISIBLE_DEVICES",
        ));
    }
    let device = result::device::get(0).map_err(driver("open the first GPU"))?;
    let name = result::device::get_name(device).map_err(driver("ask for the GPU's name"))?;
    let attribute = |attribute| {
        // SAFETY: the device was returned by the driver.
        #[expect(unsafe_code, reason = "cudarc's functions on a device")]
        let value = unsafe { result::device::get_attribute(device, attribute) };
        value.map_err(driver("ask for the GPU's properties"))
    };
    use CUdevice_attribute_enum as Attribute;
    // SAFETY: as above.
    #[expect(unsafe_code, reason = "cudarc's functions on a device")]
    let memory = unsafe { result::device::total_mem(device) };
    Ok(Device {
        name,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        memory: memory.map_err(driver("ask for the GPU's memory"))?,
    })
}
