//! Folders that are written with weights in codes: the codes of bitsandbytes, the bits of encoding at load, and what is
//! left when writing them ends early.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bouquet_kernels::Cpu;
use bouquet_model::checkpoint::{Checkpoint, InMemory, TensorSource};
use bouquet_model::families::load_spec;
use bouquet_model::quantize::{Job, Plan, Request, unfinished};
use bouquet_model::{Encoding, ModelError, Network, OpenOptions, Stored};
use bouquet_span::{Limits, Pass};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{json as read_json, model, refused, repository};

const INT8: Request =
    Request { encoding: Encoding::Int8, double: false, embedding: Encoding::F32, max_shard_bytes: u64::MAX };
const NF4: Request = Request { encoding: Encoding::Nf4, ..INT8 };
const DOUBLE: Request = Request { double: true, ..NF4 };
const INT4: Request = Request { encoding: Encoding::Int4, ..INT8 };

/// PyTorch's mean of magnitudes is a sum in f32, whose order depends on the machine.
const MEAN_TOLERANCE: f64 = 1e-6;

/// Small files, so that there are several.
const SMALL: u64 = 60_000;

fn bitsandbytes(model: &str, stored: &str) -> PathBuf {
    repository().join("tests/fixtures/bitsandbytes").join(model).join(stored)
}

/// Writes a folder; `progress` may stop it.
fn write(
    from: &Path,
    request: Request,
    target: &Path,
    mut progress: impl FnMut(u64, &Limits),
) -> bouquet_model::Result<u64> {
    let source = Checkpoint::open(from)?;
    let plan = Plan::new(&load_spec(from)?, &source, request)?;
    let (cpu, limits) = (Cpu::new(2), Limits::default());
    let job = Job { cpu: &cpu, source: &source, folder: from, target, limits: &limits };
    plan.write(&job, &mut |step| progress(step.bytes, &limits))
}

/// A folder in a folder of its own, where nothing else may be left.
struct Written {
    room: TempDir,
}

impl Written {
    fn new() -> Written {
        Written { room: TempDir::new().unwrap() }
    }

    fn of(from: &Path, request: Request) -> Written {
        let written = Written::new();
        let before = write(from, request, &written.path(), |_, _| ()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((before, written.entries()), (0, 1));
        written
    }

    fn path(&self) -> PathBuf {
        self.room.path().join("out")
    }

    fn entries(&self) -> usize {
        fs::read_dir(self.room.path()).unwrap().count()
    }

    fn tensors(&self) -> InMemory {
        InMemory::copy_of(&Checkpoint::open(&self.path()).unwrap()).unwrap()
    }

    /// All files by name.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let file = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
        fs::read_dir(self.path()).unwrap().map(|entry| file(entry.unwrap())).collect()
    }
}

fn logits(folder: &Path, encoding: Encoding) -> Vec<u32> {
    let options = OpenOptions::new(Cpu::new(2), 1 << 30, encoding);
    let network = Network::open(folder, &options).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let hidden = network.embedding.embed(&network.cpu, &[&[5, 9, 33, 2, 61, 17, 40]]).unwrap();
    let (hidden, _) = network.blocks.forward(hidden, &Pass::default()).unwrap();
    let logits = network.head.logits(&network.cpu, hidden.values().view());
    logits.data().iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn the_tensors_are_those_of_transformers_with_bitsandbytes() {
    for name in ["bloom-odd", "llama-odd"] {
        for (stored, request) in [("int8", INT8), ("nf4", NF4), ("nf4-double", DOUBLE)] {
            let written = Written::of(&bitsandbytes(name, "floats"), request);
            let (found, folder) = (written.tensors(), bitsandbytes(name, stored));
            let expected = Checkpoint::open(&folder).unwrap();
            assert_eq!(found.names(), expected.names(), "{name} in {stored}");
            for tensor_name in expected.names() {
                let (found, expected) = (&found.tensors[tensor_name], expected.tensor(tensor_name).unwrap().unwrap());
                assert_eq!(found.dtype, expected.dtype, "{tensor_name}");
                if tensor_name.contains("quant_state") {
                    let [mut found, mut expected] =
                        [found, &expected].map(|tensor| serde_json::from_slice::<Value>(&tensor.data).unwrap());
                    let [a, b] = [&mut found, &mut expected].map(|state| state["nested_offset"].take());
                    assert!((a.as_f64().unwrap_or(0.0) - b.as_f64().unwrap_or(0.0)).abs() < MEAN_TOLERANCE);
                    assert_eq!(found, expected, "{tensor_name} of {name} in {stored}");
                } else if tensor_name.ends_with("nested_absmax") {
                    let [found, expected] = [&found.data, &expected.data].map(|bytes| bytes.as_chunks().0.to_vec());
                    for (a, b) in found.into_iter().zip(expected) {
                        assert!((f32::from_le_bytes(a) - f32::from_le_bytes(b)).abs() < MEAN_TOLERANCE as f32);
                    }
                } else {
                    assert_eq!(found.shape, expected.shape, "{tensor_name}");
                    assert!(found.data == expected.data, "{tensor_name} of {name} in {stored}");
                }
            }
            let [found, expected] = [written.path(), folder].map(|folder| read_json(&folder.join("config.json")));
            assert_eq!(found["quantization_config"], expected["quantization_config"], "{name} in {stored}");
        }
    }
}

#[test]
fn a_folder_in_codes_computes_what_the_floats_compute_when_they_are_encoded_at_load() {
    for name in ["bloom-tiny-unprefixed", "bloom-tiny-sharded", "bloom-tiny-bf16", "llama-tiny-tied", "mixtral-tiny"] {
        for request in [INT8, INT4, NF4] {
            let encoding = request.encoding;
            for embedding in [Encoding::F32, encoding.of_vocabulary()] {
                let written = Written::of(&model(name), Request { embedding, max_shard_bytes: SMALL, ..request });
                let stored = load_spec(&written.path()).unwrap().stored;
                assert_eq!(stored, Stored { linears: encoding, embedding, skipped: Vec::new(), kinds: None });
                let same = logits(&written.path(), encoding) == logits(&model(name), encoding);
                assert!(same, "{name} in {encoding}, embedding in {embedding}");
            }
        }
    }
}

#[test]
fn what_is_planned_is_what_is_written() {
    for request in [INT8, Request { embedding: Encoding::Int4, ..INT4 }, DOUBLE] {
        let request = Request { max_shard_bytes: SMALL, ..request };
        let from = model("llama-tiny");
        let source = Checkpoint::open(&from).unwrap();
        let plan = Plan::new(&load_spec(&from).unwrap(), &source, request).unwrap();
        let written = Written::of(&from, request);
        let tensors = written.tensors().tensors;
        assert_eq!(plan.bytes(), tensors.values().map(|tensor| tensor.data.len() as u64).sum::<u64>());
        assert!(plan.bytes() < plan.bytes_before && plan.shards.len() > 2);
        let mut files: Vec<String> = plan.shards.iter().map(|shard| shard.file.clone()).collect();
        files.extend(["config.json", "generation_config.json", "model.safetensors.index.json"].map(str::to_owned));
        files.extend(["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"].map(str::to_owned));
        files.sort();
        assert_eq!(written.files().into_keys().collect::<Vec<_>>(), files);
        let index = read_json(&written.path().join("model.safetensors.index.json"));
        assert_eq!(index["metadata"]["total_size"], json!(plan.bytes()));
    }
}

#[test]
fn an_interrupted_folder_has_no_name_and_the_next_try_goes_on() {
    let (from, request) = (model("bloom-tiny"), Request { max_shard_bytes: SMALL, ..DOUBLE });
    let undisturbed = Written::of(&from, request).files();
    let total: u64 =
        undisturbed.iter().filter(|(name, _)| name.ends_with("safetensors")).map(|f| f.1.len() as u64).sum();
    let mut resumed = 0;
    for part in 0..10 {
        let written = Written::new();
        let stopped = write(&from, request, &written.path(), |bytes, limits| {
            if bytes >= total * part / 10 {
                limits.cancel.cancel();
            }
        });
        assert!(matches!(stopped, Err(ModelError::Span(_))), "{stopped:?}");
        let staging = unfinished(&written.path()).unwrap().expect("what was done is kept");
        assert!(!written.path().exists() && !staging.join("config.json").exists());
        assert!(Network::open(&staging, &OpenOptions::new(Cpu::new(1), 1, Encoding::F32)).is_err());
        let before = write(&from, request, &written.path(), |_, _| ()).unwrap();
        resumed += u64::from(before > 0);
        assert!(written.files() == undisturbed, "stopped after {part} of 10");
        assert_eq!(written.entries(), 1);
    }
    // The embedding is the first unit, and more than half of all.
    assert!(resumed >= 3, "{resumed} tries of 10 went on");
}

#[test]
fn a_try_that_wants_something_else_begins_anew() {
    let (from, written) = (model("bloom-tiny"), Written::new());
    let stop = |bytes, limits: &Limits| {
        if bytes > EMBEDDING {
            limits.cancel.cancel();
        }
    };
    const EMBEDDING: u64 = 512 * 64 * 4 + 1000;
    for (request, expected) in [(NF4, NF4), (INT8, INT4)] {
        let first = Request { max_shard_bytes: SMALL, ..request };
        assert!(write(&from, first, &written.path(), stop).is_err());
        let before = write(&from, Request { max_shard_bytes: SMALL, ..expected }, &written.path(), |_, _| ()).unwrap();
        assert_eq!(before > 0, request == expected);
        assert_eq!(load_spec(&written.path()).unwrap().stored.linears, expected.encoding);
        fs::remove_dir_all(written.path()).unwrap();
    }
}

#[test]
fn a_weight_that_is_not_finite_is_refused_by_its_name_and_nothing_is_left() {
    const NAME: &str = "transformer.h.1.mlp.dense_4h_to_h.weight";
    // What is copied as it is.
    const EMBEDDING: &str = "transformer.word_embeddings.weight";
    for (request, problem, name, what) in [
        (INT8, f32::NAN, NAME, format!("\"{NAME}\" has a number in row 3 that is not finite")),
        (INT8, 1e6, NAME, format!("\"{NAME}\" has a number in row 3 that is not finite")),
        (INT4, f32::INFINITY, NAME, format!("\"{NAME}\" has a number in row 3 that is not finite")),
        (NF4, f32::NEG_INFINITY, NAME, format!("\"{NAME}\" has a number in row 3 that is not finite")),
        (INT8, f32::NAN, EMBEDDING, format!("\"{EMBEDDING}\" has a number at index 775 that is not finite")),
        (NF4, f32::INFINITY, EMBEDDING, format!("\"{EMBEDDING}\" has a number at index 775 that is not finite")),
    ] {
        let from = TempDir::new().unwrap();
        for entry in fs::read_dir(model("bloom-tiny")).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, from.path().join(path.file_name().unwrap())).unwrap();
        }
        let file = from.path().join("model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let place = {
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            tensors.tensor(name).unwrap().data().as_ptr() as usize - bytes.as_ptr() as usize
        };
        bytes[place + 4 * (3 * 256 + 7)..][..4].copy_from_slice(&problem.to_le_bytes());
        fs::write(&file, bytes).unwrap();
        let written = Written::new();
        let found = write(from.path(), request, &written.path(), |_, _| ());
        let problem = format!("the tensor {what}");
        refused(found, &problem, "a number");
        let options = OpenOptions::new(Cpu::new(1), 1 << 20, request.encoding);
        refused(Network::open(from.path(), &options), &format!("the tensor {name:?} has a number in row"), "at load");
        assert_eq!(written.entries(), 0);
    }
}

#[test]
fn folders_that_cannot_be_written_are_refused_and_left_as_they_are() {
    let (from, written) = (model("bloom-tiny"), Written::new());
    fs::create_dir(written.path()).unwrap();
    fs::write(written.path().join("mine"), "precious").unwrap();
    refused(write(&from, INT8, &written.path(), |_, _| ()), "is there already, and not empty", "a folder");
    refused(write(&from, INT8, &written.path().join("mine"), |_, _| ()), "is there already, and no folder", "a file");
    refused(write(&from, INT8, Path::new("/"), |_, _| ()), "is no name for a new folder", "the root");
    refused(write(&from, INT8, &written.path().join("a/b"), |_, _| ()), "cannot write", "a folder in none");
    assert_eq!(written.files().len(), 1);
    let encoded = bitsandbytes("bloom-odd", "int8");
    refused(write(&encoded, NF4, &written.path(), |_, _| ()), "stored in int8 already", "codes");
    fs::remove_file(written.path().join("mine")).unwrap();
    write(&from, INT8, &written.path(), |_, _| ()).expect("an empty folder is as good as none");
}

/// A link to an empty folder cannot be replaced by a folder, which has to be known before hours of work.
#[cfg(unix)]
#[test]
fn folders_that_cannot_make_room_are_refused_at_once() {
    let (from, written) = (model("bloom-tiny"), Written::new());
    let elsewhere = TempDir::new().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), written.path()).unwrap();
    for target in [written.path(), written.path().join("")] {
        let found = write(&from, INT8, &target, |_, _| panic!("nothing can be written"));
        refused(found, "is there already, and cannot be replaced", "a link");
        assert_eq!(written.entries(), 1);
    }
    assert_eq!(elsewhere.path().read_dir().unwrap().count(), 0);
}

/// Room that is taken while the folder is being written: an error, and nothing is left beside what is there.
#[test]
fn a_name_that_is_taken_meanwhile_is_left_as_it_is() {
    let (from, written) = (model("bloom-tiny"), Written::new());
    let found = write(&from, INT8, &written.path(), |_, _| {
        fs::create_dir_all(written.path()).unwrap();
        fs::write(written.path().join("mine"), "precious").unwrap();
    });
    refused(found, "cannot write", "a folder that is not empty");
    assert_eq!((written.entries(), written.files().len()), (1, 1));
}

#[test]
fn a_folder_that_is_being_written_is_not_written_twice() {
    let (from, written) = (model("bloom-tiny"), Written::new());
    let mut refusals = 0;
    write(&from, INT8, &written.path(), |_, _| {
        let second = write(&from, INT4, &written.path(), |_, _| ());
        refusals += u32::from(matches!(second, Err(ModelError::Busy { .. })));
    })
    .unwrap();
    assert!(refusals > 3);
    assert_eq!(load_spec(&written.path()).unwrap().stored.linears, Encoding::Int8);
}
