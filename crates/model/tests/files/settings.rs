//! Configurations that no model can have.

use std::path::Path;

use bouquet_model::ModelSpec;
use bouquet_model::config::Config;
use bouquet_model::families::{load_spec, spec};
use bouquet_model::generation_config::GenerationConfig;
use bouquet_model::spec::Positions;
use serde_json::{Value, json};

use crate::{folder, json as read_json, model, refused};

fn parse(config: &Value) -> bouquet_model::Result<ModelSpec> {
    spec(&Config::parse(config.to_string().as_bytes())?)
}

/// The configuration of a fixture with other values; null takes a field away.
fn changed(name: &str, changes: &Value) -> Value {
    let mut config = read_json(&model(name).join("config.json"));
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
    config
}

#[test]
fn absurd_numbers_are_refused_by_name() {
    let cases = [
        ("bloom-tiny", json!({"hidden_size": null}), "config.json: n_embed is missing"),
        ("bloom-tiny", json!({"hidden_size": 0}), "hidden_size is 0, but should be a whole number from 1 to 1048576"),
        ("bloom-tiny", json!({"hidden_size": 1 << 21, "n_head": 1}), "hidden_size is 2097152"),
        ("bloom-tiny", json!({"hidden_size": -64}), "hidden_size is -64"),
        ("bloom-tiny", json!({"hidden_size": 64.5}), "hidden_size is 64.5"),
        ("bloom-tiny", json!({"hidden_size": "64"}), r#"hidden_size is "64""#),
        ("bloom-tiny", json!({"hidden_size": u64::MAX}), "hidden_size is 18446744073709551615"),
        ("bloom-tiny", json!({"n_layer": 1_000_000_000}), "n_layer is 1000000000, but should be"),
        ("bloom-tiny", json!({"n_layer": 0}), "n_layer is 0"),
        ("bloom-tiny", json!({"n_layer": [2]}), "n_layer is a list of 1"),
        ("bloom-tiny", json!({"n_head": 5}), "num_attention_heads is 5, which does not divide the hidden_size of 64"),
        ("bloom-tiny", json!({"n_head": 0}), "n_head is 0"),
        ("bloom-tiny", json!({"vocab_size": 1u64 << 40}), "vocab_size is 1099511627776"),
        ("bloom-tiny", json!({"vocab_size": true}), "vocab_size is true"),
        ("bloom-tiny", json!({"layer_norm_epsilon": -1.0}), "layer_norm_epsilon is -1.0, but should be from 0 to 1"),
        ("bloom-tiny", json!({"layer_norm_epsilon": "tiny"}), "layer_norm_epsilon is \"tiny\""),
        ("bloom-tiny", json!({"tie_word_embeddings": 1}), "tie_word_embeddings is 1, but should be true or false"),
        ("bloom-tiny", json!({"eos_token_id": 512}), "eos_token_id has 512, which is outside of the vocabulary of 512"),
        ("bloom-tiny", json!({"eos_token_id": -1}), "eos_token_id is -1"),
        ("bloom-tiny", json!({"eos_token_id": [1, "x"]}), "eos_token_id is \"x\""),
        ("bloom-tiny", json!({"eos_token_id": vec![1; 2000]}), "eos_token_id lists 2000 ids"),
        ("llama-tiny", json!({"num_key_value_heads": 3}), "is 3, which does not divide the 4 attention heads"),
        ("llama-tiny", json!({"num_key_value_heads": 8}), "is 8, which does not divide the 4 attention heads"),
        ("llama-tiny", json!({"head_dim": 15}), "head_dim is 15, but rotary positions need an even one"),
        ("llama-tiny", json!({"head_dim": null, "num_attention_heads": 6}), "does not divide the hidden_size of 64"),
        ("llama-tiny", json!({"head_dim": 1 << 20}), "head_dim is 1048576"),
        ("llama-tiny", json!({"intermediate_size": null}), "intermediate_size is missing"),
        ("llama-tiny", json!({"intermediate_size": 1u64 << 60}), "intermediate_size is"),
        ("llama-tiny", json!({"hidden_act": "mish"}), r#"hidden_act is "mish", but only silu, gelu"#),
        ("llama-tiny", json!({"rope_theta": 0}), "rope_theta is 0, but should be"),
        ("llama-tiny", json!({"rope_scaling": 2.0}), "rope_scaling is 2.0, but should be an object"),
        (
            "llama-tiny",
            json!({"rope_scaling": {"type": "longrope", "factor": 2.0}}),
            r#"rope_scaling.rope_type is "longrope", but only default, linear, dynamic, llama3 and yarn are known"#,
        ),
        (
            "llama-tiny",
            json!({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e6}}),
            "rope_parameters.factor is missing",
        ),
        (
            "llama-tiny",
            json!({"rope_scaling": {"type": "linear", "factor": 0.5}}),
            "rope_scaling.factor is 0.5, but should",
        ),
        (
            "llama3-rope-tiny",
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4, "high_freq_factor": 4}}),
            "rope_scaling.high_freq_factor is 4, not more than the low one",
        ),
        ("qwen2-tiny", json!({"layer_types": ["full_attention"]}), "layer_types lists 1 blocks of 3"),
        (
            "qwen2-tiny",
            json!({"layer_types": ["full_attention", "sliding_attention", "linear_attention"]}),
            r#"layer_types has "linear_attention", but only"#,
        ),
        ("falcon-tiny", json!({"num_attention_heads": 5}), "is 5, which does not divide the hidden_size of 64"),
        ("opt-tiny", json!({"num_attention_heads": 5}), "is 5, which does not divide the hidden_size of 64"),
        ("falcon-tiny-newarch", json!({"num_kv_heads": 3}), "num_kv_heads is 3, which does not divide"),
        ("falcon-tiny-newarch", json!({"parallel_attn": false}), "parallel_attn is false"),
        ("opt-tiny", json!({"word_embed_proj_dim": 0}), "word_embed_proj_dim is 0"),
        ("llama-tiny", json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor is 0.5"),
        ("llama-tiny", json!({"max_position_embeddings": 0}), "max_position_embeddings is 0"),
        ("mixtral-tiny", json!({"num_local_experts": 100_000}), "num_local_experts is 100000"),
        ("mixtral-tiny", json!({"num_experts_per_tok": 5}), "num_experts_per_tok is 5, but should be"),
        ("mixtral-tiny", json!({"num_experts_per_tok": 0}), "num_experts_per_tok is 0"),
        ("mixtral-tiny", json!({"sliding_window": 0}), "sliding_window is 0"),
        (
            "mixtral-tiny",
            json!({"hidden_size": 1 << 20, "intermediate_size": 1 << 24, "num_local_experts": 4096,
                "num_hidden_layers": 10_000, "head_dim": 1 << 14, "num_attention_heads": 1 << 16}),
            "hidden_size and other numbers make a model of more than",
        ),
        (
            "llama-tiny",
            json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}),
            r#"quantization_config says that the weights are encoded ("gptq"), which is not read yet"#,
        ),
        ("llama-tiny", json!({"quantization_config": 4}), "quantization_config is 4, but should be an object"),
        (
            "llama-tiny",
            json!({"model_type": null}),
            "model_type is missing (known families: bloom, falcon, llama, mistral",
        ),
        ("llama-tiny", json!({"model_type": 3}), "model_type is 3, but should be a text"),
        (
            "llama-tiny",
            json!({"model_type": "gpt2"}),
            r#"the model family "gpt2" is not known (known: bloom, falcon, llama, mistral, mixtral,"#,
        ),
    ];
    for (name, changes, expected) in cases {
        refused(parse(&changed(name, &changes)), expected, &changes.to_string());
    }
}

#[test]
fn a_file_that_is_no_configuration_is_refused() {
    let deep = format!(r#"{{"model_type":"bloom","x":{}"#, "[".repeat(100_000));
    let cases: [(&[u8], &str); 6] = [
        (b"", "config.json: it is not JSON: EOF"),
        (b"{\"model_type\": \"bloom\"", "config.json: it is not JSON"),
        (b"[1, 2]", "config.json: it should be a JSON object, but is a list of 2"),
        (b"{\"model_type\": \"\xff\"}", "config.json: it is not JSON"),
        (b"{\"model_type\": \"bloom\", \"layer_norm_epsilon\": NaN}", "config.json: it is not JSON"),
        (deep.as_bytes(), "config.json: it is not JSON: recursion limit exceeded"),
    ];
    for (bytes, expected) in cases {
        refused(
            load_spec(folder(&[("config.json", bytes)]).path()),
            expected,
            &String::from_utf8_lossy(&bytes[..bytes.len().min(50)]),
        );
    }
    refused(load_spec(folder(&[]).path()), "config.json is missing: it says what kind", "an empty folder");
    refused(load_spec(&model("bloom-tiny").join("config.json")), "it is a file", "a file");
    refused(load_spec(Path::new("no-such-model")), "there is no such folder", "no folder");
    let large = vec![b' '; (16 << 20) + 1];
    refused(load_spec(folder(&[("config.json", &large)]).path()), "more than 16777216 are not read", "a large file");
}

#[test]
fn other_spellings_mean_the_same() {
    let same = |name: &str, changes: Value| {
        let expected = parse(&changed(name, &json!({}))).unwrap();
        assert_eq!(parse(&changed(name, &changes)).unwrap(), expected, "{changes}");
    };
    same("bloom-tiny", json!({"hidden_size": null, "n_embd": 64}));
    same("bloom-tiny", json!({"hidden_size": 3, "n_embed": 64}));
    same("bloom-tiny", json!({"n_layer": null, "num_hidden_layers": 2, "n_inner": null, "eos_token_id": [2]}));
    same("llama-tiny", json!({"head_dim": null, "hidden_act": null, "rope_theta": null}));
    same("llama-tiny", json!({"rope_theta": null, "rope_scaling": {"rope_type": "default"}}));
    same("llama-tiny", json!({"rope_theta": null, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}));
    same("llama-tiny", json!({"torch_dtype": "bfloat16", "dtype": null, "pretraining_tp": 4}));
    same("mixtral-tiny", json!({"router_jitter_noise": 0.3, "rope_theta": 1_000_000}));
    same("mixtral-tiny", json!({"num_local_experts": null, "num_experts": 4, "num_experts_per_tok": null}));
    // As transformers 4 and 5 write it.
    let scaling = json!({"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    same("llama3-rope-tiny", json!({"rope_theta": null, "rope_scaling": null, "rope_parameters": scaling}));
    same("qwen2-tiny", json!({"layer_types": null}));
    same("falcon-tiny", json!({"hidden_size": null, "n_embed": 64, "num_attention_heads": null, "n_head": 4}));
    same("opt-tiny", json!({"word_embed_proj_dim": null, "activation_function": null, "enable_bias": null}));

    let untied = parse(&changed("bloom-tiny", &json!({"tie_word_embeddings": false}))).unwrap();
    assert!(!untied.tied_head);
    let windowed = parse(&changed("mixtral-tiny", &json!({"sliding_window": 4096}))).unwrap();
    assert_eq!(windowed.block.attention.window, Some(4096));
    let window = |changes| parse(&changed("mistral-tiny", &changes)).unwrap().window(0);
    assert_eq!(window(json!({"sliding_window": null})), None);
    assert_eq!(window(json!({})), Some(8));
    let qwen = parse(&changed("qwen2-tiny", &json!({}))).unwrap();
    assert_eq!([qwen.window(0), qwen.window(1), qwen.window(2)], [None, Some(6), Some(6)]);
    assert_eq!(parse(&changed("qwen2-tiny", &json!({"use_sliding_window": false}))).unwrap().window(2), None);
    let moved = json!({"rope_theta": null, "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0}});
    let Positions::Rope(moved) = parse(&changed("llama-tiny", &moved)).unwrap().block.attention.positions else {
        panic!("Llama turns")
    };
    assert_eq!(
        Positions::Rope(moved),
        parse(&changed("llama-tiny-tied", &json!({}))).unwrap().block.attention.positions
    );
}

/// transformers tells a field that is null, which means "as many as heads", from one that is absent.
#[test]
fn key_heads_that_are_null_are_as_many_as_heads() {
    for name in ["mistral-tiny", "mixtral-tiny", "qwen2-tiny", "qwen3-tiny", "llama-tiny"] {
        let spec = parse(&changed(name, &json!({"num_key_value_heads": null}))).unwrap();
        assert_eq!(spec.block.attention.kv_heads, spec.block.attention.heads, "{name}");
    }
}

/// Makers of models that were stretched leave `max_position_embeddings` as it was in training, and tell the factor.
#[test]
fn scaled_positions_carry_a_model_further() {
    let longest = |name: &str, scaling: Value| {
        let changes = json!({"max_position_embeddings": 100, "rope_scaling": scaling, "rope_parameters": null});
        parse(&changed(name, &changes)).unwrap().max_positions
    };
    for name in ["llama-tiny", "qwen3-tiny", "falcon-tiny"] {
        assert_eq!(longest(name, json!(null)), Some(100), "{name}");
        assert_eq!(longest(name, json!({"type": "linear", "factor": 2.5})), Some(250), "{name}");
        assert_eq!(longest(name, json!({"type": "dynamic", "factor": 2.0})), Some(200), "{name}");
        assert_eq!(longest(name, json!({"rope_type": "yarn", "factor": 4.0})), Some(400), "{name}");
        let yarn = |trained| json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": trained});
        assert_eq!(longest(name, yarn(80)), Some(320), "{name}");
        // The stretched length is written already.
        assert_eq!(longest(name, yarn(25)), Some(100), "{name}");
        let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 50});
        assert_eq!(longest(name, llama3), Some(100), "{name}");
    }
}

#[test]
fn absurd_sampling_defaults_are_refused_by_name() {
    let cases = [
        (r#"{"temperature": -1}"#, "generation_config.json: temperature is -1, but should be from 0 to 10000"),
        (r#"{"temperature": "hot"}"#, "temperature is \"hot\""),
        (r#"{"temperature": 1e400}"#, "it is not JSON: number out of range"),
        (r#"{"top_k": -3}"#, "top_k is -3, but should be a whole number"),
        (r#"{"top_k": 2.5}"#, "top_k is 2.5"),
        (r#"{"top_p": 1.5}"#, "top_p is 1.5, but should be from 0 to 1"),
        (r#"{"min_p": []}"#, "min_p is a list of 0"),
        (r#"{"repetition_penalty": 0}"#, "repetition_penalty is 0"),
        (r#"{"max_new_tokens": 0}"#, "max_new_tokens is 0, but should be a whole number from 1"),
        (r#"{"do_sample": "yes"}"#, "do_sample is \"yes\", but should be true or false"),
        (r#"{"eos_token_id": "</s>"}"#, "eos_token_id is \"</s>\", but should be a whole number"),
        (r#"{"eos_token_id": [2, null]}"#, "eos_token_id is null"),
        (r#"{"eos_token_id": 99999999999}"#, "eos_token_id is 99999999999"),
        ("[]", "generation_config.json: it should be a JSON object, but is a list of 0"),
        ("{", "generation_config.json: it is not JSON"),
    ];
    for (text, expected) in cases {
        refused(GenerationConfig::load(folder(&[("generation_config.json", text.as_bytes())]).path()), expected, text);
    }
}
