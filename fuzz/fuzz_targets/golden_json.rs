#![no_main]
use parity::golden::Manifest;
use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::parse(Path::new("golden.json"), bytes) {
        let again = Manifest::parse(Path::new("golden.json"), manifest.to_json().as_bytes());
        assert_eq!(again.ok(), Some(manifest));
    }
});
