//! Opening a model for a command: the folder, the threads, and the memory that its sessions may take.

use std::path::{Component, Path};
use std::time::{Duration, Instant};

use anyhow::Result;
use bouquet_kernels::Cpu;
use bouquet_model::families::load_spec;
use bouquet_model::{Encoding, Model, Network, OpenOptions};
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::errors::wrong;
use crate::system;

/// A model, and how long it took to open.
pub(crate) struct Opened {
    pub(crate) model: Model,
    pub(crate) time: Duration,
}

/// Memory that caches and passes may take where nobody can say how much there is: what a machine of 8 GiB can spare.
const MEMORY_BYTES_IF_UNKNOWN: u64 = 4 << 30;

/// The names of encodings, for a flag.
pub(crate) fn encoding_names() -> impl TypedValueParser<Value = Encoding> {
    let names = PossibleValuesParser::new(Encoding::ALL.map(Encoding::name));
    names.map(|name| name.parse().expect("the name of an encoding"))
}

/// The encoding that was asked for, or the usual one: int8, unless the folder is encoded already.
pub(crate) fn or_usual(encoding: Option<Encoding>, folder: &Path) -> Result<Encoding> {
    check_folder(folder)?;
    Ok(encoding.map_or_else(|| load_spec(folder).map(|spec| spec.stored.usual()), Ok)?)
}

/// Opens what of a folder's model needs no tokenizer.
pub(crate) fn open_network(folder: &Path, cpu: Cpu, encoding: Encoding) -> Result<Network> {
    check_folder(folder)?;
    Ok(Network::open(folder, &options(cpu, encoding))?)
}

/// How models are opened here: what they compute with may take the memory that is there.
pub(crate) fn options(cpu: Cpu, encoding: Encoding) -> OpenOptions {
    let memory_bytes = system::available_memory_bytes().unwrap_or(MEMORY_BYTES_IF_UNKNOWN);
    OpenOptions::new(cpu, memory_bytes, encoding)
}

/// Opens the model of a folder.
pub(crate) fn open(folder: &Path, cpu: Cpu, encoding: Encoding) -> Result<Opened> {
    check_folder(folder)?;
    let start = Instant::now();
    let model = Model::open(folder, &options(cpu, encoding))?;
    Ok(Opened { model, time: start.elapsed() })
}

/// Refuses a name of the hub, which is no folder, in words that help.
pub(crate) fn check_folder(folder: &Path) -> Result<()> {
    if folder.exists() || !is_hub_name(folder) {
        return Ok(());
    }
    let name = folder.display();
    Err(wrong(
        format!("{name} is not a folder here, and models are opened from a local folder"),
        format!("fetch it first, with `hf download {name} --local-dir DIR` say, and give that folder"),
    ))
}

/// `org/name`, without a dot or a slash in front.
fn is_hub_name(path: &Path) -> bool {
    let normal = path.components().filter(|component| matches!(component, Component::Normal(_))).count();
    normal == 2 && path.components().count() == 2 && !path.to_string_lossy().ends_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_told_from_paths() {
        for (path, expected) in [
            ("bigscience/bloom-560m", true),
            ("./bigscience/bloom", false),
            ("/models/bloom", false),
            ("../bloom", false),
            ("bloom", false),
            ("a/b/c", false),
            ("models/bloom/", false),
        ] {
            assert_eq!(is_hub_name(Path::new(path)), expected, "{path}");
        }
    }
}
