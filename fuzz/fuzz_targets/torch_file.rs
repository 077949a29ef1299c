#![no_main]
use parity::checkpoint::torch::{TensorRecord, TorchFile};
use parity::tensor::{MappedFile, Tiled};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(mapped) = MappedFile::in_memory("file.pt", bytes) else {
        return;
    };
    let Ok(file) = TorchFile::from_mapped(mapped, 0..bytes.len()) else {
        return;
    };
    let _ = file.root().shown().to_string();
    for (name, value) in file.root().entries().into_iter().flatten() {
        let name = name.text().unwrap_or_default();
        if let Some(record) = TensorRecord::from_node(value)
            && let Ok(strided) = file.strided(name, &record)
        {
            let _ = Tiled::one(strided).to_tensor();
        }
    }
});
