//! Files of `torch.save`, against torch itself (`tests/torch`, made by
//! `scripts/make_torch_fixtures.py`) and against another reader.

use crate::common::torch::{Py, Tensor as Saved, dict, file, legacy};
use parity::checkpoint::torch::{TensorRecord, TorchFile};
use parity::tensor::{DType, MappedFile, Tensor, Tiled, npy};
use proptest::prelude::*;
use pytorch_reader::PytorchReader;
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
                let expected = npy::read(&path, Some(DType::Bf16)).unwrap();
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

#[test]
fn fp8_is_read_and_widened_exactly() {
    let bits = vec![0x38, 0x7b, 0x81, 0x00];
    let saved = |dtype| Py::Tensor(Saved::new(dtype, &[2, 2], bits.clone()));
    let root = dict([
        ("e4m3".to_owned(), saved("float8_e4m3fn")),
        ("e5m2".to_owned(), saved("float8_e5m2")),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fp8.pt");
    std::fs::write(&path, file(&root)).unwrap();
    let opened = TorchFile::open(&path).unwrap();
    let values = |name: &str, dtype: DType| {
        let tensor = tensor(&opened, name);
        assert_eq!(tensor.dtype(), dtype);
        let wide = tensor.widened().unwrap();
        wide.as_slice::<f64>().unwrap().to_vec()
    };
    let least = [2_f64.powi(-9), 2_f64.powi(-16)];
    assert_eq!(values("e4m3", DType::F8E4M3), [1.0, 352.0, -least[0], 0.0]);
    assert_eq!(
        values("e5m2", DType::F8E5M2),
        [0.5, 57344.0, -least[1], 0.0]
    );
}

/// Compares all tensors that the other reader finds below `key`.
fn assert_same(path: &Path, key: Option<&str>) -> usize {
    let theirs = match key {
        Some(key) => PytorchReader::with_top_level_key(path, key),
        None => PytorchReader::new(path),
    };
    let theirs = theirs.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let ours = TorchFile::open(path).unwrap();
    for (name, theirs) in theirs.tensors() {
        let root = ours.root();
        let node = key
            .map_or(Some(root), |key| root.get(key))
            .and_then(|node| node.get(name));
        let record = node.and_then(TensorRecord::from_node).expect(name);
        let ours = Tiled::one(ours.strided(name, &record).unwrap())
            .to_tensor()
            .unwrap();
        assert_eq!(ours.shape(), theirs.shape(), "{name}");
        assert_eq!(ours.bytes(), theirs.read().unwrap(), "{name}");
    }
    theirs.len()
}

#[test]
fn another_reader_reads_the_references_alike() {
    let goldens = crate::common::goldens();
    let mut count = 0;
    for name in ["bloom_fp32_tp1", "bloom_bf16_tp2", "bloom_fp16_tp1"] {
        let folder = goldens.join(name).join("checkpoint/global_step1");
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("layer_")
            {
                count += assert_same(&path, None);
            }
        }
    }
    for format in ["torch_fp32_tp2", "torch_bf16_tp1"] {
        let folder = goldens.join("megatron_core_llama/checkpoints").join(format);
        let path = folder.join("iter_0000001/mp_rank_00/model_optim_rng.pt");
        count += assert_same(&path, Some("model"));
    }
    assert!(count > 150, "{count} tensors compared");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any view of any storage, in either container.
    #[test]
    fn views_are_read_as_another_reader_reads_them(
        shape in prop::collection::vec(1_i64..4, 0..4),
        strides in prop::collection::vec(0_i64..5, 4),
        offset in 0_i64..4,
    ) {
        let strides = strides[..shape.len()].to_vec();
        let steps = shape.iter().zip(&strides).map(|(extent, stride)| (extent - 1) * stride);
        let held = offset + steps.sum::<i64>() + 1;
        let view = Saved { offset, shape, strides, ..Saved::counting(&[held], 1.0) };
        let root = dict([("view".to_owned(), Py::Tensor(view))]);
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [("zip", file(&root)), ("legacy", legacy(&root, 4))] {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            prop_assert_eq!(assert_same(&path, None), 1);
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
