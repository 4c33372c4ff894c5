//! Every fixture opens, and is what its golden and its makers say.

use bouquet_kernels::ops::activation::Activation;
use bouquet_model::checkpoint::{Checkpoint, InMemory, TensorSource, find, load_vector};
use bouquet_model::config::Config;
use bouquet_model::families::{self, load_spec, parameters};
use bouquet_model::generation_config::GenerationConfig;
use bouquet_model::inspect::Inspection;
use bouquet_model::load::Loader;
use bouquet_model::spec::{ExpertSpec, NormKind, Positions, QkvLayout, Wiring};
use bouquet_model::{ModelError, ModelSpec};
use bouquet_span::{LinearId, Site};
use serde_json::json;

use crate::{model, refused};

const MODELS: [&str; 22] = [
    "bloom-tiny",
    "bloom-tiny-unprefixed",
    "bloom-tiny-sharded",
    "bloom-tiny-fp16",
    "bloom-tiny-bf16",
    "bloom-tiny-h6-postres",
    "bloom-small-trained",
    "llama-tiny",
    "llama-tiny-tied",
    "mixtral-tiny",
    "llama3-rope-tiny",
    "qwen3-tiny",
    "falcon-tiny",
    "falcon-tiny-newarch",
    "opt-tiny",
    "opt-tiny-postln",
    "mistral-tiny",
    "qwen2-tiny",
    "llama-linear-tiny",
    "llama-dynamic-tiny",
    "llama-yarn-tiny",
    "falcon-alibi-tiny",
];

fn open(name: &str) -> (ModelSpec, Checkpoint) {
    let folder = model(name);
    let spec = load_spec(&folder).unwrap_or_else(|error| panic!("{name}: {error}"));
    (spec, Checkpoint::open(&folder).unwrap_or_else(|error| panic!("{name}: {error}")))
}

#[test]
fn fixtures_hold_every_tensor_of_their_specification_and_no_other() {
    for name in MODELS {
        let (spec, checkpoint) = open(name);
        let names = &spec.names;
        let mut expected = Vec::new();
        let mut expect = |part: &str, shape: &[usize]| expected.push((part.to_owned(), shape.to_vec()));
        let hidden = spec.block.hidden_size;
        expect(&format!("{}.weight", names.embedding), &[spec.vocab_size, spec.embedding_size]);
        if !spec.tied_head {
            expect(&format!("{}.weight", names.head), &[spec.vocab_size, spec.embedding_size]);
        }
        if let Some(rows) = spec.position_rows() {
            expect(&format!("{}.weight", names.positions), &[rows, hidden]);
        }
        if spec.projects() {
            expect(&format!("{}.weight", names.project_in), &[hidden, spec.embedding_size]);
            expect(&format!("{}.weight", names.project_out), &[spec.embedding_size, hidden]);
        }
        let mut norms = Vec::new();
        norms.extend(spec.final_norm.then(|| names.final_norm.to_owned()));
        norms.extend(spec.embedding_norm.then(|| names.embedding_norm.to_owned()));
        for block in 0..spec.num_blocks {
            let mut of_block = vec![names.attention_norm, names.feed_forward_norm];
            of_block.dedup();
            norms.extend(of_block.into_iter().map(|norm| names.in_block(block, norm)));
            if spec.block.attention.query_key_norm {
                for norm in [names.query_norm, names.key_norm] {
                    expect(&format!("{}.weight", names.in_block(block, norm)), &[spec.block.attention.head_dim]);
                }
            }
            for linear in spec.block.linears() {
                let part = names.linear(LinearId::new(block, linear.site)).unwrap();
                expect(&format!("{part}.weight"), &[linear.outputs, linear.inputs]);
                if linear.bias {
                    expect(&format!("{part}.bias"), &[linear.outputs]);
                }
            }
        }
        // Where norms have learned nothing, there are none in the file.
        for norm in norms.into_iter().filter(|_| spec.block.norm.learned) {
            expect(&format!("{norm}.weight"), &[hidden]);
            if spec.block.norm.kind == NormKind::LayerNorm {
                expect(&format!("{norm}.bias"), &[hidden]);
            }
        }
        assert_eq!(checkpoint.names().len(), expected.len(), "{name}");
        let mut numbers = 0;
        for (part, shape) in &expected {
            let (full_name, tensor) = find(&checkpoint, names, part).unwrap();
            assert_eq!(&tensor.shape, shape, "{name} {full_name}");
            numbers += shape.iter().product::<usize>() as u64;
        }
        assert_eq!(parameters(&spec).unwrap().total, numbers, "{name}");
    }
}

#[test]
fn specifications_are_those_of_the_configurations() {
    let (bloom, _) = open("bloom-tiny");
    assert_eq!((bloom.family, bloom.vocab_size, bloom.num_blocks), ("bloom", 512, 2));
    assert_eq!((bloom.block.hidden_size, bloom.block.attention.heads, bloom.block.attention.head_dim), (64, 4, 16));
    assert_eq!((bloom.block.attention.qkv, bloom.max_positions), (QkvLayout::Fused, None));
    assert_eq!((bloom.block.norm.kind, bloom.block.norm.epsilon), (NormKind::LayerNorm, 1e-5));
    assert_eq!(bloom.block.feed_forward.intermediate_size, 256);
    assert_eq!(bloom.block.feed_forward.activation, Activation::GeluTanh);
    assert!(bloom.tied_head && bloom.embedding_norm && !bloom.block.feed_forward.gated);
    assert_eq!((bloom.block.wiring, &bloom.eos_token_ids[..]), (Wiring::PreNorm, &[2][..]));
    assert_eq!(open("bloom-tiny-unprefixed").0, bloom);
    assert_eq!(open("bloom-tiny-sharded").0, bloom);

    let (post, _) = open("bloom-tiny-h6-postres");
    assert_eq!((post.block.wiring, post.block.attention.heads), (Wiring::NormedResidual, 6));

    let (llama, _) = open("llama-tiny");
    let attention = &llama.block.attention;
    assert_eq!((attention.heads, attention.kv_heads, attention.head_dim), (4, 2, 16));
    assert_eq!((attention.qkv, attention.qkv_bias, attention.window), (QkvLayout::Separate, false, None));
    assert_eq!((llama.tied_head, llama.embedding_norm, llama.max_positions), (false, false, Some(512)));
    assert_eq!(llama.block.norm.kind, NormKind::RmsNorm);
    let Positions::Rope(rope) = &attention.positions else { panic!("Llama turns") };
    assert_eq!((rope.frequencies(1).len(), rope.frequencies(1)[0], rope.scaling()), (8, 1.0, 1.0));

    let (tied, _) = open("llama-tiny-tied");
    assert!(tied.tied_head && tied.block.attention.qkv_bias && tied.block.attention.output_bias);
    assert!(tied.block.feed_forward.bias);

    let (mixtral, _) = open("mixtral-tiny");
    assert_eq!(mixtral.block.feed_forward.experts, Some(ExpertSpec { count: 4, per_token: 2 }));
    assert_eq!(
        mixtral.names.linear(LinearId::new(1, Site::ExpertDown(3))).unwrap(),
        "layers.1.block_sparse_moe.experts.3.w2"
    );
}

#[test]
fn a_half_precision_norm_is_decoded() {
    let exact = load_vector(&open("bloom-tiny").1, &families::bloom::NAMES, "ln_f.weight", 64).unwrap();
    for (name, bound) in [("bloom-tiny-fp16", 1e-3), ("bloom-tiny-bf16", 1e-2)] {
        let rounded = load_vector(&open(name).1, &families::bloom::NAMES, "ln_f.weight", 64).unwrap();
        assert_ne!(exact, rounded, "{name}");
        assert!(exact.iter().zip(&rounded).all(|(a, b)| (a - b).abs() <= bound * a.abs()), "{name}");
    }
}

/// The numbers of every BLOOM and BLOOMZ, as their repositories have them, and the sizes of their model cards.
#[test]
fn every_bloom_is_understood() {
    let sizes = [
        (1024, 16, 24, 559_214_592),
        (1536, 16, 24, 1_065_314_304),
        (2048, 16, 24, 1_722_408_960),
        (2560, 32, 30, 3_002_557_440),
        (4096, 32, 30, 7_069_016_064),
        (14336, 112, 70, 176_247_271_424),
    ];
    for (n_embed, heads, layers, total) in sizes {
        let config = json!({
            "apply_residual_connection_post_layernorm": false, "architectures": ["BloomModel"],
            "attention_dropout": 0.0, "attention_softmax_in_fp32": true, "bias_dropout_fusion": true,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "unk_token_id": 0, "hidden_dropout": 0.0,
            "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "masked_softmax_fusion": true,
            "model_type": "bloom", "n_embed": n_embed, "n_inner": null, "n_layer": layers,
            "num_attention_heads": heads, "offset_alibi": 100, "pretraining_tp": 4, "seq_length": 2048,
            "skip_bias_add": true, "skip_bias_add_qkv": false, "slow_but_exact": true, "torch_dtype": "bfloat16",
            "transformers_version": "4.21.0", "use_cache": true, "vocab_size": 250880,
        });
        let spec = families::spec(&Config::parse(config.to_string().as_bytes()).unwrap()).unwrap();
        assert_eq!(parameters(&spec).unwrap().total, total);
        assert_eq!(spec.block.attention.head_dim * heads, n_embed as usize);
    }
}

#[test]
fn sampling_defaults_are_read() {
    let defaults = GenerationConfig::load(&model("bloom-tiny")).unwrap();
    assert_eq!(defaults, GenerationConfig { eos_token_ids: vec![2], ..GenerationConfig::default() });
    let all = br#"{"do_sample": true, "temperature": 0.6, "top_k": 50, "top_p": 0.9, "min_p": null, "_from_model_config": true,
        "repetition_penalty": 1.2, "eos_token_id": [128001, 128009], "max_length": 4096, "max_new_tokens": 300}"#;
    let all = GenerationConfig::parse(all).unwrap();
    let expected = GenerationConfig {
        do_sample: Some(true),
        temperature: Some(0.6),
        top_k: Some(50),
        top_p: Some(0.9),
        min_p: None,
        repetition_penalty: Some(1.2),
        max_new_tokens: Some(300),
        eos_token_ids: vec![128_001, 128_009],
    };
    assert_eq!(all, expected);
    assert_eq!(GenerationConfig::load(&crate::repository()).unwrap(), GenerationConfig::default());
}

/// Some makers untie a head and leave `tie_word_embeddings` as it was.
#[test]
fn a_head_in_the_files_is_the_head_whatever_the_configuration_says() {
    let (spec, checkpoint) = open("bloom-tiny");
    let tied = Inspection::new(&spec, &checkpoint).unwrap();
    assert!(spec.tied_head && tied.tied_head);
    let mut own = InMemory::copy_of(&checkpoint).unwrap();
    let numbers: Vec<f32> = (0..512 * 64).map(|index| index as f32).collect();
    own.insert_f32("lm_head.weight", &[512, 64], &numbers);
    let loader = Loader { source: &own, spec: &spec, encoding: None };
    let head = loader.head(&loader.embedding().unwrap()).unwrap();
    let mut row = bouquet_kernels::Matrix::zeros(1, 64);
    head.weight.gather(&bouquet_kernels::Cpu::new(1), &[0], row.view_mut());
    assert_eq!(row.data(), &numbers[..64]);
    let inspection = Inspection::new(&spec, &own).unwrap();
    assert!(!inspection.tied_head);
    assert_eq!(inspection.parameters.total, tied.parameters.total + 512 * 64);

    own.insert_f32("lm_head.weight", &[511, 64], &numbers[64..]);
    let loader = Loader { source: &own, spec: &spec, encoding: None };
    refused(
        loader.head(&loader.embedding().unwrap()),
        "should have shape [512, 64], but has [511, 64]",
        "another head",
    );
}

#[test]
fn an_inspection_counts_what_is_there() {
    let (spec, checkpoint) = open("bloom-small-trained");
    let inspection = Inspection::new(&spec, &checkpoint).unwrap();
    assert_eq!(inspection.parameters.embedding, 8192 * 384);
    assert_eq!(inspection.weight_bytes, 2 * inspection.parameters.total);
    assert_eq!(inspection.weight_bytes_by_dtype.keys().collect::<Vec<_>>(), ["F16"]);
    assert_eq!(inspection.kv_cache_bytes_per_token, 2 * 384 * 4 * 6);
    let longest = inspection.memory.last().unwrap();
    assert_eq!(longest.total_bytes, inspection.weight_bytes + 131_072 * inspection.kv_cache_bytes_per_token);
    assert_eq!(inspection.tensors.len(), checkpoint.names().len());
    let json = serde_json::to_value(&inspection).unwrap();
    assert_eq!(json["family"], "bloom");

    let (spec, checkpoint) = open("mixtral-tiny");
    let inspection = Inspection::new(&spec, &checkpoint).unwrap();
    let contexts: Vec<usize> = inspection.memory.iter().map(|need| need.context).collect();
    assert_eq!((contexts, inspection.kv_cache_bytes_per_token), (vec![512], 2 * 2 * 16 * 4 * 2));
}

#[test]
fn blocks_that_are_not_there_are_refused_by_number() {
    let (spec, checkpoint) = open("bloom-tiny");
    let loader = Loader { source: &checkpoint, spec: &spec, encoding: None };
    assert_eq!(loader.blocks(0..spec.num_blocks).unwrap().len(), spec.num_blocks);
    let refused = loader.blocks(spec.num_blocks - 1..spec.num_blocks + 1).unwrap_err();
    assert!(matches!(refused, ModelError::NoSuchBlock { index, num_blocks } if index == num_blocks), "{refused}");
    assert!(loader.blocks(usize::MAX - 1..usize::MAX).is_err());
}
