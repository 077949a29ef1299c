//! Files of `torch.save`, against torch itself (`tests/torch`, made by
//! `scripts/make_torch_fixtures.py`).

use crate::common::torch::{Py, Tensor as Saved, dict, file, legacy};
use parity::checkpoint::torch::{TensorRecord, TorchFile};
use parity::tensor::{DType, MappedFile, Tensor, Tiled, npy};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch")
}

fn tensor(file: &TorchFile, name: &str) -> Tensor {
    let record = file
        .root()
        .get(name)
        .and_then(TensorRecord::from_node)
        .expect(name);
    let strided = file.strided(name, &record).expect(name);
    Tiled::one(strided).to_tensor().expect(name)
}

#[test]
fn every_container_view_and_type_is_read_as_torch_reads_it() {
    for container in ["zip.pt", "protocol4.pt", "legacy.pt"] {
        let file = TorchFile::open(fixtures().join(container)).expect(container);
        let mut count = 0;
        for entry in fixtures().read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "npy") {
                let name = path.file_stem().unwrap().to_str().unwrap();
                let own = npy::read(&path, None);
                let expected = own
                    .or_else(|_| npy::read(&path, Some(DType::Bf16)))
                    .unwrap();
                assert!(
                    tensor(&file, name).bits_equal(&expected),
                    "{container}: {name}"
                );
                count += 1;
            }
        }
        assert_eq!(count, 18);
    }
}

#[test]
fn objects_are_kept_as_data_and_shared_storages_show() {
    for container in ["zip.pt", "protocol4.pt", "legacy.pt"] {
        let file = TorchFile::open(fixtures().join(container)).unwrap();
        let args = file.root().get("args").unwrap();
        assert_eq!(args.class(), Some(("argparse", "Namespace")));
        assert_eq!(args.field("layers").and_then(|node| node.int()), Some(3));
        assert_eq!(
            args.field("name").and_then(|node| node.text()),
            Some("tiny")
        );
        assert_eq!(
            args.field("dtype").and_then(|node| node.global()),
            Some(("torch", "bfloat16"))
        );
        assert_eq!(
            args.field("big").unwrap().shown().to_string(),
            "an integer of 9 bytes"
        );
        let storage = |name: &str| {
            let record = file.root().get(name).and_then(TensorRecord::from_node);
            record.unwrap().storage().to_owned()
        };
        assert_eq!(storage("transposed"), storage("fp32"));
        assert_ne!(storage("fp64"), storage("fp32"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any view of any storage, in either container: the storage counts its elements, so a value says
    /// where it lay.
    #[test]
    fn views_are_read_where_their_strides_say(
        shape in prop::collection::vec(1_i64..4, 0..4),
        strides in prop::collection::vec(0_i64..5, 4),
        offset in 0_i64..4,
    ) {
        let strides = strides[..shape.len()].to_vec();
        let steps = shape.iter().zip(&strides).map(|(extent, stride)| (extent - 1) * stride);
        let held = offset + steps.sum::<i64>() + 1;
        let mut places = vec![offset];
        for (extent, stride) in shape.iter().zip(&strides) {
            let along = |place| (0..*extent).map(move |index| place + index * stride);
            places = places.into_iter().flat_map(along).collect();
        }
        let expected: Vec<f32> = places.into_iter().map(|place| 1.0 + place as f32).collect();
        let extents: Vec<usize> = shape.iter().map(|extent| *extent as usize).collect();
        let view = Saved { offset, shape, strides, ..Saved::counting(&[held], 1.0) };
        let root = dict([("view".to_owned(), Py::Tensor(view))]);
        for bytes in [file(&root), legacy(&root, 4)] {
            let mapped = MappedFile::in_memory("file.pt", &bytes).unwrap();
            let read = tensor(&TorchFile::from_mapped(mapped, 0..bytes.len()).unwrap(), "view");
            prop_assert_eq!(read.shape(), &extents);
            prop_assert_eq!(read.as_slice::<f32>().unwrap(), &expected);
        }
    }

    /// No change of a byte makes reading panic, hang or take memory.
    #[test]
    fn a_changed_byte_is_refused_or_read(place in any::<prop::sample::Index>(), bits in 1_u8..) {
        for container in ["zip.pt", "legacy.pt"] {
            let mut bytes = std::fs::read(fixtures().join(container)).unwrap();
            let index = place.index(bytes.len());
            bytes[index] ^= bits;
            let mapped = MappedFile::in_memory("file.pt", &bytes).unwrap();
            let Ok(file) = TorchFile::from_mapped(mapped, 0..bytes.len()) else {
                continue;
            };
            for (name, value) in file.root().entries().into_iter().flatten() {
                let name = name.text().unwrap_or_default();
                if let Some(record) = TensorRecord::from_node(value)
                    && let Ok(strided) = file.strided(name, &record)
                {
                    let _ = Tiled::one(strided).to_tensor();
                }
            }
        }
    }
}

/// `torch.view_as_real(z.conj())[..., 1]` is a view whose signs torch changes when it is read.
#[test]
fn values_that_torch_has_yet_to_change_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for storage in ["FloatStorage", "float8_e4m3fn"] {
        for bit in ["neg", "conj"] {
            let mut tensor = Saved::new(storage, &[2], vec![0; 8]);
            tensor.deferred = Some(bit);
            let path = folder.path().join("view.pt");
            std::fs::write(&path, file(&dict([("x".to_owned(), Py::Tensor(tensor))]))).unwrap();
            let opened = TorchFile::open(&path).unwrap();
            let record = opened.root().get("x").and_then(TensorRecord::from_node);
            let error = opened
                .strided("x", &record.unwrap())
                .unwrap_err()
                .to_string();
            assert!(error.contains(&format!("resolve_{bit}()")), "{error}");
        }
    }
}
