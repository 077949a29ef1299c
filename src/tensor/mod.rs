//! Arrays: what a file of activations or weights is once it has been checked.
//!
//! A [`Tensor`] is a shape, a [`DType`] and bytes in C order, either owned or a part of a mapped
//! file. Types below fp32 are *storage only*: an [`Element`] can be widened, never added.

mod buffer;
mod copy;
mod dtype;
mod element;
mod file;
mod float;
mod float8;
mod layout;
pub mod npy;
pub mod npz;
mod opened;
mod strided;
#[expect(clippy::module_inception, reason = "the noun of the module")]
mod tensor;
mod tiled;

pub use dtype::DType;
pub use element::{Element, Float};
pub use file::MappedFile;
pub use float::FloatFormat;
pub use float8::{E4M3, E5M2};
pub use layout::{Join, Layout};
pub use strided::Strided;
pub use tensor::Tensor;
pub use tiled::{Tile, Tiled};

pub(crate) use element::with_element;
pub(crate) use element::with_float;
pub(crate) use file::end_where_files_are_cut_short;
pub(crate) use opened::{forget_in, unchanged, unchanged_in};
pub(crate) use tensor::position;
