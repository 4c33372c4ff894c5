//! An adapter into its folder. The same adapter gives the same bytes. Each file gets its name when it is whole, tensors
//! first and `adapter_config.json` last, so that a folder that never had an adapter is none until all of it is there.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use bouquet_kernels::Matrix;
use bouquet_span::{LinearId, LowRank};
use serde_json::{Map, Value, json};

use super::keys::{self, Half};
use super::open::{PROMPT_EMBEDDINGS, TENSORS};
use super::{Learned, Settings, prompts, scale, settings, targets};
use crate::checkpoint::Dtype;
use crate::checkpoint::new_file::write_whole;
use crate::checkpoint::write::{Planned, write};
use crate::{ModelError, ModelSpec, Result};

impl Learned {
    /// Writes the folder that [`open`](Self::open) and PEFT open, in f32; makes it if it is not there. An adapter that is
    /// in it is replaced. Linears whose rank or scale is not that of `settings` are named one by one.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] for what does not suit the model, is not finite, or is nothing at all;
    /// [`ModelError::Write`], [`ModelError::NotAFile`].
    pub fn write(&self, folder: &Path, settings: &Settings, spec: &ModelSpec) -> Result<()> {
        let refuse = |problem| ModelError::Adapter { path: folder.display().to_string(), problem };
        self.check(spec).map_err(|problem| refuse(format!("cannot be written: {problem}")))?;
        fs::create_dir_all(folder).map_err(|source| ModelError::Write { path: folder.to_owned(), source })?;

        let pairs = self.pairs(settings, spec);
        let deep = self.deep_prompts.blocks.iter().map(|(&block, prompt)| (prompts::deep(block), prompt));
        let soft = |name: &str| self.soft_prompt.iter().map(|prompt| (name.to_owned(), prompt)).collect::<Vec<_>>();
        // PEFT's folder holds pairs or a soft prompt; the other is ours.
        let (of_peft, config, ours) = match (pairs.is_empty(), &self.soft_prompt) {
            (false, _) => (pairs, Some(self.config(settings, spec)), soft(prompts::SOFT)),
            (true, Some(prompt)) => {
                let config = settings::of_soft_prompt(settings, prompt.rows(), spec);
                (soft(PROMPT_EMBEDDINGS), Some(config), Vec::new())
            }
            (true, None) => (Vec::new(), None, Vec::new()),
        };
        let ours: Vec<_> = ours.into_iter().chain(deep).collect();
        let ours_config = (!ours.is_empty()).then(|| prompts::config(settings));

        write_tensors(&folder.join(TENSORS), &of_peft)?;
        write_tensors(&folder.join(prompts::TENSORS), &ours)?;
        write_config(&folder.join(prompts::FILE), ours_config)?;
        write_config(&folder.join(settings::FILE), config)
    }

    /// Whether all of it suits a model, and is finite; else what does not, in words.
    fn check(&self, spec: &ModelSpec) -> std::result::Result<(), String> {
        let Learned { low_rank, soft_prompt, deep_prompts } = self;
        if low_rank.pairs.is_empty() && soft_prompt.is_none() && deep_prompts.blocks.is_empty() {
            return Err("nothing has been learned".to_owned());
        }
        let shape = |site| spec.block.linear(site).map(|linear| [linear.outputs, linear.inputs]);
        low_rank.check(0..spec.num_blocks, shape).map_err(|error| error.to_string())?;
        let blocks = low_rank.pairs.keys().map(|linear| linear.block).chain(deep_prompts.blocks.keys().copied());
        if let Some(block) = blocks.max().filter(|&block| block >= spec.num_blocks) {
            return Err(format!("it has something for block {block}, of {} that the model has", spec.num_blocks));
        }
        let hidden_size = spec.block.hidden_size;
        for prompt in soft_prompt.iter().chain(deep_prompts.blocks.values()) {
            if prompt.rows() == 0 || prompt.cols() != hidden_size {
                let (rows, cols) = (prompt.rows(), prompt.cols());
                return Err(format!("a prompt is [{rows}, {cols}], where the hidden size is {hidden_size}"));
            }
        }
        let pairs = low_rank.pairs.values();
        let mut matrices =
            pairs.flat_map(|pair| [&pair.a, &pair.b]).chain(soft_prompt).chain(deep_prompts.blocks.values());
        match matrices.all(|matrix| matrix.data().iter().all(|number| number.is_finite())) {
            true => Ok(()),
            false => Err("not all of its numbers are finite".to_owned()),
        }
    }

    /// The tensors of pairs, sorted by name as PEFT sorts them.
    fn pairs(&self, settings: &Settings, spec: &ModelSpec) -> Vec<(String, &Matrix)> {
        let mut tensors = Vec::new();
        for (&linear, LowRank { a, b, .. }) in &self.low_rank.pairs {
            let module = keys::module(&spec.names, settings.task, linear);
            tensors.push((keys::tensor(&module, Half::A), a));
            tensors.push((keys::tensor(&module, Half::B), b));
        }
        tensors.sort_by(|(one, _), (other, _)| one.cmp(other));
        tensors
    }

    /// `adapter_config.json` of the pairs.
    fn config(&self, settings: &Settings, spec: &ModelSpec) -> Value {
        let pairs = &self.low_rank.pairs;
        let module = |linear: LinearId| keys::module(&spec.names, settings.task, linear);
        let linears = spec.block.linears();
        let used = linears.iter().map(|linear| linear.site).filter(|&site| pairs.keys().any(|pair| pair.site == site));
        let sites: Vec<_> = used.collect();
        let everywhere = pairs.len() == sites.len() * spec.num_blocks;
        let modules = match everywhere {
            true => targets::names_of(spec, sites),
            false => pairs.keys().map(|&linear| module(linear)).collect(),
        };
        let (mut ranks, mut alphas) = (Map::new(), Map::new());
        for (&linear, pair) in pairs {
            let rank = pair.rank();
            if rank != settings.rank {
                ranks.insert(module(linear), json!(rank));
            }
            if scale(f64::from(settings.alpha), rank, settings.rank_stabilized) != pair.scale {
                let divisor = if settings.rank_stabilized { (rank as f64).sqrt() } else { rank as f64 };
                alphas.insert(module(linear), json!(f64::from(pair.scale) * divisor));
            }
        }
        settings::of_pairs(settings, modules, ranks, alphas)
    }
}

/// Writes tensors in f32; where there are none, takes away those of an adapter that is replaced.
fn write_tensors(path: &Path, tensors: &[(String, &Matrix)]) -> Result<()> {
    if tensors.is_empty() {
        return remove(path);
    }
    let plan = |(name, matrix): &(String, &Matrix)| Planned::new(name, Dtype::F32, &[matrix.rows(), matrix.cols()]);
    let plan: Vec<Planned> = tensors.iter().map(plan).collect();
    let bytes = |matrix: &Matrix| matrix.data().iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    write(path, &plan, tensors.iter().map(|(_, matrix)| Ok(bytes(matrix))))
}

/// The same for settings.
fn write_config(path: &Path, config: Option<Value>) -> Result<()> {
    match config {
        Some(config) => write_whole(path, format!("{config:#}\n").as_bytes()),
        None => remove(path),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(ModelError::Write { path: path.to_owned(), source }),
        _ => Ok(()),
    }
}
