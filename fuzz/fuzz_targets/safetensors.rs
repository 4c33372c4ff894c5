//! Any bytes as a safetensors file: each tensor lies within it.
#![no_main]

use bouquet_model::checkpoint::safetensors::SafetensorsFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let room = tempfile::tempdir().expect("a temporary folder");
    let path = room.path().join("model.safetensors");
    std::fs::write(&path, bytes).expect("a temporary file");
    let Ok(Some(file)) = SafetensorsFile::open(&path) else { return };
    for name in file.names() {
        assert!(file.tensor(name).expect("a tensor for each name").data.len() <= bytes.len());
    }
});
