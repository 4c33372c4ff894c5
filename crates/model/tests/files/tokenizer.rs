//! Texts cut and joined as the tokenizers of transformers do.

use std::fs;

use bouquet_model::Tokenizer;
use serde::Deserialize;

use crate::{folder, model, refused, repository};

#[derive(Deserialize)]
struct Golden {
    strings: Vec<Recorded>,
}

#[derive(Deserialize)]
struct Recorded {
    text: String,
    ids: Vec<u32>,
    ids_no_special: Vec<u32>,
    offsets: Vec<(usize, usize)>,
    tokens: Vec<String>,
    decoded: String,
    decoded_skip_special: String,
}

/// A golden, a model with that tokenizer, and the size of its vocabulary.
const TOKENIZERS: [(&str, &str, usize); 3] =
    [("bloom", "bloom-tiny", 512), ("bloom-8192", "bloom-small-trained", 8192), ("llama2", "llama-tiny", 512)];

#[test]
fn texts_are_cut_and_joined_as_recorded() {
    for (golden, model_name, vocab_size) in TOKENIZERS {
        let path = repository().join(format!("tests/fixtures/goldens/tokenizers/{golden}.json"));
        let Golden { strings } = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let tokenizer = Tokenizer::load(&model(model_name), vocab_size).unwrap();
        assert_eq!(strings.len(), 27, "{golden}");
        for recorded in strings {
            let what = format!("{golden}: {:?}", recorded.text);
            let encoding = tokenizer.encode(&recorded.text, true).unwrap();
            assert_eq!(encoding.ids, recorded.ids, "{what}");
            assert_eq!(encoding.tokens, recorded.tokens, "{what}");
            assert_eq!(encoding.offsets, recorded.offsets, "{what}");
            assert_eq!(tokenizer.encode(&recorded.text, false).unwrap().ids, recorded.ids_no_special, "{what}");
            assert_eq!(tokenizer.decode(&recorded.ids, false).unwrap(), recorded.decoded, "{what}");
            assert_eq!(tokenizer.decode(&recorded.ids, true).unwrap(), recorded.decoded_skip_special, "{what}");
        }
    }
}

#[test]
fn tokens_are_found_by_their_spelling() {
    let tokenizer = Tokenizer::load(&model("bloom-tiny"), 512).unwrap();
    assert_eq!((tokenizer.token_to_id("</s>"), tokenizer.token_to_id("no such token")), (Some(2), None));
    assert!(tokenizer.vocab_size() <= 512);
    assert_eq!(tokenizer.decode(&[u32::MAX, 100_000], false).unwrap(), "", "ids that the tokenizer does not have");
}

#[test]
fn a_tokenizer_that_does_not_fit_is_refused() {
    let folder_of = |text: &str| folder(&[("tokenizer.json", text.as_bytes())]);
    let load = |text: &str| Tokenizer::load(folder_of(text).path(), 512);
    let text = fs::read_to_string(model("llama-tiny").join("tokenizer.json")).unwrap();
    let size = Tokenizer::load(&model("llama-tiny"), 512).unwrap().vocab_size();

    assert!(Tokenizer::load(&model("llama-tiny"), size).is_ok());
    let expected = format!("it has the token id {}, but the model has {} tokens", size - 1, size - 1);
    refused(Tokenizer::load(&model("llama-tiny"), size - 1), &expected, "a token too many");
    refused(load(""), "tokenizer.json: it is not JSON: EOF", "an empty file");
    refused(load(&text[..text.len() / 2]), "tokenizer.json: it is not JSON", "half a file");
    refused(load("{}"), "tokenizer.json: it cannot be read", "an empty object");

    // An id of the template alone, and one of an added token.
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["post_processor"]["special_tokens"]["<s>"]["ids"] = serde_json::json!([70_000]);
    refused(load(&json.to_string()), "it has the token id 70000", "a template with an id of its own");

    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["post_processor"]["special_tokens"] = serde_json::json!({});
    refused(load(&json.to_string()), "tokenizer.json: it cannot", "a template without its tokens");

    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["model"]["dropout"] = serde_json::json!(0.1);
    refused(load(&json.to_string()), "drops merges at random", "dropout");

    for (part, list) in [("normalizer", "normalizers"), ("decoder", "decoders")] {
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let fourfold = serde_json::json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaa"});
        json[part] = serde_json::json!({"type": "Sequence", list: vec![fourfold; 20]});
        refused(load(&json.to_string()), part, "replacements that fill the memory");
    }

    refused(Tokenizer::load(folder(&[]).path(), 512), "tokenizer.json is missing: it cuts texts", "no tokenizer");
    let old = folder(&[("tokenizer.model", b"")]);
    refused(Tokenizer::load(old.path(), 512), "has to be converted to tokenizer.json", "tokenizer.model alone");
    let large = folder(&[]);
    fs::File::create(large.path().join("tokenizer.json")).unwrap().set_len((256 << 20) + 1).unwrap();
    refused(Tokenizer::load(large.path(), 512), "more than 268435456 are not read", "a large file");
}

#[test]
fn a_text_has_the_tokens_that_it_has_at_least() {
    let long = "a".repeat(100_000);
    let texts = ["", "a", "né, 你好 世界! 👩‍👩‍👧 \u{0}\u{7f}", "a\n\n\tb      c", "</s></s>", &long];
    for (_, name, vocab_size) in TOKENIZERS {
        let tokenizer = Tokenizer::load(&model(name), vocab_size).unwrap();
        for text in texts {
            assert!(
                tokenizer.at_least_tokens(text) <= tokenizer.encode(text, false).unwrap().ids.len(),
                "{name} {text}"
            );
        }
        assert!(tokenizer.at_least_tokens(&long) > 1000, "{name}");
    }

    // Where a text can become shorter, or a byte be passed over, nothing is certain.
    let changed = |name: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let mut json = crate::json(&model(name).join("tokenizer.json"));
        change(&mut json);
        Tokenizer::parse(json.to_string().as_bytes(), 512).unwrap().at_least_tokens(&long)
    };
    let shorter = serde_json::json!({"type": "Replace", "pattern": {"String": "  "}, "content": " "});
    let unknown = serde_json::json!({"type": "NFKC"});
    assert!(changed("llama-tiny", &|_| {}) > 0);
    assert_eq!(changed("llama-tiny", &|json| json["normalizer"]["normalizers"][0] = shorter.clone()), 0);
    assert_eq!(changed("llama-tiny", &|json| json["model"]["byte_fallback"] = false.into()), 0);
    assert_eq!(changed("bloom-tiny", &|json| json["normalizer"] = unknown.clone()), 0);
    assert_eq!(
        changed("bloom-tiny", &|json| json["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed".into()),
        0
    );
    assert_eq!(changed("bloom-tiny", &|json| json["added_tokens"][0]["lstrip"] = true.into()), 0);
}

/// Files may ask for texts to be cut off or filled up; that would change what a model is given unasked.
#[test]
fn nothing_is_cut_off_or_filled_up() {
    let mut json = crate::json(&model("llama-tiny").join("tokenizer.json"));
    let plain = Tokenizer::parse(json.to_string().as_bytes(), 512).unwrap();
    json["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = serde_json::json!({"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": null,
        "pad_id": 2, "pad_type_id": 0, "pad_token": "</s>"});
    let other = Tokenizer::parse(json.to_string().as_bytes(), 512).unwrap();
    let text = "A text of several tokens.";
    assert_eq!(other.encode(text, true).unwrap(), plain.encode(text, true).unwrap());
}
