//! The state of a run in one safetensors file, which takes the place of the one before when all of it is on the disk:
//! whatever ends the program, one of the two is there whole. It is written in the background, from copies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use bouquet_model::adapter::Learned;
use bouquet_model::checkpoint::safetensors::SafetensorsFile;
use bouquet_model::checkpoint::write::{Planned, write};
use bouquet_model::checkpoint::{Dtype, Tensor};
use serde::{Deserialize, Serialize};

use crate::optimizer::{State, StateTensor};
use crate::parameters::{tensors, tensors_mut};
use crate::{Result, TuneError};

/// Name of the file in the folder of a run.
pub const FILE: &str = "checkpoint.safetensors";

/// Where a run stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// What is not a tensor.
    pub progress: Progress,
    /// As it is after so many steps.
    pub learned: Learned,
    /// Of the optimizer.
    pub optimizer: State,
    /// As it was at the best evaluation.
    pub best: Option<Learned>,
}

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Progress {
    /// Steps that are done.
    pub steps: u64,
    /// Of the data that the steps were made from.
    pub data: String,
    /// Seconds of work until here, over all processes.
    pub seconds: f64,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// Steps that were done at the last evaluation.
    pub evaluated: u64,
    /// Evaluations since the best one.
    pub evaluations_since: u32,
}

/// The best evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Best {
    /// Steps that were done.
    pub steps: u64,
    /// The larger, the better.
    pub score: f64,
}

/// Writes checkpoints of one run, one at a time, beside the run.
pub struct Writer {
    path: PathBuf,
    writing: Option<JoinHandle<Result<()>>>,
}

/// The tensor that [`Progress`] is in, as JSON.
const PROGRESS: &str = "progress.json";

impl Checkpoint {
    /// Writes the file into the folder of a run.
    ///
    /// # Errors
    /// The disk's; the checkpoint before is then still there.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let progress = serde_json::to_vec(&self.progress).expect("numbers and texts");
        let mut plan = vec![Planned::new(PROGRESS, Dtype::U8, &[progress.len()])];
        let mut bytes: Vec<Vec<u8>> = vec![progress];
        let mut add = |name: String, dtype: Dtype, shape: &[usize], data: Vec<u8>| {
            plan.push(Planned::new(name, dtype, shape));
            bytes.push(data);
        };
        for (part, learned) in [("learned", Some(&self.learned)), ("best", self.best.as_ref())] {
            for (name, matrix) in learned.map(tensors).unwrap_or_default() {
                add(
                    format!("{part}.{name}"),
                    Dtype::F32,
                    &[matrix.rows(), matrix.cols()],
                    little_endian(matrix.data()),
                );
            }
        }
        for (name, tensor) in &self.optimizer {
            let name = format!("optimizer.{name}");
            match tensor {
                StateTensor::F32(numbers) => add(name, Dtype::F32, &[numbers.len()], little_endian(numbers)),
                StateTensor::U8(codes) => add(name, Dtype::U8, &[codes.len()], codes.clone()),
            }
        }
        Ok(write(&folder.join(FILE), &plan, bytes.into_iter().map(Ok))?)
    }

    /// Reads that of a run; `None` where there is none yet. `shapes` is what is learned, in its shapes.
    ///
    /// # Errors
    /// [`TuneError::Checkpoint`] for one that is damaged or does not fit.
    pub fn load(folder: &Path, shapes: &Learned) -> Result<Option<Checkpoint>> {
        let wrong = |problem: String| TuneError::Checkpoint { folder: folder.to_owned(), problem };
        let Some(file) = SafetensorsFile::open(&folder.join(FILE))? else { return Ok(None) };
        let progress = file.tensor(PROGRESS).ok_or_else(|| wrong("says nothing of how far it came".into()))?;
        let progress: Progress =
            serde_json::from_slice(&progress.data).map_err(|error| wrong(format!("is damaged: {error}")))?;
        let read = |part: &str| -> Result<Learned> {
            let mut learned = shapes.clone();
            for (name, slice) in tensors_mut(&mut learned) {
                let name = format!("{part}.{name}");
                let tensor = file.tensor(&name).filter(|tensor| tensor.dtype == Dtype::F32);
                let tensor = tensor.filter(|tensor| tensor.data.len() == 4 * slice.len());
                let tensor = tensor.ok_or_else(|| wrong(format!("has no {name} that fits")))?;
                slice.copy_from_slice(&floats(&tensor));
            }
            Ok(learned)
        };
        let learned = read("learned")?;
        let best = if progress.best.is_some() { Some(read("best")?) } else { None };
        let mut optimizer = BTreeMap::new();
        for name in file.names() {
            let (Some(short), Some(tensor)) = (name.strip_prefix("optimizer."), file.tensor(name)) else { continue };
            let state = match tensor.dtype {
                Dtype::F32 => StateTensor::F32(floats(&tensor)),
                Dtype::U8 => StateTensor::U8(tensor.data.to_vec()),
                _ => return Err(wrong(format!("has {name} of another type"))),
            };
            optimizer.insert(short.to_owned(), state);
        }
        Ok(Some(Checkpoint { progress, learned, optimizer, best }))
    }
}

impl Writer {
    /// For the run in a folder.
    pub fn new(folder: &Path) -> Self {
        Writer { path: folder.to_owned(), writing: None }
    }

    /// Begins to write; waits for the one before, if that is still being written.
    ///
    /// # Errors
    /// That of the one before.
    pub fn begin(&mut self, checkpoint: Checkpoint) -> Result<()> {
        self.wait()?;
        let path = self.path.clone();
        let work = move || checkpoint.save(&path);
        match thread::Builder::new().name("checkpoint".to_owned()).spawn(work) {
            Ok(thread) => self.writing = Some(thread),
            Err(error) => return Err(crate::error::cannot_write(&self.path.join(FILE), error)),
        }
        Ok(())
    }

    /// Waits until nothing is being written.
    ///
    /// # Errors
    /// That of writing.
    pub fn wait(&mut self) -> Result<()> {
        match self.writing.take() {
            None => Ok(()),
            Some(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // An error before this one is on its way already.
        let _ = self.wait();
    }
}

fn little_endian(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
