//! How PEFT calls the tensors of a pair: `base_model.model.`, the name of the linear as the base model has it, and
//! `.lora_A.weight` or `.lora_B.weight`. A base model with a head puts the family's prefix (`transformer.`, `model.`) before
//! its blocks; one without a head does not.

use std::collections::HashMap;

use bouquet_span::{LinearId, Site};

use super::Task;
use crate::ModelSpec;
use crate::spec::{LinearShape, TensorNames};

/// What stands before every name.
const BASE: &str = "base_model.model.";

/// One of the two matrices of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Half {
    A,
    B,
}

impl Half {
    const BOTH: [Half; 2] = [Half::A, Half::B];

    fn suffix(self) -> &'static str {
        match self {
            Half::A => ".lora_A.weight",
            Half::B => ".lora_B.weight",
        }
    }
}

/// A tensor's name, understood.
pub(super) struct Key<'a> {
    /// The linear as its own model calls it: what patterns are compared with.
    pub(super) module: &'a str,
    pub(super) linear: LinearId,
    pub(super) shape: LinearShape,
    pub(super) half: Half,
    /// Whose names these are.
    pub(super) task: Task,
}

/// The names of a model's linears.
pub(super) struct Keys {
    names: TensorNames,
    num_blocks: usize,
    /// The linears of a block by their names in it.
    sites: HashMap<String, LinearShape>,
}

impl Keys {
    pub(super) fn new(spec: &ModelSpec) -> Self {
        let named = |linear: LinearShape| Some(((spec.names.site)(linear.site)?, linear));
        let sites = spec.block.linears().into_iter().filter_map(named).collect();
        Keys { names: spec.names, num_blocks: spec.num_blocks, sites }
    }

    /// What a tensor is; else why it is nothing of this model, in words that go on from "the tensor".
    pub(super) fn parse<'a>(&self, name: &'a str) -> Result<Key<'a>, String> {
        let foreign = || "is no low-rank pair of a linear that this model has".to_owned();
        let name = name.strip_prefix(BASE).ok_or_else(foreign)?;
        let halves = Half::BOTH.into_iter().find_map(|half| Some((name.strip_suffix(half.suffix())?, half)));
        let (module, half) = halves.ok_or_else(foreign)?;
        let (task, rest) = match module.strip_prefix(self.names.prefix) {
            Some(rest) => (Task::Causal, rest),
            None => (Task::FeatureExtraction, module),
        };
        let in_block = rest.strip_prefix(self.names.block).and_then(|rest| rest.split_once('.'));
        let (number, site) = in_block.ok_or_else(foreign)?;
        // One way to write a number: another would be a second name for the same tensor.
        let block = number.parse::<usize>().ok().filter(|block| block.to_string() == number).ok_or_else(foreign)?;
        if block >= self.num_blocks {
            return Err(format!(
                "is of block {block}, but the model's blocks are numbered 0 to {}",
                self.num_blocks - 1
            ));
        }
        let shape = *self.sites.get(site).ok_or_else(foreign)?;
        Ok(Key { module, linear: LinearId::new(block, shape.site), shape, half, task })
    }
}

/// The linear's name in the base model of a task. Panics for a site that the family does not have.
pub(super) fn module(names: &TensorNames, task: Task, linear: LinearId) -> String {
    let prefix = match task {
        Task::Causal => names.prefix,
        Task::FeatureExtraction => "",
    };
    let name = names.linear(linear).unwrap_or_else(|| panic!("{linear} has no name in this family"));
    format!("{prefix}{name}")
}

/// The name of a tensor, from that of its [`module`].
pub(super) fn tensor(module: &str, half: Half) -> String {
    format!("{BASE}{module}{}", half.suffix())
}

/// What users, and the list `target_modules`, call a site: the last part of its name in a block.
pub(super) fn short_name(names: &TensorNames, site: Site) -> Option<String> {
    let name = (names.site)(site)?;
    name.rsplit('.').next().map(str::to_owned)
}
