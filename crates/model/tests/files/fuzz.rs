//! Random damage: whatever the bytes, an answer or an error, never a panic, and never an answer that contradicts itself.

use std::fs;
use std::sync::LazyLock;

use bouquet_model::Tokenizer;
use bouquet_model::checkpoint::safetensors::SafetensorsFile;
use bouquet_model::config::Config;
use bouquet_model::families::{self, parameters};
use bouquet_model::generation_config::GenerationConfig;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use crate::{json as read_json, model, safetensors};

/// So many tries; with `PROPTEST_CASES=25600` in the environment, a hundred times as many.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let usual = ProptestConfig::default();
    let cases = (u64::from(cases) * u64::from(usual.cases) / 256).try_into().unwrap_or(u32::MAX);
    ProptestConfig { cases, failure_persistence: None, ..usual }
}

/// The names of a file's tensors, when it opens; each has as many bytes as it says.
fn open(bytes: &[u8]) -> Option<Vec<String>> {
    let folder = crate::folder(&[("file", bytes)]);
    let file = SafetensorsFile::open(&folder.path().join("file")).ok()?.expect("the file is there");
    for name in file.names() {
        let tensor = file.tensor(name).expect("a tensor for each name");
        let numbers: usize = tensor.shape.iter().product();
        assert!(tensor.data.len() <= bytes.len() && (numbers == 0) == tensor.data.is_empty(), "{name}");
    }
    Some(file.names().map(str::to_owned).collect())
}

/// One way to damage bytes.
#[derive(Clone, Debug)]
pub(crate) enum Damage {
    Set(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Cut(Index),
    Repeat(Index, u8),
}

pub(crate) fn damage() -> impl Strategy<Value = Damage> {
    // Digits, brackets and quotes reach further into a parser than other bytes.
    let byte = || prop_oneof![any::<u8>(), select(b"0123456789-eE[]{}\":, ".to_vec())];
    prop_oneof![
        4 => (any::<Index>(), byte()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        2 => (any::<Index>(), byte()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        2 => any::<Index>().prop_map(Damage::Remove),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(at, count)| Damage::Repeat(at, count)),
    ]
}

pub(crate) fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match damage {
            Damage::Set(at, byte) => bytes[at.index(length)] = *byte,
            Damage::Insert(at, byte) => bytes.insert(at.index(length), *byte),
            Damage::Remove(at) => drop(bytes.remove(at.index(length))),
            Damage::Cut(at) => bytes.truncate(at.index(length)),
            Damage::Repeat(at, count) => {
                let piece: Vec<u8> = bytes[at.index(length)..].iter().copied().take((*count).into()).collect();
                bytes.extend(piece);
            }
        }
    }
    bytes
}

/// A small file with several types, one tensor empty.
fn small_file() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]},"e":{"dtype":"I64","shape":[0,9],"data_offsets":[24,24]},"h":{"dtype":"BF16","shape":[2,1,2],"data_offsets":[24,32]},"b":{"dtype":"BOOL","shape":[],"data_offsets":[32,33]}}"#;
    safetensors(header, &[7; 33])
}

/// A dimension or an offset: small, or near a limit.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0u64..40, 1 => select(vec![1 << 31, 1 << 32, 1 << 62, 1 << 63, u64::MAX - 7, u64::MAX]), 1 => any::<u64>()]
}

/// Tensors that follow each other, then perhaps not.
fn header() -> impl Strategy<Value = (String, usize)> {
    let tensor = (select(vec!["F32", "F16", "BF16", "I8", "F4", "U64", "X"]), vec(number(), 0..4), 0u64..40);
    let shift = prop_oneof![6 => Just(None), 1 => number().prop_map(Some)];
    (vec((tensor, shift), 0..5), prop_oneof![4 => Just(0), 1 => 0usize..4]).prop_map(|(tensors, extra)| {
        let mut entries = serde_json::Map::new();
        let mut begin = 0u64;
        for (index, ((dtype, shape, free), shift)) in tensors.into_iter().enumerate() {
            let bits = match dtype {
                "F32" => 32,
                "F16" | "BF16" => 16,
                "F4" => 4,
                "U64" => 64,
                _ => 8,
            };
            let honest = shape.iter().try_fold(bits, |bits: u64, &n| bits.checked_mul(n)).map(|bits| bits / 8);
            let end = begin + honest.filter(|&bytes| bytes < 10_000).unwrap_or(free);
            let offsets = [shift.unwrap_or(begin), end];
            entries.insert(format!("t{index}"), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
            begin = end;
        }
        (Value::Object(entries).to_string(), begin as usize + extra)
    })
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn random_bytes_are_no_safetensors(bytes in vec(any::<u8>(), 0..300), honest_length: bool) {
        let mut bytes = bytes;
        if honest_length && bytes.len() >= 8 {
            let length = bytes.len() as u64 - 8;
            bytes[..8].copy_from_slice(&length.to_le_bytes());
        }
        prop_assert!(open(&bytes).is_none());
    }

    #[test]
    fn a_damaged_safetensors_opens_whole_or_not_at_all(damages in vec(damage(), 1..6)) {
        open(&damaged(small_file(), &damages));
    }

    /// Every file that we open, the safetensors crate opens too, and the other way round.
    #[test]
    fn safetensors_open_as_they_do_elsewhere((header, data) in header()) {
        let bytes = safetensors(&header, &vec![0; data]);
        let theirs = safetensors::SafeTensors::deserialize(&bytes).ok().map(|file| {
            let mut names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
            names.sort();
            names
        });
        prop_assert_eq!(open(&bytes), theirs, "{}", header);
    }

    #[test]
    fn settings_of_any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        let _ = Config::parse(&bytes).and_then(|config| families::spec(&config));
        let _ = GenerationConfig::parse(&bytes);
    }

    #[test]
    fn a_damaged_configuration_is_sound_or_refused(which in 0..3usize, damages in vec(damage(), 1..6)) {
        check_config(&damaged(CONFIGS[which].to_string().into_bytes(), &damages));
    }

    #[test]
    fn a_configuration_of_other_values_is_sound_or_refused(
        which in 0..3usize,
        changes in vec((any::<Index>(), value()), 1..6),
    ) {
        let mut config = CONFIGS[which].clone();
        let fields: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
        for (field, value) in changes {
            config[field.get(&fields)] = value;
        }
        check_config(config.to_string().as_bytes());
    }

    #[test]
    fn sampling_defaults_of_other_values_are_sound_or_refused(values in vec(value(), 7)) {
        const FIELDS: [&str; 7] =
            ["do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "eos_token_id"];
        let config: serde_json::Map<String, Value> = FIELDS.map(str::to_owned).into_iter().zip(values).collect();
        if let Ok(defaults) = GenerationConfig::parse(Value::Object(config).to_string().as_bytes()) {
            prop_assert!(defaults.temperature.is_none_or(|t| t.is_finite() && t >= 0.0));
            prop_assert!(defaults.repetition_penalty.is_none_or(|penalty| penalty.is_finite() && penalty > 0.0));
        }
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn a_damaged_tokenizer_works_or_is_refused(which in 0..2usize, damages in vec(damage(), 1..4)) {
        if let Ok(tokenizer) = Tokenizer::parse(&damaged(TOKENIZERS[which].clone(), &damages), 512) {
            let _ = tokenizer.encode("Une phrase, 一句话 und <s> more</s>", true);
            let _ = tokenizer.decode(&[0, 1, 2, 3, 100, 511, 512, u32::MAX], false);
        }
    }
}

static CONFIGS: LazyLock<[Value; 3]> = LazyLock::new(|| {
    ["bloom-tiny", "llama-tiny", "mixtral-tiny"].map(|name| read_json(&model(name).join("config.json")))
});

static TOKENIZERS: LazyLock<[Vec<u8>; 2]> =
    LazyLock::new(|| ["bloom-tiny", "llama-tiny"].map(|name| fs::read(model(name).join("tokenizer.json")).unwrap()));

/// Values that a field may be given: of every kind, and numbers near limits.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u64..40).prop_map(|power| Value::from(1u64 << power)),
        any::<f64>().prop_map(Value::from),
        (0.0..2.0).prop_map(Value::from),
        select(vec!["bloom", "llama", "mixtral", "silu", "default", "\n", ""]).prop_map(Value::from),
        vec(number(), 0..3).prop_map(Value::from),
        (select(vec!["rope_type", "rope_theta", "quant_method"]), number())
            .prop_map(|(field, number)| json!({field: number})),
    ]
}

/// Reads a configuration; what it is read as must hold together.
fn check_config(bytes: &[u8]) {
    let Ok(spec) = Config::parse(bytes).and_then(|config| families::spec(&config)) else { return };
    let attention = &spec.block.attention;
    assert!(attention.heads > 0 && attention.heads.is_multiple_of(attention.kv_heads) && attention.head_dim > 0);
    assert!(spec.num_blocks > 0 && spec.vocab_size > 0 && spec.block.hidden_size > 0);
    assert!(spec.eos_token_ids.iter().all(|&id| (id as usize) < spec.vocab_size));
    assert!(parameters(&spec).expect("it was counted").total > 0);
    if let Some(experts) = spec.block.feed_forward.experts {
        assert!((1..=experts.count).contains(&experts.per_token));
    }
}
