#![no_main]
use parity::checkpoint::torch::{TensorRecord, read_pickle};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    read_pickle(bytes, |root| {
        let _ = root.shown().to_string();
        for (key, value) in root.entries().into_iter().flatten() {
            let _ = (
                key.text(),
                value.sizes(),
                TensorRecord::from_node(value).is_some(),
            );
            for (name, field) in value.fields().into_iter().flatten() {
                let _ = (name.text(), field.float(), field.shown().to_string());
            }
        }
    });
});
