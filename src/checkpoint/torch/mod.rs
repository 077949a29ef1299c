//! Files as `torch.save` writes them, read without torch and without running anything in them.
//!
//! # The formats
//! * **zip** (torch 1.6 and later): members `NAME/data.pkl` (a pickle), `NAME/byteorder`, and one
//!   *stored* member `NAME/data/KEY` for each storage, raw and little-endian.
//! * **legacy**: five pickles in a row (a magic number, a protocol number, properties of the machine,
//!   the object, the keys of the storages) and then, for every key, an 8-byte count and the data.
//!
//! A tensor in the pickle is a call of `torch._utils._rebuild_tensor_v2` on a reference to a
//! storage, an offset, sizes and strides. Tensors that name one storage share it: tied weights.
//!
//! # Safety
//! A pickle is a program; this one is interpreted by a machine that knows only how to build data. A
//! call is kept as a record of what would have been called, whether it is `OrderedDict` or
//! `os.system`. Values are numbered, so aliases cost nothing and nesting needs no recursion; their
//! number is bounded by [`MAX_VALUES`]. Sizes and offsets are checked against the file when a
//! tensor is asked for.

mod archive;
mod file;
mod legacy;
mod machine;
mod node;
mod opcode;
mod state_dict;
mod tensor;
mod value;

pub use file::TorchFile;
pub use machine::MAX_VALUES;
pub use node::Node;
pub use state_dict::StateDict;
pub use tensor::TensorRecord;
pub(crate) use value::Id;
pub(in crate::checkpoint) use value::Pickle;
pub use value::read_pickle;
