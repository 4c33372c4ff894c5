//! `bouquet forward`: logits and the hidden states between blocks, in a file, for those who look inside models.

use std::path::{Path, PathBuf};

use anyhow::Result;
use bouquet_generate::GenerateError;
use bouquet_kernels::MatrixView;
use bouquet_model::adapter::Learned;
use bouquet_model::checkpoint::Dtype;
use bouquet_model::checkpoint::write::{Planned, Writer};
use bouquet_model::{Encoding, Network, OpenOptions, Tokenizer};
use bouquet_span::{Limits, Pass};
use serde_json::json;

use crate::compute::ComputeArgs;
use crate::errors::{asked_wrongly, wrong};
use crate::interrupt::{HalfWritten, Work};
use crate::open::{AdapterArgs, WireArgs, encoding_names, open_network, options, or_f32};
use crate::swarm::InviteArgs;
use crate::{hub, input, output};

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ForwardArgs {
    /// Folder of the model, its GGUF file, or its name on the hub; or the invite of a swarm
    model: PathBuf,
    /// A sequence as text; can be given several times
    #[arg(long, required_unless_present = "token_ids", conflicts_with = "token_ids", allow_hyphen_values = true)]
    text: Vec<String>,
    /// Sequences as token ids: a JSON file with an array of arrays; needs no tokenizer.json
    #[arg(long, value_name = "FILE.json")]
    token_ids: Option<PathBuf>,
    /// What weights are held in and computed with; in f32, codes are decoded [default: f32; of an invite what its swarm does]
    #[arg(long, value_parser = encoding_names())]
    encoding: Option<Encoding>,
    #[command(flatten)]
    wire: WireArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    #[command(flatten)]
    invited: InviteArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// The safetensors file to write
    #[arg(short, long, value_name = "OUT.safetensors")]
    output: PathBuf,
    /// Print what was written as one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  bouquet forward MODEL --text \"The committee\" --text \"Eine Frau\" -o out.safetensors
  bouquet forward MODEL --token-ids ids.json --adapter ADAPTER -o out.safetensors

Written in f32, all sequences one after another: logits [tokens, vocab_size], and hidden.0 to
hidden.n [tokens, hidden_size]: 0 is the input of the first block, i the output of block i, and the
last one is after the final norm. lengths (i64) are the tokens of each sequence. Those of an adapter's
soft prompt come first in each, and are counted.";

/// Tokens that go through the blocks together, unless a sequence has more.
const TOKENS_AT_A_TIME: usize = 1024;

pub(crate) fn run(mut args: ForwardArgs) -> Result<()> {
    let given = args.token_ids.as_deref().map(read_token_ids).transpose()?;
    args.model = hub::folder_or_ends(args.model, &args.invited)?;
    let learned = args.adapter.open(&args.model)?;
    let mut file = Writer::create(&args.output)?;
    let _half_written = HalfWritten::begin(file.temporary_path());
    let encoding = or_f32(args.encoding, &args.model)?;
    let how = OpenOptions { rounding: args.wire.of(&args.model)?, ..options(args.compute.cpu()?, encoding) };
    let model = open_network(&args.model, &how)?;
    let sequences = match given {
        Some(sequences) => sequences,
        None => cut(&args.text, &Tokenizer::load(&args.model, model.spec.vocab_size)?)?,
    };
    check(&model, &learned, &sequences)?;

    let lengths: Vec<i64> = sequences.iter().map(|ids| (learned.prompt_tokens() + ids.len()) as i64).collect();
    let tokens = lengths.iter().sum::<i64>() as usize;
    let planned = plan(&model, sequences.len(), tokens);
    file.plan(&planned)?;
    file.write_i64("lengths", &lengths)?;
    let work = Work::begin();
    let limits = Limits { deadline: None, cancel: work.cancel.clone() };
    let pass = learned.with(Pass { limits: limits.clone(), ..Pass::default() });
    let (mut row, mut progress) = (0, output::Progress::new());
    for group in groups(&sequences, learned.prompt_tokens()) {
        progress.show(&format!("{row}/{tokens} tokens"));
        row += write_group(&model, &learned, group, row, &pass, &mut file)?;
    }
    drop(progress);
    limits.check()?;
    file.finish()?;
    report(&args, &how, &planned, &lengths)
}

/// The token ids of each text.
fn cut(texts: &[String], tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>> {
    let mut sequences = Vec::new();
    for text in texts {
        let ids = tokenizer.encode(text, true)?.ids;
        if ids.is_empty() {
            return Err(asked_wrongly(format!("--text {text:?} has no tokens"), "leave it out"));
        }
        sequences.push(ids);
    }
    Ok(sequences)
}

/// Computes sequences and writes their rows, the first of which is `row`; returns how many there were.
fn write_group(
    model: &Network,
    learned: &Learned,
    group: &[Vec<u32>],
    row: usize,
    pass: &Pass,
    file: &mut Writer,
) -> Result<usize> {
    let cpu = &model.cpu;
    let ids: Vec<&[u32]> = group.iter().map(Vec::as_slice).collect();
    let mut hidden = model.embedding.embed_after(cpu, learned.soft_prompt.as_ref(), &ids)?;
    let write = |file: &mut Writer, index: usize, values: MatrixView<'_>| {
        file.write_f32(&format!("hidden.{index}"), row * values.cols(), values.data())
    };
    for (index, block) in model.each_block.iter().enumerate() {
        write(file, index, hidden.values().view())?;
        hidden = block.forward(hidden, pass)?.0;
    }
    let normalized = model.head.normalize(cpu, hidden.values().view());
    write(file, model.each_block.len(), normalized.view())?;

    let vocab_size = model.spec.vocab_size;
    model.head.for_logits(cpu, normalized.view(), |first, logits| -> Result<()> {
        pass.limits.check()?;
        if let Some(place) = logits.data().iter().position(|logit| !logit.is_finite()) {
            return Err(GenerateError::LogitsNotFinite { token_id: place % vocab_size }.into());
        }
        Ok(file.write_f32("logits", (row + first) * vocab_size, logits.data())?)
    })?;
    Ok(normalized.rows())
}

/// The tensors of the file.
fn plan(model: &Network, sequences: usize, tokens: usize) -> Vec<Planned> {
    let last = model.each_block.len();
    let mut tensors = vec![
        Planned::new("lengths", Dtype::I64, &[sequences]),
        Planned::new("logits", Dtype::F32, &[tokens, model.spec.vocab_size]),
    ];
    let hidden = |index| {
        // The last is what the head reads.
        let channels = if index < last { model.spec.block.hidden_size } else { model.spec.embedding_size };
        Planned::new(format!("hidden.{index}"), Dtype::F32, &[tokens, channels])
    };
    tensors.extend((0..=last).map(hidden));
    tensors
}

/// Sequences that go through the blocks together, each behind so many tokens of a soft prompt.
fn groups(sequences: &[Vec<u32>], prompt_tokens: usize) -> Vec<&[Vec<u32>]> {
    let (mut groups, mut first, mut tokens) = (Vec::new(), 0, 0);
    for (index, ids) in sequences.iter().enumerate() {
        let length = prompt_tokens + ids.len();
        if index > first && tokens + length > TOKENS_AT_A_TIME {
            groups.push(&sequences[first..index]);
            (first, tokens) = (index, 0);
        }
        tokens += length;
    }
    groups.push(&sequences[first..]);
    groups
}

fn read_token_ids(path: &Path) -> Result<Vec<Vec<u32>>> {
    let bytes = input::read_file(path)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let message = format!("{} is not an array of arrays of token ids: {error}", path.display());
        wrong(message, "write it like [[5, 6, 7], [8, 9]]")
    })
}

/// Whether all sequences can be computed, before the first is.
fn check(model: &Network, learned: &Learned, sequences: &[Vec<u32>]) -> Result<()> {
    if sequences.is_empty() {
        return Err(wrong("there are no sequences", "give at least one, with at least one token"));
    }
    let vocab_size = model.spec.vocab_size;
    for (index, ids) in sequences.iter().enumerate() {
        if ids.is_empty() {
            return Err(wrong(format!("sequence {index} has no tokens"), "leave it out"));
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            let error = bouquet_model::ModelError::TokenId { id: id.into(), vocab_size };
            return Err(anyhow::Error::from(error).context(format!("in sequence {index}")));
        }
        let asked = learned.prompt_tokens() + ids.len();
        if let Some(limit) = model.spec.max_positions.filter(|&limit| asked > limit) {
            return Err(GenerateError::BeyondPositions { asked, limit }.into());
        }
    }
    // Before there are hidden states of any.
    let pass = learned.with(Pass::default());
    for group in groups(sequences, learned.prompt_tokens()) {
        let lengths: Vec<usize> = group.iter().map(|ids| learned.prompt_tokens() + ids.len()).collect();
        model.blocks.admit(&lengths, &pass)?;
    }
    Ok(())
}

fn report(args: &ForwardArgs, how: &OpenOptions, planned: &[Planned], lengths: &[i64]) -> Result<()> {
    let path = args.output.display().to_string();
    if args.json {
        let tensors: serde_json::Map<_, _> =
            planned.iter().map(|tensor| (tensor.name.clone(), json!(tensor.shape))).collect();
        return output::json(&json!({
            "output": path,
            "encoding": how.encoding.name(),
            "wire": how.rounding.name(),
            "lengths": lengths,
            "tensors": tensors,
        }));
    }
    let tokens: i64 = lengths.iter().sum();
    let last = planned.len() - 3;
    let sequences = output::counted(lengths.len(), "sequence");
    output::line(&format!(
        "{path}: {sequences}, {}, with logits, hidden.0 to hidden.{last}, lengths",
        output::tokens(tokens as usize)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_sequences_whole_and_in_order() {
        let sequences = [600, 400, 24, 1, 5000, 3].map(|length| vec![0; length]);
        let lengths: Vec<Vec<usize>> =
            groups(&sequences, 0).iter().map(|group| group.iter().map(Vec::len).collect()).collect();
        assert_eq!(lengths, [vec![600, 400, 24], vec![1], vec![5000], vec![3]]);
    }
}
