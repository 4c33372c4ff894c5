//! What is said on a stream: frames of a header, which says what it is, and a body, which is numbers.
//!
//! | module | job |
//! |---|---|
//! | [`frame`] | cutting a stream into frames, none of which may be larger than is said here |
//! | [`message`] | the headers |
//! | [`fault`] | errors that travel |
//! | [`pass`] | what a request carries besides hidden states |
//! | [`bulk`] | numbers that do not fit into a frame |
//! | [`codes`] | hidden states as bytes and back, exactly |

pub mod bulk;
pub mod codes;
pub mod fault;
pub mod frame;
pub mod message;
pub mod pass;

use bouquet_span::Rounding;
use serde::{Deserialize, Serialize};

/// The version of the protocol. Machines that speak another one do not talk.
pub const PROTOCOL_VERSION: u32 = 1;

/// How hidden states travel between machines, chosen when a swarm starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wire {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bf16 after each block: half the bytes.
    Bf16,
    /// Rounded to 8 bits after each block, with a scale per group of channels: a bit more than a quarter.
    Int8,
}

impl Wire {
    /// All of them.
    pub const ALL: [Wire; 3] = [Wire::F32, Wire::Bf16, Wire::Int8];

    /// Its name, as a flag has it.
    pub fn name(self) -> &'static str {
        match self {
            Wire::F32 => "f32",
            Wire::Bf16 => "bf16",
            Wire::Int8 => "int8",
        }
    }

    /// The wire that rounds so.
    pub fn of(rounding: Rounding) -> Wire {
        match rounding {
            Rounding::None => Wire::F32,
            Rounding::Bf16 => Wire::Bf16,
            Rounding::Int8 => Wire::Int8,
        }
    }

    /// What it does to the output of each block, so that what is sent is exactly what was computed.
    pub fn rounding(self) -> Rounding {
        match self {
            Wire::F32 => Rounding::None,
            Wire::Bf16 => Rounding::Bf16,
            Wire::Int8 => Rounding::Int8,
        }
    }
}
