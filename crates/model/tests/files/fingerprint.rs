//! What a fingerprint names, and what it does not; and what is kept of it.

use std::cell::Cell;
use std::fs;
use std::path::Path;

use bouquet_kernels::Cpu;
use bouquet_kernels::ops::attention::CacheEncoding;
use bouquet_model::checkpoint::{Checkpoint, Dtype};
use bouquet_model::families::load_spec;
use bouquet_model::quantize::{self, Job, Request};
use bouquet_model::{Encoding, Fingerprint, OpenOptions, gguf};
use bouquet_span::{Limits, Rounding};
use tempfile::TempDir;

use crate::{model, refused, repository};

fn options(encoding: Encoding) -> OpenOptions {
    OpenOptions::new(Cpu::new(2), 0, encoding)
}

fn opened(folder: &Path, options: &OpenOptions) -> Fingerprint {
    Fingerprint::of(folder, options, None, &mut |_, _| Ok(())).unwrap_or_else(|error| panic!("{error}"))
}

fn of(folder: &Path, encoding: Encoding) -> Fingerprint {
    opened(folder, &options(encoding))
}

/// Fingerprint by way of a cache, and how many parts were read for it.
fn by_way_of(cache: &Path, folder: &Path, encoding: Encoding) -> (Fingerprint, usize) {
    let read = Cell::new(0);
    let mut count = |_, _| {
        read.set(read.get() + 1);
        Ok(())
    };
    let found = Fingerprint::of(folder, &options(encoding), Some(cache), &mut count).unwrap();
    (found, read.get())
}

fn copy(from: &Path) -> TempDir {
    let folder = TempDir::new().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

/// Flips the last bit of a model's weights.
fn damage(folder: &Path) {
    let path = folder.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
}

#[test]
fn it_is_the_same_wherever_the_files_are_and_however_they_are_cut() {
    let whole = of(&model("bloom-tiny"), Encoding::Int8);
    assert_eq!(of(copy(&model("bloom-tiny")).path(), Encoding::Int8), whole);
    let one_thread = OpenOptions::new(Cpu::new(1), 0, Encoding::Int8);
    assert_eq!(opened(&model("bloom-tiny"), &one_thread), whole);
    // The same tensors in shards, and without prefix.
    for other in ["bloom-tiny-sharded", "bloom-tiny-unprefixed"] {
        assert_eq!(of(&model(other), Encoding::Int8), whole, "{other}");
    }
    assert!(whole.fingerprint.to_string().len() == 64 && whole.blocks.len() == 2, "{whole:?}");
}

/// Raise `ARITHMETIC_VERSION` if bits have changed; change this alone where only what is hashed has.
#[test]
fn it_is_what_it_was() {
    let found = of(&model("bloom-tiny"), Encoding::Int8).fingerprint.to_string();
    assert_eq!(found, EXPECTED);
}

const EXPECTED: &str = "585fe12325bba839929a53ae20c9a1190ceb2f9c096f11a62b03d919eab2f04f";

#[test]
fn codes_are_the_same_made_at_load_or_read_from_a_folder() {
    for (name, encoding) in [
        ("bloom-tiny-fp16", Encoding::Int8),
        ("bloom-tiny", Encoding::Int4),
        ("llama-tiny-tied", Encoding::Int8),
        ("mixtral-tiny", Encoding::Nf4),
        ("opt-tiny", Encoding::Int8),
    ] {
        let (from, room) = (model(name), TempDir::new().unwrap());
        let (source, spec) = (Checkpoint::open(&from).unwrap(), load_spec(&from).unwrap());
        let embedding = encoding.of_vocabulary();
        let request = Request { encoding, double: false, embedding, max_shard_bytes: 60_000 };
        let (cpu, limits, target) = (Cpu::new(2), Limits::default(), room.path().join("codes"));
        let job = Job { cpu: &cpu, source: &source, folder: &from, target: &target, limits: &limits };
        quantize::Plan::new(&spec, &source, request).unwrap().write(&job, &mut |_| ()).unwrap();
        let (made, read) = (of(&from, encoding), of(&target, encoding));
        assert_ne!(made.computed.stored, read.computed.stored);
        assert_eq!((made.fingerprint, &made.blocks), (read.fingerprint, &read.blocks), "{name}, {encoding}");
        assert_eq!(of(&target, Encoding::Stored).fingerprint, made.fingerprint, "{name}, {encoding}");
        assert_ne!(of(&target, Encoding::F32).fingerprint, made.fingerprint, "{name}, {encoding}");
    }
}

#[test]
fn a_folder_and_its_file_are_the_same_model() {
    for name in ["llama-tiny", "bloom-tiny", "qwen3-tiny", "llama3-rope-tiny"] {
        let (from, room) = (model(name), TempDir::new().unwrap());
        let (source, spec) = (Checkpoint::open(&from).unwrap(), load_spec(&from).unwrap());
        let (cpu, limits, target) = (Cpu::new(2), Limits::default(), room.path().join("model.gguf"));
        let job = Job { cpu: &cpu, source: &source, folder: &from, target: &target, limits: &limits };
        let plan = gguf::Plan::of_folder(&from, &spec, &source, &Dtype::F32).unwrap();
        plan.write(&job, &mut |_| ()).unwrap();
        for encoding in [Encoding::F32, Encoding::Stored, Encoding::Int8] {
            assert_eq!(of(&target, encoding).fingerprint, of(&from, encoding).fingerprint, "{name}, {encoding}");
        }
    }
}

#[test]
fn a_bit_of_a_weight_changes_its_block_and_the_whole() {
    let before = of(&model("bloom-tiny"), Encoding::F32);
    let folder = copy(&model("bloom-tiny"));
    damage(folder.path());
    let after = of(folder.path(), Encoding::F32);
    let changed = before.blocks.iter().zip(&after.blocks).filter(|(before, after)| before != after).count();
    assert_eq!(changed + usize::from(before.ends != after.ends), 1);
    assert_ne!(before.fingerprint, after.fingerprint);
    assert_eq!(before.config, after.config);
}

#[test]
fn whatever_changes_bits_changes_it() {
    let model = model("bloom-tiny");
    let int8 = options(Encoding::Int8);
    let all = [
        int8.clone(),
        options(Encoding::F32),
        OpenOptions { cache_encoding: CacheEncoding::F16, ..int8.clone() },
        OpenOptions { rounding: Rounding::Bf16, ..int8.clone() },
        OpenOptions { rounding: Rounding::Int8, ..int8 },
    ];
    let mut all: Vec<_> = all.iter().map(|options| opened(&model, options).fingerprint).collect();
    all.sort();
    assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
    let codes = repository().join("tests/fixtures/bitsandbytes/bloom-odd/int8");
    assert_eq!(of(&codes, Encoding::Int8).computed.stored, "int8");
    let other = Fingerprint::of(&codes, &options(Encoding::Nf4), None, &mut |_, _| Ok(()));
    refused(other, "stored in int8", "codes of another encoding");
}

#[test]
fn another_setting_is_another_model_and_what_is_said_besides_is_not() {
    let folder = copy(&model("bloom-tiny"));
    let path = folder.path().join("config.json");
    let before = of(folder.path(), Encoding::F32);
    let mut config = crate::json(&path);
    config["transformers_version"] = "1.2.3".into();
    fs::write(&path, config.to_string()).unwrap();
    assert_eq!(of(folder.path(), Encoding::F32), before);
    config["layer_norm_epsilon"] = 1e-3.into();
    fs::write(&path, config.to_string()).unwrap();
    let after = of(folder.path(), Encoding::F32);
    assert_ne!((after.config, after.fingerprint), (before.config, before.fingerprint));
}

#[test]
fn what_is_known_is_not_read_again() {
    let (folder, room) = (copy(&model("bloom-tiny")), TempDir::new().unwrap());
    let (folder, cache) = (folder.path(), room.path().join("new/hashes"));
    let (expected, read) = by_way_of(&cache, folder, Encoding::Int8);
    assert_eq!((&expected, read), (&of(folder, Encoding::Int8), 3));
    assert_eq!(by_way_of(&cache, folder, Encoding::Int8), (expected.clone(), 0));
    // Another encoding has hashes of its own.
    assert_eq!(by_way_of(&cache, folder, Encoding::F32).1, 3);
    assert_eq!(by_way_of(&cache, folder, Encoding::Int8).1, 0);
    // What is damaged there counts as none, and is made anew.
    let files = || fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(files().count(), 2);
    for damaged in ["", "{", "[]", "{\"of\":1}", "\u{1F339}"] {
        files().for_each(|file| fs::write(file, damaged).unwrap());
        assert_eq!(by_way_of(&cache, folder, Encoding::Int8), (expected.clone(), 3), "{damaged:?}");
    }
    let file = files().find(|file| fs::read(file).unwrap().starts_with(b"{\"of\":{")).unwrap();
    let mut kept = crate::json(&file);
    kept["blocks"][1] = "not a hash".into();
    fs::write(&file, kept.to_string()).unwrap();
    assert_eq!(by_way_of(&cache, folder, Encoding::Int8), (expected.clone(), 1));
    kept["blocks"] = serde_json::json!([]);
    fs::write(&file, kept.to_string()).unwrap();
    assert_eq!(by_way_of(&cache, folder, Encoding::Int8), (expected.clone(), 3));
    // Other weights: the file's time or length is another.
    std::thread::sleep(std::time::Duration::from_millis(20));
    damage(folder);
    let (changed, read) = by_way_of(&cache, folder, Encoding::F32);
    assert_eq!((&changed, read), (&of(folder, Encoding::F32), 3));
    // A cache that cannot be is none.
    let no_folder = folder.join("config.json");
    assert_eq!(by_way_of(&no_folder, folder, Encoding::F32), (changed, 3));
}
