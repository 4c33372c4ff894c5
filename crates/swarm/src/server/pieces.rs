//! A request without a session, computed in pieces: some of its sequences through some of the blocks at a time, so that
//! sessions on the same server get their turns in between. Blocks compose to spans and leaves to batches, with the same
//! bits however they are cut.

use std::ops::Range;
use std::sync::Arc;

use bouquet_kernels::Matrix;
use bouquet_span::{Gradient, HiddenStates, Keep, LeafGrad, Pass, PassGrad, Saved, Span, SpanError};

use super::Shared;
use super::passes::failed;
use crate::Refusal;

/// A backward does so many times the work of a forward, about.
pub(super) const BACKWARD: usize = 2;

/// What is still to be done of a request, as others are told ([`Load`](super::Load)), in tokens times blocks.
pub(super) struct Waits<'a> {
    shared: &'a Shared,
    left: u64,
}

impl<'a> Waits<'a> {
    pub(super) fn new(shared: &'a Shared, work: usize) -> Waits<'a> {
        let left = work as u64;
        shared.state().load.passes += left;
        Waits { shared, left }
    }

    fn done(&mut self, work: usize) {
        let done = self.left.min(work as u64);
        self.left -= done;
        self.shared.state().load.passes -= done;
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.shared.state().load.passes -= self.left;
    }
}

/// A request whose turn it is.
pub(super) struct Pieces<'a> {
    pub(super) shared: &'a Shared,
    pub(super) waits: Waits<'a>,
    pub(super) range: Range<usize>,
    pub(super) pass: Pass,
}

impl Pieces<'_> {
    /// The output; with a gradient for it, that for the input and those for what the pass carries.
    pub(super) async fn run(
        mut self,
        hidden: HiddenStates,
        gradient: Option<HiddenStates>,
    ) -> Result<(HiddenStates, Option<PassGrad>), Refusal> {
        let (lengths, width) = (hidden.lengths().to_vec(), hidden.hidden_size());
        let mut output = Matrix::zeros(0, width);
        let mut gradients = gradient.as_ref().map(|_| PassGrad::default());
        let mut row = 0;
        let times = if gradient.is_some() { BACKWARD } else { 1 };
        for sequences in self.cut(&lengths, times) {
            let lengths = &lengths[sequences.clone()];
            let rows = row..row + lengths.iter().sum::<usize>();
            let part = |states: &HiddenStates| {
                HiddenStates::new(states.values().slice(rows.clone()).to_matrix(), lengths.to_vec())
            };
            let (hidden, gradient) = (part(&hidden), gradient.as_ref().map(part).transpose());
            let done = self.some(hidden, gradient, sequences.start as u64, times).await;
            let (values, more) = done.map_err(|problem| problem.refusal(row))?;
            output.push_rows(values.values().view());
            if let (Some(gradients), Some(more)) = (&mut gradients, more) {
                gradients.leaves.extend(more.leaves);
            }
            row = rows.end;
        }
        let output = HiddenStates::new(output, lengths).map_err(|error| Refusal::Span(error.into()))?;
        Ok((output, gradients))
    }

    /// Sequences that are computed together: whole leaves, of no more tokens than one block gets through in a piece.
    fn cut(&self, lengths: &[usize], times: usize) -> Vec<Range<usize>> {
        let mut parts: Vec<(Range<usize>, usize)> = Vec::new();
        for leaf in self.pass.leaves(lengths.len()) {
            let tokens: usize = lengths[leaf.clone()].iter().sum();
            match parts.last_mut() {
                Some((last, before)) if times * (*before + tokens) <= self.most() => {
                    (last.end, *before) = (leaf.end, *before + tokens);
                }
                _ => parts.push((leaf, tokens)),
            }
        }
        parts.into_iter().map(|(sequences, _)| sequences).collect()
    }

    /// Tokens times blocks of a piece.
    fn most(&self) -> usize {
        self.shared.settings.chunk_tokens as usize * self.shared.blocks.range().len()
    }

    /// Some of the sequences, of which `first` is the first, through all of the blocks, and back with a gradient.
    async fn some(
        &mut self,
        hidden: Result<HiddenStates, SpanError>,
        gradient: Result<Option<HiddenStates>, SpanError>,
        first: u64,
        times: usize,
    ) -> Result<(HiddenStates, Option<PassGrad>), Problem> {
        let (mut hidden, gradient) = (hidden?, gradient?);
        let (tokens, sequences, back) = (hidden.tokens(), hidden.sequences(), gradient.is_some());
        let mut pass = self.pass.clone();
        if let Some(dropout) = &mut pass.dropout {
            dropout.first_sequence = dropout.first_sequence.saturating_add(first);
        }
        // What is kept on the way there is for the way back, so that both have the same pieces.
        let blocks = (self.most() / (times * tokens).max(1)).max(1);
        let mut kept: Vec<(Arc<dyn Span>, Saved)> = Vec::new();
        let mut room = self.shared.settings.pass_bytes;
        for start in self.range.clone().step_by(blocks) {
            let span = self.shared.blocks.span(start..self.range.end.min(start + blocks));
            let keep = if back { Keep::Activations { bytes: room } } else { Keep::Nothing };
            let (running, pass) = (span.clone(), Pass { keep, ..pass.clone() });
            let (output, saved) =
                self.piece(tokens, span.range().len(), move || running.forward(hidden, &pass)).await?;
            room = room.saturating_sub(saved.bytes());
            if back {
                kept.push((span, saved));
            }
            hidden = output;
        }
        let Some(mut gradient) = gradient else { return Ok((hidden, None)) };
        drop(hidden);
        let mut gradients = PassGrad { leaves: vec![LeafGrad::default(); pass.leaves(sequences).count()] };
        while let Some((span, saved)) = kept.pop() {
            let (blocks, pass) = (span.range().len(), pass.clone());
            let backward = move || span.backward(saved, gradient, &pass);
            let (input, more) = self.piece(BACKWARD * tokens, blocks, backward).await?;
            gradients.extend(more)?;
            gradient = input;
        }
        Ok((gradient, Some(gradients)))
    }

    /// One piece, in its turn.
    async fn piece<T: Send + 'static>(
        &mut self,
        tokens: usize,
        blocks: usize,
        job: impl FnOnce() -> Result<T, SpanError> + Send + 'static,
    ) -> Result<T, Problem> {
        let done = self.shared.piece(tokens, blocks, job).await.ok_or(Problem::Failed)?;
        self.waits.done(tokens * blocks);
        Ok(done?)
    }
}

/// Why there is no output.
enum Problem {
    Failed,
    Span(SpanError),
}

impl From<SpanError> for Problem {
    fn from(error: SpanError) -> Problem {
        Problem::Span(error)
    }
}

impl Problem {
    /// As it is told: with the number of a token among all of the request, of which so many are before these.
    fn refusal(self, before: usize) -> Refusal {
        let Problem::Span(mut error) = self else { return failed() };
        match &mut error {
            SpanError::NotFinite { token, .. }
            | SpanError::InputNotFinite { token, .. }
            | SpanError::GradientNotFinite {
                gradient: Gradient::Output { token } | Gradient::Input { token }, ..
            } => *token += before,
            _ => {}
        }
        Refusal::Span(error.into())
    }
}
