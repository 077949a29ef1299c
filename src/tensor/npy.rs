//! `.npy` files (NEP 1; versions 1 to 3).
//!
//! The header is checked before it is parsed, and the data's length before it is read: npyz's
//! parser takes time exponential in the depth of brackets, and does not check a shape against the
//! file. Data is never read element by element: it is mapped, or copied as a whole where its byte
//! order, its axis order or its alignment ask for it.
//!
//! numpy has neither bfloat16 nor 8-bit floats. ml_dtypes writes bfloat16 as `<V2` and e4m3fn as
//! `<V1`, others as the bits in `<u2` and `|u1`: they are read so where the caller declares that they
//! are, and `V` is refused where not. e5m2 has a name of its own, `<f1`.

use super::float::FLOATS;
use super::{DType, MappedFile, Tensor, with_element};
use crate::error::{BadInput, Error, Result};
use crate::memory;
use crate::output::OutputFile;
use npyz::{DType as NpyType, Endianness, NpyHeader, Order, TypeChar};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header believed; numpy's own are below 200 bytes.
const MAX_HEADER: usize = 64 << 10;
/// Deepest nesting of brackets believed: a plain array's shape is one tuple in one dictionary.
const MAX_DEPTH: usize = 3;
/// Most axes, as in numpy.
const MAX_AXES: usize = 64;

/// What the header of an array says, checked against the length of the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Storage type; for `V2`, `V1` and `u2` the one the caller declared.
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

/// Reads an array. `declared` says what elements without a meaning of their own are.
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
    memory::allow(path, "an array", data.len() as u128)?;
    let tensor = with_element!(header.dtype, T => {
        let mut elements = vec![<T as bytemuck::Zeroable>::zeroed(); data.len() / size_of::<T>()];
        let raw: &mut [u8] = bytemuck::cast_slice_mut(&mut elements);
        raw.copy_from_slice(data);
        if header.is_swapped() {
            raw.chunks_exact_mut(size_of::<T>()).for_each(<[u8]>::reverse);
        }
        let stored: Vec<usize> = if header.fortran_order {
            header.shape.iter().rev().copied().collect()
        } else {
            header.shape.clone()
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
    check_text(text).map_err(|(expected, found)| fault(&expected, found))?;
    let offset = start + length;
    let renamed = without_f1(&bytes[..offset]);
    let declared = renamed.as_ref().map_or(declared, |_| Some(DType::F8E5M2));
    let header = NpyHeader::from_reader(renamed.as_deref().unwrap_or(&bytes[..offset]))
        // The parser's message goes on with a drawing of the text.
        .map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())
        .map_err(|e| fault("a dictionary with descr, fortran_order and shape", e))?;
    let (dtype, spelled, big_endian) = element_type(path, &header.dtype(), declared)?;
    let spelled = renamed.map_or(spelled, |_| descr(dtype));
    let shape = header
        .shape()
        .iter()
        .map(|extent| usize::try_from(*extent).ok())
        .collect::<Option<Vec<_>>>()
        .filter(|shape| shape.len() <= MAX_AXES);
    // Extents of 1 and more only: an axis of 0 must not hide an overflow beside it.
    let bytes_needed = shape.as_ref().and_then(|shape| {
        let product = |size: usize, extent: &usize| size.checked_mul((*extent).max(1));
        let size = shape.iter().try_fold(dtype.size(), product)?;
        Some(if shape.contains(&0) { 0 } else { size })
    });
    let (Some(shape), Some(needed)) = (shape, bytes_needed) else {
        let found = format!("shape {:?}", header.shape());
        return Err(fault("a shape that fits in memory", found));
    };
    // Nor must it hide rows that nobody could hold.
    let others: Vec<usize> = shape.iter().map(|extent| (*extent).max(1)).collect();
    if needed == 0 {
        let rows = memory::bytes_of(&others, dtype.size());
        memory::allow(path, "a row of an empty array", rows)?;
    }
    let held = file_len.saturating_sub(offset);
    if needed != held {
        let expected = format!("{needed} bytes of data for {spelled} {shape:?}");
        let fault = BadInput::new(path, expected, format!("{held} bytes")).at("npy data");
        let remedy = if needed > held {
            "the file is truncated: copy it again"
        } else {
            "the file has trailing bytes: write it again"
        };
        return Err(fault.remedy(remedy).into());
    }
    Ok(Header {
        dtype,
        spelled,
        shape,
        fortran_order: header.order() == Order::Fortran,
        big_endian,
        offset,
    })
}

/// The header of an array of e5m2 as one of bytes without a meaning: npyz knows no float of one byte.
/// `None` of any other.
fn without_f1(header: &[u8]) -> Option<Vec<u8>> {
    let is_f1 = |word: &[u8]| matches!(word, b"'<f1'" | b"'|f1'");
    let start = header.windows(5).position(is_f1)?;
    let mut header = header.to_vec();
    header[start..start + 5].copy_from_slice(b"'|V1'");
    Some(header)
}

impl Header {
    /// Whether elements are not in this machine's byte order.
    fn is_swapped(&self) -> bool {
        self.dtype.size() > 1 && self.big_endian != cfg!(target_endian = "big")
    }
}

/// Checks that the text of a header is made of what numpy writes for a plain array, before npyz
/// sees it: quoted words, `True`, `False`, decimal numbers and brackets at most [`MAX_DEPTH`] deep.
/// npyz takes time exponential in the depth, and multiplies the extents without a check, which
/// panics where overflow is checked; `0x10`, `1_000` and `1--1` are numbers to it too.
///
/// Returns what was expected and what was found.
fn check_text(text: &[u8]) -> Result<(), (String, String)> {
    let (mut depth, mut product) = (0_usize, 1_u64);
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b',' | b':' | b' ' | b'\n' => {}
            // Brackets and digits in quotes are text. Escapes are refused, so that a quoted word
            // ends here where it ends for the parser.
            b'\'' | b'"' => {
                let end = rest.iter().position(|b| *b == byte || *b == b'\\');
                let Some(end) = end.filter(|end| rest[*end] == byte) else {
                    return Err(("quoted words without escapes".into(), "another".into()));
                };
                rest = &rest[end + 1..];
            }
            b'{' | b'[' | b'(' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    let expected = format!("brackets at most {MAX_DEPTH} deep");
                    return Err((expected, "deeper ones".into()));
                }
            }
            b'}' | b']' | b')' => depth = depth.saturating_sub(1),
            b'T' if rest.starts_with(b"rue") => rest = &rest[3..],
            b'F' if rest.starts_with(b"alse") => rest = &rest[4..],
            b'0'..=b'9' => {
                let mut number = Some(u64::from(byte - b'0'));
                while let Some((digit @ b'0'..=b'9', after)) = rest.split_first() {
                    let digit = u64::from(digit - b'0');
                    number = number.and_then(|n| n.checked_mul(10)?.checked_add(digit));
                    rest = after;
                }
                // An extent of 0 must not hide an overflow beside it.
                let Some(next) = number.and_then(|n| product.checked_mul(n.max(1))) else {
                    return Err(("a shape that fits in memory".into(), "a larger one".into()));
                };
                product = next;
            }
            b'-' => return Err(("extents of 0 and more".into(), "a negative one".into())),
            other => {
                let found = format!("the character '{}'", other.escape_ascii());
                return Err(("words, decimal numbers and brackets".into(), found));
            }
        }
    }
    Ok(())
}

fn element_type(
    path: &Path,
    dtype: &NpyType,
    declared: Option<DType>,
) -> Result<(DType, String, bool)> {
    let spelled = dtype.descr();
    let fault = |expected: &str, remedy: &str| -> Error {
        let fault = BadInput::new(path, expected, format!("dtype {spelled}"));
        fault.at("npy header").remedy(remedy).into()
    };
    let NpyType::Plain(plain) = dtype else {
        return Err(fault(
            "an array of numbers",
            "dump plain arrays, one a file",
        ));
    };
    let size = plain.size_field();
    // torch has no unsigned type of two bytes: bits are views of them as signed ones, too.
    let is_bits = matches!(
        plain.type_char(),
        TypeChar::RawData | TypeChar::Uint | TypeChar::Int
    );
    let declared =
        declared.filter(|dtype| is_bits && is_raw(*dtype) && dtype.size() as u64 == size);
    let known = match (plain.type_char(), size) {
        _ if declared.is_some() => declared,
        (TypeChar::Float, _) => float_of(&format!("f{size}")),
        (TypeChar::Int, 8) => Some(DType::I64),
        (TypeChar::Int, 4) => Some(DType::I32),
        (TypeChar::Int, 2) => Some(DType::I16),
        (TypeChar::Int, 1) => Some(DType::I8),
        (TypeChar::Uint, 1) => Some(DType::U8),
        (TypeChar::Bool, 1) => Some(DType::Bool),
        (TypeChar::RawData | TypeChar::Uint, _) => match float_of(&format!("V{size}")) {
            Some(raw) => {
                let remedy = format!("if these are {raw} bits, say so where the file is described");
                return Err(fault("a type with a meaning of its own", &remedy));
            }
            None => None,
        },
        _ => None,
    };
    let Some(known) = known else {
        let remedy = "convert the array with numpy's astype before it is saved";
        return Err(fault(
            "fp64, fp32, fp16, bf16, int64, int32, uint8 or bool",
            remedy,
        ));
    };
    // `<V2` names no byte order that npyz keeps; ml_dtypes writes the machine's, little-endian.
    let big_endian = plain.endianness() == Endianness::Big;
    Ok((known, spelled.trim_matches('\'').to_owned(), big_endian))
}

/// The floating type that numpy spells so, without the byte order.
fn float_of(spelled: &str) -> Option<DType> {
    let floats = FLOATS.iter().find(|float| float.numpy == spelled);
    floats.map(|float| float.dtype)
}

/// Whether numpy lacks the type, so that arrays may hold its bits as bytes or integers.
fn is_raw(dtype: DType) -> bool {
    let is_numpys = |numpy| matches!(numpy, "f8" | "f4" | "f2");
    dtype.float().is_some_and(|float| !is_numpys(float.numpy))
}

/// The type as a header spells it.
fn descr(dtype: DType) -> String {
    match dtype {
        DType::I64 => "<i8".into(),
        DType::I32 => "<i4".into(),
        DType::I16 => "<i2".into(),
        DType::I8 => "|i1".into(),
        DType::U8 => "|u1".into(),
        DType::Bool => "|b1".into(),
        DType::F64 | DType::F32 | DType::F16 | DType::Bf16 | DType::F8E4M3 | DType::F8E5M2 => {
            format!("<{}", dtype.float().map_or("", |float| float.numpy))
        }
    }
}

/// Writes an array: version 1.0, little-endian, C order, types that numpy lacks as ml_dtypes does. It
/// appears under `path` complete or not at all.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, tensor: &Tensor) -> Result<()> {
    let descr = descr(tensor.dtype());
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
    use super::super::{E4M3, E5M2};
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
    fn fp8_is_read_where_it_is_declared_or_named() {
        let bits = [0x38, 0x7e];
        for descr in ["'<V1'", "'|V1'", "'|u1'"] {
            let bytes = file(1, descr, false, "(2,)", &bits);
            let tensor = parse(&bytes, Some(DType::F8E4M3)).unwrap();
            let values = tensor.widened().unwrap();
            assert_eq!(values.as_slice::<f64>().unwrap(), [1.0, 448.0]);
        }
        let undeclared = file(1, "'<V1'", false, "(2,)", &bits);
        for declared in [None, Some(DType::Bf16)] {
            let error = parse(&undeclared, declared).unwrap_err().to_string();
            assert!(
                error.contains("if these are fp8_e4m3 bits, say so"),
                "{error}"
            );
        }
        let named = file(1, "'<f1'", false, "(2,)", &[0x3c, 0x7b]);
        let tensor = parse(&named, None).unwrap();
        assert_eq!(tensor.dtype(), DType::F8E5M2);
        let values = tensor.widened().unwrap();
        assert_eq!(values.as_slice::<f64>().unwrap(), [1.0, 57344.0]);
        let integers = parse(&file(1, "'|u1'", false, "(2,)", &bits), None).unwrap();
        assert_eq!(integers.dtype(), DType::U8);
    }

    #[test]
    fn headers_are_made_of_words_decimal_numbers_and_few_brackets() {
        let header = |shape: &str| {
            format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}  \n")
        };
        for shape in [
            "()",
            "(2,)",
            "(20, 1, 64)",
            "(0, 5)",
            "(18446744073709551615,)",
        ] {
            assert_eq!(check_text(header(shape).as_bytes()), Ok(()));
        }
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
        ] {
            assert!(check_text(header(shape).as_bytes()).is_err(), "{shape}");
        }
        // A bracket in quotes closes nothing.
        assert!(check_text("[')',".repeat(40).as_bytes()).is_err());
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
        (shape, any::<u64>(), 0_usize..10).prop_map(|(shape, seed, kind)| {
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
                7 => tensor!(|b| E4M3::from_bits(b as u8)),
                8 => tensor!(|b| E5M2::from_bits(b as u8)),
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
            let declared = Some(tensor.dtype());
            let back = read(&path, declared).unwrap();
            prop_assert!(back.bits_equal(&tensor), "{back:?} is not {tensor:?}");
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

            // The same array in the other axis order and the other byte order.
            let size = tensor.dtype().size();
            let axes: Vec<usize> = (0..tensor.shape().len()).rev().collect();
            let mut data = tensor.permuted(&axes).bytes().to_vec();
            data.chunks_exact_mut(size).for_each(<[u8]>::reverse);
            let bits = |size: usize| ["|u1", ">u2"][size - 1].to_owned();
            let descr = match tensor.dtype() {
                raw if is_raw(raw) => bits(raw.size()),
                other => descr(other).replace('<', ">"),
            };
            let descr = &format!("'{descr}'");
            let shape = match tensor.shape() {
                [only] => format!("({only},)"),
                shape => format!("{shape:?}").replace('[', "(").replace(']', ")"),
            };
            let swapped = parse(&file(2, descr, true, &shape, &data), declared).unwrap();
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
