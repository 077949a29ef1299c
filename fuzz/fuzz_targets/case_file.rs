#![no_main]
use parity::case::parse_case_file;
use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = parse_case_file(Path::new("cases/x.toml"), bytes);
});
