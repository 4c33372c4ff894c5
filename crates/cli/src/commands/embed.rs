//! `bouquet embed`: texts to vectors, in a file.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use bouquet_embed::text_embedder::Counts;
use bouquet_embed::texts::{Format, Text, Texts};
use bouquet_embed::vectors::{VectorFormat, VectorWriter};
use bouquet_model::Encoding;
use bouquet_model::families::load_spec;
use serde_json::json;

use crate::compute::ComputeArgs;
use crate::embedding::{Embedding, EmbeddingArgs, Settled, note_losses};
use crate::errors::{asked_wrongly, wrong};
use crate::interrupt::{HalfWritten, Work};
use crate::open::{encoding_names, or_usual, weight_bytes};
use crate::swarm::InviteArgs;
use crate::{hub, output, system};

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EmbedArgs {
    /// Folder of the model, its GGUF file, or its name on the hub; or the invite of a swarm
    model: PathBuf,
    /// The texts: a line each, or JSON lines; may be compressed with gzip; - is standard input
    file: PathBuf,
    /// The file to write: .jsonl, .npy or .parquet
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Read JSON lines, and take the texts from this field [default: text, in files that end with .jsonl]
    #[arg(long, value_name = "NAME")]
    field: Option<String>,
    #[command(flatten)]
    embedding: EmbeddingArgs,
    /// Make vectors 1 long [default: what the folders say]
    #[arg(long)]
    normalize: bool,
    /// What weights are held in and computed with [default: codes and blocks as stored, floats in int8]
    #[arg(long, value_parser = encoding_names())]
    encoding: Option<Encoding>,
    #[command(flatten)]
    invited: InviteArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Count the texts, say what would be written and what memory the weights take, and stop
    #[arg(long)]
    dry_run: bool,
    /// Print what was written as one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  bouquet embed MODEL sentences.txt -o vectors.npy
  bouquet embed MODEL texts.jsonl --field body -o vectors.parquet --normalize
  zcat texts.gz | bouquet embed MODEL - -o vectors.jsonl --adapter ADAPTER --pooling weightedmean

Vectors have the order of the texts, one for each: also for an empty line, whose vector is zeros unless the
tokenizer puts a token of its own around it. .npy has the vectors alone, in f32; .jsonl and .parquet have the
texts beside them, and the id of JSON lines that have one. Texts are read, computed and written a window at a
time, so that a file may be larger than the memory.

Folders of sentence-transformers (modules.json) say how to pool; --pooling goes before that. Where nobody
says it is mean, as in sentence-transformers. weightedmean counts later tokens more, which have seen more in
a causal model; lasttoken is for models that were trained so. Compare vectors of the same pooling only.";

/// Texts of a window, and their bytes, unless one text has more.
const WINDOW_TEXTS: usize = 4096;
const WINDOW_BYTES: usize = 4 << 20;

pub(crate) fn run(args: EmbedArgs) -> Result<()> {
    let format = vector_format(&args.output)?;
    let folder = hub::folder_or_ends(args.model.clone(), &args.invited)?;
    let encoding = or_usual(args.encoding, &folder)?;
    let mut texts = Texts::open(&args.file, text_format(&args.file, args.field.as_deref()))?;
    if args.dry_run {
        return tell(&args, &folder, encoding, format, texts);
    }
    // The first window before the model: what is wrong with the first line is said at once.
    let mut window = next_window(&mut texts)?;
    let mut embedding = Embedding::open(&folder, &args.embedding, args.compute.cpu()?, encoding)?;
    embedding.settled.normalize |= args.normalize;
    let mut file = VectorWriter::create(&args.output, format, embedding.features())?;
    let _half_written = HalfWritten::begin(file.temporary_path());
    let (work, start) = (Work::begin(), Instant::now());
    let (mut progress, mut counts) = (output::Progress::new(), Counts::default());
    while !window.is_empty() {
        let before = counts.texts;
        let (vectors, counted) = embedding.embed(&window, &work, &mut |done| {
            let (texts, seconds) = (before + done, start.elapsed().as_secs_f64());
            progress.show(&format!("{} texts, {:.1}/s", output::grouped(texts as u64), texts as f64 / seconds));
        })?;
        file.write(&window, vectors.view())?;
        counts += counted;
        window = next_window(&mut texts)?;
    }
    drop(progress);
    if counts.texts == 0 {
        return Err(wrong(format!("{} has no texts", args.file.display()), "give a file with a text a line"));
    }
    file.finish()?;
    drop(work);
    report(&args, &embedding, &counts, start.elapsed())
}

/// What the ending of a file asks for.
pub(super) fn vector_format(path: &Path) -> Result<VectorFormat> {
    VectorFormat::of_name(path).ok_or_else(|| {
        let message = format!("{} does not say how it holds vectors", path.display());
        asked_wrongly(message, "give a file that ends with .npy, .jsonl or .parquet")
    })
}

/// How a file holds texts, where a field was asked for or not.
pub(super) fn text_format(path: &Path, field: Option<&str>) -> Format {
    field.map_or_else(|| Format::of_name(path), |field| Format::Json { field: field.to_owned() })
}

/// The next texts, none behind the last.
fn next_window(texts: &mut Texts) -> Result<Vec<Text>> {
    let (mut window, mut bytes) = (Vec::new(), 0);
    while window.len() < WINDOW_TEXTS && bytes < WINDOW_BYTES {
        let Some(text) = texts.next().transpose()? else { break };
        bytes += text.text.len();
        window.push(text);
    }
    Ok(window)
}

/// Says what would be done.
fn tell(args: &EmbedArgs, folder: &Path, encoding: Encoding, format: VectorFormat, texts: Texts) -> Result<()> {
    let spec = load_spec(folder)?;
    let settled = Settled::of(folder, args.embedding.adapter.as_deref(), args.embedding.pooling, &spec, 0)?;
    let (mut count, mut text_bytes) = (0u64, 0u64);
    for text in texts {
        count += 1;
        text_bytes += text?.text.len() as u64;
    }
    let features = settled.features(&spec);
    let numbers = count * features as u64;
    // A number of JSON has some 12 characters.
    let bytes = match format {
        VectorFormat::Npy => 128 + 4 * numbers,
        VectorFormat::Parquet => text_bytes + 4 * numbers,
        VectorFormat::Json => text_bytes + 12 * numbers,
    };
    let (weights, available) = (weight_bytes(folder, &spec, encoding)?, system::available_memory_bytes());
    let normalize = args.normalize || settled.normalize;
    if args.json {
        return output::json(&json!({
            "output": args.output.display().to_string(),
            "texts": count,
            "dimensions": features,
            "pooling": settled.pooling.name(),
            "normalize": normalize,
            "max_tokens": settled.max_tokens,
            "encoding": encoding.name(),
            "wire": args.embedding.wire.of(folder)?.name(),
            "output_bytes": bytes,
            "weight_bytes": weights,
            "available_memory_bytes": available,
        }));
    }
    let length = if normalize { ", made 1 long" } else { "" };
    let facts = [
        ("texts", format!("{}, of at most {} each", output::grouped(count), output::tokens(settled.max_tokens))),
        ("vectors", format!("{} numbers, {} pooling{length}", spec.embedding_size, settled.pooling)),
        ("encoding", encoding.to_string()),
        ("output", format!("{}, about {}", args.output.display(), output::bytes(bytes))),
        ("weights", output::bytes(weights)),
        ("free memory", available.map_or_else(|| "unknown".to_owned(), output::bytes)),
    ];
    output::write(&output::table(&facts.map(|(name, fact)| vec![name.to_owned(), fact]), 2))
}

fn report(args: &EmbedArgs, embedding: &Embedding, counts: &Counts, time: Duration) -> Result<()> {
    let (path, seconds) = (args.output.display().to_string(), time.as_secs_f64());
    let Settled { pooling, max_tokens, normalize, .. } = embedding.settled;
    note_losses(counts, max_tokens);
    if args.json {
        return output::json(&json!({
            "output": path,
            "texts": counts.texts,
            "dimensions": embedding.features(),
            "pooling": pooling.name(),
            "normalize": normalize,
            "max_tokens": max_tokens,
            "encoding": embedding.encoding.name(),
            "wire": embedding.wire.name(),
            "tokens": counts.tokens,
            "cut": counts.cut,
            "empty": counts.empty,
            "seconds": seconds,
            "texts_per_sec": output::number(counts.texts as f64 / seconds),
            "tokens_per_sec": output::number(counts.tokens as f64 / seconds),
            "peak_memory_bytes": system::peak_memory_bytes(),
        }));
    }
    let (texts, numbers) = (output::grouped(counts.texts as u64), embedding.features());
    output::line(&format!(
        "{path}: {texts} vectors of {numbers} numbers, {pooling} pooling, in {}",
        embedding.encoding
    ))?;
    let peak = system::peak_memory_bytes().map(|peak| format!(", peak memory {}", output::bytes(peak)));
    output::note(&format!(
        "{}, {:.1} texts/s, {}{}",
        output::seconds(time),
        counts.texts as f64 / seconds,
        output::speed(Some(counts.tokens as f64 / seconds)),
        peak.unwrap_or_default()
    ));
    Ok(())
}
