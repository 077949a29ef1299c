//! The CUDA kernels compiled for the CPU (tests/simt), and how to launch one.

use crate::common::cpp::compile;
use half::{bf16, f16};
use libloading::Library;
use parity::tensor::{DType, Float};
use std::ffi::{CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::path::Path;
use std::sync::OnceLock;

type Launch = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    *const [u32; 3],
    *const [u32; 3],
    usize,
    *const *const c_void,
) -> c_int;

/// The loaded kernels.
pub struct Shim {
    launch: Launch,
    /// Holds what `launch` points into.
    _library: Library,
}

/// An argument of a kernel; its bytes are the first of these, as on every little-endian machine.
pub struct Arg<'a>(u64, PhantomData<&'a mut ()>);

macro_rules! arguments {
    ($($type:ty => $bits:expr),* $(,)?) => {
        $(impl From<$type> for Arg<'_> {
            fn from(value: $type) -> Self {
                let bits: fn($type) -> u64 = $bits;
                Self(bits(value), PhantomData)
            }
        })*
    };
}
arguments! {
    i32 => |value| u64::from(value as u32),
    i64 => |value| value as u64,
    f32 => |value| u64::from(value.to_bits()),
    f64 => f64::to_bits,
    bool => u64::from,
}

impl From<usize> for Arg<'_> {
    /// A `long long`.
    fn from(value: usize) -> Self {
        Self(value as u64, PhantomData)
    }
}

impl<'a, T> From<&'a [T]> for Arg<'a> {
    fn from(values: &'a [T]) -> Self {
        Self(values.as_ptr() as u64, PhantomData)
    }
}

impl<'a, T> From<&'a mut [T]> for Arg<'a> {
    fn from(values: &'a mut [T]) -> Self {
        Self(values.as_mut_ptr() as u64, PhantomData)
    }
}

/// `launch!(shim, T, name, grid, block, argument, …)`.
macro_rules! launch {
    ($shim:expr, $T:ty, $name:expr, $grid:expr, $block:expr, $($argument:expr),* $(,)?) => {
        $shim.launch::<$T>($name, $grid, $block, &[$($crate::kernels::shim::Arg::from($argument)),*])
    };
}
pub(crate) use launch;

impl Shim {
    /// Runs a kernel of a storage type. Arguments must be of the types that its source has.
    pub fn launch<T: Float>(&self, name: &str, grid: usize, block: [u32; 2], arguments: &[Arg]) {
        let dtype = match T::DTYPE {
            DType::F32 => c"f32",
            DType::F16 => c"f16",
            _ => c"bf16",
        };
        let kernel = CString::new(name).unwrap();
        let grid = [u32::try_from(grid).unwrap(), 1, 1];
        let block = [block[0], block[1], 1];
        let pointers: Vec<*const c_void> = arguments
            .iter()
            .map(|argument| (&raw const argument.0).cast())
            .collect();
        // SAFETY: names end with a zero, shapes have three numbers, and `pointers` points to the
        // arguments, which are borrowed. That they fit the kernel is the caller's to see to.
        let status = unsafe {
            (self.launch)(
                dtype.as_ptr(),
                kernel.as_ptr(),
                &raw const grid,
                &raw const block,
                0,
                pointers.as_ptr(),
            )
        };
        assert_eq!(status, 0, "there is no kernel {name}");
    }
}

/// The kernels, compiled once; `None`, with a word on stderr, where there is no C++ compiler.
pub fn shim() -> Option<&'static Shim> {
    static SHIM: OnceLock<Option<Shim>> = OnceLock::new();
    let built = SHIM.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let built = folder.path().join("kernels.so");
        compile("kernels.cpp", &built, &[]).then(|| load(&built))
    });
    built.as_ref()
}

fn load(built: &Path) -> Shim {
    // SAFETY: the library is the one that was just compiled, and runs nothing when it is loaded.
    let library = unsafe { Library::new(built) }.unwrap();
    // SAFETY: the function has this type in tests/simt/kernels.cpp.
    let launch = *unsafe { library.get::<Launch>(b"simt_launch") }.unwrap();
    Shim {
        launch,
        _library: library,
    }
}

/// Storage types of kernels, as integers that tests compare.
pub trait Bits: Float {
    /// Its bits; one value for all NaNs, since machines differ in which they make.
    fn bits(self) -> u32;
    /// The type's name in messages.
    const NAME: &'static str;
}

macro_rules! bits {
    ($type:ty, $name:literal) => {
        impl Bits for $type {
            const NAME: &'static str = $name;
            fn bits(self) -> u32 {
                if self.is_nan() {
                    u32::MAX
                } else {
                    self.to_bits().into()
                }
            }
        }
    };
}
bits!(f32, "f32");
bits!(f16, "f16");
bits!(bf16, "bf16");
