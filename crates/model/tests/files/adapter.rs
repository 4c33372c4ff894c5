//! Adapters out of folders of PEFT and into them.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bouquet_kernels::Matrix;
use bouquet_model::ModelSpec;
use bouquet_model::adapter::{Learned, Settings, Task, initial, targets};
use bouquet_model::families::load_spec;
use bouquet_span::{Adapter, LinearId, LowRank, Prompts, Site};
use serde_json::{Value, json};

use crate::{folder, json as read_json, model, repository};

pub(crate) fn fixture(name: &str) -> PathBuf {
    repository().join("tests/fixtures/goldens/lora").join(name)
}

pub(crate) fn spec(name: &str) -> ModelSpec {
    load_spec(&model(name)).unwrap()
}

fn settings(rank: usize, targets: &[Site], task: Task) -> Settings {
    let (alpha, base_model) = (16.0, "bloom-tiny".to_owned());
    Settings { rank, alpha, rank_stabilized: false, dropout: 0.05, targets: targets.to_vec(), task, base_model }
}

/// Numbers that differ from place to place.
fn numbers(rows: usize, cols: usize, first: f32) -> Matrix {
    Matrix::from_vec(rows, cols, (0..rows * cols).map(|index| first + index as f32 / 64.0).collect())
}

/// What comes back after writing, its settings, and the two files of PEFT.
fn round_trip(learned: &Learned, settings: &Settings, spec: &ModelSpec) -> (Learned, Settings, Vec<u8>, Value) {
    let target = folder(&[]);
    let target = target.path().join("new/adapter");
    learned.write(&target, settings, spec).unwrap();
    let (opened, said) = Learned::open(&target, spec).unwrap();
    let tensors = fs::read(target.join("adapter_model.safetensors")).unwrap_or_default();
    let config = fs::read(target.join("adapter_config.json")).unwrap_or(b"null".to_vec());
    (opened, said, tensors, serde_json::from_slice(&config).unwrap())
}

#[test]
fn what_peft_saved_is_written_again_byte_for_byte() {
    for (name, base, sites) in [
        ("bloom-tiny-adapter", "bloom-tiny", vec![Site::Qkv]),
        ("bloom-tiny-adapter-init", "bloom-tiny", vec![Site::Qkv]),
        ("llama-tiny-adapter", "llama-tiny", vec![Site::Q, Site::V]),
        ("llama-tiny-adapter-init", "llama-tiny", vec![Site::Q, Site::V]),
    ] {
        let (source, spec) = (fixture(name), spec(base));
        let (learned, settings) = Learned::open(&source, &spec).unwrap();
        assert_eq!((settings.rank, settings.alpha, settings.scale()), (4, 8.0, 2.0), "{name}");
        assert_eq!((settings.task, settings.base_model.as_str()), (Task::Causal, base), "{name}");
        assert_eq!(settings.targets, sites, "{name}");
        assert_eq!(learned.low_rank.pairs.len(), sites.len() * spec.num_blocks, "{name}");
        assert!(learned.low_rank.pairs.values().all(|pair| pair.scale == 2.0), "{name}");

        let (again, said, tensors, config) = round_trip(&learned, &settings, &spec);
        assert_eq!((again, said), (learned, settings), "{name}");
        assert!(tensors == fs::read(source.join("adapter_model.safetensors")).unwrap(), "{name}: other bytes");
        let theirs = read_json(&source.join("adapter_config.json"));
        for (field, value) in config.as_object().unwrap() {
            let same = match (value.as_f64(), theirs[field].as_f64()) {
                (Some(ours), Some(theirs)) => ours == theirs,
                _ => *value == theirs[field],
            };
            assert!(same, "{name}: {field} is {value}, not {}", theirs[field]);
        }
    }
}

#[test]
fn a_model_without_a_head_has_no_prefix_before_its_blocks() {
    for (base, prefixed, bare) in [
        ("bloom-tiny", "base_model.model.transformer.h.1.mlp", "base_model.model.h.1.mlp"),
        ("llama-tiny", "base_model.model.model.layers.1.mlp", "base_model.model.layers.1.mlp"),
    ] {
        let spec = spec(base);
        let mut settings = settings(2, &[Site::Up], Task::FeatureExtraction);
        let learned = Learned::initial(&settings, &spec, 3).unwrap();
        let (again, said, tensors, config) = round_trip(&learned, &settings, &spec);
        let has = |tensors: &[u8], name: &str| tensors.windows(name.len()).any(|window| window == name.as_bytes());
        assert!(has(&tensors, bare) && !has(&tensors, prefixed), "{base}");
        assert_eq!((&again, &said), (&learned, &settings), "{base}");
        assert_eq!(config["task_type"], "FEATURE_EXTRACTION", "{base}");

        settings.task = Task::Causal;
        let (_, said, tensors, _) = round_trip(&learned, &settings, &spec);
        assert!(has(&tensors, prefixed) && !has(&tensors, bare), "{base}");
        assert_eq!(said, settings, "{base}");
    }
}

#[test]
fn ranks_and_scales_of_their_own_are_written_as_patterns_and_read_as_they_were() {
    let spec = spec("bloom-tiny");
    for rank_stabilized in [false, true] {
        let settings = Settings { rank_stabilized, ..settings(4, &[Site::Qkv, Site::O], Task::Causal) };
        let mut learned = Learned::initial(&settings, &spec, 1).unwrap();
        let pairs = &mut Arc::make_mut(&mut learned.low_rank).pairs;
        let first = LinearId::new(0, Site::O);
        *pairs.get_mut(&first).unwrap() = LowRank { a: numbers(3, 64, 0.5), b: numbers(64, 3, -1.0), scale: 0.7 };
        pairs.get_mut(&LinearId::new(1, Site::Qkv)).unwrap().scale = 1.0 / 3.0;
        let (again, said, _, config) = round_trip(&learned, &settings, &spec);
        assert_eq!((&again, &said), (&learned, &settings));
        assert_eq!(config["rank_pattern"], json!({ "transformer.h.0.self_attention.dense": 3 }));
        assert_eq!(config["alpha_pattern"].as_object().unwrap().len(), 2);

        // Without the pair of one block, the others are named one by one.
        let pairs = &mut Arc::make_mut(&mut learned.low_rank).pairs;
        pairs.remove(&first);
        let (again, _, _, config) = round_trip(&learned, &settings, &spec);
        assert_eq!(again, learned);
        assert_eq!(config["target_modules"].as_array().unwrap().len(), 3);
        assert_eq!(config["target_modules"][0], "transformer.h.0.self_attention.query_key_value");
    }
}

/// Those of all experts have three names together.
#[test]
fn each_target_is_named_once() {
    let spec = load_spec(&model("mixtral-tiny")).unwrap();
    let settings = settings(2, &targets::parse(&spec, &["all"]).unwrap(), Task::Causal);
    let learned = Learned::initial(&settings, &spec, 1).unwrap();
    let (again, _, _, config) = round_trip(&learned, &settings, &spec);
    assert_eq!(again, learned);
    assert_eq!(config["target_modules"], json!(["q_proj", "k_proj", "v_proj", "o_proj", "w1", "w3", "w2"]));
}

#[test]
fn patterns_count_from_the_first_that_suits_and_begin_at_a_part_of_the_name() {
    let source = fixture("bloom-tiny-adapter");
    let tensors = fs::read(source.join("adapter_model.safetensors")).unwrap();
    let mut config = read_json(&source.join("adapter_config.json"));
    config["r"] = json!(99);
    config["rank_pattern"] = json!({ "key_value": 7, r"h\.\d+\..*": 4, "query_key_value": 5 });
    config["alpha_pattern"] = json!({ "^transformer.h.1.self_attention.query_key_value": 3.0 });
    let folder =
        folder(&[("adapter_config.json", config.to_string().as_bytes()), ("adapter_model.safetensors", &tensors)]);
    let (learned, _) = Learned::open(folder.path(), &spec("bloom-tiny")).unwrap();
    let scale = |block| learned.low_rank.pairs[&LinearId::new(block, Site::Qkv)].scale;
    assert_eq!([scale(0), scale(1)], [2.0, 0.75]);
}

#[test]
fn prompts_lie_where_peft_has_a_place_for_them_and_beside_where_it_has_none() {
    let spec = spec("llama-tiny");
    let soft_prompt = Some(initial::soft_prompt(5, &spec, 9));
    let deep_prompts = Arc::new(Prompts { blocks: [(1, numbers(2, 64, 1.0))].into() });
    let none = Settings { rank: 0, alpha: 0.0, dropout: 0.0, ..settings(0, &[], Task::Causal) };
    let pairs = settings(2, &[Site::Down], Task::Causal);
    let low_rank = Learned::initial(&pairs, &spec, 1).unwrap().low_rank;

    let soft = Learned { soft_prompt: soft_prompt.clone(), ..Learned::default() };
    let (again, said, tensors, config) = round_trip(&soft, &none, &spec);
    assert_eq!((&again, &said), (&soft, &none));
    assert!(tensors.windows(17).any(|window| window == b"prompt_embeddings"));
    assert_eq!((&config["peft_type"], &config["num_virtual_tokens"]), (&json!("PROMPT_TUNING"), &json!(5)));

    let deep = Learned { deep_prompts: deep_prompts.clone(), ..Learned::default() };
    let (again, said, tensors, config) = round_trip(&deep, &none, &spec);
    assert_eq!((&again, &said, tensors.len(), &config), (&deep, &none, 0, &Value::Null));

    let all = Learned { low_rank, soft_prompt, deep_prompts };
    let (again, said, _, config) = round_trip(&all, &pairs, &spec);
    assert_eq!((&again, &said, &config["peft_type"]), (&all, &pairs, &json!("LORA")));

    // One that is replaced leaves nothing that would change the new one.
    let target = folder(&[]);
    all.write(target.path(), &pairs, &spec).unwrap();
    soft.write(target.path(), &none, &spec).unwrap();
    assert_eq!(Learned::open(target.path(), &spec).unwrap(), (soft, none));
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 2);
}

#[test]
fn tensors_in_16_bits_are_read() {
    let spec = spec("bloom-tiny");
    let (learned, _) = Learned::open(&fixture("bloom-tiny-adapter"), &spec).unwrap();
    for (dtype, bits) in [("F16", 0x3e00u16), ("BF16", 0x3fc0)] {
        let mut header = serde_json::Map::new();
        let mut place = 0;
        for (linear, pair) in &learned.low_rank.pairs {
            for (half, matrix) in [("A", &pair.a), ("B", &pair.b)] {
                let name =
                    format!("base_model.model.h.{}.self_attention.query_key_value.lora_{half}.weight", linear.block);
                let end = place + 2 * matrix.data().len();
                let shape = [matrix.rows(), matrix.cols()];
                header.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [place, end] }));
                place = end;
            }
        }
        let tensors = crate::safetensors(&Value::Object(header).to_string(), &bits.to_le_bytes().repeat(place / 2));
        let config = json!({ "peft_type": "LORA", "r": 4, "target_modules": "all-linear" }).to_string();
        let folder = folder(&[("adapter_config.json", config.as_bytes()), ("adapter_model.safetensors", &tensors)]);
        let (learned, settings) = Learned::open(folder.path(), &spec).unwrap();
        assert_eq!((settings.task, settings.scale()), (Task::FeatureExtraction, 2.0));
        let mut values = learned.low_rank.pairs.values().flat_map(|pair| [pair.a.data(), pair.b.data()].concat());
        assert!(values.all(|value| value == 1.5), "{dtype}");
    }
}

#[test]
fn what_is_new_changes_nothing_and_is_the_same_on_all_machines() {
    let spec = spec("bloom-tiny");
    let new = |targets: &[Site], seed| Learned::initial(&settings(4, targets, Task::Causal), &spec, seed).unwrap();
    let (one, both) = (new(&[Site::Up], 7), new(&[Site::Down, Site::Up], 7));
    assert_eq!(both.low_rank.pairs.len(), 4);
    for (linear, pair) in &one.low_rank.pairs {
        // Whatever is learned beside.
        assert_eq!(both.low_rank.pairs[linear], *pair);
        assert!(pair.b.data().iter().all(|&number| number == 0.0) && pair.scale == 4.0);
        let (low, high) = pair.a.data().iter().fold((0f32, 0f32), |(low, high), &x| (low.min(x), high.max(x)));
        assert!((-0.125..-0.11).contains(&low) && (0.11..0.125).contains(&high), "{low} to {high}");
    }
    assert_ne!(one, new(&[Site::Up], 8));
    let first = &one.low_rank.pairs[&LinearId::new(0, Site::Up)].a.data()[..4];
    assert_eq!(first.iter().map(|number| number.to_bits()).collect::<Vec<_>>(), FIRST_BITS);

    let refused = |rank, targets: &[Site]| {
        Learned::initial(&settings(rank, targets, Task::Causal), &spec, 1).map(drop).unwrap_err()
    };
    assert_eq!(refused(65, &[Site::O]), "the rank should be from 1 to 64, the smaller side of o, not 65");
    assert_eq!(refused(0, &[Site::O]), "the rank should be from 1 to 64, the smaller side of o, not 0");
    assert_eq!(refused(1, &[Site::Gate]), "the model has no linear gate");

    let prompt = initial::soft_prompt(64, &spec, 1);
    let mean = prompt.data().iter().sum::<f32>() / 4096.0;
    let deviation = (prompt.data().iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 4096.0).sqrt();
    assert!(mean.abs() < 0.001 && (deviation - 0.02).abs() < 0.001, "{mean} {deviation}");
}

/// So that no release begins otherwise without saying so.
const FIRST_BITS: [u32; 4] = [1023724556, 3136860416, 1036552830, 3180091586];

#[test]
fn targets_are_named_as_users_name_them() {
    let (bloom, llama, mixtral) = (spec("bloom-tiny"), spec("llama-tiny"), spec("mixtral-tiny"));
    assert_eq!(targets::parse(&bloom, &["dense", "query_key_value"]), Ok(vec![Site::Qkv, Site::O]));
    assert_eq!(targets::parse(&bloom, &["all"]), Ok(vec![Site::Qkv, Site::O, Site::Up, Site::Down]));
    assert_eq!(targets::parse(&llama, &["v_proj", "self_attn.q_proj", "q_proj"]), Ok(vec![Site::Q, Site::V]));
    assert_eq!(targets::parse(&llama, &["q_proj", "query_key_value"]), Err("query_key_value"));
    assert_eq!(targets::names(&bloom), ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]);
    assert_eq!(targets::names(&llama), ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]);
    assert_eq!(targets::names(&mixtral), ["q_proj", "k_proj", "v_proj", "o_proj", "w1", "w3", "w2", "gate"]);
    let experts = targets::parse(&mixtral, &["w2"]).unwrap();
    assert_eq!(experts, [0, 1, 2, 3].map(Site::ExpertDown));
    assert!(!targets::parse(&mixtral, &["all"]).unwrap().contains(&Site::Router));
}

#[test]
fn what_does_not_suit_the_model_is_not_written() {
    let spec = spec("bloom-tiny");
    let adapter = |linear, a, b| Learned {
        low_rank: Arc::new(Adapter { pairs: [(linear, LowRank { a, b, scale: 1.0 })].into(), dropout: 0.0 }),
        ..Learned::default()
    };
    let o = LinearId::new(0, Site::O);
    let mut infinite = numbers(1, 64, 0.0);
    infinite.data_mut()[3] = f32::INFINITY;
    for (learned, expected) in [
        (Learned::default(), "nothing has been learned"),
        (adapter(o, numbers(2, 63, 0.0), numbers(64, 2, 0.0)), "A is [2, 63] and B is [64, 2]"),
        (adapter(o, infinite.clone(), numbers(64, 1, 0.0)), "not all of its numbers are finite"),
        (adapter(LinearId::new(2, Site::O), numbers(1, 64, 0.0), numbers(64, 1, 0.0)), "something for block 2"),
        (Learned { soft_prompt: Some(numbers(2, 32, 0.0)), ..Learned::default() }, "a prompt is [2, 32]"),
        (Learned { soft_prompt: Some(infinite), ..Learned::default() }, "not all of its numbers are finite"),
    ] {
        let target = folder(&[]);
        let written = learned.write(&target.path().join("adapter"), &settings(1, &[Site::O], Task::Causal), &spec);
        crate::refused(written, expected, expected);
        assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
    }
}
