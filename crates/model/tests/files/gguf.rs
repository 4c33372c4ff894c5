//! Models in GGUF files, written here by the rules of llama.cpp's converters, against the folders that they are made from.

use std::fs;
use std::path::{Path, PathBuf};

use bouquet_gguf::{Metadata, Planned, TensorKind, Value, Writer};
use bouquet_kernels::Cpu;
use bouquet_model::checkpoint::{Checkpoint, Tensor, TensorSource};
use bouquet_model::config::Config;
use bouquet_model::families::{load_spec, spec};
use bouquet_model::{Encoding, ModelSpec, Network, OpenOptions};
use bouquet_span::Pass;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::{json as read_json, model, refused};

/// A tensor to be: its name and shape, and its rows in F32.
struct Made {
    name: String,
    shape: Vec<usize>,
    numbers: Vec<f32>,
}

/// What a folder's model is in a GGUF file.
struct Conversion {
    metadata: Metadata,
    tensors: Vec<Made>,
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.dtype.name(), "F32");
    tensor.data.as_chunks().0.iter().map(|&number| f32::from_le_bytes(number)).collect()
}

/// `LlamaModel.permute` of the converters: `[heads, 2, head_dim / 2]` becomes `[heads, head_dim / 2, 2]`, by rows.
fn permute(numbers: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let width = numbers.len() / rows;
    let half = rows / heads / 2;
    let mut permuted = Vec::new();
    for head in 0..heads {
        for pair in 0..half {
            for side in 0..2 {
                let row = (head * 2 + side) * half + pair;
                permuted.extend_from_slice(&numbers[row * width..][..width]);
            }
        }
    }
    permuted
}

/// The converters' order for fused queries, keys and values: all queries, all keys, all values.
fn part_after_part(numbers: &[f32], rows: usize, spec: &ModelSpec) -> Vec<f32> {
    let (attention, width) = (&spec.block.attention, numbers.len() / rows);
    let (group, head_dim) = (attention.heads / attention.kv_heads, attention.head_dim);
    let head = |kv_head: usize, place: usize| {
        let row = (kv_head * (group + 2) + place) * head_dim;
        numbers[row * width..(row + head_dim) * width].to_vec()
    };
    let queries = (0..attention.kv_heads).flat_map(|kv| (0..group).flat_map(move |place| [(kv, place)]));
    let keys = (0..attention.kv_heads).map(|kv| (kv, group));
    let values = (0..attention.kv_heads).map(|kv| (kv, group + 1));
    queries.chain(keys).chain(values).flat_map(|(kv, place)| head(kv, place)).collect()
}

/// Names as gguf-py maps them, without `.weight` and `.bias`; and the heads whose rows are permuted.
fn renamed(architecture: &str, spec: &ModelSpec, name: &str) -> (String, Option<usize>) {
    const ENDS: [(&str, &str); 6] = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("transformer.word_embeddings", "token_embd"),
        ("transformer.word_embeddings_layernorm", "token_embd_norm"),
        ("transformer.ln_f", "output_norm"),
    ];
    const IN_BLOCK: [(&str, &str); 18] = [
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("ln_attn", "attn_norm_2"),
        ("ln_mlp", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("block_sparse_moe.gate", "ffn_gate_inp"),
        ("self_attention.query_key_value", "attn_qkv"),
        ("self_attention.dense", "attn_output"),
        ("mlp.dense_h_to_4h", "ffn_up"),
        ("mlp.dense_4h_to_h", "ffn_down"),
    ];
    if let Some((_, to)) = ENDS.into_iter().find(|(from, _)| *from == name) {
        return (to.to_owned(), None);
    }
    let rest = name.strip_prefix("model.layers.").or(name.strip_prefix("transformer.h.")).expect("a part of a block");
    let (block, part) = rest.split_once('.').expect("a block and a part");
    let (_, to) = IN_BLOCK.into_iter().find(|(from, _)| *from == part).unwrap_or_else(|| panic!("{part}"));
    let attention = &spec.block.attention;
    let heads = match to {
        "attn_q" => Some(attention.heads),
        "attn_k" => Some(attention.kv_heads),
        _ => None,
    };
    (format!("blk.{block}.{to}"), heads.filter(|_| architecture == "llama"))
}

fn convert(folder: &Path, architecture: &str) -> Conversion {
    let (spec, source, config) =
        (load_spec(folder).unwrap(), Checkpoint::open(folder).unwrap(), read_json(&folder.join("config.json")));
    let mut tensors: Vec<Made> = Vec::new();
    for name in source.names() {
        let tensor = source.tensor(name).unwrap().unwrap();
        if name.contains(".experts.") {
            continue;
        }
        let (module, part) = name.rsplit_once('.').unwrap();
        let (to, heads) = renamed(architecture, &spec, module);
        let mut rows = numbers(&tensor);
        if let Some(heads) = heads {
            rows = permute(&rows, tensor.shape[0], heads);
        }
        if to.ends_with("attn_qkv") {
            rows = part_after_part(&rows, tensor.shape[0], &spec);
        }
        tensors.push(Made { name: format!("{to}.{part}"), shape: tensor.shape, numbers: rows });
    }
    if let Some(experts) = spec.block.feed_forward.experts {
        for block in 0..spec.num_blocks {
            for (weight, to) in [("w1", "ffn_gate_exps"), ("w2", "ffn_down_exps"), ("w3", "ffn_up_exps")] {
                let of = |expert| {
                    let name = format!("model.layers.{block}.block_sparse_moe.experts.{expert}.{weight}.weight");
                    source.tensor(&name).unwrap().unwrap()
                };
                let shape = [&[experts.count], &of(0).shape[..]].concat();
                let all = (0..experts.count).flat_map(|expert| numbers(&of(expert))).collect();
                tensors.push(Made { name: format!("blk.{block}.{to}.weight"), shape, numbers: all });
            }
        }
    }
    let scaling = config.get("rope_scaling").filter(|scaling| !scaling.is_null());
    if let Some(factors) = scaling.map(|scaling| llama3_factors(&spec, &config, scaling)) {
        tensors.push(Made { name: "rope_freqs.weight".to_owned(), shape: vec![factors.len()], numbers: factors });
    }
    Conversion { metadata: metadata(&spec, &config, architecture), tensors }
}

/// What frequencies are divided by: `generate_extra_tensors` of the converters.
fn llama3_factors(spec: &ModelSpec, config: &Json, scaling: &Json) -> Vec<f32> {
    let number = |from: &Json, field: &str| from[field].as_f64().unwrap();
    let (factor, trained) = (number(scaling, "factor"), number(scaling, "original_max_position_embeddings"));
    let (low, high) = (number(scaling, "low_freq_factor"), number(scaling, "high_freq_factor"));
    let dim = spec.block.attention.head_dim;
    let factor_of = |pair: usize| {
        let frequency = number(config, "rope_theta").powf(-(2.0 * pair as f64) / dim as f64);
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        if wavelength < trained / high {
            1.0
        } else if wavelength > trained / low {
            factor
        } else {
            let smooth = (trained / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..dim / 2).map(|pair| factor_of(pair) as f32).collect()
}

fn metadata(spec: &ModelSpec, config: &Json, architecture: &str) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", architecture);
    let mut set = |key: &str, value: Value| metadata.set(format!("{architecture}.{key}"), value);
    let number = |number: usize| Value::U32(number as u32);
    let attention = &spec.block.attention;
    set("block_count", number(spec.num_blocks));
    set("context_length", number(512));
    set("embedding_length", number(spec.block.hidden_size));
    set("feed_forward_length", number(spec.block.feed_forward.intermediate_size));
    set("attention.head_count", number(attention.heads));
    set("attention.head_count_kv", number(attention.kv_heads));
    if attention.head_dim * attention.heads != spec.block.hidden_size {
        set("attention.key_length", number(attention.head_dim));
        set("attention.value_length", number(attention.head_dim));
    }
    let epsilon = if spec.names.prefix == "model." { "layer_norm_rms_epsilon" } else { "layer_norm_epsilon" };
    set(&format!("attention.{epsilon}"), Value::F32(spec.block.norm.epsilon));
    if let Some(theta) = config.get("rope_theta").and_then(Json::as_f64) {
        set("rope.freq_base", Value::F32(theta as f32));
    }
    if let Some(experts) = spec.block.feed_forward.experts {
        set("expert_count", number(experts.count));
        set("expert_used_count", number(experts.per_token));
    }
    metadata
}

impl Conversion {
    fn bytes(&self) -> Vec<u8> {
        let planned: Vec<Planned> =
            self.tensors.iter().map(|made| Planned::new(&made.name, &made.shape, TensorKind::F32)).collect();
        let mut writer = Writer::begin(Vec::new(), &self.metadata, &planned).unwrap();
        for made in &self.tensors {
            let bytes: Vec<u8> = made.numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            writer.write(&made.name, &bytes).unwrap();
        }
        writer.finish().unwrap()
    }

    fn write(&self, room: &TempDir) -> PathBuf {
        let path = room.path().join("model.gguf");
        fs::write(&path, self.bytes()).unwrap();
        path
    }
}

fn logits(path: &Path, encoding: Encoding) -> Vec<f32> {
    let network = Network::open(path, &OpenOptions::new(Cpu::new(2), 1 << 30, encoding)).unwrap();
    let hidden = network.embedding.embed(&network.cpu, &[&[5, 9, 33, 2, 61, 17, 40], &[7, 8]]).unwrap();
    let (hidden, _) = network.blocks.forward(hidden, &Pass::default()).unwrap();
    network.head.logits(&network.cpu, hidden.values().view()).into_vec()
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

#[test]
fn files_give_the_bits_of_the_folders_that_they_are_made_from() {
    for (name, architecture) in [
        ("llama-tiny", "llama"),
        ("llama-tiny-tied", "llama"),
        ("llama3-rope-tiny", "llama"),
        ("mixtral-tiny", "llama"),
        ("qwen3-tiny", "qwen3"),
        ("falcon-tiny", "falcon"),
        ("falcon-tiny-newarch", "falcon"),
        ("bloom-tiny", "bloom"),
    ] {
        let (room, folder) = (tempfile::tempdir().unwrap(), model(name));
        let file = convert(&folder, architecture).write(&room);
        let (of_file, of_folder) = (load_spec(&file).unwrap(), load_spec(&folder).unwrap());
        assert_eq!(of_file.family, of_folder.family, "{name}");
        assert_eq!(of_file.tied_head, of_folder.tied_head, "{name}");
        for encoding in [Encoding::F32, Encoding::Int8] {
            let (found, expected) = (logits(&file, encoding), logits(&folder, encoding));
            if name == "llama3-rope-tiny" {
                // Its frequencies are divided by factors in f32, where transformers mixes two.
                let largest = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(largest < if encoding == Encoding::F32 { 1e-4 } else { 0.1 }, "{name}, {encoding}: {largest}");
            } else {
                assert_eq!(bits(&found), bits(&expected), "{name}, {encoding}");
            }
        }
    }
}

/// All that a file says of scaled positions is heard.
#[test]
fn scaled_positions_are_those_of_the_folder() {
    let scaled = |kind: &str| json!({"rope_type": kind, "factor": 4.0, "original_max_position_embeddings": 1024});
    let mut ramp = scaled("yarn");
    (ramp["beta_fast"], ramp["beta_slow"]) = (json!(8.0), json!(2.0));
    for scaling in [scaled("linear"), scaled("yarn"), ramp] {
        let mut config = read_json(&model("llama-tiny").join("config.json"));
        (config["rope_scaling"], config["max_position_embeddings"]) = (scaling.clone(), json!(512));
        let expected = spec(&Config::parse(config.to_string().as_bytes()).unwrap()).unwrap();

        let mut made = convert(&model("llama-tiny"), "llama");
        let mut set = |key: &str, value: Value| made.metadata.set(format!("llama.rope.scaling.{key}"), value);
        set("type", Value::from(scaling["rope_type"].as_str().unwrap()));
        set("factor", Value::F32(4.0));
        set("original_context_length", Value::U32(1024));
        for key in ["beta_fast", "beta_slow"] {
            if let Some(beta) = scaling[key].as_f64() {
                set(&format!("yarn_{key}"), Value::F32(beta as f32));
            }
        }
        let room = tempfile::tempdir().unwrap();
        let found = load_spec(&made.write(&room)).unwrap();
        assert_eq!(found.block.attention.positions, expected.block.attention.positions, "{scaling}");
        assert_eq!(found.max_positions, expected.max_positions, "{scaling}");
    }
}

/// Files do not say which style of Falcon they hold; two norms are those of the newer one, however many key heads there are.
#[test]
fn a_falcon_of_two_norms_and_one_key_head_keeps_both_norms() {
    let room = tempfile::tempdir().unwrap();
    let mut made = convert(&model("falcon-tiny-newarch"), "falcon");
    made.metadata.set("falcon.attention.head_count_kv", Value::U32(1));
    let spec = load_spec(&made.write(&room)).unwrap();
    assert_eq!((spec.names.attention_norm, spec.block.attention.kv_heads), ("ln_attn", 1));
}

#[test]
fn files_that_lie_are_refused_by_what_is_wrong() {
    type Change = Box<dyn Fn(&mut Conversion)>;
    let cases: [(&str, Change, &str); 8] = [
        (
            "an unknown architecture",
            Box::new(|made| made.metadata.set("general.architecture", "rwkv")),
            r#""rwkv" is not known"#,
        ),
        (
            "no heads",
            Box::new(|made| made.metadata.set("llama.attention.head_count", Value::U32(0))),
            "num_attention_heads is 0",
        ),
        (
            "heads of a text",
            Box::new(|made| made.metadata.set("llama.attention.head_count", "four")),
            "llama.attention.head_count",
        ),
        ("more blocks than tensors", Box::new(|made| made.metadata.set("llama.block_count", Value::U32(3))), "blk.2."),
        (
            "a huge width",
            Box::new(|made| made.metadata.set("llama.embedding_length", Value::U32(u32::MAX))),
            "hidden_size is 4294967295",
        ),
        (
            "no embedding",
            Box::new(|made| made.tensors.retain(|made| made.name != "token_embd.weight")),
            "token_embd.weight",
        ),
        (
            "another shape",
            Box::new(|made| {
                let tensor = made.tensors.iter_mut().find(|made| made.name == "blk.1.ffn_up.weight").unwrap();
                tensor.shape.reverse();
            }),
            "should have shape",
        ),
        (
            "experts that do not exist",
            Box::new(|made| {
                made.metadata.set("llama.expert_count", Value::U32(8));
                made.metadata.set("llama.expert_used_count", Value::U32(2));
            }),
            "blk.0.ffn_gate_inp.weight",
        ),
    ];
    for (what, change, expected) in cases {
        let room = tempfile::tempdir().unwrap();
        let mut made = convert(&model("llama-tiny"), "llama");
        change(&mut made);
        let file = made.write(&room);
        let options = OpenOptions::new(Cpu::new(1), 1 << 30, Encoding::F32);
        refused(Network::open(&file, &options).map(drop), expected, what);
    }
    let room = tempfile::tempdir().unwrap();
    let file = room.path().join("model.gguf");
    let mut bytes = convert(&model("llama-tiny"), "llama").bytes();
    bytes[4] = 4;
    fs::write(&file, bytes).unwrap();
    refused(load_spec(&file), "cannot be read: it is of version 4 of GGUF", "a version to come");
    let file = room.path().join("model-00001-of-00002.gguf");
    fs::write(&file, convert(&model("llama-tiny"), "llama").bytes()).unwrap();
    refused(load_spec(&file), "model-00002-of-00002.gguf", "a part that is missing");
    fs::write(room.path().join("model-00002-of-00002.gguf"), fs::read(&file).unwrap()).unwrap();
    refused(load_spec(&file), "it is part 1 of 1, but its name says 1 of 2", "parts that are none");
}
