//! From gradients to new parameters: AdamW, with its state in f32 or in 8 bits.

use std::collections::BTreeMap;

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
pub type State = BTreeMap<String, StateTensor>;

/// An optimizer over a list of tensors that stays the same through a run.
pub trait Optimizer: Send {
    /// One step for all tensors: `parameters`, `gradients` and `rates` are of the same order in every call. Panics on
    /// lengths that do not fit.
    fn step(&mut self, parameters: &mut [&mut [f32]], gradients: &[&[f32]], rates: &[Rate]);

    /// What to save.
    fn state(&self) -> State;

    /// Goes on from a state that was saved.
    ///
    /// # Errors
    /// What does not fit, in words.
    fn restore(&mut self, state: &State) -> Result<(), String>;

    /// Bytes of its state.
    fn bytes(&self) -> usize;
}
