//! Small models with adapters, and batches for them, out of the goldens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bouquet_kernels::{Cpu, Matrix};
use bouquet_model::adapter::Learned;
use bouquet_model::checkpoint::safetensors::SafetensorsFile;
use bouquet_model::checkpoint::{Dtype, Tensor};
use bouquet_model::{Encoding, Network, OpenOptions, Pooling};
use bouquet_span::{Adapter, Limits, LinearId, LowRank, Prompts, Site};
use bouquet_tune::gradient::{Batch, BatchGradient, PassPlan, Training};
use bouquet_tune::objective::sentences::SentenceLoss;

pub(crate) const CONTRASTIVE: SentenceLoss = SentenceLoss::Contrastive { scale: 20.0, symmetric: false };

pub(crate) const PLAN: PassPlan = PassPlan { leaf: 8, tokens_per_pass: 1024, kept_bytes: Some(u64::MAX) };

pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

pub(crate) fn open(model: &str, threads: usize) -> Network {
    let options = OpenOptions::new(Cpu::new(threads), 1 << 30, Encoding::F32);
    Network::open(&folder("models").join(model), &options).unwrap()
}

/// What transformers and PEFT computed.
pub(crate) struct Golden {
    file: SafetensorsFile,
    pub(crate) manifest: serde_json::Value,
}

impl Golden {
    pub(crate) fn open(model: &str) -> Golden {
        let path = folder("goldens/lora").join(model);
        let manifest = std::fs::read(path.with_extension("json")).unwrap();
        let file = SafetensorsFile::open(&path.with_extension("safetensors")).unwrap().unwrap();
        Golden { file, manifest: serde_json::from_slice(&manifest).unwrap() }
    }

    fn tensor(&self, name: &str) -> Tensor {
        self.file.tensor(name).unwrap_or_else(|| panic!("the golden has no {name}"))
    }

    pub(crate) fn floats(&self, name: &str) -> Matrix {
        let tensor = self.tensor(name);
        assert_eq!(tensor.dtype, Dtype::F32);
        let numbers = tensor.data.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        Matrix::from_vec(tensor.shape[0], tensor.shape[1], numbers.collect())
    }

    fn integers(&self, name: &str) -> Vec<Vec<i64>> {
        let tensor = self.tensor(name);
        assert_eq!(tensor.dtype, Dtype::I64);
        let numbers: Vec<i64> = tensor.data.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
        numbers.chunks(tensor.shape[1]).map(<[i64]>::to_vec).collect()
    }

    /// Sequences without what fills them up.
    pub(crate) fn sequences(&self, name: &str) -> Vec<Vec<u32>> {
        let (ids, mask) =
            (self.integers(&format!("{name}.input_ids")), self.integers(&format!("{name}.attention_mask")));
        let kept = |(ids, mask): (&Vec<i64>, &Vec<i64>)| {
            ids.iter().zip(mask).filter(|(_, mask)| **mask == 1).map(|(&id, _)| id as u32).collect()
        };
        ids.iter().zip(&mask).map(kept).collect()
    }

    /// The batch of an objective.
    pub(crate) fn batch(&self, objective: &str) -> Batch {
        if objective == "clm" {
            let sequences = self.sequences("clm");
            let learned = sequences.iter().map(|ids| vec![true; ids.len()]).collect();
            return Batch::Texts { sequences, learned };
        }
        let (mut sequences, positives) = (self.sequences("mnrl.anchor"), self.sequences("mnrl.positive"));
        let rows = sequences.len();
        sequences.extend(positives);
        Batch::Sentences { sequences, rows, scores: Vec::new() }
    }

    /// The matrices of an adapter at a stage of the golden.
    pub(crate) fn learned(&self, network: &Network, sites: &[Site], objective: &str, stage: &str) -> Learned {
        let names = &network.spec.names;
        let mut pairs = BTreeMap::new();
        for id in (0..network.spec.num_blocks).flat_map(|block| sites.iter().map(move |&s| LinearId::new(block, s))) {
            let prefix = format!("lora.{objective}.{stage}.{}{}", names.prefix, names.linear(id).unwrap());
            let matrix = |which| self.floats(&format!("{prefix}.lora_{which}"));
            pairs.insert(id, LowRank { a: matrix("A"), b: matrix("B"), scale: 8.0 / 4.0 });
        }
        Learned { low_rank: Arc::new(Adapter { pairs, dropout: 0.0 }), ..Learned::default() }
    }
}

/// Everything that can be learned at once, of numbers that are not special.
pub(crate) fn everything(network: &Network, dropout: f32) -> Learned {
    let spec = &network.spec.block;
    let numbers = |rows: usize, cols: usize, salt: usize| {
        let number = |i: usize| ((i * 7919 + salt * 104_729) % 1009) as f32 / 1009.0 - 0.5;
        Matrix::from_vec(rows, cols, (0..rows * cols).map(|i| number(i) / 8.0).collect())
    };
    let mut pairs = BTreeMap::new();
    let mut prompts = BTreeMap::new();
    for block in 0..network.spec.num_blocks {
        for (salt, linear) in spec.linears().into_iter().enumerate() {
            let (a, b) = (numbers(3, linear.inputs, salt + 1), numbers(linear.outputs, 3, salt + 7));
            pairs.insert(LinearId::new(block, linear.site), LowRank { a, b, scale: 2.0 });
        }
        prompts.insert(block, numbers(2, spec.hidden_size, block + 20));
    }
    Learned {
        low_rank: Arc::new(Adapter { pairs, dropout }),
        soft_prompt: Some(numbers(3, spec.hidden_size, 40)),
        deep_prompts: Arc::new(Prompts { blocks: prompts }),
    }
}

pub(crate) fn gradient(network: &Network, learned: &Learned, plan: PassPlan, batch: &Batch) -> BatchGradient {
    let sentences = (Pooling::Mean, CONTRASTIVE);
    let limits = Limits::default();
    Training { network, learned, sentences, plan, draw: (5, 3), limits: &limits }.gradient(batch).unwrap()
}
