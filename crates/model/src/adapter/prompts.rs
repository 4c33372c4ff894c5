//! Our own two files of an adapter's folder; [their layout](super) stands with that of the folder.

use std::path::Path;

use serde_json::{Value, json};

use super::{Settings, Task};
use crate::config::{Bounds, Config};
use crate::files::{self, MAX_SETTINGS_BYTES};
use crate::{ModelError, Result};

/// Tensors.
pub(super) const TENSORS: &str = "bouquet_prompts.safetensors";

/// What they are for.
pub(super) const FILE: &str = "bouquet_prompts.json";

/// The tensor of a soft prompt.
pub(super) const SOFT: &str = "soft_prompt";

/// What stands before the number of a block.
const DEEP: &str = "deep_prompts.";

/// The one layout that there is.
const VERSION: u64 = 1;

/// What the configuration says.
pub(super) struct PromptsConfig {
    pub(super) task: Option<Task>,
    pub(super) base_model: String,
}

impl PromptsConfig {
    /// That of a folder; `None` where there is none.
    pub(super) fn load(folder: &Path) -> Result<Option<Self>> {
        let Some(bytes) = files::read(&folder.join(FILE), MAX_SETTINGS_BYTES)? else { return Ok(None) };
        let error = |problem| ModelError::AdapterConfig { file: FILE, problem };
        let config = Config::parse_as(&bytes, error)?;
        config.number(&["version"], Bounds { min: VERSION, max: VERSION })?;
        let task = config.optional_text("task_type")?.and_then(Task::of_name);
        let base_model = config.optional_text("base_model_name_or_path")?.unwrap_or_default().to_owned();
        Ok(Some(PromptsConfig { task, base_model }))
    }
}

/// The configuration.
pub(super) fn config(settings: &Settings) -> Value {
    json!({
        "version": VERSION,
        "task_type": settings.task.name(),
        "base_model_name_or_path": settings.base_model,
    })
}

/// The tensor of a block's prompts.
pub(super) fn deep(block: usize) -> String {
    format!("{DEEP}{block}")
}

/// The block whose prompts a tensor has.
pub(super) fn block_of(name: &str) -> Option<usize> {
    let number = name.strip_prefix(DEEP)?;
    // One way to write a number: another would be a second name for the same prompts.
    number.parse::<usize>().ok().filter(|block| block.to_string() == number)
}
