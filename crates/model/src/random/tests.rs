//! Random models are models: they load, their numbers stay within bounds, and outliers are where they should be.

use std::sync::Arc;

use bouquet_kernels::Cpu;
use bouquet_kernels::weight::OUTLIER;
use bouquet_span::Pass;

use super::*;
use crate::checkpoint::load_vector;
use crate::config::Config;
use crate::{Encoding, Network, OpenOptions, families};

/// A BLOOM of a few hundred thousand parameters.
fn small() -> ModelSpec {
    let config = br#"{"model_type": "bloom", "hidden_size": 96, "n_head": 6, "n_layer": 3, "vocab_size": 500}"#;
    families::spec(&Config::parse(config).unwrap()).unwrap()
}

fn logits(outliers: bool, threads: usize, encoding: Encoding) -> Vec<f32> {
    let (spec, cpu) = (small(), Arc::new(Cpu::new(threads)));
    let source = RandomModel::new(&spec, 3, outliers, threads);
    let options = OpenOptions::new(cpu, 1 << 30, encoding);
    let network = Network::from_source(&source, spec, &options).unwrap();
    let hidden = network.embedding.embed(&network.cpu, &[&[1, 7, 499, 3]]).unwrap();
    let (hidden, _) = network.blocks.forward(hidden, &Pass::default()).unwrap();
    network.head.logits(&network.cpu, hidden.values().view()).into_vec()
}

#[test]
fn a_random_model_computes_numbers_of_a_usual_size_the_same_on_any_threads() {
    for outliers in [false, true] {
        for encoding in Encoding::OF_FOLDERS {
            let one = logits(outliers, 1, encoding);
            assert!(one == logits(outliers, 2, encoding));
            let largest = one.iter().fold(0.0f32, |largest, logit| largest.max(logit.abs()));
            assert!((0.1..100.0).contains(&largest), "{largest}");
        }
    }
}

#[test]
fn outliers_are_in_every_input_and_only_where_they_were_asked_for() {
    let spec = small();
    let large = |outliers, name: &str, length| {
        let vector = load_vector(&RandomModel::new(&spec, 3, outliers, 1), &spec.names, name, length).unwrap();
        vector.iter().filter(|x| x.abs() >= OUTLIER).count()
    };
    for (name, length) in [
        ("h.0.input_layernorm.bias", 96),
        ("h.2.post_attention_layernorm.bias", 96),
        ("h.1.self_attention.query_key_value.bias", 288),
        ("h.1.mlp.dense_h_to_4h.bias", 384),
        ("ln_f.bias", 96),
    ] {
        assert_eq!((large(true, name, length), large(false, name, length)), (OUTLIERS, 0), "{name}");
    }
}

#[test]
fn values_of_fused_rows_are_found() {
    let rows: Vec<usize> = outlier_outputs(&small().block, Site::Qkv).collect();
    // Six heads of [query, key, value], 16 channels each.
    assert!(rows.iter().all(|row| row % 48 >= 32), "{rows:?}");
    assert_eq!(outlier_outputs(&small().block, Site::O).count(), 0);
}

#[test]
fn published_shapes_have_published_sizes() {
    let billions = |name| {
        let parameters = families::parameters(&Shape::of_name(name).unwrap().spec()).unwrap();
        parameters.total as f64 / 1e9
    };
    for (name, expected) in [
        ("bloom-560m", 0.559),
        ("bloom-1b1", 1.065),
        ("bloom-1b7", 1.722),
        ("bloom-3b", 3.003),
        ("bloom-7b1", 7.069),
        ("llama32-1b", 1.236),
        ("llama2-7b", 6.738),
    ] {
        assert!((billions(name) - expected).abs() < 1e-3, "{name}: {}", billions(name));
    }
}
