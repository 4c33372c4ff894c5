//! Tokenizers from the metadata of GGUF files: the same ids as from `tokenizer.json`, and every lie refused.

use std::fs;

use bouquet_gguf::{Array, Metadata, Value as Entry};
use bouquet_model::Tokenizer;
use bouquet_model::tokenizer::gguf::{self, SpecialIds, metadata};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use crate::{json as read_json, model, refused, repository};

/// Models with a tokenizer each, the size of the vocabulary, and how their texts are cut.
const MODELS: [(&str, usize, &str); 7] = [
    ("bloom-tiny", 512, "bloom"),
    ("bloom-small-trained", 8192, "bloom"),
    ("llama-tiny", 512, "default"),
    ("llama3-rope-tiny", 512, "llama-bpe"),
    ("falcon-tiny", 512, "gpt-2"),
    ("opt-tiny", 512, "gpt-2"),
    ("qwen3-tiny", 512, "qwen2"),
];

fn tokenizer_json(name: &str) -> Vec<u8> {
    fs::read(model(name).join("tokenizer.json")).unwrap()
}

fn of(name: &str, vocab_size: usize) -> Metadata {
    metadata(&tokenizer_json(name), vocab_size, SpecialIds::default()).unwrap()
}

/// The awkward strings of the goldens, a head of a corpus, and texts with the special tokens of all models.
fn texts() -> Vec<String> {
    let data = repository().join("tests/fixtures");
    let golden = read_json(&data.join("goldens/tokenizers/bloom.json"));
    let strings =
        golden["strings"].as_array().unwrap().iter().map(|string| string["text"].as_str().unwrap().to_owned());
    let mut texts: Vec<String> = strings.collect();
    let corpus = fs::read_to_string(data.join("data/wikitext-2.test.head.txt")).unwrap();
    texts.extend(corpus.lines().filter(|line| !line.trim().is_empty()).take(200).map(str::to_owned));
    texts.push(corpus.chars().take(20_000).collect());
    texts.push("a <s>b</s> c<unk><pad>".into());
    texts.push("<|begin_of_text|>Hi<|eot_id|> there<|endoftext|>\n\n<|im_start|>user\n<|im_end|><0x0A>▁x".into());
    texts
}

#[track_caller]
fn same(one: &Tokenizer, other: &Tokenizer, what: &str) {
    for text in texts() {
        for special_tokens in [true, false] {
            let (expected, found) =
                (one.encode(&text, special_tokens).unwrap(), other.encode(&text, special_tokens).unwrap());
            assert_eq!(found, expected, "{what}: {text:?}");
            for skip in [true, false] {
                let (expected, found) =
                    (one.decode(&expected.ids, skip).unwrap(), other.decode(&found.ids, skip).unwrap());
                assert_eq!(found, expected, "{what}: {text:?}");
            }
        }
        assert_eq!(other.at_least_tokens(&text), one.at_least_tokens(&text), "{what}: {text:?}");
    }
    assert_eq!(other.vocab_size(), one.vocab_size(), "{what}");
}

#[test]
fn ids_are_those_of_tokenizer_json() {
    for (name, vocab_size, pre) in MODELS {
        let metadata = of(name, vocab_size);
        assert_eq!(metadata.text("tokenizer.ggml.pre").unwrap(), pre, "{name}");
        assert_eq!(metadata.texts("tokenizer.ggml.tokens").unwrap().len(), vocab_size, "{name}");
        let own = Tokenizer::load(&model(name), vocab_size).unwrap();
        same(&own, &Tokenizer::from_gguf(&metadata, vocab_size).unwrap(), name);
        // And so they are when all of it goes through the text of a file, as in a folder made of it.
        let json = gguf::json(&metadata, vocab_size).unwrap().to_string();
        same(&own, &Tokenizer::parse(json.as_bytes(), vocab_size).unwrap(), name);
    }
}

/// llama.cpp's converter writes no merges for SentencePiece.
#[test]
fn scores_alone_give_the_ids_of_merges() {
    let own = Tokenizer::load(&model("llama-tiny"), 512).unwrap();
    same(&own, &Tokenizer::from_gguf(&without("llama-tiny", "tokenizer.ggml.merges"), 512).unwrap(), "scores");
}

/// Ids that no token has become tokens of GGUF, and none of texts.
#[test]
fn a_model_may_have_room_for_more() {
    let own = Tokenizer::load(&model("falcon-tiny"), 600).unwrap();
    let metadata = of("falcon-tiny", 600);
    let tokens = metadata.texts("tokenizer.ggml.tokens").unwrap();
    assert_eq!((tokens.len(), tokens[599].as_str()), (600, "[PAD599]"));
    let tokenizer = Tokenizer::from_gguf(&metadata, 600).unwrap();
    same(&own, &tokenizer, "falcon-tiny with room");
    assert_eq!(tokenizer.encode("[PAD599]", true).unwrap().ids, own.encode("[PAD599]", true).unwrap().ids);
}

#[test]
fn what_is_put_around_texts_is_as_the_metadata_says() {
    let tokenizer = |changes: &[(&str, Entry)]| {
        let mut metadata = of("llama-tiny", 512);
        changes.iter().for_each(|(key, value)| metadata.set(format!("tokenizer.ggml.{key}"), value.clone()));
        Tokenizer::from_gguf(&metadata, 512).unwrap()
    };
    let ids = |changes: &[(&str, Entry)], text: &str| tokenizer(changes).encode(text, true).unwrap().ids;
    let plain = tokenizer(&[]).encode("x", false).unwrap().ids;
    let around = |before: &[u32], behind: &[u32]| [before, &plain, behind].concat();
    assert_eq!(ids(&[], "x"), around(&[1], &[]));
    assert_eq!(ids(&[("add_bos_token", false.into())], "x"), plain);
    assert_eq!(ids(&[("add_eos_token", true.into())], "x"), around(&[1], &[2]));
    assert_eq!(ids(&[("bos_token_id", 2u32.into()), ("add_eos_token", true.into())], "x"), around(&[2], &[2]));
    let without_space = tokenizer(&[("add_space_prefix", false.into())]);
    let found = without_space.encode("x x", false).unwrap();
    assert!(!found.tokens[0].starts_with('▁'), "{found:?}");
    assert_eq!(without_space.decode(&found.ids, false).unwrap(), "x x");
}

/// Where a file does not say, what llama.cpp takes.
#[test]
fn defaults_are_those_of_the_kind() {
    let own = Tokenizer::load(&model("llama-tiny"), 512).unwrap();
    let bare = ["add_bos_token", "add_eos_token", "add_space_prefix", "unknown_token_id", "bos_token_id", "pre"];
    let entries = of("llama-tiny", 512);
    let mut metadata = Metadata::default();
    for (key, value) in entries.iter().filter(|(key, _)| !bare.iter().any(|bare| key.ends_with(bare))) {
        metadata.set(key, value.clone());
    }
    assert_eq!(metadata.iter().len() + bare.len(), entries.iter().len());
    same(&own, &Tokenizer::from_gguf(&metadata, 512).unwrap(), "SentencePiece");

    let llama_3 = Tokenizer::from_gguf(&without("llama3-rope-tiny", "tokenizer.ggml.add_bos_token"), 512).unwrap();
    assert_eq!(llama_3.encode("x", true).unwrap().ids[0], 508);
    let gpt_2 = Tokenizer::from_gguf(&without("opt-tiny", "tokenizer.ggml.add_bos_token"), 512).unwrap();
    assert_ne!(gpt_2.encode("x", true).unwrap().ids[0], 511);
    let unnamed = Tokenizer::from_gguf(&without("opt-tiny", "tokenizer.ggml.pre"), 512).unwrap();
    assert_eq!(unnamed.decode(&unnamed.encode("a 1234!?", false).unwrap().ids, false).unwrap(), "a 1234!?");
}

/// The metadata of a model's tokenizer less a key.
fn without(name: &str, key: &str) -> Metadata {
    let mut metadata = Metadata::default();
    for (other, value) in of(name, 512).iter().filter(|(other, _)| *other != key) {
        metadata.set(other, value.clone());
    }
    metadata
}

/// Numbers cut in threes, punctuation and digits apart: as the tokenizers crate does where a file says it in its words.
#[test]
fn ways_to_cut_are_those_of_the_tokenizers_that_they_are_named_after() {
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let digits = |each: bool| json!({"type": "Digits", "individual_digits": each});
    let threes =
        json!({"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "Isolated", "invert": false});
    let punctuation = json!({"type": "Punctuation", "behavior": "Contiguous"});
    for (pre, steps, normalizer) in [
        ("falcon", vec![punctuation, bytes(true), digits(false), threes], Value::Null),
        ("starcoder", vec![digits(true), bytes(true)], Value::Null),
        ("command-r", vec![digits(true), bytes(true)], json!({"type": "NFC"})),
        ("mpt", vec![bytes(true)], json!({"type": "NFC"})),
    ] {
        let mut json: Value = serde_json::from_slice(&tokenizer_json("falcon-tiny")).unwrap();
        json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": steps});
        json["normalizer"] = normalizer;
        let bytes = json.to_string().into_bytes();
        let metadata = metadata(&bytes, 512, SpecialIds::default()).unwrap();
        assert_eq!(metadata.text("tokenizer.ggml.pre").unwrap(), pre);
        let (own, found) = (Tokenizer::parse(&bytes, 512).unwrap(), Tokenizer::from_gguf(&metadata, 512).unwrap());
        same(&own, &found, pre);
    }
}

#[test]
fn lies_are_refused() {
    let texts = |texts: &[&str]| Entry::from(texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
    let no_numbers = Entry::from(vec![f32::NAN; 512]);
    for (name, key, value, expected) in [
        ("bloom-tiny", "model", Entry::from("bert"), "it is of the kind \"bert\"; known are gpt2 and llama"),
        ("bloom-tiny", "model", 7u32.into(), "its metadata tokenizer.ggml.model should be a text, but is 7"),
        ("bloom-tiny", "pre", "kimi-k2".into(), "it cuts texts in the way \"kimi-k2\"; known are gpt-2, phi-2, bloom"),
        ("bloom-tiny", "tokens", texts(&["a", "b"]), "tokenizer.ggml.token_type has 512 for 2 tokens"),
        ("bloom-tiny", "token_type", vec![1i32; 513].into(), "tokenizer.ggml.token_type has 513 for 512 tokens"),
        (
            "bloom-tiny",
            "token_type",
            vec![9i32; 512].into(),
            "tokenizer.ggml.token_type of token 0 is 9; 1 to 6 are known",
        ),
        ("bloom-tiny", "token_type", vec![5i32; 512].into(), "it cannot be read"),
        ("bloom-tiny", "merges", texts(&["ab"]), "merge 0 is \"ab\", no two tokens with a space between"),
        ("bloom-tiny", "merges", texts(&["no such"]), "it cannot be read"),
        (
            "bloom-tiny",
            "add_bos_token",
            true.into(),
            "add_bos_token is true, and no tokenizer.ggml.bos_token_id says which",
        ),
        (
            "llama-tiny",
            "bos_token_id",
            512u32.into(),
            "tokenizer.ggml.bos_token_id is 512, which is no token of the vocabulary",
        ),
        (
            "llama-tiny",
            "unknown_token_id",
            u64::MAX.into(),
            "unknown_token_id is 18446744073709551615, which is no token",
        ),
    ] {
        let mut metadata = of(name, 512);
        metadata.set(format!("tokenizer.ggml.{key}"), value);
        refused(Tokenizer::from_gguf(&metadata, 512), expected, key);
    }
    refused(
        Tokenizer::from_gguf(&of("bloom-tiny", 512), 511),
        "it has 512 tokens, but the model has 511 tokens",
        "too many",
    );
    refused(
        Tokenizer::from_gguf(&Metadata::default(), 9),
        "no tokenizer.ggml.model, which should be a text",
        "nothing",
    );

    let mut scores = without("llama-tiny", "tokenizer.ggml.merges");
    scores.set("tokenizer.ggml.scores", no_numbers);
    refused(Tokenizer::from_gguf(&scores, 512), "tokenizer.ggml.scores has no number for token 0", "scores");
    scores.set("tokenizer.ggml.scores", vec![0.5f32]);
    refused(Tokenizer::from_gguf(&scores, 512), "tokenizer.ggml.scores has 1 score for 512 tokens", "scores");

    let mut twice = of("bloom-tiny", 512);
    let mut tokens = twice.texts("tokenizer.ggml.tokens").unwrap().to_vec();
    tokens[500] = tokens[7].clone();
    twice.set("tokenizer.ggml.tokens", tokens.clone());
    refused(Tokenizer::from_gguf(&twice, 512), "stands there twice, the second time as 500", "twice");
    (tokens[500], tokens[7]) = ("x".repeat(40 << 20), "y".repeat(40 << 20));
    twice.set("tokenizer.ggml.tokens", tokens);
    refused(Tokenizer::from_gguf(&twice, 512), "its tokens and merges have", "long tokens");
}

#[test]
fn tokenizers_that_gguf_has_no_words_for_are_not_written() {
    let written = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut json: Value = serde_json::from_slice(&tokenizer_json(name)).unwrap();
        change(&mut json);
        metadata(json.to_string().as_bytes(), 512, SpecialIds::default())
    };
    for (name, pointer, value, expected) in [
        ("bloom-tiny", "/model/type", json!("Unigram"), "this is of the type \"Unigram\""),
        ("bloom-tiny", "/pre_tokenizer", json!(null), "it cuts texts in a way that no name in GGUF files stands for"),
        ("bloom-tiny", "/normalizer", json!({"type": "NFKC"}), "it cuts texts in a way that no name"),
        ("bloom-tiny", "/added_tokens/0/lstrip", json!(true), "the token \"<unk>\" minds what stands beside it"),
        ("llama-tiny", "/normalizer", json!({"type": "NFC"}), "it treats spaces in a way that GGUF files cannot say"),
        ("llama-tiny", "/post_processor", json!({"type": "BertProcessing"}), "of the type \"BertProcessing\""),
        ("llama-tiny", "/post_processor/single", json!([]), "it puts more around a text than"),
        ("llama-tiny", "/model/merges/0", json!(["a b", "c"]), "a merge of \"a b\" has a space"),
    ] {
        let change = |json: &mut Value| *json.pointer_mut(pointer).unwrap() = value.clone();
        refused(written(name, &change), expected, pointer);
    }
    refused(metadata(b"{", 512, SpecialIds::default()), "tokenizer.json cannot be read", "half a file");
    refused(
        metadata(&tokenizer_json("llama-tiny"), 100, SpecialIds::default()),
        "but the model has 100",
        "a smaller model",
    );
    let ids = SpecialIds { padding: Some(512), ..SpecialIds::default() };
    refused(metadata(&tokenizer_json("llama-tiny"), 512, ids), "padding_token_id would be 512", "an id beyond");
}

/// A value of any kind, near limits.
fn value() -> impl Strategy<Value = Entry> {
    prop_oneof![
        any::<i64>().prop_map(Entry::from),
        (0u32..600).prop_map(Entry::from),
        any::<bool>().prop_map(Entry::from),
        select(vec!["gpt2", "llama", "default", "falcon", "tekken", ""]).prop_map(Entry::from),
        proptest::collection::vec(-1i32..8, 0..4).prop_map(Entry::from),
        proptest::collection::vec(any::<f32>(), 0..4).prop_map(Entry::from),
        proptest::collection::vec("[ab ▁]{0,3}", 0..4).prop_map(Entry::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_metadata_works_or_is_refused(
        which in 0..3usize,
        changed in proptest::collection::vec((any::<Index>(), value()), 0..2),
        inside in proptest::collection::vec((any::<Index>(), any::<Index>(), -1i32..8, "[ab <>▁Ġ]{0,4}"), 0..4),
    ) {
        let metadata = of(["bloom-tiny", "llama-tiny", "llama3-rope-tiny"][which], 512);
        let mut entries: Vec<(String, Entry)> = metadata.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
        for (at, value) in changed {
            let at = at.index(entries.len());
            entries[at].1 = value;
        }
        for (at, place, number, text) in inside {
            let at = at.index(entries.len());
            match &mut entries[at].1 {
                Entry::Array(Array::Text(texts)) if !texts.is_empty() => {
                    let place = place.index(texts.len());
                    texts[place] = text;
                }
                Entry::Array(Array::I32(numbers)) if !numbers.is_empty() => {
                    let place = place.index(numbers.len());
                    numbers[place] = number;
                }
                _ => {}
            }
        }
        let mut damaged = Metadata::default();
        entries.into_iter().for_each(|(key, value)| damaged.set(key, value));
        if let Ok(tokenizer) = Tokenizer::from_gguf(&damaged, 512) {
            let _ = tokenizer.encode("Une phrase, 一句话 und <s> more</s>", true);
            let _ = tokenizer.decode(&[0, 1, 2, 3, 100, 511, 512, u32::MAX], false);
        }
    }
}
