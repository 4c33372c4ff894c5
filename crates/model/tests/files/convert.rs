//! Models as GGUF files and back: from a folder and its codes, to a folder and to other blocks; bit for bit where no bit has to
//! be lost.

use std::fs;
use std::path::{Path, PathBuf};

use bouquet_gguf::{Gguf, TensorKind};
use bouquet_kernels::Cpu;
use bouquet_kernels::weight::BlockFormat;
use bouquet_model::checkpoint::{Checkpoint, Dtype, InMemory, TensorSource};
use bouquet_model::families::load_spec;
use bouquet_model::quantize::{Job, Request};
use bouquet_model::{Encoding, Network, OpenOptions, Tokenizer, floats, gguf, is_gguf, quantize};
use bouquet_span::{CancelToken, Limits, Pass};
use serde_json::Value;
use tempfile::TempDir;

use crate::{json, model, refused, repository};

/// Every family that llama.cpp has, and every kind of rotary positions.
const MODELS: [&str; 16] = [
    "bloom-tiny",
    "bloom-tiny-bf16",
    "bloom-tiny-fp16",
    "bloom-tiny-sharded",
    "bloom-tiny-unprefixed",
    "falcon-tiny",
    "falcon-tiny-newarch",
    "llama-linear-tiny",
    "llama-tiny",
    "llama-tiny-tied",
    "llama-yarn-tiny",
    "llama3-rope-tiny",
    "mistral-tiny",
    "mixtral-tiny",
    "qwen2-tiny",
    "qwen3-tiny",
];

const Q8_0: Dtype = Dtype::Blocks(BlockFormat::Q8_0);
const Q4_0: Dtype = Dtype::Blocks(BlockFormat::Q4_0);

fn in_folder(from: &Path, target: &Path, limits: &Limits, to: Option<&Dtype>) -> bouquet_model::Result<()> {
    let (spec, source, cpu) = (load_spec(from)?, Checkpoint::open(from)?, Cpu::new(2));
    let job = Job { cpu: &cpu, source: &source, folder: from, target, limits };
    if target.extension().is_none() {
        return floats::plan(&spec, &source, to.cloned(), u64::MAX)?.write(&job, &mut |_| ()).map(drop);
    }
    let plan = match is_gguf(from) {
        true => gguf::Plan::of_file(from, to)?,
        false => gguf::Plan::of_folder(from, &spec, &source, to.expect("a type"))?,
    };
    plan.write(&job, &mut |_| ())?;
    assert_eq!(fs::metadata(target).unwrap().len(), plan.bytes(), "{}", target.display());
    Ok(())
}

/// Writes a model as a GGUF file, or as a folder where `name` has no ending.
fn convert(from: &Path, room: &TempDir, name: &str, to: Option<&Dtype>) -> PathBuf {
    let target = room.path().join(name);
    in_folder(from, &target, &Limits::default(), to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    target
}

fn logits(path: &Path) -> Vec<u32> {
    let options = OpenOptions::new(Cpu::new(2), 1 << 30, Encoding::F32);
    let network = Network::open(path, &options).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // Longer than the windows.
    let ids: Vec<u32> = (0..16).map(|place| place * 31 % network.spec.vocab_size as u32).collect();
    let hidden = network.embedding.embed(&network.cpu, &[&ids, &[7, 8]]).unwrap();
    let (hidden, _) = network.blocks.forward(hidden, &Pass::default()).unwrap();
    network.head.logits(&network.cpu, hidden.values().view()).data().iter().map(|logit| logit.to_bits()).collect()
}

fn tensors(path: &Path) -> InMemory {
    InMemory::copy_of(&Checkpoint::open(path).unwrap()).unwrap()
}

fn same_tensors(found: &Path, expected: &Path, what: &str) {
    let (found, expected) = (tensors(found), tensors(expected));
    let names = |source: &InMemory| {
        source.names().into_iter().map(|name| name.trim_start_matches("transformer.").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&found), names(&expected), "{what}");
    for (found, expected) in found.tensors.iter().zip(&expected.tensors) {
        assert_eq!((&found.1.dtype, &found.1.shape), (&expected.1.dtype, &expected.1.shape), "{what}, {}", found.0);
        assert!(found.1.data == expected.1.data, "{what}: other numbers in {}", found.0);
    }
}

#[test]
fn a_file_has_the_bits_of_its_folder_and_gives_the_folder_back() {
    for name in MODELS {
        let (room, folder) = (TempDir::new().unwrap(), model(name));
        let dtype =
            Checkpoint::open(&folder).map(|source| source.tensor(source.names()[0]).unwrap().unwrap().dtype).unwrap();
        for (to, file) in [(Dtype::F32, "floats.gguf"), (dtype.clone(), "same.gguf")] {
            let file = convert(&folder, &room, file, Some(&to));
            assert_eq!(logits(&file), logits(&folder), "{name} in {to}");
            let (of_file, of_folder) = (load_spec(&file).unwrap(), load_spec(&folder).unwrap());
            assert_eq!((of_file.block, of_file.full_attention), (of_folder.block, of_folder.full_attention), "{name}");
            assert_eq!(of_file.max_positions, of_folder.max_positions, "{name}");
            assert_eq!(of_file.eos_token_ids, of_folder.eos_token_ids, "{name}");
            assert_eq!(of_file.family, of_folder.family, "{name}");
            assert_eq!(of_file.tied_head, of_folder.tied_head, "{name}");
        }
        let file = convert(&folder, &room, "model.gguf", Some(&dtype));
        let back = convert(&file, &room, "back", Some(&dtype));
        same_tensors(&back, &folder, name);
        assert_eq!(logits(&back), logits(&folder), "{name} and back");
        assert_eq!(load_spec(&back).unwrap().block, load_spec(&folder).unwrap().block, "{name} and back");
        same_texts(&back, &folder, name);
        let again = convert(&back, &room, "again.gguf", Some(&dtype));
        let [one, other] = [&file, &again].map(|path| fs::read(path).unwrap());
        let [one, other] = [&one, &other].map(|bytes| Gguf::parse(bytes).unwrap());
        assert_eq!(one.tensors.len(), other.tensors.len(), "{name}");
        for (key, value) in one.metadata.iter().filter(|(key, _)| *key != "general.name") {
            assert_eq!(other.metadata.get(key), Some(value), "{name}: {key}");
        }
    }
}

/// The awkward strings of the goldens, cut by the tokenizer of either.
fn same_texts(found: &Path, expected: &Path, what: &str) {
    let vocab_size = load_spec(expected).unwrap().vocab_size;
    let [found, expected] = [found, expected].map(|folder| Tokenizer::load(folder, vocab_size).unwrap());
    let golden = json(&repository().join("tests/fixtures/goldens/tokenizers/bloom.json"));
    for text in golden["strings"].as_array().unwrap().iter().map(|string| string["text"].as_str().unwrap()) {
        let [found, expected] = [&found, &expected].map(|tokenizer| tokenizer.encode(text, true).unwrap().ids);
        assert_eq!(found, expected, "{what}: {text:?}");
    }
}

#[test]
fn blocks_of_the_same_kind_are_copied_and_others_are_encoded() {
    let room = TempDir::new().unwrap();
    for name in ["llama-tiny", "mixtral-tiny", "bloom-tiny"] {
        let floats = convert(&model(name), &room, &format!("{name}-f32.gguf"), Some(&Dtype::F32));
        for to in [Q8_0, Q4_0, Dtype::F16] {
            let file = convert(&model(name), &room, &format!("{name}-{to}.gguf"), Some(&to));
            // As it is, of the same type, and from the floats of another file: the same bytes.
            for (from, to, what) in [(&file, None, "kept"), (&file, Some(&to), "same"), (&floats, Some(&to), "floats")]
            {
                let other = convert(from, &room, &format!("{name}-{}-{what}.gguf", to.unwrap_or(&Dtype::U8)), to);
                assert!(fs::read(&file).unwrap() == fs::read(&other).unwrap(), "{name}: {what}");
                fs::remove_file(other).unwrap();
            }
        }
        let bytes = fs::read(room.path().join(format!("{name}-Q4_0.gguf"))).unwrap();
        let file = Gguf::parse(&bytes).unwrap();
        let kind = |tensor: &str| file.tensor(tensor).unwrap().kind;
        assert_eq!(kind("token_embd.weight"), TensorKind::Q8_0);
        assert_eq!(kind("blk.0.attn_output.weight"), TensorKind::Q4_0);
        assert_eq!(kind("blk.0.attn_norm.weight"), TensorKind::F32);
        if name == "mixtral-tiny" {
            assert_eq!(kind("blk.0.ffn_gate_inp.weight"), TensorKind::F32);
            assert_eq!(kind("blk.0.ffn_up_exps.weight"), TensorKind::Q4_0);
            assert_eq!(kind("blk.0.ffn_down_exps.weight"), TensorKind::F16, "rows of 112");
        }
        assert_eq!(file.metadata.u64("general.file_type").unwrap(), 2);
    }
}

#[test]
fn codes_and_blocks_are_decoded() {
    let (room, codes) = (TempDir::new().unwrap(), repository().join("tests/fixtures/bitsandbytes"));
    for (name, stored) in
        [("llama-odd", "int8"), ("llama-odd", "nf4"), ("bloom-odd", "nf4-double"), ("bloom-odd", "int8")]
    {
        let folder = codes.join(name).join(stored);
        let back = convert(&folder, &room, &format!("{name}-{stored}"), Some(&Dtype::F32));
        assert_eq!(logits(&back), logits(&folder), "{name} in {stored}");
        assert!(json(&back.join("config.json")).get("quantization_config").is_none());
        assert!(tensors(&back).names().iter().all(|name| name.ends_with(".weight") || name.ends_with(".bias")));
    }
    let file = convert(&model("llama-tiny"), &room, "q8.gguf", Some(&Q8_0));
    let floats = convert(&file, &room, "q8-floats", Some(&Dtype::F32));
    assert_eq!(logits(&floats), logits(&file));
    assert_eq!(json(&floats.join("config.json"))["dtype"], "float32");
    // Codes of blocks are those that loading makes.
    let (spec, source, cpu, limits) =
        (load_spec(&file).unwrap(), Checkpoint::open(&file).unwrap(), Cpu::new(2), Limits::default());
    assert_eq!(spec.stored.kinds.as_ref().unwrap().embedding, "q8_0");
    let request =
        Request { encoding: Encoding::Int8, double: false, embedding: Encoding::F32, max_shard_bytes: u64::MAX };
    let target = room.path().join("int8");
    let job = Job { cpu: &cpu, source: &source, folder: &file, target: &target, limits: &limits };
    quantize::Plan::new(&spec, &source, request).unwrap().write(&job, &mut |_| ()).unwrap();
    assert_eq!(load_spec(&target).unwrap().stored.linears, Encoding::Int8);
    logits(&target);
}

#[test]
fn a_chat_template_goes_along() {
    let room = TempDir::new().unwrap();
    let folder = crate::folder(&[]);
    for entry in fs::read_dir(model("llama-tiny")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let template = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{{ eos_token }}{% endfor %}";
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let file = convert(folder.path(), &room, "model.gguf", Some(&Dtype::F16));
    let back = convert(&file, &room, "back", None);
    let config = json(&back.join("tokenizer_config.json"));
    let before: Value = json(&folder.path().join("tokenizer_config.json"));
    assert_eq!(config["chat_template"], template);
    assert_eq!(config["eos_token"], before["eos_token"]);
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let room = TempDir::new().unwrap();
    let entries = || fs::read_dir(room.path()).unwrap().count();
    let target = room.path().join("model.gguf");
    let try_it = |from: &str, to: &Dtype| in_folder(&model(from), &target, &Limits::default(), Some(to));
    refused(try_it("opt-tiny", &Dtype::F16), "llama.cpp has no models of the family opt", "OPT");
    refused(try_it("falcon-alibi-tiny", &Dtype::F16), "llama.cpp's falcon", "Falcon with ALiBi");
    refused(try_it("bloom-tiny-h6-postres", &Dtype::F16), "llama.cpp's bloom", "another residual");
    assert_eq!(entries(), 0);
    // Stopped half way.
    let cancel = CancelToken::default();
    let (spec, folder) = (load_spec(&model("llama-tiny")).unwrap(), model("llama-tiny"));
    let (source, cpu) = (Checkpoint::open(&folder).unwrap(), Cpu::new(1));
    let plan = gguf::Plan::of_folder(&folder, &spec, &source, &Dtype::F16).unwrap();
    let limits = Limits { deadline: None, cancel: cancel.clone() };
    let job = Job { cpu: &cpu, source: &source, folder: &folder, target: &target, limits: &limits };
    let stopped = plan.write(&job, &mut |step| {
        if step.bytes > 0 {
            cancel.cancel();
        }
    });
    refused(stopped, "cancelled", "a cancelled one");
    assert_eq!(entries(), 0);
    // What is there stays.
    fs::write(&target, "mine").unwrap();
    refused(try_it("llama-tiny", &Dtype::F16), "is there already", "a file that is there");
    assert_eq!(fs::read(&target).unwrap(), b"mine");
    let part = room.path().join("model-00001-of-00002.gguf");
    refused(
        in_folder(&model("llama-tiny"), &part, &Limits::default(), Some(&Dtype::F16)),
        "is the name of a part",
        "the name of a part",
    );
    assert_eq!(entries(), 1);
}

#[test]
fn numbers_that_a_type_cannot_hold_are_refused() {
    let (room, folder) = (TempDir::new().unwrap(), crate::folder(&[]));
    for entry in fs::read_dir(model("llama-tiny")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..data]).unwrap();
    let offsets = &header["model.layers.1.mlp.up_proj.weight"]["data_offsets"];
    let end = data + offsets[1].as_u64().unwrap() as usize;
    for (number, f32s, f16s) in [(1e6f32, None, Some("not finite")), (f32::NAN, Some("not finite"), Some("not finite"))]
    {
        bytes[end - 4..end].copy_from_slice(&number.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        for (to, problem) in [(Dtype::F32, f32s), (Dtype::F16, f16s), (Q8_0, f32s)] {
            for name in ["model.gguf", "folder"] {
                if name == "folder" && to == Q8_0 {
                    continue;
                }
                let target = room.path().join(name);
                let found = in_folder(folder.path(), &target, &Limits::default(), Some(&to));
                match problem {
                    Some(problem) => refused(found, problem, &format!("{number} in {to}")),
                    None => {
                        found.unwrap();
                        if target.is_dir() {
                            fs::remove_dir_all(target).unwrap()
                        } else {
                            fs::remove_file(target).unwrap()
                        }
                    }
                }
            }
        }
    }
    assert_eq!(fs::read_dir(room.path()).unwrap().count(), 0);
}
