//! What a fingerprint names, and what it does not.

use std::fs;
use std::path::Path;

use bouquet_kernels::Cpu;
use bouquet_kernels::ops::attention::CacheEncoding;
use bouquet_model::Encoding;
use bouquet_model::fingerprint::Fingerprint;
use tempfile::TempDir;

use crate::{model, refused, repository};

fn of(folder: &Path, encoding: Encoding) -> Fingerprint {
    Fingerprint::of(folder, &Cpu::new(2), encoding, CacheEncoding::F32).unwrap()
}

fn copy(from: &Path) -> TempDir {
    let folder = TempDir::new().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

#[test]
fn it_is_the_same_wherever_the_files_are_and_however_they_are_cut() {
    let whole = of(&model("bloom-tiny"), Encoding::Int8);
    assert_eq!(of(copy(&model("bloom-tiny")).path(), Encoding::Int8), whole);
    let one_thread = Fingerprint::of(&model("bloom-tiny"), &Cpu::new(1), Encoding::Int8, CacheEncoding::F32);
    assert_eq!(one_thread.unwrap(), whole);
    // The same tensors in shards, and without prefix.
    for other in ["bloom-tiny-sharded", "bloom-tiny-unprefixed"] {
        let other = of(&model(other), Encoding::Int8);
        assert_eq!((other.blocks, other.ends), (whole.blocks.clone(), whole.ends.clone()));
    }
    assert!(whole.fingerprint.len() == 64 && whole.blocks.len() == 2, "{whole:?}");
}

#[test]
fn a_bit_of_a_weight_changes_its_block_and_the_whole() {
    let before = of(&model("bloom-tiny"), Encoding::F32);
    let folder = copy(&model("bloom-tiny"));
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    let after = of(folder.path(), Encoding::F32);
    let changed = before.blocks.iter().zip(&after.blocks).filter(|(before, after)| before != after).count();
    assert_eq!(changed + usize::from(before.ends != after.ends), 1);
    assert_ne!(before.fingerprint, after.fingerprint);
    assert_eq!(before.config, after.config);
}

#[test]
fn encodings_change_it() {
    let floats = of(&model("bloom-tiny"), Encoding::F32);
    let int8 = of(&model("bloom-tiny"), Encoding::Int8);
    let kv_cache = Fingerprint::of(&model("bloom-tiny"), &Cpu::new(2), Encoding::F32, CacheEncoding::F16).unwrap();
    let stored = of(&repository().join("tests/fixtures/bitsandbytes/bloom-odd/int8"), Encoding::Int8);
    assert_eq!([&floats, &int8, &stored].map(|found| found.computed.stored.as_str()), ["f32", "f32", "int8"]);
    let mut all = [&floats, &int8, &kv_cache, &stored].map(|found| found.fingerprint.as_str());
    all.sort();
    assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
    let codes = repository().join("tests/fixtures/bitsandbytes/bloom-odd/int8");
    let other = Fingerprint::of(&codes, &Cpu::new(1), Encoding::Nf4, CacheEncoding::F32);
    refused(other, "stored in int8", "codes of another encoding");
}

#[test]
fn another_setting_is_another_model() {
    let folder = copy(&model("bloom-tiny"));
    let path = folder.path().join("config.json");
    let before = of(folder.path(), Encoding::F32);
    let mut config = crate::json(&path);
    config["layer_norm_epsilon"] = 1e-3.into();
    fs::write(&path, config.to_string()).unwrap();
    let after = of(folder.path(), Encoding::F32);
    assert_ne!((after.config, after.fingerprint), (before.config, before.fingerprint));
}
