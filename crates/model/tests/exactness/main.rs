//! Exactness: logits, hidden states, losses, gradients and greedy text of every fixture against what transformers and
//! PEFT computed, and equality of bits over threads, batches, cuts and sessions.

mod fixtures;
mod lora;
mod parts;
mod reference;
mod same_bits;
mod waist;
