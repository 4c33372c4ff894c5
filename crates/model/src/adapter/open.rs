//! An adapter from its folder. Names and shapes are those of the model or nothing is read; what is allocated then is in
//! proportion to the files and to the model.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bouquet_kernels::Matrix;
use bouquet_span::{Adapter, LinearId, LowRank, Prompts};

use super::keys::{Half, Key, Keys};
use super::prompts::{self, PromptsConfig};
use super::settings::{self, Kind, LowRankConfig, PeftConfig};
use super::{Learned, Settings, Task};
use crate::checkpoint::Tensor;
use crate::checkpoint::parts::{check_floats, decode};
use crate::checkpoint::safetensors::SafetensorsFile;
use crate::files::shown;
use crate::spec::LinearShape;
use crate::{ModelError, ModelSpec, Result};

/// PEFT's tensors.
pub(super) const TENSORS: &str = "adapter_model.safetensors";

/// What older releases of PEFT write: pickled.
const PICKLED: &str = "adapter_model.bin";

/// The tensor of a soft prompt in [`TENSORS`].
pub(super) const PROMPT_EMBEDDINGS: &str = "prompt_embeddings";

impl Learned {
    /// Opens the folder of an adapter for a model, and says how it was made. [`Settings::targets`] are the linears that
    /// have a pair in some block, whatever `target_modules` has in it.
    ///
    /// # Errors
    /// [`ModelError::AdapterConfig`] for settings that Bouquet does not follow, by name; [`ModelError::Adapter`] for what
    /// is missing, for tensors of another model, and for numbers that are not finite; [`ModelError::PickleOnly`]; damaged
    /// files.
    pub fn open(folder: &Path, spec: &ModelSpec) -> Result<(Learned, Settings)> {
        let folder = Folder { path: folder, spec };
        if !folder.path.is_dir() {
            return folder.refuse("cannot be opened: there is no such folder");
        }
        let config = PeftConfig::load(folder.path)?;
        let beside = PromptsConfig::load(folder.path)?;
        let mut settings = Settings {
            rank: 0,
            alpha: 0.0,
            rank_stabilized: false,
            dropout: 0.0,
            targets: Vec::new(),
            task: Task::Causal,
            base_model: String::new(),
        };
        let mut learned = Learned::default();
        if let Some(PromptsConfig { task, base_model }) = &beside {
            settings.task = task.unwrap_or(settings.task);
            settings.base_model.clone_from(base_model);
            folder.read_prompts(&mut learned)?;
        }
        match config {
            Some(PeftConfig { kind, task, base_model }) => {
                settings.task = task.unwrap_or(settings.task);
                settings.base_model = base_model;
                match kind {
                    Kind::LowRank(config) => folder.read_pairs(&config, &mut learned, &mut settings)?,
                    Kind::SoftPrompt { tokens } => folder.read_soft_prompt(tokens, &mut learned)?,
                }
            }
            None if beside.is_none() => return folder.refuse(format!("has no {}", settings::FILE)),
            None => {}
        }
        Ok((learned, settings))
    }
}

/// Where an adapter is, and the model that it should be for.
struct Folder<'a> {
    path: &'a Path,
    spec: &'a ModelSpec,
}

impl Folder<'_> {
    fn refuse<T>(&self, problem: impl Into<String>) -> Result<T> {
        Err(ModelError::Adapter { path: self.path.display().to_string(), problem: problem.into() })
    }

    /// Refuses a tensor, in words that go on from its name.
    fn refuse_tensor<T>(&self, name: &str, problem: impl AsRef<str>) -> Result<T> {
        self.refuse(format!("has the tensor {}, which {}", shown(name), problem.as_ref()))
    }

    fn file(&self, name: &str) -> Result<SafetensorsFile> {
        match SafetensorsFile::open(&self.path.join(name))? {
            Some(file) => Ok(file),
            None if self.path.join(PICKLED).exists() => {
                Err(ModelError::PickleOnly { folder: self.path.to_owned(), file: PICKLED.to_owned() })
            }
            None => self.refuse(format!("has no {name}")),
        }
    }

    /// The floats of a tensor, which is checked for its shape.
    fn matrix(&self, name: &str, tensor: &Tensor, [rows, cols]: [usize; 2]) -> Result<Matrix> {
        let encoding = match check_floats(name, tensor, &[rows, cols]) {
            Err(ModelError::Tensor { problem, .. }) => return self.refuse_tensor(name, problem),
            other => other?,
        };
        let numbers = decode(encoding, &tensor.data);
        match numbers.iter().position(|number| !number.is_finite()) {
            Some(index) => self.refuse_tensor(name, format!("has {} at index {index}", numbers[index])),
            None => Ok(Matrix::from_vec(rows, cols, numbers)),
        }
    }

    fn read_pairs(&self, config: &LowRankConfig, learned: &mut Learned, settings: &mut Settings) -> Result<()> {
        let file = self.file(TENSORS)?;
        let keys = Keys::new(self.spec);
        let mut halves: BTreeMap<(LinearId, Half), (&str, Key<'_>)> = BTreeMap::new();
        for name in file.names() {
            let key = match keys.parse(name) {
                Ok(key) => key,
                Err(problem) => return self.refuse_tensor(name, problem),
            };
            if let Some((other, _)) = halves.insert((key.linear, key.half), (name, key)) {
                return self.refuse_tensor(name, format!("means the same as {}", shown(other)));
            }
        }
        let mut pairs = BTreeMap::new();
        for ((linear, half), (name, key)) in &halves {
            let other = if *half == Half::A { Half::B } else { Half::A };
            let Some((b_name, _)) = halves.get(&(*linear, other)) else {
                return self.refuse_tensor(name, "is half of a pair: the other half is missing");
            };
            if *half == Half::A {
                let pair = self.pair(&file, config, key, [*name, *b_name])?;
                pairs.insert(*linear, pair);
            }
        }
        if pairs.is_empty() {
            return self.refuse(format!("has no pairs in {TENSORS}"));
        }
        let has = |shape: &LinearShape| pairs.keys().any(|linear| linear.site == shape.site);
        let sites = self.spec.block.linears().into_iter().filter(has).map(|shape| shape.site).collect();
        // What tensors are called decides how they are called when they are written again.
        let causal = halves.values().all(|(_, key)| key.task == Task::Causal);
        *settings = Settings {
            rank: config.rank,
            alpha: config.alpha,
            rank_stabilized: config.rank_stabilized,
            dropout: config.dropout,
            targets: sites,
            task: if causal { Task::Causal } else { Task::FeatureExtraction },
            base_model: std::mem::take(&mut settings.base_model),
        };
        learned.low_rank = Arc::new(Adapter { pairs, dropout: config.dropout });
        Ok(())
    }

    /// The pair whose tensors have these names, A and B.
    fn pair(&self, file: &SafetensorsFile, config: &LowRankConfig, key: &Key<'_>, names: [&str; 2]) -> Result<LowRank> {
        let [a, b] = names.map(|name| file.tensor(name).expect("it is in the file"));
        let LinearShape { inputs, outputs, .. } = key.shape;
        let rank = config.rank(key.module);
        // So that pairs take no more memory than the model by an order, whatever the file has.
        if rank > inputs.max(outputs) {
            let problem = format!("should have rank {rank}, more than its weight of [{outputs}, {inputs}] has rows");
            return self.refuse_tensor(names[0], problem);
        }
        let scale = config.scale(key.module);
        if !scale.is_finite() {
            return self.refuse_tensor(names[0], format!("is scaled by {scale}"));
        }
        let a = self.matrix(names[0], &a, [rank, inputs])?;
        let b = self.matrix(names[1], &b, [outputs, rank])?;
        Ok(LowRank { a, b, scale })
    }

    fn read_soft_prompt(&self, tokens: usize, learned: &mut Learned) -> Result<()> {
        let file = self.file(TENSORS)?;
        if let Some(other) = file.names().find(|&name| name != PROMPT_EMBEDDINGS) {
            return self.refuse_tensor(other, "is no part of a soft prompt");
        }
        let Some(tensor) = file.tensor(PROMPT_EMBEDDINGS) else {
            return self.refuse(format!("has no tensor {PROMPT_EMBEDDINGS}"));
        };
        if learned.soft_prompt.is_some() {
            return self.refuse(format!("has a soft prompt in {TENSORS}, and another in {}", prompts::TENSORS));
        }
        let hidden_size = self.spec.block.hidden_size;
        learned.soft_prompt = Some(self.matrix(PROMPT_EMBEDDINGS, &tensor, [tokens, hidden_size])?);
        Ok(())
    }

    /// The file of ours.
    fn read_prompts(&self, learned: &mut Learned) -> Result<()> {
        let file = self.file(prompts::TENSORS)?;
        let mut blocks = BTreeMap::new();
        for name in file.names() {
            let tensor = file.tensor(name).expect("it is in the file");
            let tokens = tensor.shape.first().copied().filter(|&tokens| tokens > 0);
            let Some(tokens) = tokens else { return self.refuse_tensor(name, "has no rows") };
            let block = prompts::block_of(name).filter(|&block| block < self.spec.num_blocks);
            if name != prompts::SOFT && block.is_none() {
                return self.refuse_tensor(name, "is no prompt for this model or one of its blocks");
            }
            let prompt = self.matrix(name, &tensor, [tokens, self.spec.block.hidden_size])?;
            match block {
                Some(block) => drop(blocks.insert(block, prompt)),
                None => learned.soft_prompt = Some(prompt),
            }
        }
        learned.deep_prompts = Arc::new(Prompts { blocks });
        Ok(())
    }
}
