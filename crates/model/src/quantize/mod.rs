//! A model's folder with its weights in codes, made from one with floats, or from a GGUF file: planned from headers and shapes, then written a
//! linear at a time, so that no more than the codes of one are in memory.
//!
//! ```text
//! Plan::new: headers -> shards of units (the embedding, each block, the rest) of pieces (a tensor copied or encoded)
//! Plan::write: floats -> codes -> .NAME.bouquet-part/ -> NAME/
//! ```
//!
//! The folder comes into being under its name when it is whole. Until then it is another one beside it, without
//! `config.json`, which nothing opens; what is on the disk of it is written down after each unit, so that the next try goes
//! on there after an interruption of whatever kind, a full disk among them. An error that would come again leaves nothing.
//!
//! Which values the codes have is the encoding's own rounding, number by number ([`Encoding::encode`]).

mod write;

use std::collections::BTreeMap;

use bouquet_span::{LinearId, Site};
use serde_json::{Value, json};

use crate::checkpoint::encoded::Layout;
use crate::checkpoint::write::Planned;
use crate::checkpoint::{Dtype, Tensor, TensorSource, find};
use crate::load::Loader;
use crate::merge::Fold;
use crate::stored::FIELD;
use crate::{Encoding, ModelError, ModelSpec, Result, Stored, floats};

pub use crate::staging::unfinished;
pub use write::{Job, Progress};

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Of the linears: anything but f32.
    pub encoding: Encoding,
    /// nf4 with magnitudes in 8 bits.
    pub double: bool,
    /// Of embedding and head: f32 leaves them as they are, whatever floats those be.
    pub embedding: Encoding,
    /// Bytes from which on weights are cut into several files, between blocks.
    pub max_shard_bytes: u64,
}

/// A folder to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How its weights will be stored.
    pub stored: Stored,
    /// Bytes of all tensors as they are.
    pub bytes_before: u64,
    /// Its weights' files.
    pub shards: Vec<Shard>,
    /// What is wanted, in so far as the bytes depend on it: another try goes on only where it is the same.
    pub(crate) what: Value,
    /// Fields of `config.json` that change.
    pub(crate) config: Vec<(String, Value)>,
}

/// A file of weights.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Its name.
    pub file: String,
    /// Bytes of its tensors.
    pub bytes: u64,
    units: Vec<Unit>,
}

/// What is written down as done at a time.
#[derive(Clone, Debug, Default)]
struct Unit {
    /// What it is, for people.
    label: String,
    pieces: Vec<Piece>,
}

/// A tensor of the source, and what becomes of it.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) source: String,
    pub(crate) change: Change,
    pub(crate) tensors: Vec<Planned>,
}

/// What becomes of a tensor.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Nothing.
    Copied,
    /// Floats become codes.
    Encoded(Layout),
    /// Floats, codes or blocks become floats, with the share of a pair added where there is one.
    Floats(Option<Fold>),
}

impl Request {
    /// What `config.json` will say.
    fn stored(&self) -> Stored {
        Stored { linears: self.encoding, embedding: self.embedding, skipped: Vec::new(), kinds: None }
    }

    /// Whether linears of experts are encoded, which only a layout of Bouquet's own has.
    fn encodes_experts(&self) -> bool {
        !self.stored().is_of_bitsandbytes()
    }
}

impl Plan {
    /// Plans a folder from the specification and the tensors of another, which are all checked. Reads no weights. Panics
    /// when the request is for floats.
    ///
    /// # Errors
    /// [`ModelError::AlreadyEncoded`]; whatever is wrong with the tensors.
    pub fn new(spec: &ModelSpec, source: &dyn TensorSource, request: Request) -> Result<Plan> {
        assert_ne!(request.encoding, Encoding::F32, "an encoding to write");
        if spec.stored.linears != Encoding::F32 {
            return Err(ModelError::AlreadyEncoded { stored: spec.stored.linears });
        }
        let layouts = layouts(spec, source, &request)?;
        let stored = request.stored();
        let what = json!({
            "encoding": request.encoding.name(),
            "double": request.double,
            "embedding": request.embedding.name(),
        });
        let mut config = vec![(FIELD.to_owned(), stored.to_config(request.double).expect("not floats"))];
        if spec.stored.kinds.is_some() {
            config.extend(floats::config(Some(&floats::DECODED)));
        }
        let piece = |name: &str, tensor: &Tensor| Some(piece(name, tensor, layouts.get(name).copied()));
        let plan = Plan { stored, bytes_before: 0, shards: Vec::new(), what, config };
        plan.with_pieces(spec, source, request.max_shard_bytes, piece)
    }

    /// Plans a folder of a model's ends alone, as a machine that has none of its blocks opens it with [`Ends::open`]. Where floats
    /// are served in codes they are in these codes, else as they are stored. Reads no weights.
    ///
    /// # Errors
    /// Whatever is wrong with the tensors.
    ///
    /// [`Ends::open`]: crate::Ends::open
    pub fn of_ends(spec: &ModelSpec, source: &dyn TensorSource, encoding: Encoding) -> Result<Plan> {
        let made = match encoding {
            _ if spec.stored != Stored::floats() => Encoding::F32,
            Encoding::Stored => Encoding::Int8,
            encoding => encoding,
        };
        let (mut stored, mut config, mut layouts) = (spec.stored.clone(), Vec::new(), BTreeMap::new());
        if made != Encoding::F32 {
            let embedding = made.of_vocabulary();
            let request = Request { encoding: made, double: false, embedding, max_shard_bytes: u64::MAX };
            (stored, layouts) = (request.stored(), BTreeMap::new());
            layouts_of_ends(spec, source, &request, &mut layouts)?;
            config.push((FIELD.to_owned(), stored.to_config(false).expect("not floats")));
        }
        let loader = Loader { source, spec, encoding: None };
        loader.head(&loader.embedding()?)?;
        let mut plan = Plan { stored, bytes_before: 0, shards: Vec::new(), what: json!("ends"), config };
        let mut unit = Unit { label: "ends".to_owned(), pieces: Vec::new() };
        for name in source.names().into_iter().filter(|name| block_of(spec, name).is_none()) {
            let Some(tensor) = source.tensor(name)? else { continue };
            plan.bytes_before += tensor.data.len() as u64;
            unit.pieces.push(piece(name, &tensor, layouts.get(name).copied()));
        }
        plan.shards = cut(vec![unit], u64::MAX);
        Ok(plan)
    }

    /// Plans the files: at most a piece for each tensor of the source, which are all checked.
    pub(crate) fn with_pieces(
        mut self,
        spec: &ModelSpec,
        source: &dyn TensorSource,
        max_shard_bytes: u64,
        piece: impl Fn(&str, &Tensor) -> Option<Piece>,
    ) -> Result<Plan> {
        Loader { source, spec, encoding: None }.check()?;
        let mut units = units(spec);
        for name in source.names() {
            let Some(tensor) = source.tensor(name)? else { continue };
            self.bytes_before += tensor.data.len() as u64;
            units[unit_of(spec, name)].pieces.extend(piece(name, &tensor));
        }
        units.retain(|unit| !unit.pieces.is_empty());
        self.shards = cut(units, max_shard_bytes);
        self.what["max_shard_bytes"] = json!(max_shard_bytes);
        Ok(self)
    }

    /// The types of all tensors to be, each once.
    pub fn dtypes(&self) -> Vec<&Dtype> {
        let units = self.shards.iter().flat_map(|shard| &shard.units);
        let tensors = units.flat_map(|unit| &unit.pieces).flat_map(|piece| &piece.tensors);
        let mut dtypes = Vec::new();
        for tensor in tensors {
            if !dtypes.contains(&&tensor.dtype) {
                dtypes.push(&tensor.dtype);
            }
        }
        dtypes
    }

    /// Bytes of all tensors to be.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes).sum()
    }

    /// `model.safetensors.index.json`, where there are several shards.
    fn index(&self) -> Option<Value> {
        if self.shards.len() == 1 {
            return None;
        }
        let place = |shard: &'_ Shard| {
            let file = shard.file.clone();
            let names: Vec<_> = shard.tensors().map(|tensor| (tensor.name.clone(), json!(file))).collect();
            names
        };
        let weight_map: serde_json::Map<_, _> = self.shards.iter().flat_map(place).collect();
        Some(json!({ "metadata": { "total_size": self.bytes() }, "weight_map": weight_map }))
    }
}

impl Shard {
    fn tensors(&self) -> impl Iterator<Item = &Planned> {
        self.units.iter().flat_map(|unit| unit.tensors())
    }
}

impl Unit {
    fn tensors(&self) -> impl Iterator<Item = &Planned> {
        self.pieces.iter().flat_map(|piece| &piece.tensors)
    }

    fn bytes(&self) -> u64 {
        self.tensors().map(bytes).sum()
    }
}

/// Bytes of a tensor to be. Those of the source lie in a file, and codes are fewer.
fn bytes(planned: &Planned) -> u64 {
    planned.bytes().unwrap_or(u64::MAX)
}

/// The tensors that are encoded, by their names in the source.
fn layouts(spec: &ModelSpec, source: &dyn TensorSource, request: &Request) -> Result<BTreeMap<String, Layout>> {
    let mut layouts = BTreeMap::new();
    let mut add = |module: &str| add_layout(spec, source, module, request.encoding, request, &mut layouts);
    for block in 0..spec.num_blocks {
        for linear in spec.block.linears() {
            let encoded = match linear.site {
                Site::Router => false,
                Site::ExpertGate(_) | Site::ExpertUp(_) | Site::ExpertDown(_) => request.encodes_experts(),
                _ => true,
            };
            if let Some(module) = spec.names.linear(LinearId::new(block, linear.site)).filter(|_| encoded) {
                add(&module)?;
            }
        }
    }
    layouts_of_ends(spec, source, request, &mut layouts)?;
    Ok(layouts)
}

/// Those of them that are in no block.
fn layouts_of_ends(
    spec: &ModelSpec,
    source: &dyn TensorSource,
    request: &Request,
    layouts: &mut BTreeMap<String, Layout>,
) -> Result<()> {
    let mut add = |module: &str, encoding| add_layout(spec, source, module, encoding, request, layouts);
    if spec.projects() {
        // Linears like others to bitsandbytes.
        add(spec.names.project_in, request.encoding)?;
        add(spec.names.project_out, request.encoding)?;
    }
    if request.embedding != Encoding::F32 {
        add(spec.names.embedding, request.embedding)?;
        if !(Loader { source, spec, encoding: None }).tied_head()? {
            add(spec.names.head, request.embedding)?;
        }
    }
    Ok(())
}

fn add_layout(
    spec: &ModelSpec,
    source: &dyn TensorSource,
    module: &str,
    encoding: Encoding,
    request: &Request,
    layouts: &mut BTreeMap<String, Layout>,
) -> Result<()> {
    let (name, _) = find(source, &spec.names, &format!("{module}.weight"))?;
    layouts.insert(name, Layout { encoding, double: request.double });
    Ok(())
}

/// The embedding, each block, and what is behind them, all empty.
fn units(spec: &ModelSpec) -> Vec<Unit> {
    let blocks = (0..spec.num_blocks).map(|block| format!("block {} of {}", block + 1, spec.num_blocks));
    let labels = ["embedding".to_owned()].into_iter().chain(blocks).chain(["head".to_owned()]);
    labels.map(|label| Unit { label, pieces: Vec::new() }).collect()
}

/// Which of them a tensor is of.
fn unit_of(spec: &ModelSpec, name: &str) -> usize {
    let names = &spec.names;
    let name = name.strip_prefix(names.prefix).unwrap_or(name);
    let before_blocks = [names.embedding, names.positions, names.project_in];
    if before_blocks.into_iter().any(|part| !part.is_empty() && name.starts_with(part)) {
        return 0;
    }
    block_of(spec, name).map_or(spec.num_blocks + 1, |block| block + 1)
}

/// The block that a tensor is of.
fn block_of(spec: &ModelSpec, name: &str) -> Option<usize> {
    let name = name.strip_prefix(spec.names.prefix).unwrap_or(name);
    let number = name.strip_prefix(spec.names.block).and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    number.filter(|&block| block < spec.num_blocks)
}

fn piece(name: &str, tensor: &Tensor, encoded: Option<Layout>) -> Piece {
    let (change, tensors) = match (encoded, &tensor.shape[..]) {
        (Some(layout), &[rows, cols]) => {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            (Change::Encoded(layout), layout.tensors(module, rows, cols))
        }
        _ if matches!(tensor.dtype, Dtype::Blocks(_)) => {
            (Change::Floats(None), vec![Planned::new(name, floats::DECODED, &tensor.shape)])
        }
        _ => (Change::Copied, vec![Planned::new(name, tensor.dtype.clone(), &tensor.shape)]),
    };
    Piece { source: name.to_owned(), change, tensors }
}

/// Files of at most so many bytes, unless a unit alone has more.
fn cut(units: Vec<Unit>, max_bytes: u64) -> Vec<Shard> {
    let mut shards: Vec<Shard> = Vec::new();
    for unit in units {
        let bytes = unit.bytes();
        match shards.last_mut().filter(|shard| shard.bytes.saturating_add(bytes) <= max_bytes) {
            Some(shard) => {
                shard.bytes += bytes;
                shard.units.push(unit);
            }
            None => shards.push(Shard { file: String::new(), bytes, units: vec![unit] }),
        }
    }
    let count = shards.len();
    for (index, shard) in shards.iter_mut().enumerate() {
        shard.file = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
    }
    shards
}
