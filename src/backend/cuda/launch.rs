//! Launching kernels.

use super::compiler::Compiler;
use super::failure::{driver, unavailable};
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

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arg {
    Pointer(u64),
    I64(i64),
    I32(i32),
    F32(f32),
    F64(f64),
}

/// Blocks and threads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    blocks: u64,
    threads: (u32, u32),
}

impl Grid {
    /// A thread an element, as far as the grid goes.
    pub(super) fn elements(count: usize) -> Self {
        let blocks = (count as u64).div_ceil(THREADS.into());
        Self {
            blocks: blocks.min(MOST_BLOCKS),
            threads: (THREADS, 1),
        }
    }

    /// This many blocks of `threads.0 · threads.1`.
    pub(super) fn blocks(blocks: usize, threads: (u32, u32)) -> Self {
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
    /// The caller answers for the pointers: they are of arrays that live until the call returns, as
    /// long as the kernel's documentation says, and `stream` waits for what writes them.
    pub(super) fn launch(
        &self,
        stream: &CudaStream,
        dtype: DType,
        name: &'static str,
        grid: Grid,
        args: &[Arg],
    ) -> Result<()> {
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
        let mut launch = stream.launch_builder(&function);
        for arg in args {
            match arg {
                Arg::Pointer(pointer) => launch.arg(pointer),
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
        // SAFETY: the arguments are those of the kernel of this name, in its order and types, which
        // every call in this folder has from the kernel's file; the pointers are the caller's promise.
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
