//! Any bytes as the GGUF file of a model: its configuration, its tokenizer, its chat template.
#![no_main]

use bouquet_model::chat_template::{ChatTemplate, Clock};
use bouquet_model::families::{load_spec, parameters};
use bouquet_model::{Message, Tokenizer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let room = tempfile::tempdir().expect("a temporary folder");
    let path = room.path().join("model.gguf");
    std::fs::write(&path, bytes).expect("a temporary file");
    if let Ok(Some(template)) = ChatTemplate::load(&path, Clock::at(0)) {
        let _ = template.render(&[Message::new("user", "Hello")], true);
    }
    let Ok(spec) = load_spec(&path) else { return };
    let _ = parameters(&spec);
    if let Ok(tokenizer) = Tokenizer::load(&path, spec.vocab_size) {
        let _ = tokenizer.encode("Une phrase, 一句话 und <s> more</s>", true);
        let _ = tokenizer.decode(&[0, 1, 2, 3, u32::MAX], false);
    }
});
