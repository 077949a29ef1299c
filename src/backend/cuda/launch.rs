//! Launching kernels.

use super::access::Reading;
use super::compiler::Compiler;
use super::failure::{driver, unavailable};
use super::kernel::{Arg, Kernel};
use super::memory::lock;
use crate::error::Result;
use crate::tensor::DType;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaStream, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

/// Threads of a block of kernels that take elements one by one.
const THREADS: u32 = 256;
/// Most blocks of such a kernel; its threads take several elements beyond.
const MOST_BLOCKS: u64 = 1 << 16;

/// The kernels, compiled for a storage type when it is first used.
pub(super) struct Kernels {
    context: Arc<CudaContext>,
    compiler: Compiler,
    /// `sm_90`.
    architecture: String,
    modules: Mutex<HashMap<DType, Module>>,
}

struct Module {
    module: Arc<CudaModule>,
    functions: HashMap<&'static str, CudaFunction>,
}

/// Blocks and threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    blocks: u64,
    threads: (u32, u32),
}

impl Grid {
    /// A thread an element, as far as the grid goes.
    pub(crate) fn elements(count: usize) -> Self {
        let blocks = (count as u64).div_ceil(THREADS.into());
        Self {
            blocks: blocks.min(MOST_BLOCKS),
            threads: (THREADS, 1),
        }
    }

    /// This many blocks of `threads.0 · threads.1`.
    pub(crate) fn blocks(blocks: usize, threads: (u32, u32)) -> Self {
        Self {
            blocks: blocks as u64,
            threads,
        }
    }
}

impl Kernels {
    pub(super) fn new(context: Arc<CudaContext>, compiler: Compiler, architecture: String) -> Self {
        Self {
            context,
            compiler,
            architecture,
            modules: Mutex::default(),
        }
    }

    /// Sends a kernel to a stream. Nothing is sent for no blocks.
    ///
    /// The caller answers for `result`: it is where the kernel's documentation says, and `stream`
    /// waits for what writes there.
    ///
    /// # Panics
    /// If the arguments are not those that the kernel is declared to take.
    pub(super) fn launch(
        &self,
        stream: &Arc<CudaStream>,
        dtype: DType,
        kernel: Kernel,
        grid: Grid,
        args: &[Arg<'_>],
        result: u64,
    ) -> Result<()> {
        let name = kernel.name;
        assert!(kernel.takes(dtype, args), "arguments of {kernel:?}");
        if grid.blocks == 0 {
            return Ok(());
        }
        let blocks = u32::try_from(grid.blocks)
            .ok()
            .filter(|n| *n <= i32::MAX as u32);
        let Some(blocks) = blocks else {
            return Err(unavailable(format!(
                "{name}: {} rows are more than a GPU takes in one step; compare fewer tokens",
                grid.blocks
            )));
        };
        let function = self.function(dtype, name)?;
        // Held until the kernel has been sent.
        let readings: Vec<Option<Reading<'_>>> = args
            .iter()
            .map(|arg| match arg {
                Arg::Array(array) => Some(array.read(stream)),
                _ => None,
            })
            .collect();
        let pointers: Vec<u64> = readings
            .iter()
            .map(|reading| reading.as_ref().map_or(result, |reading| reading.pointer))
            .collect();
        let mut launch = stream.launch_builder(&function);
        for (arg, pointer) in args.iter().zip(&pointers) {
            match arg {
                Arg::Array(_) | Arg::Result => launch.arg(pointer),
                Arg::I64(value) => launch.arg(value),
                Arg::I32(value) => launch.arg(value),
                Arg::F32(value) => launch.arg(value),
                Arg::F64(value) => launch.arg(value),
            };
        }
        let config = LaunchConfig {
            grid_dim: (blocks, 1, 1),
            block_dim: (grid.threads.0, grid.threads.1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the arguments are of the types that the kernel declares, which was checked above;
        // arrays live until it has been sent, and the stream waits for what writes them. That extents
        // are those of the arrays is for every launch to see to, by the kernel's file.
        #[expect(unsafe_code, reason = "kernels are launched here only")]
        let sent = unsafe { launch.launch(config) };
        sent.map(|_| ()).map_err(driver(&format!("run {name}")))
    }

    fn function(&self, dtype: DType, name: &'static str) -> Result<CudaFunction> {
        let mut modules = lock(&self.modules);
        let module = match modules.entry(dtype) {
            Entry::Occupied(module) => module.into_mut(),
            Entry::Vacant(place) => {
                let image = self.compiler.compile_cached(dtype, &self.architecture)?;
                let module = self.context.load_module(Ptx::from_binary(image));
                place.insert(Module {
                    module: module.map_err(driver("load the kernels"))?,
                    functions: HashMap::new(),
                })
            }
        };
        if let Some(function) = module.functions.get(name) {
            return Ok(function.clone());
        }
        let function = module.module.load_function(name);
        let function = function.map_err(driver(&format!("find the kernel {name}")))?;
        module.functions.insert(name, function.clone());
        Ok(function)
    }
}
