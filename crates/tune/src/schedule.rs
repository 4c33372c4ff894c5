//! The learning rate of a step.
