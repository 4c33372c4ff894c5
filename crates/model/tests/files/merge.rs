//! Folders with an adapter folded into their weights.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bouquet_kernels::Cpu;
use bouquet_model::adapter::Learned;
use bouquet_model::checkpoint::{Checkpoint, Dtype, TensorSource};
use bouquet_model::families::load_spec;
use bouquet_model::quantize::Job;
use bouquet_model::{Encoding, ModelError, Network, OpenOptions, merge};
use bouquet_span::{Limits, LinearId, Pass, Site, SpanError};
use tempfile::TempDir;

use crate::adapter::fixture;
use crate::{json as read_json, model, refused, repository};

/// Other sums, rounded once more.
const TOLERANCE: f32 = 1e-4;

fn learned(name: &str) -> Learned {
    Learned::open(&fixture(&format!("{name}-adapter")), &load_spec(&model(name)).unwrap()).unwrap().0
}

/// Writes a folder in files of so many bytes; `progress` may stop it.
fn write(
    from: &Path,
    learned: &Learned,
    dtype: Option<Dtype>,
    target: &Path,
    max_shard_bytes: u64,
    mut progress: impl FnMut(u64, &Limits),
) -> bouquet_model::Result<u64> {
    let source = Checkpoint::open(from)?;
    let plan = merge::plan(&load_spec(from)?, &source, &learned.low_rank, dtype, max_shard_bytes)?;
    let (cpu, limits) = (Cpu::new(2), Limits::default());
    let job = Job { cpu: &cpu, source: &source, folder: from, target, limits: &limits };
    plan.write(&job, &mut |step| progress(step.bytes, &limits))
}

fn logits(folder: &Path, pass: &Pass) -> Vec<f32> {
    let network = Network::open(folder, &OpenOptions::new(Cpu::new(1), 1 << 30, Encoding::F32)).unwrap();
    let hidden = network.embedding.embed(&network.cpu, &[&[7, 8, 9, 10], &[3, 4]]).unwrap();
    let (hidden, _) = network.blocks.forward(hidden, pass).unwrap();
    network.head.logits(&network.cpu, hidden.values().view()).data().to_vec()
}

fn largest_difference(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The files of a folder with their bytes.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.map(|path| (path.file_name().unwrap().into(), fs::read(&path).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn a_folder_computes_what_its_model_does_with_the_adapter() {
    for name in ["bloom-tiny", "llama-tiny"] {
        let (room, learned) = (TempDir::new().unwrap(), learned(name));
        let with = logits(&model(name), &learned.with(Pass::default()));
        let target = room.path().join("merged");
        write(&model(name), &learned, None, &target, u64::MAX, |_, _| {}).unwrap();
        let merged = logits(&target, &Pass::default());
        assert!(largest_difference(&merged, &with) < TOLERANCE, "{name}");
        assert!(largest_difference(&merged, &logits(&model(name), &Pass::default())) > 0.01, "{name}");
        let kept = ["tokenizer.json", "generation_config.json", "config.json"];
        assert!(kept.iter().all(|file| target.join(file).exists()), "{name}");
        assert_eq!(read_json(&target.join("config.json")), read_json(&model(name).join("config.json")), "{name}");

        // Weights without a pair are the same bytes.
        let (before, after) = (Checkpoint::open(&model(name)).unwrap(), Checkpoint::open(&target).unwrap());
        assert_eq!(before.names(), after.names());
        let changed = before
            .names()
            .into_iter()
            .filter(|name| before.tensor(name).unwrap().unwrap().data != after.tensor(name).unwrap().unwrap().data);
        assert_eq!(changed.count(), learned.low_rank.pairs.len(), "{name}");
    }
}

#[test]
fn weights_in_16_bits_stay_so_or_become_f32() {
    for (name, dtype) in [("bloom-tiny-fp16", Dtype::F16), ("bloom-tiny-bf16", Dtype::Bf16)] {
        let (room, learned) = (TempDir::new().unwrap(), learned("bloom-tiny"));
        let with = logits(&model(name), &learned.with(Pass::default()));
        for (asked, found, tolerance) in [(None, dtype.clone(), 0.2), (Some(Dtype::F32), Dtype::F32, TOLERANCE)] {
            let target = room.path().join(found.name());
            write(&model(name), &learned, asked.clone(), &target, u64::MAX, |_, _| {}).unwrap();
            let source = Checkpoint::open(&target).unwrap();
            let same = |name: &&str| source.tensor(name).unwrap().unwrap().dtype == found;
            assert!(source.names().iter().all(same), "{name}: not all in {found}");
            let difference = largest_difference(&logits(&target, &Pass::default()), &with);
            assert!(difference < tolerance, "{name} in {found}: {difference} off");
            if asked.is_some() {
                assert_eq!(read_json(&target.join("config.json"))["dtype"], "float32");
            }
        }
    }
}

#[test]
fn an_interrupted_folder_is_gone_on_with_and_has_the_same_bytes() {
    let (room, learned) = (TempDir::new().unwrap(), learned("bloom-tiny"));
    let [whole, cut, other] = ["whole", "cut", "other"].map(|name| room.path().join(name));
    let finish = |learned: &Learned, target: &Path| {
        write(&model("bloom-tiny"), learned, None, target, 60_000, |_, _| {}).unwrap()
    };
    finish(&learned, &whole);
    for target in [&cut, &other] {
        let stopped = write(&model("bloom-tiny"), &learned, None, target, 60_000, |bytes, limits| {
            if bytes > 250_000 {
                limits.cancel.cancel();
            }
        });
        assert!(matches!(stopped, Err(ModelError::Span(SpanError::Cancelled))));
        assert!(!target.exists());
    }
    assert!(finish(&learned, &cut) > 0);
    assert_eq!(contents(&whole), contents(&cut));
    // Another adapter begins anew.
    let mut another = learned.clone();
    let pairs = &mut Arc::make_mut(&mut another.low_rank).pairs;
    pairs.get_mut(&LinearId::new(0, Site::Qkv)).unwrap().scale = 1.0;
    assert_eq!(finish(&another, &other), 0);
    assert_ne!(contents(&whole), contents(&other));
}

#[test]
fn what_cannot_be_folded_is_refused_and_leaves_nothing() {
    let (room, learned) = (TempDir::new().unwrap(), learned("bloom-tiny"));
    let target = room.path().join("merged");
    let into = |from: &Path, learned: &Learned| write(from, learned, None, &target, u64::MAX, |_, _| {});
    let codes = repository().join("tests/fixtures/bitsandbytes/bloom-odd/int8");
    refused(into(&codes, &learned), "stored in int8, and an adapter can be folded into floats alone", "codes");
    refused(into(&model("llama-tiny"), &learned), "the model has no such linear", "another model");

    let mut huge = learned.clone();
    Arc::make_mut(&mut huge.low_rank).pairs.values_mut().for_each(|pair| pair.scale = 1e9);
    refused(into(&model("bloom-tiny-fp16"), &huge), "would have a number at index", "more than f16 can hold");
    assert_eq!(fs::read_dir(room.path()).unwrap().count(), 0);
}
