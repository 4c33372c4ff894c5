//! Opening a model to embed texts with: what its folder, its adapter and the flags say together.

use std::path::{Path, PathBuf};

use anyhow::Result;
use bouquet_embed::sentence_transformers::Settings;
use bouquet_embed::text_embedder::Counts;
use bouquet_embed::{Dense, Embedder, TextEmbedder};
use bouquet_kernels::{Cpu, Matrix};
use bouquet_model::adapter::Learned;
use bouquet_model::families::load_spec;
use bouquet_model::{Encoding, Model, ModelSpec, OpenOptions, Pooling};
use bouquet_span::{Limits, Pass, Rounding};
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::errors::wrong;
use crate::interrupt::Work;
use crate::open::{WireArgs, learned, open, options};
use crate::output;

/// Tokens of a text where neither a folder nor the model has a limit.
const MAX_TOKENS: usize = 2048;

/// Texts that are embedded between two reports of progress: enough to find some of like length.
const PART_TEXTS: usize = 512;

/// How texts become vectors: flags of every command that embeds.
#[derive(clap::Args)]
pub(crate) struct EmbeddingArgs {
    /// Folder of an adapter, as PEFT writes them
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) pooling: PoolingArgs,
    #[command(flatten)]
    pub(crate) wire: WireArgs,
}

/// The same but for what has been learned on top.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct PoolingArgs {
    /// How the tokens of a text become one vector [default: what the folder of the adapter or of the model says, as
    /// sentence-transformers writes it, or mean]
    #[arg(long, value_name = "HOW", value_parser = pooling_names())]
    pooling: Option<Pooling>,
    /// Tokens of a text; what is beyond is dropped [default: what these folders say, or the model's positions]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    max_tokens: Option<u32>,
}

/// How texts become vectors, settled between flags, folders and the model.
pub(crate) struct Settled {
    pub(crate) pooling: Pooling,
    /// The linear map behind that.
    dense: Option<Dense>,
    pub(crate) max_tokens: usize,
    /// What is put before each text.
    prefix: String,
    /// Whether vectors are made 1 long.
    pub(crate) normalize: bool,
}

/// All that embeds but the model's weights: what can be wrong with it is known before they are loaded.
pub(crate) struct Prepared {
    pub(crate) folder: PathBuf,
    learned: Learned,
    settled: Settled,
}

/// A model that is ready to embed.
pub(crate) struct Embedding {
    pub(crate) model: Model,
    learned: Learned,
    pub(crate) settled: Settled,
    /// What weights are computed in.
    pub(crate) encoding: Encoding,
    /// What hidden states are rounded to.
    pub(crate) wire: Rounding,
}

/// The names of ways to pool, for a flag.
fn pooling_names() -> impl TypedValueParser<Value = Pooling> {
    let names = PossibleValuesParser::new(Pooling::ALL.map(Pooling::name));
    names.map(|name| name.parse().expect("the name of a pooling"))
}

impl Settled {
    /// For the model of a folder, and an adapter that puts so many tokens before each text.
    pub(crate) fn of(
        folder: &Path,
        adapter: Option<&Path>,
        pooling: PoolingArgs,
        spec: &ModelSpec,
        prompt_tokens: usize,
    ) -> Result<Self> {
        // What an adapter was trained with goes before what the model was made for.
        let of_adapter = adapter.map(Settings::read).transpose()?.flatten();
        let said = match of_adapter {
            Some(settings) => settings,
            None => Settings::read(folder)?.unwrap_or_default(),
        };
        let positions = spec.max_positions.map(|positions| positions.saturating_sub(prompt_tokens).max(1));
        let asked = pooling.max_tokens.map(|tokens| tokens as usize).or(said.max_tokens);
        let max_tokens = asked.or(positions).unwrap_or(MAX_TOKENS).min(positions.unwrap_or(usize::MAX));
        let Settings { pooling: usual, dense, normalize, prefix, .. } = said;
        let hidden_size = spec.embedding_size;
        if let Some(inputs) = dense.as_ref().map(|dense| dense.weight.cols()).filter(|&inputs| inputs != hidden_size) {
            let message = format!("the Dense step takes {inputs} channels, and the model has {hidden_size}");
            return Err(wrong(message, "give the model that it was made for"));
        }
        Ok(Settled { pooling: pooling.pooling.unwrap_or(usual), dense, max_tokens, prefix, normalize })
    }

    /// Numbers of a vector, of a model with these.
    pub(crate) fn features(&self, spec: &ModelSpec) -> usize {
        self.dense.as_ref().map_or(spec.embedding_size, |dense| dense.bias.len())
    }
}

impl Prepared {
    /// For the model of a folder.
    pub(crate) fn open(folder: &Path, adapter: Option<&Path>, pooling: PoolingArgs) -> Result<Self> {
        let spec = load_spec(folder)?;
        let learned = learned(adapter, &spec)?;
        let settled = Settled::of(folder, adapter, pooling, &spec, learned.prompt_tokens())?;
        Ok(Prepared { folder: folder.to_owned(), learned, settled })
    }

    /// With the model of the folder, which was opened so.
    pub(crate) fn with(self, model: Model, how: &OpenOptions) -> Embedding {
        let Prepared { learned, settled, .. } = self;
        Embedding { model, learned, settled, encoding: how.encoding, wire: how.rounding }
    }
}

impl Embedding {
    /// Opens the adapter, and the model of a folder.
    pub(crate) fn open(folder: &Path, args: &EmbeddingArgs, cpu: Cpu, encoding: Encoding) -> Result<Self> {
        let prepared = Prepared::open(folder, args.adapter.as_deref(), args.pooling)?;
        let options = OpenOptions { rounding: args.wire.of(folder)?, ..options(cpu, encoding) };
        Ok(prepared.with(open(folder, &options)?.model, &options))
    }

    /// Numbers of a vector.
    pub(crate) fn features(&self) -> usize {
        self.settled.features(&self.model.spec)
    }

    /// The vectors of texts, `[texts, features]`. `progress` is told how many are done.
    pub(crate) fn embed<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        work: &Work,
        progress: &mut dyn FnMut(usize),
    ) -> Result<(Matrix, Counts)> {
        let embedder = Embedder::new(&self.model, &self.learned, self.settled.pooling);
        let embedder = TextEmbedder {
            tokenizer: &self.model.tokenizer,
            embedder: Embedder { dense: self.settled.dense.as_ref(), ..embedder },
            max_tokens: self.settled.max_tokens,
            prefix: &self.settled.prefix,
            normalize: self.settled.normalize,
        };
        let pass = Pass { limits: Limits { deadline: None, cancel: work.cancel.clone() }, ..Pass::default() };
        let (mut vectors, mut counts) = (Matrix::zeros(0, self.features()), Counts::default());
        for part in texts.chunks(PART_TEXTS) {
            let embedded = embedder.embed(part, &pass)?;
            vectors.push_rows(embedded.vectors.view());
            counts += embedded.counts;
            progress(counts.texts);
        }
        Ok((vectors, counts))
    }
}

/// Says what of the texts was not embedded.
pub(crate) fn note_losses(counts: &Counts, max_tokens: usize) {
    let texts = |number: usize, one: &str, many: &str| match number {
        1 => format!("1 text {one}"),
        _ => format!("{} texts {many}", output::grouped(number as u64)),
    };
    if counts.cut > 0 {
        let cut = texts(counts.cut, "has", "have");
        output::note(&format!("{cut} more than {}: what is beyond was dropped", output::tokens(max_tokens)));
    }
    if counts.empty > 0 {
        output::note(&format!("{} no tokens: zeros", texts(counts.empty, "has", "have")));
    }
}
