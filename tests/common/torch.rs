//! Writes files as `torch.save` does, honest ones and others.

#![allow(dead_code, reason = "the benches use a part of it")]

use flate2::Crc;

/// A Python object.
#[derive(Clone)]
pub enum Py {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Tuple(Vec<Py>),
    List(Vec<Py>),
    Dict(Vec<(Py, Py)>),
    /// An object of a class without arguments, with attributes.
    Object(&'static str, Vec<(String, Py)>),
    /// A function called on arguments.
    Call(&'static str, Vec<Py>),
    /// A class or function, `module name`.
    Global(&'static str),
    Tensor(Tensor),
    /// Opcodes as they are.
    Raw(Vec<u8>),
}

/// A tensor on a storage of its own.
#[derive(Clone)]
pub struct Tensor {
    /// `FloatStorage`, `BFloat16Storage`, …, or `float8_e4m3fn` and `float8_e5m2`.
    pub storage: &'static str,
    /// Elements the pickle says the storage has.
    pub elements: i64,
    pub offset: i64,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
    pub data: Vec<u8>,
    /// A bit that says what is still to be done to elements: `neg` or `conj`.
    pub deferred: Option<&'static str>,
}

impl Tensor {
    /// A contiguous tensor.
    pub fn new(storage: &'static str, shape: &[i64], data: Vec<u8>) -> Self {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        Self {
            storage,
            elements: shape.iter().product(),
            offset: 0,
            shape: shape.to_vec(),
            strides,
            data,
            deferred: None,
        }
    }

    /// fp32 values counting up from `first`.
    pub fn counting(shape: &[i64], first: f32) -> Self {
        let count: i64 = shape.iter().product();
        let values = (0..count).flat_map(|i| (first + i as f32).to_le_bytes());
        Self::new("FloatStorage", shape, values.collect())
    }
}

pub fn text(text: &str) -> Py {
    Py::Str(text.to_owned())
}

pub fn dict(entries: impl IntoIterator<Item = (String, Py)>) -> Py {
    let entries = entries.into_iter();
    Py::Dict(entries.map(|(key, value)| (Py::Str(key), value)).collect())
}

/// A pickle, protocol 2, and the storages it refers to.
pub fn pickle(root: &Py) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut writer = Writer {
        out: vec![0x80, 2],
        storages: Vec::new(),
    };
    writer.object(root);
    writer.out.push(b'.');
    (writer.out, writer.storages)
}

struct Writer {
    out: Vec<u8>,
    storages: Vec<Vec<u8>>,
}

impl Writer {
    fn object(&mut self, value: &Py) {
        match value {
            Py::None => self.out.push(b'N'),
            Py::Bool(value) => self.out.push(if *value { 0x88 } else { 0x89 }),
            Py::Int(value) => {
                self.out.extend([0x8a, 8]);
                self.out.extend(value.to_le_bytes());
            }
            Py::Float(value) => {
                self.out.push(b'G');
                self.out.extend(value.to_be_bytes());
            }
            Py::Str(text) => {
                self.out.push(b'X');
                self.out.extend((text.len() as u32).to_le_bytes());
                self.out.extend(text.as_bytes());
            }
            Py::Tuple(items) => {
                self.out.push(b'(');
                items.iter().for_each(|item| self.object(item));
                self.out.push(b't');
            }
            Py::List(items) => {
                self.out.extend(b"](");
                items.iter().for_each(|item| self.object(item));
                self.out.push(b'e');
            }
            Py::Dict(entries) => {
                self.out.extend(b"}(");
                for (key, value) in entries {
                    self.object(key);
                    self.object(value);
                }
                self.out.push(b'u');
            }
            Py::Object(class, fields) => {
                self.global(class);
                self.out.extend(b")\x81");
                self.object(&dict(fields.iter().cloned()));
                self.out.push(b'b');
            }
            Py::Call(function, args) => {
                self.global(function);
                self.object(&Py::Tuple(args.clone()));
                self.out.push(b'R');
            }
            Py::Global(name) => self.global(name),
            Py::Tensor(tensor) => self.tensor(tensor),
            Py::Raw(bytes) => self.out.extend(bytes),
        }
    }

    fn global(&mut self, name: &str) {
        let (module, name) = name.rsplit_once(' ').expect("a module and a name");
        self.out.extend(format!("c{module}\n{name}\n").into_bytes());
    }

    fn tensor(&mut self, tensor: &Tensor) {
        let key = self.storages.len().to_string();
        self.storages.push(tensor.data.clone());
        // Types without a storage class of their own lie in bytes, and are named after the rest.
        let untyped = tensor.storage.starts_with("float8");
        self.global(if untyped {
            "torch._utils _rebuild_tensor_v3"
        } else {
            "torch._utils _rebuild_tensor_v2"
        });
        self.out.push(b'(');
        self.out.push(b'(');
        self.object(&text("storage"));
        if untyped {
            self.global("torch.storage UntypedStorage");
        } else {
            self.global(&format!("torch {}", tensor.storage));
        }
        for part in [text(&key), text("cpu"), Py::Int(tensor.elements)] {
            self.object(&part);
        }
        self.out.extend(b"tQ");
        let sizes = |sizes: &[i64]| Py::Tuple(sizes.iter().map(|size| Py::Int(*size)).collect());
        for part in [
            Py::Int(tensor.offset),
            sizes(&tensor.shape),
            sizes(&tensor.strides),
            Py::Bool(false),
            Py::Call("collections OrderedDict", Vec::new()),
        ] {
            self.object(&part);
        }
        if untyped {
            self.global(&format!("torch {}", tensor.storage));
        }
        if let Some(bit) = tensor.deferred {
            self.object(&Py::Dict(vec![(text(bit), Py::Bool(true))]));
        }
        self.out.extend(b"tR");
    }
}

/// A file as `torch.save` writes it.
pub fn file(root: &Py) -> Vec<u8> {
    let (pickle, storages) = pickle(root);
    let mut members = vec![
        ("archive/data.pkl".to_owned(), pickle),
        ("archive/byteorder".to_owned(), b"little".to_vec()),
        // torch reads no archive without it.
        ("archive/version".to_owned(), b"3\n".to_vec()),
    ];
    let numbered = storages.into_iter().enumerate();
    members.extend(numbered.map(|(key, data)| (format!("archive/data/{key}"), data)));
    zip(&members)
}

/// A zip of stored members whose data begins at multiples of 64.
pub fn zip(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut directory = Vec::new();
    for (name, data) in members {
        let mut crc = Crc::new();
        crc.update(data);
        let size = (data.len() as u32).to_le_bytes();
        let common = [
            &[20, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &crc.sum().to_le_bytes(),
            &size,
            &size,
            &(name.len() as u16).to_le_bytes(),
        ]
        .concat();
        let start = out.len();
        let padding = 64 - (start + 30 + name.len() + 4) % 64;
        out.extend(b"PK\x03\x04");
        out.extend(&common);
        out.extend((padding as u16 + 4).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(b"FB");
        out.extend((padding as u16).to_le_bytes());
        out.extend(vec![b'Z'; padding]);
        out.extend(data);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 12]);
        directory.extend((start as u32).to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, count) = (out.len() as u32, members.len() as u16);
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0, 0]);
    out
}

/// A file as torch before 1.6 writes it.
pub fn legacy(root: &Py, element_size: usize) -> Vec<u8> {
    let (object, storages) = pickle(root);
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    let machine = dict([("little_endian".to_owned(), Py::Bool(true))]);
    let keys = (0..storages.len()).map(|key| text(&key.to_string()));
    let mut out = magic.to_vec();
    out.extend(pickle(&Py::Int(1001)).0);
    out.extend(pickle(&machine).0);
    out.extend(object);
    out.extend(pickle(&Py::List(keys.collect())).0);
    for storage in storages {
        out.extend((storage.len() as u64 / element_size as u64).to_le_bytes());
        out.extend(storage);
    }
    out
}
