//! Learning rates by group: a factor for the tensors that a name stands for.
//!
//! | group | tensors |
//! |---|---|
//! | `A`, `B` | that matrix of each pair; a larger rate suits `B` (LoRA+, arXiv 2402.12354) |
//! | `prompt` | the soft prompt, or those of all blocks |
//! | `query_key_value`, ... | both matrices of the pairs beside these linears, named as targets are |
//! | `block 3`, `blocks 0-5` | all in these blocks, counted from 0, the last one among them |
//!
//! A tensor that is in several groups gets the product of their factors.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use bouquet_model::ModelSpec;
use bouquet_model::adapter::{Learned, targets};
use bouquet_span::Site;

use crate::parameters::{Name, tensors};
use crate::{Result, TuneError};

/// Factors of learning rates by the names of groups.
pub type LrGroups = BTreeMap<String, f32>;

/// The setting that has them.
const SETTING: &str = "lr-group";

/// What a name stands for.
enum Group {
    A,
    B,
    Prompt,
    Sites(Vec<Site>),
    Blocks(RangeInclusive<usize>),
}

/// The factor of each tensor, in the order of [`tensors`].
///
/// # Errors
/// [`TuneError::Setting`] for a group in which nothing is learned, with those in which something is.
pub fn factors(groups: &LrGroups, spec: &ModelSpec, learned: &Learned) -> Result<Vec<f32>> {
    let names: Vec<Name> = tensors(learned).into_iter().map(|(name, _)| name).collect();
    let mut factors = vec![1.0; names.len()];
    for (typed, factor) in groups {
        let group = Group::parse(typed, spec).filter(|group| names.iter().any(|&name| group.has(name)));
        let Some(group) = group else {
            let problem = format!("{typed:?} is nothing that is learned, which is {}", known(&names, spec).join(", "));
            return Err(TuneError::Setting { name: SETTING, problem });
        };
        for (of_name, _) in factors.iter_mut().zip(&names).filter(|(_, name)| group.has(**name)) {
            *of_name *= factor;
        }
    }
    Ok(factors)
}

/// The groups in which something is learned, as they are typed.
fn known(names: &[Name], spec: &ModelSpec) -> Vec<String> {
    let has = |group: &Group| names.iter().any(|&name| group.has(name));
    let kinds = [("A", Group::A), ("B", Group::B), ("prompt", Group::Prompt)];
    let kinds = kinds.into_iter().filter(|(_, group)| has(group)).map(|(name, _)| name.to_owned());
    let sites = names.iter().filter_map(|name| Some(name.linear()?.site));
    let blocks = || names.iter().filter_map(|name| name.block());
    let blocks = blocks().min().zip(blocks().max()).map(|(first, last)| format!("blocks {first}-{last}"));
    kinds.chain(targets::names_of(spec, sites)).chain(blocks).collect()
}

impl Group {
    fn parse(typed: &str, spec: &ModelSpec) -> Option<Group> {
        if let Some(blocks) = typed.strip_prefix("blocks ").or_else(|| typed.strip_prefix("block ")) {
            let (first, last) = blocks.split_once('-').unwrap_or((blocks, blocks));
            return Some(Group::Blocks(first.trim().parse().ok()?..=last.trim().parse().ok()?));
        }
        Some(match typed {
            "A" => Group::A,
            "B" => Group::B,
            "prompt" => Group::Prompt,
            linear => Group::Sites(targets::parse(spec, &[linear]).ok()?),
        })
    }

    fn has(&self, name: Name) -> bool {
        match self {
            Group::A => matches!(name, Name::A(_)),
            Group::B => matches!(name, Name::B(_)),
            Group::Prompt => matches!(name, Name::SoftPrompt | Name::DeepPrompt(_)),
            Group::Sites(sites) => name.linear().is_some_and(|linear| sites.contains(&linear.site)),
            Group::Blocks(blocks) => name.block().is_some_and(|block| blocks.contains(&block)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use bouquet_kernels::Matrix;
    use bouquet_model::adapter::{Settings, Task};
    use bouquet_model::families::load_spec;
    use bouquet_span::Prompts;

    use super::*;

    fn spec() -> ModelSpec {
        load_spec(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/bloom-small-trained")).unwrap()
    }

    /// Pairs beside the linears of attention.
    fn pairs(spec: &ModelSpec) -> Learned {
        let settings = Settings {
            rank: 2,
            alpha: 4.0,
            rank_stabilized: false,
            dropout: 0.0,
            targets: vec![Site::Qkv, Site::O],
            task: Task::Causal,
            base_model: String::new(),
        };
        Learned::initial(&settings, spec, 0).unwrap()
    }

    fn groups(typed: &[(&str, f32)]) -> LrGroups {
        typed.iter().map(|&(group, factor)| (group.to_owned(), factor)).collect()
    }

    #[test]
    fn a_tensor_gets_the_product_of_its_groups() {
        let spec = spec();
        let learned = pairs(&spec);
        let typed = groups(&[("B", 16.0), ("blocks 1-2", 0.5), ("block 0", 2.0), ("query_key_value", 0.25)]);
        let found = factors(&typed, &spec, &learned).unwrap();
        let names = tensors(&learned).into_iter().map(|(name, _)| name);
        for (name, found) in names.zip(found) {
            let linear = name.linear().unwrap();
            let of_matrix = if matches!(name, Name::B(_)) { 16.0 } else { 1.0 };
            let of_block = [2.0, 0.5, 0.5].get(linear.block).copied().unwrap_or(1.0);
            let of_linear = if linear.site == Site::Qkv { 0.25 } else { 1.0 };
            assert_eq!(found, of_matrix * of_block * of_linear, "{name}");
        }
    }

    #[test]
    fn a_group_without_anything_learned_is_refused_with_those_that_have_something() {
        let spec = spec();
        let refused =
            |typed: &str, learned: &Learned| factors(&groups(&[(typed, 2.0)]), &spec, learned).unwrap_err().to_string();
        let learned = pairs(&spec);
        let last = spec.num_blocks - 1;
        for typed in ["C", "prompt", "dense_h_to_4h", "blocks 90-99", "blocks 5-2", "block x", "block", ""] {
            assert_eq!(
                refused(typed, &learned),
                format!(
                    "lr-group {typed:?} is nothing that is learned, which is A, B, query_key_value, dense, \
                     blocks 0-{last}"
                )
            );
        }
        let soft = Learned { soft_prompt: Some(Matrix::zeros(1, spec.block.hidden_size)), ..Learned::default() };
        assert!(refused("B", &soft).ends_with("which is prompt"));
        assert_eq!(factors(&groups(&[("prompt", 3.0)]), &spec, &soft).unwrap(), [3.0]);
        let blocks = (1..3).map(|block| (block, Matrix::zeros(1, spec.block.hidden_size))).collect();
        let deep = Learned { deep_prompts: Arc::new(Prompts { blocks }), ..Learned::default() };
        assert!(refused("A", &deep).ends_with("which is prompt, blocks 1-2"));
        assert_eq!(factors(&groups(&[("block 2", 3.0)]), &spec, &deep).unwrap(), [1.0, 3.0]);
    }
}
