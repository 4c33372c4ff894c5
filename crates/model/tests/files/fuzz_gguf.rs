//! Random damage to GGUF files of models, and to chat templates: an answer or an error, never a panic, and soon. The same
//! ways in as those of `fuzz/`.

use std::fs;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bouquet_gguf::{Metadata, Planned, TensorKind, Value, Writer};
use bouquet_model::chat_template::{ChatTemplate, Clock};
use bouquet_model::families::{load_spec, parameters};
use bouquet_model::tokenizer::gguf::{SpecialIds, metadata};
use bouquet_model::{Message, Tokenizer};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::fuzz::{cases, damage, damaged};
use crate::{json, model, repository};

/// Much more than any of it takes on a slow machine; what hangs takes longer.
const LONGEST: Duration = Duration::from_secs(60);

const VOCABULARY: usize = 512;

/// What is said of small models, by kind of tokenizer.
static METADATA: LazyLock<Vec<Metadata>> = LazyLock::new(|| {
    let of = |name: &str| {
        let tokenizer = fs::read(model(name).join("tokenizer.json")).unwrap();
        let mut metadata = metadata(&tokenizer, VOCABULARY, SpecialIds::default()).unwrap();
        metadata.set("general.architecture", "llama");
        metadata.set("tokenizer.chat_template", "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}");
        let numbers = [
            ("block_count", 1),
            ("context_length", 64),
            ("embedding_length", 8),
            ("feed_forward_length", 8),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
            ("rope.dimension_count", 4),
        ];
        for (key, number) in numbers {
            metadata.set(format!("llama.{key}"), Value::U32(number));
        }
        metadata.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        metadata.set("llama.rope.freq_base", Value::F32(1e4));
        metadata
    };
    ["llama-tiny", "bloom-tiny", "qwen3-tiny"].map(of).into()
});

/// A file with an embedding, and nothing else that could be read.
fn file(metadata: &Metadata) -> Option<Vec<u8>> {
    let embedding = Planned::new("token_embd.weight", &[VOCABULARY, 8], TensorKind::F16);
    let mut writer = Writer::begin(Vec::new(), metadata, &[embedding]).ok()?;
    writer.write("token_embd.weight", &[0; VOCABULARY * 16]).unwrap();
    Some(writer.finish().unwrap())
}

/// Reads all that is read before weights are; says whether there is a tokenizer in the end.
fn walk(bytes: &[u8]) -> bool {
    let start = Instant::now();
    let folder = crate::folder(&[("model.gguf", bytes)]);
    let path = folder.path().join("model.gguf");
    if let Ok(Some(template)) = ChatTemplate::load(&path, Clock::at(0)) {
        let _ = template.render(&[Message::new("user", "Hello")], true);
    }
    let mut whole = false;
    if let Ok(spec) = load_spec(&path) {
        assert!(parameters(&spec).expect("it was counted").total > 0);
        if let Ok(tokenizer) = Tokenizer::load(&path, spec.vocab_size) {
            let _ = tokenizer.encode("Une phrase, 一句话 und <s> more</s>", true);
            let _ = tokenizer.decode(&[0, 1, 2, 3, 100, 511, 512, u32::MAX], false);
            whole = true;
        }
    }
    assert!(start.elapsed() < LONGEST, "it took {:?}", start.elapsed());
    whole
}

/// What an entry could be instead: of every kind, and numbers near limits.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0u32..40).prop_map(|power| Value::U64(1u64.checked_shl(power * 2).unwrap_or(u64::MAX))),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(Value::U32),
        (0u32..600).prop_map(Value::U32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::from),
        select(vec!["llama", "gpt2", "bloom", "falcon", "default", "linear", "yarn", "\u{0}", ""])
            .prop_map(Value::from),
        vec(any::<i32>(), 0..4).prop_map(Value::from),
        vec(any::<f32>(), 0..4).prop_map(Value::from),
        vec("[ -~▁Ġ<>]{0,6}", 0..600).prop_map(Value::from),
    ]
}

#[test]
fn the_files_that_are_damaged_here_are_whole_before() {
    for metadata in METADATA.iter() {
        assert!(walk(&file(metadata).unwrap()));
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn a_damaged_gguf_file_of_a_model_is_read_or_refused(which in 0..3usize, damages in vec(damage(), 1..5)) {
        walk(&damaged(file(&METADATA[which]).unwrap(), &damages));
    }

    #[test]
    fn metadata_of_other_values_is_read_or_refused(
        which in 0..3usize,
        changes in vec((any::<Index>(), value()), 1..4),
        more in vec((select(MORE.to_vec()), value()), 0..3),
    ) {
        let mut metadata = METADATA[which].clone();
        let keys: Vec<String> = metadata.iter().map(|(key, _)| key.to_owned()).collect();
        for (at, value) in changes {
            metadata.set(at.get(&keys), value);
        }
        for (key, value) in more {
            metadata.set(key, value);
        }
        if let Some(bytes) = file(&metadata) {
            walk(&bytes);
        }
    }

    #[test]
    fn a_damaged_chat_template_writes_or_is_refused(which in any::<Index>(), damages in vec(damage(), 1..5)) {
        let start = Instant::now();
        let source = damaged(which.get(&TEMPLATES).clone().into_bytes(), &damages);
        let source = String::from_utf8_lossy(&source);
        if let Ok(template) = ChatTemplate::parse(&source, [].into(), Clock::at(0)) {
            let turns = [("system", "Be brief."), ("user", "Hello?"), ("assistant", "Hi."), ("user", "好 <b>?")];
            let messages = turns.map(|(role, content)| Message::new(role, content));
            let _ = template.render(&messages, true);
            let _ = template.render_answers(&messages);
        }
        prop_assert!(start.elapsed() < LONGEST, "it took {:?}", start.elapsed());
    }
}

/// Entries that files have, and these do not.
const MORE: [&str; 8] = [
    "llama.expert_count",
    "llama.expert_used_count",
    "llama.rope.scaling.type",
    "llama.rope.scaling.factor",
    "llama.attention.key_length",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.add_bos_token",
    "split.count",
];

static TEMPLATES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let golden = json(&repository().join("tests/fixtures/chat/templates.json"));
    let families = golden["templates"].as_object().unwrap().values();
    let lines = golden["lines"].as_array().unwrap().iter().map(|line| &line["line"]);
    families.chain(lines).map(|source| source.as_str().unwrap().to_owned()).collect()
});
