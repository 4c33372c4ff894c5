//! `bouquet search`: the texts of an embedded file that are nearest to a query.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use bouquet_embed::search::{Hit, Nearest};
use bouquet_embed::texts::Texts;
use bouquet_embed::vectors::{Label, VectorFormat, VectorReader, npy::Table};
use bouquet_kernels::{Cpu, MatrixView};
use bouquet_model::Encoding;
use serde_json::{Value, json};

use self::index::{Index, MANY_VECTORS};
use super::embed::{text_format, vector_format};
use crate::compute::ComputeArgs;
use crate::embedding::{Embedding, EmbeddingArgs};
use crate::errors::{asked_wrongly, wrong};
use crate::interrupt::Work;
use crate::open::{encoding_names, or_usual};
use crate::swarm::WaitArgs;
use crate::{hub, output};

mod index;

/// What was typed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SearchArgs {
    /// The file of vectors, as embed writes it: .jsonl, .npy or .parquet
    vectors: PathBuf,
    /// What to look for
    #[arg(required = true)]
    query: Vec<String>,
    /// Folder or GGUF file of the model that the vectors are of, or its name on the hub
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    embedding: EmbeddingArgs,
    /// How many to find for each query
    #[arg(short = 'k', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    top: u16,
    /// Search by the index beside the vectors (.npy); build it first where it is not there
    #[arg(long, conflicts_with = "exact")]
    index: bool,
    /// Compare all vectors, whether there is an index or not
    #[arg(long)]
    exact: bool,
    /// The texts that the vectors are of, for files that lack them (.npy)
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Read the texts as JSON lines, and take them from this field [default: text, in files that end with .jsonl]
    #[arg(long, value_name = "NAME", requires = "texts")]
    field: Option<String>,
    /// What weights are held in and computed with [default: codes and blocks as stored, floats in int8]
    #[arg(long, value_parser = encoding_names())]
    encoding: Option<Encoding>,
    #[command(flatten)]
    waiting: WaitArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  bouquet search vectors.jsonl \"two cats\" --model MODEL
  bouquet search vectors.npy \"two cats\" \"deux chats\" --model MODEL --texts sentences.txt -k 3
  bouquet search vectors.npy \"two cats\" --model MODEL --texts sentences.txt --index

Give the model, adapter, pooling, encoding and wire that the vectors were made with. Scores are cosines. All
vectors are compared, a block at a time, so that the file may be larger than the memory. For many searches
in many vectors, --index builds an index once, FILE.npy.hnsw: it finds nearly always the same, in a few
milliseconds, and is used from then on where there are 100,000 vectors or more.";

/// A search that takes longer than this could do with an index.
const NOTICEABLE: Duration = Duration::from_millis(300);

/// Characters of a text that are shown in a terminal.
const SHOWN_CHARS: usize = 100;

pub(crate) fn run(args: SearchArgs) -> Result<()> {
    let format = vector_format(&args.vectors)?;
    if args.index && format != VectorFormat::Npy {
        let message = format!("{} cannot have an index, only .npy can", args.vectors.display());
        return Err(asked_wrongly(
            message,
            "write the vectors with embed -o FILE.npy, and give their texts with --texts",
        ));
    }
    let reader = VectorReader::open(&args.vectors, format)?;
    let folder = hub::folder_or_ends(args.model.clone(), &args.waiting.into())?;
    let encoding = or_usual(args.encoding, &folder)?;
    let embedding = Embedding::open(&folder, &args.embedding, args.compute.cpu()?, encoding)?;
    let work = Work::begin();
    let (queries, _) = embedding.embed(&args.query, &work, &mut |_| ())?;
    let start = Instant::now();
    let Found { mut hits, vectors, approximate } = find(&args, reader, &embedding.model.cpu, queries.view(), &work)?;
    let time = start.elapsed();
    drop(work);
    if let Some(path) = &args.texts {
        let texts = Texts::open(path, text_format(path, args.field.as_deref()))?;
        label(&mut hits, texts, vectors, &path.display().to_string())?;
    }
    if args.json {
        return output::json(&as_json(&args.query, &hits, vectors, approximate));
    }
    for (query, found) in args.query.iter().zip(&hits) {
        if hits.len() > 1 {
            let style = output::stdout_style();
            output::line(&format!("{}{}{}", style.strong, one_line(query), style.plain))?;
        }
        output::write(&lines(found))?;
    }
    let (shown, took) = (output::grouped(vectors as u64), output::seconds(time));
    output::note(&match approximate {
        true => format!("{shown} vectors searched by their index in {took}: approximate, --exact compares all"),
        false => format!("{shown} vectors compared in {took}"),
    });
    if !approximate && !args.exact && vectors >= MANY_VECTORS && time > NOTICEABLE && format == VectorFormat::Npy {
        output::note("hint: --index builds an index once, and searches take milliseconds from then on");
    }
    Ok(())
}

/// What was found.
struct Found {
    /// For each query.
    hits: Vec<Vec<Hit>>,
    /// Those that were searched in.
    vectors: usize,
    /// Whether the nearest may be missing.
    approximate: bool,
}

/// Searches by the index or compares all, as asked.
fn find(args: &SearchArgs, reader: VectorReader, cpu: &Cpu, queries: MatrixView<'_>, work: &Work) -> Result<Found> {
    if matches!(reader, VectorReader::Npy(_)) && !args.exact {
        let table = Table::open(&args.vectors)?;
        fitting(args, table.cols(), queries)?;
        let index = match table.rows() {
            0 => None,
            _ if args.index => Some(Index::open_or_build(&args.vectors, table, cpu, work)?),
            _ => Index::of_many(&args.vectors, table)?,
        };
        if let Some(index) = index {
            let hits = index.search(cpu, queries, args.top.into())?;
            return Ok(Found { hits, vectors: index.rows(), approximate: true });
        }
    }
    compare(args, reader, cpu, queries, work)
}

/// Refuses vectors of another length than the model's.
fn fitting(args: &SearchArgs, cols: usize, queries: MatrixView<'_>) -> Result<()> {
    if cols == queries.cols() {
        return Ok(());
    }
    let shown = args.vectors.display();
    let message = format!("the vectors of {shown} have {cols} numbers, those of the model {}", queries.cols());
    Err(asked_wrongly(message, "give the model that they were made with"))
}

/// Compares all vectors.
fn compare(
    args: &SearchArgs,
    mut reader: VectorReader,
    cpu: &Cpu,
    queries: MatrixView<'_>,
    work: &Work,
) -> Result<Found> {
    let (mut nearest, mut progress) = (Nearest::new(queries, args.top.into()), output::Progress::new());
    while let Some(rows) = reader.next_rows()? {
        fitting(args, rows.vectors.cols(), queries)?;
        if work.cancel.is_cancelled() {
            return Err(bouquet_span::SpanError::Cancelled.into());
        }
        nearest.look(cpu, &rows);
        progress.show(&format!("{} vectors", output::grouped(nearest.looked_at() as u64)));
    }
    let vectors = nearest.looked_at();
    if vectors == 0 {
        return Err(wrong(
            format!("{} has no vectors", args.vectors.display()),
            "embed some texts first: bouquet embed MODEL FILE -o OUT",
        ));
    }
    Ok(Found { hits: nearest.into_hits(), vectors, approximate: false })
}

/// Takes the labels of what was found from texts, of which there must be as many as vectors.
fn label(found: &mut [Vec<Hit>], texts: Texts, vectors: usize, origin: &str) -> Result<()> {
    let mut wanted: BTreeMap<usize, Label> = BTreeMap::new();
    for hit in found.iter().flatten() {
        wanted.insert(hit.index, Label::default());
    }
    let mut count = 0;
    for (index, text) in texts.enumerate() {
        let text = text?;
        if let Some(label) = wanted.get_mut(&index) {
            *label = Label { id: text.id, text: Some(text.text) };
        }
        count = index + 1;
    }
    if count != vectors {
        let message = format!("{origin} has {count} texts, and there are {vectors} vectors");
        return Err(wrong(message, "give the file that the vectors were made from"));
    }
    for hit in found.iter_mut().flatten() {
        hit.label = wanted[&hit.index].clone();
    }
    Ok(())
}

fn as_json(queries: &[String], found: &[Vec<Hit>], vectors: usize, approximate: bool) -> Value {
    let hit = |hit: &Hit| {
        let mut object = json!({ "index": hit.index, "score": output::number(hit.score.into()) });
        if let Some(id) = &hit.label.id {
            object["id"] = json!(id);
        }
        if let Some(text) = &hit.label.text {
            object["text"] = json!(text);
        }
        object
    };
    let query = |(query, hits): (&String, &Vec<Hit>)| json!({ "query": query, "hits": hits.iter().map(hit).collect::<Vec<_>>() });
    let queries: Vec<Value> = queries.iter().zip(found).map(query).collect();
    json!({ "vectors": vectors, "approximate": approximate, "queries": queries })
}

/// A line a hit: its score, its number, what it is called, its text.
fn lines(hits: &[Hit]) -> String {
    let width = hits.iter().map(|hit| hit.index.to_string().len()).max().unwrap_or(0);
    let line = |hit: &Hit| {
        let Label { id, text } = &hit.label;
        let id = id.as_ref().map(|id| format!("  {}", one_line(&id.to_string()))).unwrap_or_default();
        let text = text.as_ref().map(|text| format!("  {}", one_line(text))).unwrap_or_default();
        format!("  {:.4}  {:>width$}{id}{text}\n", hit.score, hit.index)
    };
    hits.iter().map(line).collect()
}

/// What a terminal shows of a text: nothing of it may break the line or colour it.
fn one_line(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_CHARS).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() { format!("{plain}...") } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_lines_that_nothing_breaks() {
        let hit = |index, score, id: Option<&str>, text: &str| {
            let id = id.map(|id| bouquet_embed::texts::TextName::Text(id.to_owned()));
            Hit { index, score, label: Label { id, text: Some(text.to_owned()) } }
        };
        let shown = lines(&[hit(7, 0.5, Some("a"), "One\n\x1b[31mtwo"), hit(123, -0.25, None, &"x".repeat(101))]);
        let long = format!("{}...", "x".repeat(100));
        assert_eq!(shown, format!("  0.5000    7  a  One  [31mtwo\n  -0.2500  123  {long}\n"));
    }
}
