//! `.npy` files (NEP 1; versions 1 to 3).
//!
//! Data is never read element by element: it is mapped, or copied as a whole where its byte order,
//! its axis order or its alignment ask for it, after its length was held against the header's.
//!
//! The header is parsed here. To a reader of Python literals it is nested, and `0x10`, `1_000` and
//! `1--1` are numbers; to numpy, which writes it, it is three keys.
//!
//! numpy has no bfloat16. ml_dtypes writes it as `<V2`, others as the bits in `<u2`: both are read
//! as bf16 where the caller declares that they are, and refused where not.

use super::{DType, MappedFile, Tensor, with_element};
use crate::error::{BadInput, Error, Result};
use crate::output::OutputFile;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header believed; numpy's own are below 200 bytes.
const MAX_HEADER: usize = 64 << 10;
/// Most axes, as in numpy.
const MAX_AXES: usize = 64;

/// What the header of an array says, checked against the length of the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Storage type; for `V2` and `u2` the one the caller declared.
    pub dtype: DType,
    /// Type as the file spells it: `<f4`.
    pub spelled: String,
    /// Extent of every axis.
    pub shape: Vec<usize>,
    /// Whether the first axis varies fastest.
    pub fortran_order: bool,
    /// Whether multi-byte elements are big-endian.
    pub big_endian: bool,
    /// Where the data begins.
    pub offset: usize,
}

/// Reads an array. `declared` says what 2-byte elements without a meaning of their own are.
///
/// # Errors
/// If the file is missing or is no array of a type this crate knows, exactly as long as its header
/// says.
pub fn read(path: impl Into<PathBuf>, declared: Option<DType>) -> Result<Tensor> {
    let file = MappedFile::open(path)?;
    let path = file.path().to_owned();
    from_mapped(&path, &file, 0..file.len(), declared)
}

/// Reads an array from a part of a mapped file (all of it, or an archive's stored member), in place
/// if its order and alignment allow; `path` is for messages.
pub(super) fn from_mapped(
    path: &Path,
    file: &MappedFile,
    range: Range<usize>,
    declared: Option<DType>,
) -> Result<Tensor> {
    let bytes = &file[range.clone()];
    let header = parse_header(path, bytes, bytes.len(), declared)?;
    if header.fortran_order || header.is_swapped() {
        return from_bytes(path, bytes, declared);
    }
    let data = range.start + header.offset..range.end;
    Tensor::from_mapped(header.dtype, &header.shape, file, data)
}

/// Reads an array from the bytes of a whole file, by copying; `path` is for messages.
///
/// # Errors
/// As [`read`].
pub fn from_bytes(path: &Path, bytes: &[u8], declared: Option<DType>) -> Result<Tensor> {
    let header = parse_header(path, bytes, bytes.len(), declared)?;
    let data = &bytes[header.offset..];
    let tensor = with_element!(header.dtype, T => {
        let mut elements = vec![<T as bytemuck::Zeroable>::zeroed(); data.len() / size_of::<T>()];
        let raw: &mut [u8] = bytemuck::cast_slice_mut(&mut elements);
        raw.copy_from_slice(data);
        if header.is_swapped() {
            raw.chunks_exact_mut(size_of::<T>()).for_each(<[u8]>::reverse);
        }
        let stored: Vec<usize> = match header.fortran_order {
            true => header.shape.iter().rev().copied().collect(),
            false => header.shape.clone(),
        };
        Tensor::from_vec(&stored, elements)?.reinterpret(header.dtype)
    });
    tensor.check_booleans(&path.display().to_string())?;
    if !header.fortran_order {
        return Ok(tensor);
    }
    let axes: Vec<usize> = (0..header.shape.len()).rev().collect();
    Ok(tensor.permuted(&axes))
}

/// Parses the header of an array of `file_len` bytes of which `bytes` are the first (all of them,
/// or at least the header).
///
/// # Errors
/// [`BadInput`] naming `path`, with what was expected and found.
pub fn parse_header(
    path: &Path,
    bytes: &[u8],
    file_len: usize,
    declared: Option<DType>,
) -> Result<Header> {
    let fault = |expected: &str, found: String| -> Error {
        BadInput::new(path, expected, found).at("npy header").into()
    };
    let preamble = bytes.get(..8).filter(|b| b.starts_with(MAGIC));
    let Some(&[.., major, minor]) = preamble else {
        return Err(fault("a .npy file", "no \\x93NUMPY at its start".into()));
    };
    let length: Option<(usize, usize)> = match (major, minor, bytes) {
        (1, 0, [_, _, _, _, _, _, _, _, a, b, ..]) => {
            Some((10, usize::from(u16::from_le_bytes([*a, *b]))))
        }
        (2 | 3, 0, [_, _, _, _, _, _, _, _, a, b, c, d, ..]) => {
            Some((12, u32::from_le_bytes([*a, *b, *c, *d]) as usize))
        }
        (1..=3, 0, _) => None,
        _ => {
            return Err(fault(
                "version 1.0, 2.0 or 3.0",
                format!("version {major}.{minor}"),
            ));
        }
    };
    let text = length.and_then(|(start, length)| bytes.get(start..start.checked_add(length)?));
    let (Some((start, length)), Some(text)) = (length, text) else {
        let found = format!("a file that ends inside its header, {} bytes", bytes.len());
        return Err(fault("a whole header", found));
    };
    if length > MAX_HEADER {
        return Err(fault(
            &format!("at most {MAX_HEADER} bytes"),
            format!("{length} bytes"),
        ));
    }
    let offset = start + length;
    let text = Text::parse(text).map_err(|(expected, found)| fault(expected, found))?;
    let (dtype, big_endian) = element_type(path, text.descr, declared)?;
    let (shape, spelled) = (text.shape, text.descr.to_owned());
    // Extents of 1 and more only: an axis of 0 must not hide an overflow beside it.
    let product = |size: usize, extent: &usize| size.checked_mul((*extent).max(1));
    let Some(size) = shape.iter().try_fold(dtype.size(), product) else {
        let found = format!("shape {shape:?}");
        return Err(fault("a shape that fits in memory", found));
    };
    let needed = if shape.contains(&0) { 0 } else { size };
    let held = file_len.saturating_sub(offset);
    if needed != held {
        let expected = format!("{needed} bytes of data for {spelled} {shape:?}");
        let fault = BadInput::new(path, expected, format!("{held} bytes")).at("npy data");
        let remedy = match needed > held {
            true => "the file is truncated: copy it again",
            false => "the file has trailing bytes: write it again",
        };
        return Err(fault.remedy(remedy).into());
    }
    Ok(Header {
        dtype,
        spelled,
        shape,
        fortran_order: text.fortran_order,
        big_endian,
        offset,
    })
}

impl Header {
    /// Whether elements are not in this machine's byte order.
    fn is_swapped(&self) -> bool {
        self.dtype.size() > 1 && self.big_endian != cfg!(target_endian = "big")
    }
}

/// What the text of a header says.
struct Text<'a> {
    descr: &'a str,
    fortran_order: bool,
    shape: Vec<usize>,
}

/// What was expected of a text, and what was found.
type Refusal = (&'static str, String);

impl<'a> Text<'a> {
    /// Reads what numpy writes for a plain array, and no other Python: a dictionary of three keys in
    /// any order.
    fn parse(text: &'a [u8]) -> Result<Self, Refusal> {
        let mut text = Cursor(std::str::from_utf8(text).map_err(|e| refused(e.to_string()))?);
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        text.expect("{")?;
        while !text.skips("}") {
            let key = text.quoted()?;
            text.expect(":")?;
            match key {
                "descr" if text.skips("[") => {
                    return Err(("an array of numbers", "one of records".into()));
                }
                "descr" if descr.is_none() => descr = Some(text.quoted()?),
                "fortran_order" if fortran_order.is_none() => {
                    fortran_order = Some(!text.skips("False"));
                    if fortran_order == Some(true) {
                        text.expect("True")?;
                    }
                }
                "shape" if shape.is_none() => shape = Some(text.extents()?),
                _ => return Err(refused("another key, or one twice".into())),
            }
            if !text.skips(",") {
                text.expect("}")?;
                break;
            }
        }
        match (descr, fortran_order, shape, text.0.trim_ascii()) {
            (Some(descr), Some(fortran_order), Some(shape), "") => Ok(Self {
                descr,
                fortran_order,
                shape,
            }),
            (.., "") => Err(refused("one without them".into())),
            _ => Err(text.unexpected()),
        }
    }
}

fn refused(found: String) -> Refusal {
    ("a dictionary with descr, fortran_order and shape", found)
}

/// What is left of a text.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    /// Whether the text went on with this word, which is then behind.
    fn skips(&mut self, word: &str) -> bool {
        let rest = self.0.trim_ascii_start();
        self.0 = rest.strip_prefix(word).unwrap_or(rest);
        self.0.len() < rest.len()
    }

    fn expect(&mut self, word: &str) -> Result<(), Refusal> {
        if self.skips(word) {
            return Ok(());
        }
        Err(self.unexpected())
    }

    fn unexpected(&self) -> Refusal {
        refused(match self.0.trim_ascii_start().chars().next() {
            Some(next) => format!("{next:?} where it does not belong"),
            None => "its end before that of the dictionary".into(),
        })
    }

    /// A word in quotes of either kind. Escapes mean nothing here: no word that is asked for has one.
    fn quoted(&mut self) -> Result<&'a str, Refusal> {
        for quote in ["'", "\""] {
            if self.skips(quote)
                && let Some((word, rest)) = self.0.split_once(quote)
            {
                self.0 = rest;
                return Ok(word);
            }
        }
        Err(self.unexpected())
    }

    /// A tuple of decimal numbers.
    fn extents(&mut self) -> Result<Vec<usize>, Refusal> {
        let mut extents = Vec::new();
        self.expect("(")?;
        while !self.skips(")") {
            if self.skips("-") {
                return Err(("extents of 0 and more", "a negative one".into()));
            }
            let end = self.0.bytes().take_while(u8::is_ascii_digit).count();
            let (digits, rest) = self.0.split_at(end);
            if digits.is_empty() {
                return Err(self.unexpected());
            }
            let too_large = |_| ("a shape that fits in memory", "a larger one".into());
            extents.push(digits.parse().map_err(too_large)?);
            if extents.len() > MAX_AXES {
                return Err(("at most 64 axes", "more".into()));
            }
            self.0 = rest;
            if !self.skips(",") {
                self.expect(")")?;
                // In Python as in mathematics, (2) is the number 2.
                if extents.len() == 1 {
                    return Err(refused("a number in brackets for a shape".into()));
                }
                break;
            }
        }
        Ok(extents)
    }
}

/// The storage type that is spelled so, and whether its bytes are in big-endian order.
fn element_type(path: &Path, descr: &str, declared: Option<DType>) -> Result<(DType, bool)> {
    let fault = |expected: &str, remedy: &str| -> Error {
        let found = format!("dtype '{:.32}'", descr.escape_debug().to_string());
        let fault = BadInput::new(path, expected, found);
        fault.at("npy header").remedy(remedy).into()
    };
    let (big_endian, kind) = match descr.split_at_checked(1) {
        // ml_dtypes writes `<V2` and `|V2`, both in the machine's order, which is little-endian.
        Some((">", kind)) => (kind != "V2", kind),
        Some(("<" | "|", kind)) => (false, kind),
        _ => (false, ""),
    };
    let known = match kind {
        "f8" => DType::F64,
        "f4" => DType::F32,
        "f2" => DType::F16,
        "i8" => DType::I64,
        "i4" => DType::I32,
        "i2" => DType::I16,
        "i1" => DType::I8,
        "u1" => DType::U8,
        "b1" => DType::Bool,
        "V2" | "u2" if declared == Some(DType::Bf16) => DType::Bf16,
        "V2" | "u2" => {
            let remedy = "if these are bf16 bits, say so where the file is described";
            return Err(fault("a type with a meaning of its own", remedy));
        }
        _ => {
            let remedy = "convert the array with numpy's astype before it is saved";
            return Err(fault(
                "fp64, fp32, fp16, bf16, int64, int32, uint8 or bool",
                remedy,
            ));
        }
    };
    Ok((known, big_endian))
}

/// Writes an array: version 1.0, little-endian, C order, bf16 as `<V2`. It appears under `path`
/// complete or not at all.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, tensor: &Tensor) -> Result<()> {
    let descr = match tensor.dtype() {
        DType::F64 => "<f8",
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::Bf16 => "<V2",
        DType::I64 => "<i8",
        DType::I32 => "<i4",
        DType::I16 => "<i2",
        DType::I8 => "|i1",
        DType::U8 => "|u1",
        DType::Bool => "|b1",
    };
    let shape = match tensor.shape() {
        [only] => format!("({only},)"),
        shape => format!("{shape:?}").replace('[', "(").replace(']', ")"),
    };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    // Magic, version and length take 10 bytes; numpy pads so that data begins at a multiple of 64.
    let padding = 63 - (10 + header.len()) % 64;
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(|_| Error::Mismatch {
        at: path.display().to_string(),
        expected: "a shape that fits a version 1.0 header".into(),
        found: format!("{} axes", tensor.shape().len()),
    })?;
    let mut file = OutputFile::create(path)?;
    file.write_all(&[MAGIC, &[1, 0], &length.to_le_bytes(), header.as_bytes()].concat())
        .and_then(|()| file.write_all(&little_endian(tensor)))
        .map_err(Error::io(path, "write"))?;
    file.commit()
}

#[cfg(target_endian = "little")]
fn little_endian(tensor: &Tensor) -> std::borrow::Cow<'_, [u8]> {
    tensor.bytes().into()
}

#[cfg(target_endian = "big")]
fn little_endian(tensor: &Tensor) -> std::borrow::Cow<'_, [u8]> {
    let mut bytes = tensor.bytes().to_vec();
    bytes
        .chunks_exact_mut(tensor.dtype().size())
        .for_each(<[u8]>::reverse);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    /// A file of another version, byte order or axis order than `write` makes.
    fn file(version: u8, descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
        let fortran = if fortran { "True" } else { "False" };
        let header =
            format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
        let mut bytes = [MAGIC, &[version, 0]].concat();
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn parse(bytes: &[u8], declared: Option<DType>) -> Result<Tensor> {
        from_bytes(Path::new("x.npy"), bytes, declared)
    }

    #[test]
    fn every_version_and_byte_order_is_read() {
        for version in 1..=3 {
            let little = file(
                version,
                "'<f4'",
                false,
                "(2,)",
                &[0, 0, 0x80, 0x3f, 0, 0, 0, 0x40],
            );
            let big = file(
                version,
                "'>f4'",
                false,
                "(2,)",
                &[0x3f, 0x80, 0, 0, 0x40, 0, 0, 0],
            );
            for bytes in [little, big] {
                let tensor = parse(&bytes, None).unwrap();
                assert_eq!(tensor.as_slice::<f32>().unwrap(), [1.0, 2.0]);
            }
        }
    }

    #[test]
    fn fortran_order_is_turned_into_c_order() {
        // [[1, 2, 3], [4, 5, 6]], columns first.
        let bytes = file(1, "'|u1'", true, "(2, 3)", &[1, 4, 2, 5, 3, 6]);
        let tensor = parse(&bytes, None).unwrap();
        assert_eq!(tensor.shape(), [2, 3]);
        assert_eq!(tensor.as_slice::<u8>().unwrap(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn bf16_is_read_where_it_is_declared() {
        for descr in ["'<V2'", "'|V2'", "'<u2'"] {
            let bytes = file(1, descr, false, "()", &[0x80, 0x3f]);
            let tensor = parse(&bytes, Some(DType::Bf16)).unwrap();
            assert_eq!(tensor.as_slice::<bf16>().unwrap(), [bf16::ONE]);
            let error = parse(&bytes, None).unwrap_err().to_string();
            assert!(error.contains("if these are bf16 bits, say so"), "{error}");
        }
        let big = file(1, "'>u2'", false, "()", &[0x3f, 0x80]);
        let tensor = parse(&big, Some(DType::Bf16)).unwrap();
        assert_eq!(tensor.as_slice::<bf16>().unwrap(), [bf16::ONE]);
    }

    #[test]
    fn headers_have_three_keys_and_decimal_extents() {
        for (shape, extents) in [
            ("()", &[][..]),
            ("(2,)", &[2]),
            ("(20, 1, 64)", &[20, 1, 64]),
            ("(0,5)", &[0, 5]),
            ("(18446744073709551615,)", &[usize::MAX]),
        ] {
            let text = format!("{{'shape': {shape}, \"descr\":'<f4','fortran_order': True}}  \n");
            let text = Text::parse(text.as_bytes()).map_err(|_| shape).unwrap();
            let read = (text.descr, text.fortran_order, &text.shape[..]);
            assert_eq!(read, ("<f4", true, extents));
        }
        let refusal = |text: &str| {
            let length = (text.len() as u16).to_le_bytes();
            let bytes = [MAGIC, &[1, 0], &length, text.as_bytes(), &[0; 8]].concat();
            let error = parse(&bytes, None).expect_err(text).to_string();
            assert!(error.contains("npy header: expected"), "{text}: {error}");
        };
        for shape in [
            "(4294967296, 4294967296, 4)",
            "[4294967296, 4294967296, 4]",
            "(0, 4294967296, 4294967296)",
            "(0x100000000, 0x100000000, 4)",
            "(4_294_967_296, 4_294_967_296, 4)",
            "(1--1, 2)",
            "(1+1,)",
            "(-1,)",
            "(1.5,)",
            "(1e5,)",
            "(2j,)",
            "(18446744073709551616,)",
            "(((2)))",
            "b'x'",
            "'\\'((((",
            "None",
            "(2",
            "(2)",
            "2",
            "(,)",
            "(2,,)",
        ] {
            refusal(&format!(
                "{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
            ));
        }
        for text in [
            "",
            "{",
            "{}",
            "{'descr': '<f4', 'fortran_order': False}",
            "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x",
            "{'descr': '<f4', 'fortran_order': false, 'shape': (2,)}",
            "{'descr': '<f4' 'fortran_order': False, 'shape': (2,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}",
            "{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (2,)}",
            "{'descr': '\u{e9}', 'fortran_order': False, 'shape': (2,)}",
        ] {
            refusal(text);
        }
    }

    #[test]
    fn scalars_and_empty_arrays_are_arrays() {
        let scalar = parse(&file(1, "'<i4'", false, "()", &[7, 0, 0, 0]), None).unwrap();
        assert_eq!(
            (scalar.shape(), scalar.as_slice::<i32>().unwrap()),
            (&[][..], &[7][..])
        );
        let empty = parse(&file(1, "'<f8'", true, "(0, 5)", &[]), None).unwrap();
        assert_eq!((empty.shape(), empty.len()), (&[0, 5][..], 0));
    }

    /// Every tensor type with arbitrary bits.
    fn tensors() -> impl Strategy<Value = Tensor> {
        let shape = prop::collection::vec(0_usize..4, 0..4);
        (shape, any::<u64>(), 0_usize..8).prop_map(|(shape, seed, kind)| {
            let count = shape.iter().product::<usize>();
            let bits = move |i: usize| (seed ^ i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            macro_rules! tensor {
                ($convert:expr) => {
                    Tensor::from_vec(&shape, (0..count).map(bits).map($convert).collect()).unwrap()
                };
            }
            match kind {
                0 => tensor!(f64::from_bits),
                1 => tensor!(|b| f32::from_bits(b as u32)),
                2 => tensor!(|b| f16::from_bits(b as u16)),
                3 => tensor!(|b| bf16::from_bits(b as u16)),
                4 => tensor!(|b| b as i64),
                5 => tensor!(|b| b as i32),
                6 => tensor!(|b| b as u8),
                _ => tensor!(|b| (b % 2) as u8).reinterpret(DType::Bool),
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(tensor in tensors()) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x.npy");
            write(&path, &tensor).unwrap();
            let back = read(&path, Some(DType::Bf16)).unwrap();
            prop_assert!(back.bits_equal(&tensor), "{back:?} is not {tensor:?}");
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

            // The same array in the other axis order and the other byte order.
            let size = tensor.dtype().size();
            let axes: Vec<usize> = (0..tensor.shape().len()).rev().collect();
            let mut data = tensor.permuted(&axes).bytes().to_vec();
            data.chunks_exact_mut(size).for_each(<[u8]>::reverse);
            let descr = match tensor.dtype() {
                DType::F64 => "'>f8'", DType::F32 => "'>f4'", DType::F16 => "'>f2'",
                DType::Bf16 => "'>u2'", DType::I64 => "'>i8'", DType::I32 => "'>i4'", DType::I16 => "'>i2'", DType::I8 => "'|i1'",
                DType::U8 => "'|u1'", DType::Bool => "'|b1'",
            };
            let shape = match tensor.shape() {
                [only] => format!("({only},)"),
                shape => format!("{shape:?}").replace('[', "(").replace(']', ")"),
            };
            let swapped = parse(&file(2, descr, true, &shape, &data), Some(DType::Bf16)).unwrap();
            prop_assert!(swapped.bits_equal(&tensor), "{swapped:?} is not {tensor:?}");
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..200) {
            let _ = parse(&bytes, None);
            let mut valid = file(1, "'<f4'", false, "(2, 3)", &[0; 24]);
            valid.truncate(cut % valid.len());
            prop_assert!(parse(&valid, None).is_err());
            let mut garbled = file(1, "'<f4'", false, "(2, 3)", &[0; 24]);
            for (to, from) in garbled[10..].iter_mut().step_by(7).zip(&bytes) {
                *to = *from;
            }
            let _ = parse(&garbled, Some(DType::Bf16));
        }
    }
}
