#![no_main]
use parity::checkpoint::TransformersFolder;
use parity::plan::Arithmetic;
use std::path::PathBuf;
use std::sync::LazyLock;

/// A folder with the weights of the reference, whose `config.json` is what is fuzzed.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let reference = "../goldens/megatron_core_llama3_fp32_tp1/hf/model.safetensors";
    let reference = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(reference);
    let folder = std::env::temp_dir().join(format!("parity-fuzz-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::copy(reference, folder.join("model.safetensors")).expect("a reference");
    folder
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    std::fs::write(FOLDER.join("config.json"), bytes).expect("written");
    let Ok(folder) = TransformersFolder::open(&*FOLDER) else {
        return;
    };
    let (dtype, model) = (folder.dtype(), folder.config().model.clone());
    if let Ok(plan) = model.plan(dtype, &Arithmetic::default()) {
        let weights = folder.into_weights();
        for step in plan.steps().iter().take(1000) {
            for param in &step.params {
                let _ = weights.stored(&param.name);
            }
        }
    }
});
