//! What is learned: losses, with their gradients. Those of sentences are functions of embeddings ([`sentences`]), that of
//! texts one of hidden states ([`causal`]).

pub mod causal;
pub mod sentences;
