//! From gradients to new parameters: AdamW, with its state in f32 or in 8 bits, and the clipping of gradients.
//!
//! All arithmetic is `+`, `*`, `/` and square roots as written, element by element: the same bits on every machine.

use std::collections::BTreeMap;

mod adamw;
mod adamw_8bit;
mod clip;
#[cfg(test)]
mod golden;

pub use adamw::{AdamW, AdamWSettings};
pub use adamw_8bit::AdamW8bit;
pub use clip::clip_by_global_norm;

/// How fast a tensor is learned in a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Learning rate of the step.
    pub learning_rate: f32,
    /// Decoupled weight decay (arXiv 1711.05101).
    pub weight_decay: f32,
}

/// A tensor of an optimizer's state, as it is saved.
#[derive(Clone, Debug, PartialEq)]
pub enum StateTensor {
    /// Floats.
    F32(Vec<f32>),
    /// Codes.
    U8(Vec<u8>),
}

/// All that an optimizer has to remember, by names that stay the same from version to version: restoring it and going on
/// gives the same bits as never having stopped.
///
/// `step` is the number of steps taken, as 8 bytes, the lowest first. A tensor has its number in the list: in f32
/// `first_moment.0` and `second_moment.0`, in 8 bits `first_moment.0.codes` and `first_moment.0.absmax`, and so on.
pub type State = BTreeMap<String, StateTensor>;

/// An optimizer over a list of tensors that stays the same through a run.
pub trait Optimizer: Send {
    /// One step for all tensors: `parameters`, `gradients` and `rates` are of the same order in every call. A gradient
    /// that is not finite makes parameters that are not: the norm that [`clip_by_global_norm`] returns tells before.
    /// Panics on lengths that do not fit.
    fn step(&mut self, parameters: &mut [&mut [f32]], gradients: &[&[f32]], rates: &[Rate]);

    /// What to save.
    fn state(&self) -> State;

    /// Goes on from a state that was saved; on an error from where it was.
    ///
    /// # Errors
    /// What does not fit, in words.
    fn restore(&mut self, state: &State) -> Result<(), String>;

    /// Bytes of its state.
    fn bytes(&self) -> usize;
}

const STEP: &str = "step";

/// The number of steps taken, as it is saved.
fn step_tensor(step: u64) -> (String, StateTensor) {
    (STEP.to_owned(), StateTensor::U8(step.to_le_bytes().to_vec()))
}

fn step_of(state: &State) -> Result<u64, String> {
    let bytes = codes_of(state, STEP, size_of::<u64>())?;
    Ok(u64::from_le_bytes(bytes.try_into().expect("its length was checked")))
}

/// The `length` finite floats of that name.
fn floats_of<'a>(state: &'a State, name: &str, length: usize) -> Result<&'a [f32], String> {
    match state.get(name) {
        Some(StateTensor::F32(floats)) if floats.len() == length => match floats.iter().all(|x| x.is_finite()) {
            true => Ok(floats),
            false => Err(format!("`{name}` of the optimizer's state has numbers that are not finite")),
        },
        other => Err(misfit(name, other, &format!("{length} floats"))),
    }
}

/// The `length` bytes of that name.
fn codes_of<'a>(state: &'a State, name: &str, length: usize) -> Result<&'a [u8], String> {
    match state.get(name) {
        Some(StateTensor::U8(codes)) if codes.len() == length => Ok(codes),
        other => Err(misfit(name, other, &format!("{length} bytes"))),
    }
}

fn misfit(name: &str, found: Option<&StateTensor>, expected: &str) -> String {
    match found {
        None => format!("the optimizer's state has no `{name}`: it is of another optimizer or other tensors"),
        Some(StateTensor::F32(floats)) => {
            format!("`{name}` of the optimizer's state has {} floats, not {expected}", floats.len())
        }
        Some(StateTensor::U8(codes)) => {
            format!("`{name}` of the optimizer's state has {} bytes, not {expected}", codes.len())
        }
    }
}

/// Tensors that nobody asked for are of another optimizer or of a longer list.
fn nothing_else(state: &State, expected: &State) -> Result<(), String> {
    match state.keys().find(|name| !expected.contains_key(*name)) {
        None => Ok(()),
        Some(name) => Err(format!("the optimizer's state has `{name}`: it is of another optimizer or other tensors")),
    }
}
