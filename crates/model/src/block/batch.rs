//! Who the packed rows of a call belong to. Several requests can share one call (sessions stepped together), each with
//! its own adapter; a row knows its request, its place in its sequence, and the leaf that its gradients go to.

use std::ops::Range;

use bouquet_kernels::ops::dropout::{DropoutRow, dropout};
use bouquet_kernels::ops::rope::Angles;
use bouquet_kernels::{Cpu, Matrix, MatrixViewMut};
use bouquet_span::adapter::LeafGrad;
use bouquet_span::{LinearId, LowRank, Pass, Site};

use crate::spec::Positions;

/// What every part of a block is called with: who computes, in which block, for whose rows.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    /// Instruction set and threads.
    pub(crate) cpu: &'a Cpu,
    /// The block's number, counted from the start of the model.
    pub(crate) block: usize,
    /// The rows.
    pub(crate) batch: &'a Batch<'a>,
}

/// One call's rows, the same for all blocks.
pub(crate) struct Batch<'a> {
    /// What came with each request.
    pub(crate) requests: Vec<Request<'a>>,
    /// The sequences of all requests, in order of their rows.
    pub(crate) sequences: Vec<SequenceRows>,
    /// Each row.
    pub(crate) tokens: Vec<Token>,
    /// Rotations of each row, where positions rotate.
    pub(crate) angles: Option<Angles>,
}

/// One request: its rows, and what it brought.
pub(crate) struct Request<'a> {
    /// Its rows, over all its sequences.
    pub(crate) rows: Range<usize>,
    /// Adapter, prompts, dropout, rounding.
    pub(crate) pass: &'a Pass,
}

/// One sequence with at least one token in this call.
pub(crate) struct SequenceRows {
    /// Its rows.
    pub(crate) rows: Range<usize>,
    /// Position of its first row.
    pub(crate) start: usize,
}

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// Which request.
    pub(crate) request: usize,
    /// Which leaf of the request.
    pub(crate) leaf: usize,
    /// Which sequence of the request.
    pub(crate) sequence: usize,
    /// Its position in the sequence.
    pub(crate) position: usize,
}

impl<'a> Call<'a> {
    /// The linear at a site of this block.
    pub(crate) fn linear(&self, site: Site) -> LinearId {
        LinearId::new(self.block, site)
    }

    /// Whether a request brought a low-rank pair for the linear at a site of this block.
    pub(crate) fn adapts(&self, site: Site) -> bool {
        (0..self.batch.requests.len()).any(|request| self.batch.low_rank(request, self.linear(site)).is_some())
    }

    /// Each row.
    pub(crate) fn tokens(&self) -> &'a [Token] {
        &self.batch.tokens
    }
}

impl<'a> Batch<'a> {
    /// Packs requests one after another. Each comes with the length of each of its sequences and the position at
    /// which that begins; sequences without tokens have no rows.
    pub(crate) fn new(requests: &[(&'a Pass, &[usize], &[usize])], positions: &Positions) -> Self {
        let mut batch = Batch { requests: Vec::new(), sequences: Vec::new(), tokens: Vec::new(), angles: None };
        for (request, &(pass, lengths, starts)) in requests.iter().enumerate() {
            let first_row = batch.tokens.len();
            for (sequence, (&length, &start)) in lengths.iter().zip(starts).enumerate() {
                let row = batch.tokens.len();
                let leaf = sequence / pass.leaf.max(1);
                batch.tokens.extend((start..start + length).map(|position| Token {
                    request,
                    leaf,
                    sequence,
                    position,
                }));
                if length > 0 {
                    batch.sequences.push(SequenceRows { rows: row..row + length, start });
                    let reserved = pass.reserved_tokens.unwrap_or(start + length);
                    batch.push_angles(positions, start..start + length, reserved);
                }
            }
            batch.requests.push(Request { rows: first_row..batch.tokens.len(), pass });
        }
        batch
    }

    /// The angles of one sequence's rows, where positions rotate; `reserved` is the length that it may grow to.
    fn push_angles(&mut self, positions: &Positions, rows: Range<usize>, reserved: usize) {
        let Positions::Rope(rope) = positions else { return };
        let more = Angles::new(&rows.collect::<Vec<_>>(), &rope.frequencies(reserved), rope.scaling());
        match &mut self.angles {
            Some(angles) => angles.append(&more),
            None => self.angles = Some(more),
        }
    }

    /// The low-rank pair that a request brought for a linear.
    pub(crate) fn low_rank(&self, request: usize, linear: LinearId) -> Option<&LowRank> {
        self.requests[request].pass.adapter.as_ref()?.pairs.get(&linear)
    }

    /// Drops channels of an adapter's input, where the requests train with dropout. `x` has a row for each of `tokens`.
    pub(crate) fn drop_channels(&self, cpu: &Cpu, linear: LinearId, tokens: &[Token], x: MatrixViewMut<'_>) {
        cpu.for_each_row(x, |row, channels| {
            let token = tokens[row];
            let pass = self.requests[token.request].pass;
            let rate = pass.adapter.as_ref().map_or(0.0, |adapter| adapter.dropout);
            if let Some(key) = pass.dropout
                && rate > 0.0
            {
                let place = DropoutRow {
                    seed: key.seed,
                    step: key.step,
                    view: key.view,
                    sequence: key.first_sequence + token.sequence as u64,
                    position: token.position as u64,
                    linear: linear.counter(),
                };
                dropout(cpu, place, rate, channels);
            }
        });
    }

    /// Adds each request's deep prompts of a block to its first positions.
    pub(crate) fn add_prompts(&self, block: usize, hidden: &mut Matrix) {
        for request in &self.requests {
            let Some(prompt) = request.pass.prompts.as_ref().and_then(|prompts| prompts.blocks.get(&block)) else {
                continue;
            };
            for row in request.rows.clone() {
                let position = self.tokens[row].position;
                if position < prompt.rows() {
                    hidden.row_mut(row).iter_mut().zip(prompt.row(position)).for_each(|(value, more)| *value += more);
                }
            }
        }
    }

    /// The gradients of what [`add_prompts`](Self::add_prompts) added, summed token by token into the leaf of each.
    pub(crate) fn add_prompt_gradients(&self, block: usize, gradient: &Matrix, leaves: &mut [LeafGrad]) {
        for (row, token) in self.tokens.iter().enumerate() {
            let prompts = self.requests[token.request].pass.prompts.as_ref();
            let Some(prompt) = prompts.and_then(|prompts| prompts.blocks.get(&block)) else { continue };
            if token.position < prompt.rows() {
                let sum = leaves[token.leaf].prompts.get_mut(&block).expect("leaves begin with a zero for each prompt");
                sum.row_mut(token.position).iter_mut().zip(gradient.row(row)).for_each(|(sum, more)| *sum += more);
            }
        }
    }

    /// Rounds each request's rows as it asked.
    pub(crate) fn round(&self, cpu: &Cpu, hidden: &mut Matrix) {
        for request in &self.requests {
            request.pass.rounding.apply(cpu, hidden.slice_mut(request.rows.clone()));
        }
    }
}

/// Ranges of rows that share what `key` tells of them, in order.
pub(crate) fn runs<K: PartialEq>(tokens: &[Token], key: impl Fn(&Token) -> K) -> Vec<(K, Range<usize>)> {
    let mut runs: Vec<(K, Range<usize>)> = Vec::new();
    for (row, token) in tokens.iter().enumerate() {
        let value = key(token);
        match runs.last_mut() {
            Some((last, rows)) if *last == value => rows.end = row + 1,
            _ => runs.push((value, row..row + 1)),
        }
    }
    runs
}
