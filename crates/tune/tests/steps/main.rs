//! Steps of training: against PEFT, and against each other, however they are computed.

mod first_step;
mod fixtures;
mod peft;
mod same_bits;
