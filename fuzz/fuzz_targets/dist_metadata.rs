#![no_main]
use parity::checkpoint::megatron::{MegatronCheckpoint, Partition};
use std::path::PathBuf;
use std::sync::LazyLock;

/// A folder with the chunks of the reference, whose `.metadata` is what is fuzzed.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let reference = "../goldens/megatron_core_llama/checkpoints/torch_dist/iter_0000001";
    let reference = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(reference);
    let folder = std::env::temp_dir().join(format!("parity-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    for name in ["__0_0.distcp", "__0_1.distcp", "common.pt"] {
        std::fs::copy(reference.join(name), folder.join(name)).expect("a reference");
    }
    folder
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    std::fs::write(FOLDER.join(".metadata"), bytes).expect("written");
    let Ok(checkpoint) = MegatronCheckpoint::open(&FOLDER, &[]) else {
        return;
    };
    for tensor in checkpoint.tensors().take(64) {
        let _ = checkpoint.joined(&tensor.name, Partition::Axis(0));
        let _ = checkpoint.joined(&tensor.name, Partition::Gated);
    }
});
