//! Folders whose weights are in codes: what transformers with bitsandbytes wrote, and every lie about it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bouquet_kernels::{Cpu, Matrix};
use bouquet_model::checkpoint::{Checkpoint, Dtype, InMemory, Tensor};
use bouquet_model::config::Config;
use bouquet_model::families::{load_spec, spec};
use bouquet_model::load::Loader;
use bouquet_model::{Encoding, ModelError, ModelSpec, Network, OpenOptions, Stored};
use bouquet_span::Pass;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::{json as read_json, refused, repository};

/// Logits of weights that bitsandbytes decoded, computed by PyTorch in f32: two orders of summation apart.
const TOLERANCE: f32 = 1e-4;

/// Logits with activations in int8, of which ours keep more outliers apart: some of the largest, which is 6.3.
const INTEGER_TOLERANCE: f32 = 0.3;

const MODELS: [&str; 2] = ["bloom-odd", "llama-odd"];

fn fixture(model: &str, stored: &str) -> PathBuf {
    repository().join("tests/fixtures/bitsandbytes").join(model).join(stored)
}

fn options(encoding: Encoding) -> OpenOptions {
    OpenOptions::new(Cpu::new(2), 1 << 30, encoding)
}

fn logits(model: &str, stored: &str, encoding: Encoding) -> Matrix {
    let network = Network::open(&fixture(model, stored), &options(encoding))
        .unwrap_or_else(|error| panic!("{model} in {stored}: {error}"));
    let ids: Vec<u32> = recorded(model, stored, "token_ids", |bytes: [u8; 8]| i64::from_le_bytes(bytes) as u32);
    let hidden = network.embedding.embed(&network.cpu, &[&ids]).unwrap();
    let (hidden, _) = network.blocks.forward(hidden, &Pass::default()).unwrap();
    network.head.logits(&network.cpu, hidden.values().view())
}

fn recorded<const N: usize, T>(model: &str, stored: &str, name: &str, number: fn([u8; N]) -> T) -> Vec<T> {
    let bytes = std::fs::read(fixture(model, stored).join("logits.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors.tensor(name).unwrap().data().as_chunks().0.iter().map(|&bytes| number(bytes)).collect()
}

fn distance(found: &Matrix, model: &str, stored: &str, name: &str) -> f32 {
    let expected = recorded(model, stored, name, f32::from_le_bytes);
    assert_eq!(found.data().len(), expected.len());
    found.data().iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn what_bitsandbytes_wrote_is_decoded_to_the_same_numbers() {
    for model in MODELS {
        for stored in ["int8", "nf4", "nf4-double"] {
            let distance = distance(&logits(model, stored, Encoding::F32), model, stored, "logits");
            assert!(distance < TOLERANCE, "{model} in {stored}: logits are {distance} off");
        }
    }
}

#[test]
fn codes_with_rounded_activations_are_close_to_bitsandbytes() {
    for model in MODELS {
        let distance = distance(&logits(model, "int8", Encoding::Int8), model, "int8", "quantized.logits");
        assert!(distance < INTEGER_TOLERANCE, "{model}: logits are {distance} off");
    }
}

#[test]
fn codes_are_computed_as_they_are_or_in_f32_and_in_nothing_else() {
    for (stored, asked) in [("int8", Encoding::Int4), ("int8", Encoding::Nf4), ("nf4", Encoding::Int8)] {
        let found = Network::open(&fixture("bloom-odd", stored), &options(asked));
        assert!(matches!(found, Err(ModelError::StoredEncoding { .. })), "{stored} in {asked}");
    }
    for stored in ["int8", "nf4"] {
        let open = |asked| Network::open(&fixture("bloom-odd", stored), &options(asked)).unwrap();
        let (asked, usual) = (open(Encoding::Stored), open(stored.parse().unwrap()));
        assert!(asked.weights().zip(usual.weights()).all(|(a, b)| a.data() == b.data()), "{stored}");
    }
}

/// A model in memory, which can be broken.
struct Broken {
    config: Value,
    source: InMemory,
}

impl Broken {
    fn of(stored: &str) -> Broken {
        let folder = fixture("llama-odd", stored);
        let source = InMemory::copy_of(&Checkpoint::open(&folder).unwrap()).unwrap();
        Broken { config: read_json(&folder.join("config.json")), source }
    }

    fn spec(&self) -> bouquet_model::Result<ModelSpec> {
        spec(&Config::parse(self.config.to_string().as_bytes()).unwrap())
    }

    fn check(&self) -> bouquet_model::Result<()> {
        Loader { source: &self.source, spec: &self.spec()?, encoding: None }.check()
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.source.tensors.get_mut(name).unwrap_or_else(|| panic!("{name}"))
    }

    /// Replaces the bytes of a vector.
    fn put(&mut self, name: &str, bytes: Vec<u8>) {
        let tensor = self.tensor(name);
        let size = tensor.dtype.bytes().unwrap() as usize;
        (tensor.shape, tensor.data) = (vec![bytes.len() / size], bytes.into());
    }

    /// Replaces one number of a vector of F32.
    fn set(&mut self, name: &str, index: usize, number: f32) {
        let mut bytes = self.tensor(name).data.to_vec();
        bytes[4 * index..][..4].copy_from_slice(&number.to_le_bytes());
        self.put(name, bytes);
    }

    /// Edits what bitsandbytes says of a weight.
    fn edit_state(&mut self, edit: impl FnOnce(&mut Value)) {
        let mut state = serde_json::from_slice(&self.tensor(STATE).data).unwrap();
        edit(&mut state);
        self.put(STATE, state.to_string().into());
    }
}

const CODES: &str = "model.layers.1.mlp.down_proj.weight";
const STATE: &str = "model.layers.1.mlp.down_proj.weight.quant_state.bitsandbytes__nf4";

fn beside(name: &str) -> String {
    format!("{CODES}.{name}")
}

/// Holds that a broken model is refused by the name of a tensor.
fn refused_when(stored: &str, expected: &str, break_it: impl FnOnce(&mut Broken)) {
    let mut model = Broken::of(stored);
    break_it(&mut model);
    refused(model.check(), expected, expected);
}

#[test]
fn damaged_int8_is_refused_by_the_tensor_at_fault() {
    const SCB: &str = "model.layers.1.mlp.down_proj.SCB";
    const FORMAT: &str = "model.layers.1.mlp.down_proj.weight_format";
    refused_when("int8", "model.layers.1.mlp.down_proj.SCB\" that belongs to it is missing", |model| {
        model.source.tensors.remove(SCB);
    });
    refused_when("int8", "down_proj.SCB\" has NaN at index 3", |model| model.set(SCB, 3, f32::NAN));
    refused_when("int8", "down_proj.SCB\" has -1 at index 0, but scales are not negative", |model| {
        model.set(SCB, 0, -1.0);
    });
    refused_when("int8", "down_proj.SCB\" should have shape [40], but has [39]", |model| {
        model.put(SCB, vec![0; 4 * 39]);
    });
    refused_when("int8", "down_proj.weight_format\" is 2, and only 0 (row by row) is read", |model| {
        model.tensor(FORMAT).data = vec![2].into();
    });
    refused_when("int8", "down_proj.weight\" should have shape [40, 90], but has [90, 40]", |model| {
        model.tensor(CODES).shape.reverse();
    });
    let mut without = Broken::of("int8");
    without.source.tensors.remove(FORMAT);
    without.check().expect("files from before there was that tensor");
}

#[test]
fn a_damaged_state_of_nf4_is_refused_by_the_tensor_at_fault() {
    refused_when("nf4", "is not what bitsandbytes writes there: expected", |model| {
        model.put(STATE, b"no JSON".to_vec());
    });
    refused_when("nf4", "has 5000 bytes, and more than 4096 are not read", |model| model.put(STATE, vec![b' '; 5000]));
    refused_when("nf4", "missing field `blocksize`", |model| {
        model.edit_state(|state| drop(state.as_object_mut().unwrap().remove("blocksize")));
    });
    refused_when("nf4", "says \"fp4\" in blocks of 64, and only \"nf4\"", |model| {
        model.edit_state(|state| state["quant_type"] = json!("fp4"));
    });
    refused_when("nf4", "says \"nf4\" in blocks of 128", |model| {
        model.edit_state(|state| state["blocksize"] = json!(128));
    });
    refused_when("nf4", "says shape [90, 40], but it should be [40, 90]", |model| {
        model.edit_state(|state| state["shape"] = json!([90, 40]));
    });
    refused_when("nf4", "a tensor has more than 16 dimensions", |model| {
        model.edit_state(|state| state["shape"] = json!(vec![1; 17]));
    });
    refused_when("nf4-double", "says of its magnitudes what is not read", |model| {
        model.edit_state(|state| state["nested_blocksize"] = json!(128));
    });
    refused_when("nf4-double", "number out of range", |model| {
        model.edit_state(|state| state["nested_offset"] = json!(1e300));
    });
}

#[test]
fn damaged_magnitudes_of_nf4_are_refused_by_the_tensor_at_fault() {
    refused_when("nf4", "down_proj.weight.absmax\" that belongs to it is missing", |model| {
        model.source.tensors.remove(&beside("absmax"));
    });
    refused_when("nf4", "down_proj.weight.absmax\" should have shape [57], but has [56]", |model| {
        model.put(&beside("absmax"), vec![0; 4 * 56]);
    });
    refused_when("nf4", "down_proj.weight.absmax\" has -2 at index 1", |model| model.set(&beside("absmax"), 1, -2.0));
    refused_when("nf4", "down_proj.weight.quant_map\" has 0.5 at index 7, where nf4 has 0", |model| {
        model.set(&beside("quant_map"), 7, 0.5);
    });
    refused_when("nf4", "down_proj.weight\" should have shape [1800, 1], but has [1800]", |model| {
        model.tensor(CODES).shape.pop();
    });
    refused_when("nf4", "neither \"model.layers.1.mlp.down_proj.weight.quant_state", |model| {
        model.source.tensors.remove(STATE);
    });
    refused_when("nf4-double", "down_proj.weight.absmax\" should hold U8 numbers, but holds I8", |model| {
        model.tensor(&beside("absmax")).dtype = Dtype::I8;
    });
    refused_when("nf4-double", "down_proj.weight.nested_absmax\" has inf at index 0", |model| {
        model.set(&beside("nested_absmax"), 0, f32::INFINITY);
    });
    refused_when("nf4-double", "down_proj.weight.nested_quant_map\" falls at index 9, but levels ascend", |model| {
        model.set(&beside("nested_quant_map"), 10, -1.0);
    });
}

#[test]
fn a_configuration_and_weights_that_disagree_are_refused() {
    let mut model = Broken::of("int8");
    model.config["quantization_config"] = Value::Null;
    refused(model.check(), "is stored in int8, but by config.json it should be in floats", "codes without a word");
    for (stored, said) in [("floats", "int8"), ("floats", "nf4"), ("int8", "nf4"), ("nf4", "int8")] {
        let mut model = Broken::of(stored);
        model.config["quantization_config"] = Broken::of(said).config["quantization_config"].clone();
        let stored = stored.replace("floats", "floats,").replace("int8", "int8,").replace("nf4", "nf4,");
        refused(model.check(), &format!("is stored in {stored} but by config.json it should be in {said}"), said);
    }
    // Mixed: one linear of another encoding.
    let nf4 = Broken::of("nf4");
    let mut mixed = Broken::of("int8");
    mixed.source.tensors.remove(&CODES.replace("weight", "SCB"));
    for (name, tensor) in nf4.source.tensors.into_iter().filter(|(name, _)| name.starts_with(CODES)) {
        mixed.source.tensors.insert(name, tensor);
    }
    refused(mixed.check(), "down_proj.weight\" is stored in nf4, but by config.json it should be in int8", "mixed");
}

#[test]
fn linears_that_bitsandbytes_skipped_are_floats() {
    let mut model = Broken::of("int8");
    let floats = Broken::of("floats");
    model.source.tensors.insert(CODES.to_owned(), floats.source.tensors[CODES].clone());
    refused(model.check(), "is stored in floats", "a linear that is not said to be skipped");
    for skipped in ["down_proj", "model.layers.1.mlp"] {
        model.config["quantization_config"]["llm_int8_skip_modules"] = json!([skipped]);
        model.check().unwrap();
    }
}

#[test]
fn encodings_that_are_not_known_are_refused_by_name() {
    let cases: BTreeMap<&str, (Value, &str)> = BTreeMap::from([
        ("gptq", (json!({"quant_method": "gptq", "bits": 4}), "\"gptq\"")),
        ("nothing", (json!({}), "unnamed")),
        ("both", (json!({"load_in_8bit": true, "load_in_4bit": true}), "unnamed")),
        ("fp4", (json!({"load_in_4bit": true, "bnb_4bit_quant_type": "fp4"}), "is \"fp4\", and only \"nf4\" is read")),
        (
            "bf16 storage",
            (
                json!({"load_in_4bit": true, "bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": "bfloat16"}),
                "only \"uint8\" is read",
            ),
        ),
        ("f16", (json!({"load_in_8bit": true, "llm_int8_has_fp16_weight": true}), "only weights in int8 are read")),
        ("version", (json!({"quant_method": "bouquet", "version": 2, "encoding": "int8"}), "knows version 1 only")),
        (
            "int3",
            (json!({"quant_method": "bouquet", "version": 1, "encoding": "int3"}), "is \"int3\", which is not known"),
        ),
        // Encodings that something can be computed in, but that say nothing of what a file holds.
        (
            "stored",
            (json!({"quant_method": "bouquet", "version": 1, "encoding": "stored"}), "known: f32, int8, int4, nf4)"),
        ),
    ]);
    for (what, (field, expected)) in cases {
        let mut model = Broken::of("int8");
        model.config["quantization_config"] = field;
        refused(model.spec(), expected, what);
    }
}

#[test]
fn what_is_stored_is_told() {
    let stored = |name: &str| load_spec(&fixture("bloom-odd", name)).unwrap().stored;
    assert_eq!(stored("floats"), Stored::floats());
    assert_eq!((stored("int8").linears, stored("int8").embedding), (Encoding::Int8, Encoding::F32));
    assert_eq!(stored("nf4-double").linears, Encoding::Nf4);
}
