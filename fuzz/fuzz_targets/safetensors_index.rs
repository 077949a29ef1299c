#![no_main]
use parity::checkpoint::{SafetensorsFiles, Weights};
use std::path::PathBuf;
use std::sync::LazyLock;

/// A folder with one shard of the name that indices use.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let reference = "../goldens/bloom_bf16_tp1/hf/model.safetensors";
    let reference = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(reference);
    let folder = std::env::temp_dir().join(format!("parity-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::copy(reference, folder.join("a.safetensors")).expect("a reference");
    folder
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let index = FOLDER.join("model.safetensors.index.json");
    std::fs::write(index, bytes).expect("written");
    if let Ok(files) = SafetensorsFiles::open(FOLDER.as_path()) {
        for name in files.names() {
            let _ = files.load(name);
        }
    }
});
