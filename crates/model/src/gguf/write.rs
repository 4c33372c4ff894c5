//! A model in one GGUF file, made from a folder or from another file: planned from headers and shapes, then written tensor by
//! tensor, some rows at a time.
//!
//! ```text
//! folder: spec + config.json + tokenizer -> metadata;  places of the layout -> tensors, rows in the order of the file
//! file:   its metadata;                                its tensors by their own names, those of the same kind byte by byte
//! ```
//!
//! The file appears under its name when the disk has all of it; until then it is a temporary one beside, which is removed when
//! anything goes wrong. What is there already is never replaced.

use std::collections::{BTreeSet, HashMap};
use std::io::BufWriter;
use std::path::Path;

use bouquet_gguf::{GgufError, Metadata, Planned, TensorKind, Value, Writer, split};
use bouquet_kernels::Weight;
use bouquet_kernels::weight::BlockFormat;

use super::layout::{self, Place, RowOrder};
use super::{GgufFile, KINDS, dtype, metadata, rope};
use crate::checkpoint::{Dtype, Tensor, TensorSource, find, load_vector, new_file, parts};
use crate::floats::{is_beside_codes, matrices};
use crate::load::Loader;
use crate::quantize::{Job, Progress};
use crate::rows::{Rows, Work};
use crate::spec::ModelSpec;
use crate::{ModelError, Result};

/// Types that weights can be written in.
pub const WRITTEN: [Dtype; 5] =
    [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Blocks(BlockFormat::Q8_0), Dtype::Blocks(BlockFormat::Q4_0)];

/// What `general.file_type` says of them.
const FILE_TYPES: [u32; WRITTEN.len()] = [0, 1, 32, 7, 2];

/// A file to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Bytes of all tensors as they are.
    pub bytes_before: u64,
    /// What is not as it might be expected, in sentences.
    pub notes: Vec<String>,
    bytes: u64,
    metadata: Metadata,
    tensors: Vec<Entry>,
    spec: ModelSpec,
}

/// A tensor to be.
#[derive(Clone, Debug)]
struct Entry {
    planned: Planned,
    contents: Contents,
}

/// Where its numbers come from.
#[derive(Clone, Debug)]
enum Contents {
    /// Weights of the model, one after the other, by their names without prefix; of each so many rows and columns.
    Weights { names: Vec<String>, shape: [usize; 2], order: RowOrder },
    /// A vector of the model.
    Vector { name: String, order: RowOrder },
    /// Numbers.
    Made(Vec<f32>),
    /// A tensor of another file, by its name there.
    Own,
}

impl Plan {
    /// Plans the file of a folder's model, with weights of that type ([`WRITTEN`]). Vectors and routers are in F32; embedding
    /// and head are in Q8_0 where all else is in Q4_0, which would cost there what it costs in all linears; and what has rows
    /// that are no whole blocks is in F16. Reads no weights.
    ///
    /// # Errors
    /// [`ModelError::NoGguf`]; [`ModelError::GgufTokenizer`]; whatever is wrong with the files and the tensors.
    pub fn of_folder(folder: &Path, spec: &ModelSpec, source: &dyn TensorSource, to: &Dtype) -> Result<Plan> {
        let mut notes = Vec::new();
        let architecture = metadata::architecture(spec)?;
        let loader = Loader { source, spec, encoding: None };
        loader.check()?;
        let (metadata, factors) = metadata::of_folder(folder, spec, &mut notes)?;
        let mut plan = Plan { bytes_before: 0, notes, bytes: 0, metadata, tensors: Vec::new(), spec: spec.clone() };
        if let Some(factors) = factors {
            let planned = Planned::new(rope::NAME, &[factors.len()], TensorKind::F32);
            plan.tensors.push(Entry { planned, contents: Contents::Made(factors) });
        }
        let tied = loader.tied_head()?;
        let places = layout::places(spec, architecture == "llama");
        let mut stacked: HashMap<String, usize> = HashMap::new();
        for place in places.iter().filter(|place| !(tied && place.name == spec.names.head)) {
            plan.add(place, to, &mut stacked);
        }
        plan.note_what_is_left_out(source)?;
        plan.finish(to)
    }

    /// Plans the file of another file's model: with weights of a type, or as they are. What is of the same kind is copied byte
    /// by byte.
    ///
    /// # Errors
    /// Whatever is wrong with the file.
    pub fn of_file(path: &Path, to: Option<&Dtype>) -> Result<Plan> {
        Plan::of_tensors(path, to, |_| true)
    }

    /// Plans a file of the ends of another file's model, as they are: what a machine that has none of its blocks opens with
    /// [`Ends::open`](crate::Ends::open).
    ///
    /// # Errors
    /// As [`of_file`](Self::of_file).
    pub fn of_ends(path: &Path) -> Result<Plan> {
        Plan::of_tensors(path, None, |name| !name.starts_with("blk."))
    }

    fn of_tensors(path: &Path, to: Option<&Dtype>, wanted: impl Fn(&str) -> bool) -> Result<Plan> {
        let file = GgufFile::open(path)?;
        let spec = file.spec()?;
        let mut metadata = Metadata::default();
        // Of the file that it was in, not of the model.
        let kept = |key: &str| !key.starts_with("split.") && key != "general.alignment";
        file.metadata().iter().filter(|(key, _)| kept(key)).for_each(|(key, value)| metadata.set(key, value.clone()));
        let mut plan = Plan { bytes_before: 0, notes: Vec::new(), bytes: 0, metadata, tensors: Vec::new(), spec };
        let mut decoded = BTreeSet::new();
        for tensor in file.tensors().filter(|tensor| wanted(&tensor.name)) {
            plan.bytes_before += tensor.data.len() as u64;
            let kind = match to {
                None => tensor.kind,
                Some(to) => kind(&tensor.name, &tensor.shape, to),
            };
            if kind != tensor.kind && tensor.kind.block_size() > 1 && kind.block_size() > 1 {
                decoded.insert(tensor.kind.name());
            }
            let planned = Planned::new(&tensor.name, &tensor.shape, kind);
            plan.tensors.push(Entry { planned, contents: Contents::Own });
        }
        if !decoded.is_empty() {
            let kinds = decoded.into_iter().collect::<Vec<_>>().join(", ");
            plan.notes.push(format!(
                "blocks of {kinds} are decoded and encoded anew, which loses a little more than floats do"
            ));
        }
        match to {
            Some(to) => plan.finish(to),
            None => plan.counted(),
        }
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The types of all tensors to be, each once.
    pub fn dtypes(&self) -> Vec<Dtype> {
        let mut dtypes = Vec::new();
        for entry in &self.tensors {
            let dtype = dtype(entry.planned.kind);
            if !dtypes.contains(&dtype) {
                dtypes.push(dtype);
            }
        }
        dtypes
    }

    /// Whether a file can be written under that name.
    ///
    /// # Errors
    /// [`ModelError::NotAFile`].
    pub fn check_target(target: &Path) -> Result<()> {
        let refuse = |problem: &str| Err(ModelError::NotAFile { path: target.to_owned(), problem: problem.to_owned() });
        if target.symlink_metadata().is_ok() {
            return refuse("is there already");
        }
        match target.file_name().and_then(|name| name.to_str()).and_then(split::parts) {
            Some(_) => refuse("is the name of a part of a model, and models are written in one file"),
            None => Ok(()),
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`ModelError::NotAFile`]; [`ModelError::Write`]; [`ModelError::Tensor`] for a number that is not finite, or is not once
    /// it is rounded. None leaves anything.
    pub fn write(&self, job: &Job<'_>, progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        Plan::check_target(job.target)?;
        let file = new_file::begin(job.target)?;
        let failed = |error| match error {
            GgufError::Write(source) => ModelError::Write { path: job.target.to_owned(), source },
            error => ModelError::NoGguf(error.to_string()),
        };
        let planned: Vec<Planned> = self.tensors.iter().map(|entry| entry.planned.clone()).collect();
        let out = BufWriter::with_capacity(1 << 20, file.as_file());
        let mut writer = Writer::begin(out, &self.metadata, &planned).map_err(failed)?;
        let own = match self.tensors.iter().any(|entry| matches!(entry.contents, Contents::Own)) {
            true => Some(GgufFile::open(job.folder)?),
            false => None,
        };
        let mut written = 0;
        for entry in &self.tensors {
            let name = &entry.planned.name;
            progress(Progress { label: name, bytes: written, total: self.bytes });
            entry.write(job, &self.spec, own.as_ref(), &mut |bytes| {
                writer.write(name, bytes).map_err(failed)?;
                written += bytes.len() as u64;
                progress(Progress { label: name, bytes: written, total: self.bytes });
                Ok(())
            })?;
        }
        writer.finish().map_err(failed)?;
        Plan::check_target(job.target)?;
        new_file::put_in_place(file, job.target)
    }

    /// Adds the weight of a place, and its bias.
    fn add(&mut self, place: &Place, to: &Dtype, stacked: &mut HashMap<String, usize>) {
        let &Place { ref name, ref in_file, expert, matrix, length, bias, order } = place;
        let name_of = |part: &str| format!("{name}.{part}");
        if let Some(shape @ [rows, cols]) = matrix {
            let in_file = format!("{in_file}{}.weight", if expert.is_some() { "_exps" } else { "" });
            match stacked.get(&in_file) {
                Some(&index) => {
                    let Entry { planned, contents: Contents::Weights { names, .. } } = &mut self.tensors[index] else {
                        unreachable!("experts are weights")
                    };
                    names.push(name_of("weight"));
                    planned.shape[0] += 1;
                }
                None => {
                    let shape_in_file = if expert.is_some() { vec![1, rows, cols] } else { vec![rows, cols] };
                    let planned = Planned::new(&in_file, &shape_in_file, kind(&in_file, &shape_in_file, to));
                    let contents = Contents::Weights { names: vec![name_of("weight")], shape, order };
                    if expert.is_some() {
                        stacked.insert(in_file, self.tensors.len());
                    }
                    self.tensors.push(Entry { planned, contents });
                }
            }
        }
        let mut vector = |part: &str| {
            let planned = Planned::new(format!("{in_file}.{part}"), &[length], TensorKind::F32);
            self.tensors.push(Entry { planned, contents: Contents::Vector { name: name_of(part), order } });
        };
        if matrix.is_none() {
            vector("weight");
        }
        if bias {
            vector("bias");
        }
    }

    /// Counts the bytes that there are, and notes the tensors that are no part of the model.
    fn note_what_is_left_out(&mut self, source: &dyn TensorSource) -> Result<()> {
        let mut used = BTreeSet::new();
        for entry in &self.tensors {
            let names = match &entry.contents {
                Contents::Weights { names, .. } => names.as_slice(),
                Contents::Vector { name, .. } => std::slice::from_ref(name),
                Contents::Made(_) | Contents::Own => &[],
            };
            for name in names {
                used.insert(find(source, &self.spec.names, name)?.0);
            }
        }
        let matrices = matrices(&self.spec, source)?;
        let mut left_out = Vec::new();
        for name in source.names() {
            self.bytes_before += source.tensor(name)?.map_or(0, |tensor| tensor.data.len() as u64);
            if !used.contains(name) && !is_beside_codes(name, &matrices, source) {
                left_out.push(name);
            }
        }
        if let Some(first) = left_out.first() {
            let (first, more) = (crate::files::shown(first), left_out.len() - 1);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            self.notes.push(format!("tensors that are no part of the model are left out: {first}{more}"));
        }
        Ok(())
    }

    /// Says in the metadata what the weights are in.
    fn finish(mut self, to: &Dtype) -> Result<Plan> {
        let file_type = WRITTEN.iter().position(|known| known == to).map(|index| FILE_TYPES[index]);
        self.metadata.set("general.file_type", Value::U32(file_type.expect("a type that is written")));
        if matches!(to, Dtype::Blocks(_)) {
            self.metadata.set("general.quantization_version", Value::U32(2));
            let odd = |entry: &&Entry| entry.planned.kind == TensorKind::F16;
            let count = self.tensors.iter().filter(odd).count();
            if let Some(first) = self.tensors.iter().find(odd) {
                let problem = "has rows that are no whole blocks of 32, and is in F16";
                let more = if count > 1 { format!(", as {} more are", count - 1) } else { String::new() };
                self.notes.push(format!("{} {problem}{more}", first.planned.name));
            }
            if *to == Dtype::Blocks(BlockFormat::Q4_0) {
                self.notes
                    .push("embedding and head are in Q8_0: 4 bits cost more there than in all linears".to_owned());
            }
        }
        self.counted()
    }

    /// Counts the bytes of the file.
    fn counted(mut self) -> Result<Plan> {
        let planned: Vec<Planned> = self.tensors.iter().map(|entry| entry.planned.clone()).collect();
        let header = Writer::begin(std::io::sink(), &self.metadata, &planned);
        self.bytes = header.map_err(|error| ModelError::NoGguf(error.to_string()))?.bytes();
        Ok(self)
    }
}

impl Entry {
    fn write(
        &self,
        job: &Job<'_>,
        spec: &ModelSpec,
        own: Option<&GgufFile>,
        write: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let Planned { name: in_file, shape, kind } = &self.planned;
        let (attention, dtype) = (&spec.block.attention, &dtype(*kind));
        job.limits.check()?;
        match &self.contents {
            Contents::Made(numbers) => write(&bytes(numbers)),
            Contents::Vector { name, order } => {
                let numbers = load_vector(job.source, &spec.names, name, shape[0])?;
                match order.rows_of_file(attention, shape[0]) {
                    Some(order) => write(&bytes(&order.iter().map(|&row| numbers[row]).collect::<Vec<_>>())),
                    None => write(&bytes(&numbers)),
                }
            }
            Contents::Weights { names, shape: [rows, cols], order } => {
                let order = order.rows_of_file(attention, *rows);
                let work = Work { cpu: job.cpu, limits: job.limits, release: &|data| job.source.release(data) };
                for name in names {
                    let (name, tensor) = find(job.source, &spec.names, name)?;
                    let weight = parts::weight(job.source, &name, tensor, *rows, *cols)?;
                    let rows = Rows { name: &name, weight: &weight, order: order.as_deref(), share: None, dtype };
                    rows.write(work, write)?;
                }
                Ok(())
            }
            Contents::Own => {
                let file = own.expect("the file is open");
                let (info, data) = file.tensor(in_file).expect("a tensor that was there when it was planned");
                let cols = shape.last().copied().unwrap_or(1);
                let rows = shape.iter().product::<usize>() / cols.max(1);
                let tensor = Tensor { dtype: super::dtype(info.kind), shape: vec![rows, cols], data };
                let weight: Weight = parts::weight(job.source, in_file, tensor, rows, cols)?;
                let work = Work { cpu: job.cpu, limits: job.limits, release: &|data| file.release(data) };
                Rows { name: in_file, weight: &weight, order: None, share: None, dtype }.write(work, write)
            }
        }
    }
}

/// What a tensor is stored in where weights are to be in a type.
fn kind(name: &str, shape: &[usize], to: &Dtype) -> TensorKind {
    let is_small =
        shape.len() < 2 || name.ends_with(".bias") || name.contains("ffn_gate_inp") || name.contains("_norm.");
    let of_vocabulary = matches!(name, "token_embd.weight" | "output.weight");
    let to = match to {
        _ if is_small => &Dtype::F32,
        Dtype::Blocks(format) if !shape[shape.len() - 1].is_multiple_of(format.block_size()) => &Dtype::F16,
        Dtype::Blocks(BlockFormat::Q4_0) if of_vocabulary => &Dtype::Blocks(BlockFormat::Q8_0),
        to => to,
    };
    KINDS.iter().find(|(_, known)| known == to).expect("every type that is written has a kind").0
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}
