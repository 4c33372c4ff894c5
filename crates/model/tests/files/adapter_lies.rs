//! Adapters that are damaged, hostile, of another model, or of a kind that is not done: one clear sentence each.

use std::fs;

use bouquet_model::ModelError;
use bouquet_model::adapter::Learned;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::adapter::{fixture, spec};
use crate::{folder, json as read_json, refused, safetensors};

/// The configuration of a fixture with other values; null takes a field away.
fn config(changes: Value) -> String {
    let mut config = read_json(&fixture("bloom-tiny-adapter").join("adapter_config.json"));
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
    config.to_string()
}

/// A file of f32 tensors of these names and shapes, all 1.
fn tensors(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let (mut header, mut place) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let end = place + 4 * shape.iter().product::<usize>();
        header.insert((*name).to_owned(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [place, end] }));
        place = end;
    }
    safetensors(&Value::Object(header).to_string(), &1f32.to_le_bytes().repeat(place / 4))
}

fn adapter(config: &str, tensors: &[u8]) -> TempDir {
    folder(&[("adapter_config.json", config.as_bytes()), ("adapter_model.safetensors", tensors)])
}

#[track_caller]
fn refuse(folder: &TempDir, expected: &str) {
    refused(Learned::open(folder.path(), &spec("bloom-tiny")), expected, expected);
}

/// The names of the pair of one block.
fn names(block: &str) -> [String; 2] {
    ["A", "B"].map(|half| format!("base_model.model.transformer.h.{block}.self_attention.dense.lora_{half}.weight"))
}

#[test]
fn settings_that_are_not_done_are_refused_by_name() {
    let tensors = fs::read(fixture("bloom-tiny-adapter").join("adapter_model.safetensors")).unwrap();
    for (changes, expected) in [
        (json!({"peft_type": null}), "adapter_config.json: peft_type is missing"),
        (json!({"peft_type": "IA3"}), r#"peft_type is "IA3", but only LORA and PROMPT_TUNING are known"#),
        (json!({"use_dora": true}), "adapter_config.json: use_dora is set, which Bouquet does not do"),
        (json!({"lora_bias": true}), "lora_bias is set"),
        (json!({"fan_in_fan_out": true}), "fan_in_fan_out is set"),
        (json!({"modules_to_save": ["lm_head"]}), "modules_to_save is set"),
        (json!({"trainable_token_indices": [1]}), "trainable_token_indices is set"),
        (json!({"layer_replication": [[0, 1]]}), "layer_replication is set"),
        (json!({"bias": "lora_only"}), r#"bias is "lora_only", but only none is known"#),
        (json!({"init_lora_weights": "pissa_niter_4"}), r#"init_lora_weights is "pissa_niter_4", which changes the"#),
        (json!({"r": 0}), "r is 0, but should be a whole number from 1"),
        (json!({"r": u64::MAX}), "r is 18446744073709551615"),
        (json!({"r": 1 << 20}), "should have rank 1048576, more than its weight"),
        (json!({"r": 8}), "which should have shape [8, 64], but has [4, 64]"),
        (json!({"lora_alpha": "16"}), r#"lora_alpha is "16""#),
        (json!({"lora_alpha": 1e300}), "lora_alpha is 1e+300"),
        (json!({"lora_dropout": 1.0}), "lora_dropout is 1, but should be below 1"),
        (json!({"lora_dropout": -0.1}), "lora_dropout is -0.1"),
        (json!({"use_rslora": 1}), "use_rslora is 1, but should be true or false"),
        (json!({"rank_pattern": {".*": 4.5}}), "rank_pattern..* is 4.5, but a rank is a whole number"),
        (json!({"rank_pattern": {".*": 0}}), "rank_pattern..* is 0"),
        (json!({"alpha_pattern": {"(": 1}}), r#"alpha_pattern has "(", which is no regular expression"#),
        (json!({"alpha_pattern": {"(a{500}){500}": 1}}), "which is no regular expression that is known"),
        (json!({"alpha_pattern": []}), "alpha_pattern is a list of 0, but should be an object"),
        (json!({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2}), "which is no part of a soft prompt"),
        (json!({"peft_type": "PROMPT_TUNING"}), "num_virtual_tokens is missing"),
        (json!({"peft_type": "PROMPT_TUNING", "num_transformer_submodules": 2}), "is 2, but a decoder has one"),
    ] {
        refuse(&adapter(&config(changes), &tensors), expected);
    }
    let many: serde_json::Map<_, _> = (0..5000).map(|index| (format!("x{index}"), json!(1))).collect();
    refuse(&adapter(&config(json!({"rank_pattern": many})), &tensors), "rank_pattern has 5000 entries, more than 4096");
    refuse(&adapter("[]", &tensors), "adapter_config.json: it should be a JSON object, but is a list of 0");
    refuse(&adapter("{", &tensors), "adapter_config.json: it is not JSON");
}

#[test]
fn tensors_that_are_not_of_this_model_are_refused_by_name() {
    let [a, b] = names("0");
    let (a, b) = (a.as_str(), b.as_str());
    let shapes: [&[usize]; 2] = [&[4, 64], &[64, 4]];
    let bare = a.replace("transformer.", "");
    let padded = a.replace(".0.", ".00.");
    let beyond = names("2");
    for (found, expected) in [
        (vec![], "has no pairs in adapter_model.safetensors"),
        (vec![(a, shapes[0])], "is half of a pair: the other half is missing"),
        (vec![(b, shapes[1])], "is half of a pair: the other half is missing"),
        (vec![(a, shapes[0]), (b, shapes[1]), (bare.as_str(), shapes[0])], "means the same as"),
        (vec![(a, shapes[0]), (b, shapes[1]), (padded.as_str(), shapes[0])], "is no low-rank pair of a linear that"),
        (
            vec![(&beyond[0], shapes[0]), (&beyond[1], shapes[1])],
            "is of block 2, but the model's blocks are numbered 0 to 1",
        ),
        (vec![(a, &[4, 128]), (b, shapes[1])], "should have shape [4, 64], but has [4, 128]"),
        (vec![(a, shapes[0]), (b, &[64, 5])], "should have shape [64, 4], but has [64, 5]"),
        (vec![(a, &[256]), (b, shapes[1])], "should have shape [4, 64], but has [256]"),
        (
            vec![("base_model.model.lm_head.lora_A.weight", shapes[0])],
            "is no low-rank pair of a linear that this model has",
        ),
        (
            vec![("base_model.model.transformer.h.0.self_attention.dense.lora_magnitude_vector", &[64])],
            "is no low-rank pair of a linear that this model has",
        ),
        (vec![("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", shapes[0])], "is no low-rank pair"),
        (vec![("prompt_embeddings", shapes[0])], "is no low-rank pair"),
    ] {
        refuse(&adapter(&config(json!({})), &tensors(&found)), expected);
    }
    let long = "x".repeat(10_000);
    refuse(&adapter(&config(json!({})), &tensors(&[(&long, &[1])])), "is no low-rank pair");
}

#[test]
fn numbers_that_are_not_finite_and_other_types_are_refused() {
    let [a, b] = names("1");
    let mut bytes = tensors(&[(&a, &[4, 64]), (&b, &[64, 4])]);
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    refuse(&adapter(&config(json!({})), &bytes), "which has NaN at index 255");

    let header = json!({
        a: { "dtype": "I32", "shape": [4, 64], "data_offsets": [0, 1024] },
        b: { "dtype": "F32", "shape": [64, 4], "data_offsets": [1024, 2048] },
    });
    let bytes = safetensors(&header.to_string(), &[0; 2048]);
    refuse(&adapter(&config(json!({})), &bytes), "should hold F32, F16 or BF16 numbers, but holds I32");
    refuse(&adapter(&config(json!({})), &bytes[..2000]), "is damaged");
    refuse(&adapter(&config(json!({"alpha_pattern": {".*": 1e9}, "r": 1})), &bytes), "should have shape [1, 64]");
}

#[test]
fn a_folder_that_is_no_adapter_says_what_is_missing() {
    let config = config(json!({}));
    refuse(&folder(&[]), "has no adapter_config.json");
    refuse(&folder(&[("adapter_config.json", config.as_bytes())]), "has no adapter_model.safetensors");
    let pickled = folder(&[("adapter_config.json", config.as_bytes()), ("adapter_model.bin", b"pickle")]);
    let error = Learned::open(pickled.path(), &spec("bloom-tiny")).unwrap_err();
    assert!(matches!(error, ModelError::PickleOnly { .. }), "{error}");
    let gone = Learned::open(&pickled.path().join("gone"), &spec("bloom-tiny"));
    refused(gone, "there is no such folder", "a folder that is not there");
}

#[test]
fn prompts_of_another_model_are_refused() {
    let soft = json!({ "peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3 }).to_string();
    refuse(&adapter(&soft, &tensors(&[("prompt_embeddings", &[3, 32])])), "should have shape [3, 64], but has [3, 32]");
    refuse(&adapter(&soft, &tensors(&[("prompt_embeddings", &[2, 64])])), "should have shape [3, 64], but has [2, 64]");
    refuse(&adapter(&soft, &tensors(&[])), "has no tensor prompt_embeddings");

    let beside = |config: &str, tensors: &[u8]| {
        folder(&[("bouquet_prompts.json", config.as_bytes()), ("bouquet_prompts.safetensors", tensors)])
    };
    let version = json!({ "version": 1 }).to_string();
    for (name, shape, expected) in [
        ("deep_prompts.2", &[1, 64][..], "is no prompt for this model or one of its blocks"),
        ("deep_prompts.01", &[1, 64], "is no prompt for this model or one of its blocks"),
        ("deep_prompts.1", &[1, 65], "should have shape [1, 64], but has [1, 65]"),
        ("deep_prompts.1", &[], "has no rows"),
        ("deep_prompts.1", &[0, 64], "has no rows"),
        ("other", &[1, 64], "is no prompt for this model or one of its blocks"),
    ] {
        refuse(&beside(&version, &tensors(&[(name, shape)])), expected);
    }
    refuse(&beside("{\"version\": 2}", &tensors(&[])), "bouquet_prompts.json: version is 2");
    refuse(&folder(&[("bouquet_prompts.json", version.as_bytes())]), "has no bouquet_prompts.safetensors");
    let both = folder(&[
        ("adapter_config.json", soft.as_bytes()),
        ("adapter_model.safetensors", &tensors(&[("prompt_embeddings", &[3, 64])])),
        ("bouquet_prompts.json", version.as_bytes()),
        ("bouquet_prompts.safetensors", &tensors(&[("soft_prompt", &[3, 64])])),
    ]);
    refuse(&both, "has a soft prompt in adapter_model.safetensors, and another in bouquet_prompts.safetensors");
}
