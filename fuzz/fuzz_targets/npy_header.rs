#![no_main]
use parity::tensor::{DType, npy};
use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for declared in [None, Some(DType::Bf16)] {
        let _ = npy::from_bytes(Path::new("x.npy"), bytes, declared);
    }
});
