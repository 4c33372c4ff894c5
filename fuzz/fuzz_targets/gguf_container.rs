//! Any bytes as a GGUF container: what is read lies within the file.
#![no_main]

use bouquet_gguf::Gguf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Gguf::parse(bytes) else { return };
    for tensor in &file.tensors {
        assert!(tensor.data.end <= bytes.len());
        assert_eq!(tensor.kind.bytes(&tensor.shape), Some(tensor.data.len()));
    }
});
