//! The name of one weight matrix: which block, which site in it. Adapters, calibration and reports address a linear
//! by this name from outside; the linear itself knows nothing of them.

use std::fmt;

/// Which linear inside a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// Queries, keys and values in one matrix.
    Qkv,
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// The output of attention.
    O,
    /// The gate of the feed-forward.
    Gate,
    /// The first matrix of the feed-forward (the ungated one where there is a gate).
    Up,
    /// The last matrix of the feed-forward.
    Down,
    /// The choice of experts.
    Router,
    /// The gate of an expert.
    ExpertGate(u16),
    /// The first matrix of an expert.
    ExpertUp(u16),
    /// The last matrix of an expert.
    ExpertDown(u16),
}

/// One linear of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinearId {
    /// The block, counted from the start of the model.
    pub block: usize,
    /// Which linear in it.
    pub site: Site,
}

impl LinearId {
    /// The linear at `site` of `block`.
    pub fn new(block: usize, site: Site) -> Self {
        LinearId { block, site }
    }

    /// A number for this linear, equal on every machine and in every version: the counter that dropout hashes.
    pub fn counter(&self) -> u64 {
        let (kind, expert) = match self.site {
            Site::Qkv => (0, 0),
            Site::Q => (1, 0),
            Site::K => (2, 0),
            Site::V => (3, 0),
            Site::O => (4, 0),
            Site::Gate => (5, 0),
            Site::Up => (6, 0),
            Site::Down => (7, 0),
            Site::Router => (8, 0),
            Site::ExpertGate(expert) => (9, expert),
            Site::ExpertUp(expert) => (10, expert),
            Site::ExpertDown(expert) => (11, expert),
        };
        (self.block as u64) << 32 | (expert as u64) << 8 | kind
    }
}

impl fmt::Display for LinearId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {} {}", self.block, self.site)
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Site::Qkv => write!(f, "qkv"),
            Site::Q => write!(f, "q"),
            Site::K => write!(f, "k"),
            Site::V => write!(f, "v"),
            Site::O => write!(f, "o"),
            Site::Gate => write!(f, "gate"),
            Site::Up => write!(f, "up"),
            Site::Down => write!(f, "down"),
            Site::Router => write!(f, "router"),
            Site::ExpertGate(expert) => write!(f, "expert {expert} gate"),
            Site::ExpertUp(expert) => write!(f, "expert {expert} up"),
            Site::ExpertDown(expert) => write!(f, "expert {expert} down"),
        }
    }
}
