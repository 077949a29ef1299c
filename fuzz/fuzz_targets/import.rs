#![no_main]
use parity::arch::Framework;
use parity::golden::{Content, Golden, import};
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

/// A raw dump, put together again from a golden, and the names of its files.
static DUMP: LazyLock<(PathBuf, Vec<PathBuf>)> = LazyLock::new(|| {
    let reference = "../goldens/megatron_core_llama3_fp32_tp1";
    let golden = Golden::open(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(reference));
    let golden = golden.expect("a golden");
    let folder = std::env::temp_dir().join(format!("parity-fuzz-import-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let mut files = vec![folder.join("config.json"), folder.join("tokens.npy")];
    let extra = serde_json::to_string(&golden.manifest().provenance.extra).expect("JSON");
    fs::write(&files[0], extra).expect("written");
    fs::copy(golden.path().join("tokens.npy"), &files[1]).expect("copied");
    for (number, record) in golden.manifest().stages.iter().take(12).enumerate() {
        if let Content::Full { files: of, .. } = &record.content {
            let to = folder.join(format!("{number:03}.{}.npy", record.source));
            fs::copy(golden.path().join(&of[0].file), &to).expect("copied");
            files.push(to);
        }
    }
    (folder, files)
});

// The first byte says which file of the dump is replaced by the rest.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (folder, files) = &*DUMP;
    let Some((which, bytes)) = bytes.split_first() else {
        return;
    };
    let path = &files[usize::from(*which) % files.len()];
    let before = fs::read(path).expect("a file");
    fs::write(path, bytes).expect("written");
    let output = folder.with_extension("golden");
    let framework = Some(Framework::MegatronCore);
    match import(folder, framework, &output, bytes.len() % 2 == 0) {
        Ok(_) => {
            Golden::open(&output).expect("what was imported is a golden");
            fs::remove_dir_all(&output).expect("removed");
        }
        // Nothing is left behind.
        Err(_) => assert!(!output.exists()),
    }
    fs::write(path, before).expect("written");
});
