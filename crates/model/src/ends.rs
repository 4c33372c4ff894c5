//! The ends of a model: token ids become hidden states, hidden states become logits.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bouquet_kernels::ops::elementwise;
use bouquet_kernels::{Cpu, Matrix, MatrixView, Weight};
use bouquet_span::{HiddenStates, Limits, Rounding};

use crate::checkpoint::{Checkpoint, TensorSource};
use crate::form::Form;
use crate::load::Loader;
use crate::norm::Norm;
use crate::quantize::{self, Job};
use crate::staging::Staging;
use crate::{Hash, ModelError, ModelSpec, OpenOptions, Result, families, gguf, hash};

/// Bytes of logits that [`LmHead::for_logits`] holds at a time.
pub const LOGIT_BYTES: usize = 64 << 20;

/// What the file of a GGUF file's ends is called.
const GGUF_NAME: &str = "ends.gguf";

/// Both ends: what a machine needs to use a model whose blocks run elsewhere.
#[derive(Clone, Debug)]
pub struct Ends {
    /// The model that they are of.
    pub spec: ModelSpec,
    /// What they are computed with.
    pub cpu: Arc<Cpu>,
    /// Ids to hidden states.
    pub embedding: Embedding,
    /// Hidden states to logits.
    pub head: LmHead,
}

/// The input end: rows of the embedding; led to the hidden size, joined by positions, normalized where the family does so.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// `[vocab_size, embedding_size]`.
    pub weight: Weight,
    /// `[hidden_size, embedding_size]`, where rows are not as wide as hidden states.
    pub projection: Option<Weight>,
    /// Learned positions, where the family has them.
    pub positions: Option<PositionTable>,
    /// BLOOM normalizes here.
    pub norm: Option<Norm>,
    /// What hidden states are rounded to on their way to the first block, as behind each block.
    pub rounding: Rounding,
}

/// A row for each position.
#[derive(Clone, Debug)]
pub struct PositionTable {
    /// `[offset + positions, hidden_size]`.
    pub weight: Weight,
    /// The row of position 0.
    pub offset: usize,
}

/// The output end: the final norm and the head.
#[derive(Clone, Debug)]
pub struct LmHead {
    /// The norm after the last block, where there is one.
    pub norm: Option<Norm>,
    /// `[embedding_size, hidden_size]`, where the head is not as wide as hidden states.
    pub projection: Option<Weight>,
    /// `[vocab_size, embedding_size]`; shares its bytes with the embedding where the head is tied.
    pub weight: Weight,
}

impl Ends {
    /// Opens those of a folder, of which the blocks may be missing.
    ///
    /// # Errors
    /// Whatever is missing, damaged or unknown, by name; [`ModelError::TooLarge`].
    pub fn open(folder: &Path, options: &OpenOptions) -> Result<Ends> {
        let form = Form::open(folder)?;
        let spec = families::spec_of(&form)?;
        let checkpoint = Checkpoint::of(form)?;
        options.check_memory(&checkpoint, &spec, true, 0..0, 0)?;
        Ends::from_source(&checkpoint, spec, options)
    }

    /// Those of a specification, from tensors wherever they are.
    ///
    /// # Errors
    /// As [`Network::from_source`](crate::Network::from_source), of these tensors alone.
    pub fn from_source(source: &dyn TensorSource, spec: ModelSpec, options: &OpenOptions) -> Result<Ends> {
        spec.stored.check(options.encoding)?;
        let loader = Loader { source, spec: &spec, encoding: Some((&options.cpu, options.encoding)) };
        let embedding = Embedding { rounding: options.rounding, ..loader.embedding()? };
        let head = loader.head(&embedding)?;
        Ok(Ends { spec, cpu: options.cpu.clone(), embedding, head })
    }
}

impl Ends {
    /// Writes the ends of a model, with its tokenizer and all else that belongs to texts, for a machine that has nothing of it:
    /// as a folder, of which a GGUF file's holds a GGUF file. Opened with [`Ends::open`] or [`Model::over`](crate::Model::over) in
    /// the same encoding they are these ends, bit for bit. Returns the path to open.
    ///
    /// # Errors
    /// [`ModelError::NotANewFolder`], [`ModelError::Busy`], [`ModelError::Write`]; whatever is wrong with the model. None leaves
    /// a folder under that name.
    pub fn write(model: &Path, options: &OpenOptions, target: &Path, limits: &Limits) -> Result<PathBuf> {
        let form = Form::open(model)?;
        let spec = families::spec_of(&form)?;
        spec.stored.check(options.encoding)?;
        let is_file = matches!(form, Form::Gguf(_));
        let source = Checkpoint::of(form)?;
        let job = Job { cpu: &options.cpu, source: &source, folder: model, target, limits };
        if !is_file {
            quantize::Plan::of_ends(&spec, &source, options.encoding)?.write(&job, &mut |_| ())?;
            return Ok(target.to_owned());
        }
        let staging = Staging::anew(target)?;
        let plan = gguf::Plan::of_ends(model)?;
        let file = staging.file(GGUF_NAME);
        match plan.write(&Job { target: &file, ..job }, &mut |_| ()) {
            Ok(()) => staging.finish()?,
            Err(error) => {
                staging.remove();
                return Err(error);
            }
        }
        Ok(target.join(GGUF_NAME))
    }

    /// What of a folder that [`write`](Self::write) made has to be opened: itself, or the GGUF file in it.
    pub fn path_in(folder: &Path) -> PathBuf {
        let file = folder.join(GGUF_NAME);
        if file.exists() { file } else { folder.to_owned() }
    }

    /// Their hash, computed from the weights as they are held here.
    pub fn hash(&self) -> Hash {
        hash::of_ends(self, &|_| ())
    }
}

impl Embedding {
    /// The hidden states of packed sequences.
    ///
    /// # Errors
    /// [`ModelError::TokenId`] for an id outside of the vocabulary, [`ModelError::EmbeddingNotFinite`] for one whose
    /// row is damaged.
    pub fn embed(&self, cpu: &Cpu, sequences: &[&[u32]]) -> Result<HiddenStates> {
        self.embed_after(cpu, None, sequences)
    }

    /// The hidden states of packed sequences, each behind the rows of `prompt`, `[prompt tokens, hidden_size]`: they take
    /// part as rows of the embedding would, before positions and norm.
    ///
    /// # Errors
    /// As [`embed`](Self::embed). Panics when the prompt has another width.
    pub fn embed_after(&self, cpu: &Cpu, prompt: Option<&Matrix>, sequences: &[&[u32]]) -> Result<HiddenStates> {
        self.embed_all(cpu, prompt, &vec![0; sequences.len()], sequences)
    }

    /// The hidden states of what packed sequences go on with, each from the position in `starts`.
    ///
    /// # Errors
    /// As [`embed`](Self::embed), and [`ModelError::Position`] beyond the last one of a table. Panics when there are not as
    /// many starts as sequences.
    pub fn embed_at(&self, cpu: &Cpu, starts: &[usize], sequences: &[&[u32]]) -> Result<HiddenStates> {
        assert_eq!(starts.len(), sequences.len(), "positions to start from, and sequences");
        self.embed_all(cpu, None, starts, sequences)
    }

    fn embed_all(
        &self,
        cpu: &Cpu,
        prompt: Option<&Matrix>,
        starts: &[usize],
        sequences: &[&[u32]],
    ) -> Result<HiddenStates> {
        let mut values = cpu.timed("embedding", || self.rows(cpu, &sequences.concat()))?;
        let prompt_tokens = prompt.map_or(0, Matrix::rows);
        if let Some(prompt) = prompt {
            values = behind(prompt, &values, sequences);
        }
        let lengths: Vec<usize> = sequences.iter().map(|ids| prompt_tokens + ids.len()).collect();
        if let Some(positions) = &self.positions {
            elementwise::add(cpu, positions.rows(cpu, starts, &lengths)?.view(), values.view_mut());
        }
        if let Some(norm) = &self.norm {
            values = norm.forward(cpu, values.view());
        }
        self.rounding.apply(cpu, values.view_mut());
        let hidden = HiddenStates::new(values, lengths)?;
        match elementwise::first_row_not_finite(cpu, hidden.values().view()) {
            None => Ok(hidden),
            Some(row) => {
                let (sequence, rows) =
                    hidden.rows().enumerate().find(|(_, rows)| rows.contains(&row)).expect("its rows");
                let id = (row - rows.start).checked_sub(prompt_tokens).map(|token| sequences[sequence][token]);
                Err(id.map_or(ModelError::PromptNotFinite, |id| ModelError::EmbeddingNotFinite { id }))
            }
        }
    }

    /// The rows of some tokens, `[ids, hidden_size]`, before positions and norm: what a soft prompt can begin with.
    ///
    /// # Errors
    /// [`ModelError::TokenId`] for an id outside of the vocabulary.
    pub fn rows(&self, cpu: &Cpu, ids: &[u32]) -> Result<Matrix> {
        let vocab_size = self.weight.rows();
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(ModelError::TokenId { id: id.into(), vocab_size });
        }
        let mut values = Matrix::unset(ids.len(), self.weight.cols());
        self.weight.gather(cpu, ids, values.view_mut());
        Ok(project(cpu, self.projection.as_ref(), values))
    }

    /// The gradient for `prompt` from that of [`embed_after`](Self::embed_after): for each sequence one, summed over the
    /// sequences of a leaf by the caller. `gradient` are the rows of one sequence, of which the first are the prompt's.
    pub fn prompt_backward(&self, cpu: &Cpu, prompt: &Matrix, gradient: MatrixView<'_>) -> Matrix {
        let gradient = gradient.slice(0..prompt.rows());
        match &self.norm {
            Some(norm) => norm.backward(cpu, prompt.view(), gradient),
            None => gradient.to_matrix(),
        }
    }
}

impl PositionTable {
    /// The rows of some positions from each start on, `[sum of lengths, hidden_size]`.
    fn rows(&self, cpu: &Cpu, starts: &[usize], lengths: &[usize]) -> Result<Matrix> {
        let known = self.weight.rows().saturating_sub(self.offset);
        let mut places = Vec::new();
        for (&start, &length) in starts.iter().zip(lengths) {
            if length > known.saturating_sub(start) {
                return Err(ModelError::Position { position: start.max(known), known });
            }
            places.extend((start..start + length).map(|position| (position + self.offset) as u32));
        }
        let mut rows = Matrix::unset(places.len(), self.weight.cols());
        self.weight.gather(cpu, &places, rows.view_mut());
        Ok(rows)
    }
}

/// `x Wᵀ`, or `x` where nothing leads from one width to another.
fn project(cpu: &Cpu, projection: Option<&Weight>, x: Matrix) -> Matrix {
    let Some(weight) = projection else { return x };
    let mut y = Matrix::unset(x.rows(), weight.rows());
    weight.product(cpu, x.view(), None, y.view_mut());
    y
}

/// `values`, packed sequences, each behind the rows of `prompt`.
fn behind(prompt: &Matrix, values: &Matrix, sequences: &[&[u32]]) -> Matrix {
    let mut joined = Matrix::zeros(0, values.cols());
    let mut first = 0;
    for ids in sequences {
        joined.push_rows(prompt.view());
        joined.push_rows(values.slice(first..first + ids.len()));
        first += ids.len();
    }
    joined
}

impl LmHead {
    /// What the head reads: the final norm, and the matrix to the head's width where there are such,
    /// `[tokens, hidden_size]` to `[tokens, embedding_size]`. Embeddings of sentences are pooled from this.
    pub fn normalize(&self, cpu: &Cpu, hidden: MatrixView<'_>) -> Matrix {
        let normalized = self.norm.as_ref().map_or_else(|| hidden.to_matrix(), |norm| norm.forward(cpu, hidden));
        project(cpu, self.projection.as_ref(), normalized)
    }

    /// Logits `[tokens, vocab_size]` of hidden states that are normalized already.
    pub fn project(&self, cpu: &Cpu, normalized: MatrixView<'_>) -> Matrix {
        cpu.timed("product head", || {
            let mut logits = Matrix::unset(normalized.rows(), self.weight.rows());
            self.weight.product(cpu, normalized, None, logits.view_mut());
            logits
        })
    }

    /// Calls `work` with the logits of some rows at a time, of hidden states that are normalized already, in order: the
    /// number of the first row, and `[rows, vocab_size]`. Those of many tokens at once would be larger than many a model.
    ///
    /// # Errors
    /// The first of `work`, which is then not called again.
    pub fn for_logits<E>(
        &self,
        cpu: &Cpu,
        normalized: MatrixView<'_>,
        mut work: impl FnMut(usize, MatrixView<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let at_a_time = (LOGIT_BYTES / 4 / self.weight.rows().max(1)).max(1);
        for first in (0..normalized.rows()).step_by(at_a_time) {
            let rows = first..normalized.rows().min(first + at_a_time);
            work(first, self.project(cpu, normalized.slice(rows)).view())?;
        }
        Ok(())
    }

    /// Logits `[tokens, vocab_size]` of the last block's output.
    pub fn logits(&self, cpu: &Cpu, hidden: MatrixView<'_>) -> Matrix {
        self.project(cpu, self.normalize(cpu, hidden).view())
    }

    /// The gradient for `normalized` from that of [`project`](Self::project).
    pub fn project_backward(&self, cpu: &Cpu, d_logits: MatrixView<'_>) -> Matrix {
        let mut gradient = Matrix::unset(d_logits.rows(), self.weight.cols());
        self.weight.product_backward(cpu, d_logits, gradient.view_mut());
        gradient
    }

    /// The gradient for `hidden` from that of [`normalize`](Self::normalize).
    pub fn normalize_backward(&self, cpu: &Cpu, hidden: MatrixView<'_>, gradient: MatrixView<'_>) -> Matrix {
        let mut d_normalized = gradient.to_matrix();
        if let Some(weight) = &self.projection {
            d_normalized = Matrix::unset(gradient.rows(), weight.cols());
            weight.product_backward(cpu, gradient, d_normalized.view_mut());
        }
        match &self.norm {
            Some(norm) => norm.backward(cpu, hidden, d_normalized.view()),
            None => d_normalized,
        }
    }
}
