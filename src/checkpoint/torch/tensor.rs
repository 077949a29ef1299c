//! Tensors and storages as the pickle describes them.

use super::Node;
use crate::tensor::DType;

/// The functions that make tensors take fewer arguments.
const MOST_ARGS: usize = 8;

/// A storage's type: one of ours, or torch's name for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    Known(DType),
    Unknown(&'a str),
}

impl<'a> Kind<'a> {
    /// From the name of a storage class (`BFloat16Storage`) or of a dtype (`bfloat16`).
    fn from_name(name: &'a str) -> Self {
        let dtype = match name {
            "DoubleStorage" => Some(DType::F64),
            "FloatStorage" => Some(DType::F32),
            "HalfStorage" => Some(DType::F16),
            "BFloat16Storage" => Some(DType::Bf16),
            "LongStorage" => Some(DType::I64),
            "IntStorage" => Some(DType::I32),
            "ShortStorage" => Some(DType::I16),
            "CharStorage" => Some(DType::I8),
            "ByteStorage" => Some(DType::U8),
            "BoolStorage" => Some(DType::Bool),
            name => name.parse().ok(),
        };
        dtype.map_or(Self::Unknown(name), Self::Known)
    }
}

/// What a reference to a storage says: `("storage", type, key, location, elements[, view])`.
#[derive(Clone, Debug)]
pub(super) struct StorageRecord<'a> {
    pub(super) kind: Kind<'a>,
    pub(super) key: &'a str,
    /// First element, and number of elements, of the part that is meant.
    pub(super) first: usize,
    pub(super) elements: usize,
}

impl<'a> StorageRecord<'a> {
    pub(super) fn from_node(node: Node<'a>) -> Option<Self> {
        let fields: Vec<_> = node.persistent()?.elements()?.take(6).collect();
        let [tag, class, key, _, elements, rest @ ..] = fields.as_slice() else {
            return None;
        };
        if tag.text() != Some("storage") {
            return None;
        }
        let size = |node: Node<'_>| usize::try_from(node.int()?).ok();
        let mut record = Self {
            kind: Kind::from_name(class.global()?.1),
            key: key.text()?,
            first: 0,
            elements: size(*elements)?,
        };
        // Legacy files may refer to a part of a storage: (key of the part, first, elements).
        if let [view] = rest
            && let Some(view) = view.elements()
        {
            let view: Vec<_> = view.take(3).collect();
            let [_, first, elements] = view.as_slice() else {
                return None;
            };
            (record.first, record.elements) = (size(*first)?, size(*elements)?);
        }
        Some(record)
    }
}

/// A tensor as the pickle describes it; nothing of it has been checked against the file.
#[derive(Clone, Debug)]
pub struct TensorRecord<'a> {
    pub(super) storage: StorageRecord<'a>,
    pub(super) kind: Kind<'a>,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
    /// What torch has put off until elements are read: `neg` or `conj`.
    pub(super) deferred: Option<&'static str>,
}

impl<'a> TensorRecord<'a> {
    /// The tensor that a call in the pickle would make, if it is one of the functions that make
    /// tensors.
    pub fn from_node(node: Node<'a>) -> Option<Self> {
        let mut function = node.class()?;
        let mut args: Vec<_> = node.args().take(MOST_ARGS).collect();
        // Parameters and subclasses wrap a tensor; more than a few wrappers is no tensor.
        for _ in 0..4 {
            match function {
                ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                    let data = *args.first()?;
                    function = data.class()?;
                    args = data.args().take(MOST_ARGS).collect();
                }
                // (function, type, arguments, state)
                ("torch._tensor", "_rebuild_from_type_v2") => {
                    function = args.first()?.global()?;
                    args = args.get(2)?.elements()?.take(MOST_ARGS).collect();
                }
                ("torch._utils", name) => return Self::rebuilt(name, &args),
                _ => return None,
            }
        }
        None
    }

    fn rebuilt(function: &str, args: &[Node<'a>]) -> Option<Self> {
        let [storage, offset, shape, strides, rest @ ..] = args else {
            return None;
        };
        let storage = StorageRecord::from_node(*storage)?;
        let (kind, metadata) = match (function, rest) {
            ("_rebuild_tensor", _) => (storage.kind, None),
            ("_rebuild_tensor_v2", rest) => (storage.kind, rest.get(2)),
            // The storage is untyped; the dtype follows flags and hooks.
            ("_rebuild_tensor_v3", [_, _, dtype, rest @ ..]) => {
                (Kind::from_name(dtype.global()?.1), rest.first())
            }
            _ => return None,
        };
        let is_set = |bit: &str| {
            let bit = metadata.and_then(|metadata| metadata.get(bit));
            bit.and_then(Node::boolean) == Some(true)
        };
        Some(Self {
            storage,
            kind,
            offset: usize::try_from(offset.int()?).ok()?,
            shape: shape.sizes()?,
            strides: strides.sizes()?,
            deferred: ["neg", "conj"].into_iter().find(|bit| is_set(bit)),
        })
    }

    /// Its storage type, or torch's name for one that is none of ours.
    pub fn dtype(&self) -> Result<DType, &'a str> {
        match self.kind {
            Kind::Known(dtype) => Ok(dtype),
            Kind::Unknown(name) => Err(name),
        }
    }

    /// Extent of every axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The key of its storage: tensors that share one are tied.
    pub fn storage(&self) -> &'a str {
        self.storage.key
    }
}
