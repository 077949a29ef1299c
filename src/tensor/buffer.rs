//! Where a tensor's bytes live.

use super::{Element, MappedFile};
use crate::memory::Held;
use std::ops::Range;
use std::sync::Arc;

/// Bytes that many tensors may share: a vector, or a part of a mapped file.
#[derive(Clone)]
pub(super) struct Buffer(Arc<dyn Bytes>);

trait Bytes: Send + Sync {
    fn bytes(&self) -> &[u8];
}

struct Mapped {
    file: MappedFile,
    range: Range<usize>,
}

struct Owned<T> {
    data: Vec<T>,
    _held: Held,
}

impl<T: Element> Bytes for Owned<T> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.data)
    }
}

impl Bytes for Mapped {
    fn bytes(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }
}

impl Buffer {
    pub(super) fn owned<T: Element>(data: Vec<T>) -> Self {
        let held = Held::new(std::mem::size_of_val(data.as_slice()));
        Self(Arc::new(Owned { data, _held: held }))
    }

    /// Bytes `range` of `file`, in place where they are aligned for `T`, else copied.
    ///
    /// # Panics
    /// If the range is not in the file or not a whole number of elements; callers have checked.
    pub(super) fn mapped<T: Element>(file: &MappedFile, range: Range<usize>) -> Self {
        let bytes = &file[range.clone()];
        if bytemuck::try_cast_slice::<u8, T>(bytes).is_ok() {
            let file = file.clone();
            return Self(Arc::new(Mapped { file, range }));
        }
        let mut data = vec![T::zeroed(); bytes.len() / size_of::<T>()];
        bytemuck::cast_slice_mut(&mut data).copy_from_slice(bytes);
        Self::owned(data)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}
