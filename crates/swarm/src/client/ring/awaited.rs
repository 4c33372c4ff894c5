//! Output of a ring that is on its way.

use bouquet_span::SpanError;
use tokio::time::Instant;

use crate::ledger::{Rows, Standing};
use crate::wire::codes;

/// Output that is on its way.
pub(super) struct Awaited {
    pub(super) revision: u64,
    pub(super) starts: Vec<u32>,
    pub(super) wanted: Vec<u32>,
    pub(super) ends: Vec<u32>,
    pub(super) have: Vec<u32>,
    pub(super) rows: Vec<Vec<f32>>,
    /// The last server has said that it got to the end.
    pub(super) confirmed: bool,
    pub(super) fault: Option<SpanError>,
    /// When it got on last.
    pub(super) progress: Instant,
    /// When it was sent again last, because it did not.
    pub(super) retried: Instant,
    /// Where the servers stood when they were looked at last.
    pub(super) stood: Vec<Standing>,
}

impl Awaited {
    pub(super) fn is_complete(&self) -> bool {
        self.confirmed && self.have == self.ends
    }

    /// Takes output in; `Some(false)` when some before it is missing, `None` when it makes no sense.
    pub(super) fn take(&mut self, rows: &Rows, body: &[u8], wire: crate::Wire, width: usize) -> Option<bool> {
        if rows.revision != self.revision {
            return Some(true);
        }
        let sequences = self.ends.len();
        if rows.starts.len() != sequences || rows.lengths.len() != sequences {
            return None;
        }
        let values = codes::decode(wire, body, rows.tokens(), width)?;
        let mut row = 0;
        for sequence in 0..sequences {
            let (start, length) = (rows.starts[sequence], rows.lengths[sequence]);
            let (have, end) = (self.have[sequence], start.saturating_add(length));
            if start > have {
                return Some(false);
            }
            if end > self.ends[sequence] {
                return None;
            }
            if end > have {
                let first = row + (have - start) as usize;
                self.rows[sequence].extend_from_slice(values.slice(first..row + length as usize).data());
                self.have[sequence] = end;
            }
            row += length as usize;
        }
        self.confirmed |= rows.ends().zip(&self.ends).all(|(end, &wanted)| end >= wanted);
        self.progress = Instant::now();
        Some(true)
    }

    /// An error with the number of a token among the rows of the whole step, which a server knows a part of.
    pub(super) fn place(&self, error: SpanError, starts: &[u32], lengths: &[u32]) -> SpanError {
        let of_step = |token: usize| {
            let mut token = token;
            let mut before = 0;
            for sequence in 0..self.starts.len() {
                let length = lengths.get(sequence).copied().unwrap_or(0) as usize;
                if token < length {
                    let position = starts.get(sequence).copied().unwrap_or(0) as usize + token;
                    return before + position.saturating_sub(self.starts[sequence] as usize);
                }
                token -= length;
                before += (self.ends[sequence] - self.starts[sequence]) as usize;
            }
            token
        };
        match error {
            SpanError::NotFinite { block, token } => SpanError::NotFinite { block, token: of_step(token) },
            SpanError::InputNotFinite { block, token } => SpanError::InputNotFinite { block, token: of_step(token) },
            other => other,
        }
    }
}
