//! What a run needs before its weights are loaded: settings, data as token ids, and what is learned in its shapes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use bouquet_embed::text_embedder::tokens;
use bouquet_hub::Name;
use bouquet_kernels::Matrix;
use bouquet_model::adapter::initial::soft_prompt;
use bouquet_model::adapter::{self, Learned, targets};
use bouquet_model::chat_template::{ChatTemplate, Clock};
use bouquet_model::{ModelSpec, Tokenizer, families, is_gguf};
use bouquet_span::{Prompts, Rounding, Site};
use bouquet_swarm::Invite;
use bouquet_tune::config::{Config, Kind, Objective};
use bouquet_tune::data::{
    self, BatchOptions, Batches, ColumnMap, ContinuationOptions, DataSet, Order, ReadOptions, Record, RecordKind,
    RowInfo,
};
use bouquet_tune::examples::{Sentences, Texts};
use bouquet_tune::gradient::Batch;
use bouquet_tune::parameters::tensors;
use bouquet_tune::rates;
use bouquet_tune::trainer::BatchSource;

use super::FinetuneArgs;
use super::evaluate::Held;
use super::settings::Draft;
use super::whiten;
use crate::errors::{asked_wrongly, wrong};
use crate::open::{WireArgs, or_usual};
use crate::{hub, output, swarm, system};

/// Records as token ids.
pub(super) enum Examples {
    Sentences(Sentences),
    Texts(Texts),
}

/// All that is known before weights are loaded.
pub(super) struct Prepared {
    pub(super) config: Config,
    /// Of the model.
    pub(super) folder: PathBuf,
    pub(super) spec: ModelSpec,
    pub(super) adapter_settings: adapter::Settings,
    /// What is learned, as it is before the first step.
    pub(super) learned: Learned,
    /// Of the records.
    pub(super) fingerprint: String,
    pub(super) examples: Examples,
    pub(super) held: Held,
    /// Sentences that embeddings are whitened by; empty where they are not.
    pub(super) whitened_by: Vec<Vec<u32>>,
    pub(super) batches: Batches,
}

/// Batches of a run.
pub(super) struct Source<'a> {
    examples: &'a Examples,
    pub(super) batches: Batches,
}

impl Prepared {
    pub(super) fn new(args: &FinetuneArgs, draft: &Draft) -> Result<Prepared> {
        let typed = draft.text("model").expect("a draft has a model").to_owned();
        let folder = match Invite::is_meant(&typed) {
            true => hub::folder_or_ends(PathBuf::from(&typed), &args.waiting.into())?,
            false => hub::folder_for(PathBuf::from(&typed), args.dry_run)?,
        };
        let spec = families::load_spec(&folder)?;
        let usual = spec.stored.usual();
        let of_swarm = swarm::of(&folder).is_some();
        if is_gguf(&folder) && !of_swarm && draft.text("encoding").is_none() {
            let more = "for faster gradients; --encoding stored keeps them";
            output::note(&format!(
                "blocks are encoded anew, in {usual}, a row at a time, which loses a little, {more}"
            ));
        }
        let mut config = draft.known(usual, &default_targets(&spec), spec.max_positions)?;
        config.model = found_again(&typed);
        if of_swarm {
            let asked = draft.text("encoding").is_some().then_some(config.encoding);
            config.encoding = or_usual(asked, &folder)?;
            let wire = Some(config.wire).filter(|&wire| wire != Rounding::None);
            config.wire = WireArgs { wire }.of(&folder)?;
        }
        config.check()?;
        spec.stored.check(config.encoding)?;
        check_length(&config, &spec)?;
        let (learned, adapter_settings) = initial(&mut config, &spec)?;
        rates::factors(&config.lr_group, &spec, &learned)?;

        let tokenizer = Tokenizer::load(&folder, spec.vocab_size)?;
        let template = match config.objective {
            Objective::Causal => ChatTemplate::load(&folder, Clock::at(ANY_DAY))?,
            _ => None,
        };
        let data = read(&config.data, columns(&config)?, &config, config.objective.records(), args.json)?;
        let (examples, rows) = examples(&data.records, &config, &tokenizer, template.as_ref(), &spec, args.json)?;
        let mut batches = batches(&config, rows)?;
        let steps_per_epoch = batches.steps_per_epoch(0).div_ceil(config.accumulation.max(1) as u64);
        let config = draft.complete(config, steps_per_epoch);
        let held = Held::read(&config, &tokenizer, template.as_ref(), &spec, args.json)?;
        let whitened_by = whiten::sentences(&config, &examples, &spec)?;
        let fingerprint = data.fingerprint_text();
        Ok(Prepared {
            config,
            folder,
            spec,
            adapter_settings,
            learned,
            fingerprint,
            examples,
            held,
            whitened_by,
            batches,
        })
    }

    /// Numbers that are learned.
    pub(super) fn parameters(&self) -> u64 {
        tensors(&self.learned).iter().map(|(_, matrix)| matrix.data().len() as u64).sum()
    }

    /// The batches of the run.
    pub(super) fn source(&self) -> Source<'_> {
        Source { examples: &self.examples, batches: self.batches.clone() }
    }
}

impl Source<'_> {
    /// Tokens of a batch, which is not made for that.
    pub(super) fn tokens(&mut self, number: u64) -> usize {
        let records = self.batches.batch(number).into_iter();
        match self.examples {
            Examples::Sentences(sentences) => records.map(|record| sentences.tokens(record)).sum(),
            Examples::Texts(texts) => records.map(|record| texts.sequences[record].len()).sum(),
        }
    }
}

impl BatchSource for Source<'_> {
    fn batch(&mut self, number: u64) -> (Batch, Vec<usize>) {
        let records = self.batches.batch(number);
        let batch = match self.examples {
            Examples::Sentences(sentences) => sentences.batch(&records),
            Examples::Texts(texts) => texts.batch(&records),
        };
        (batch, records)
    }
}

/// The linears that get a pair unless others are named: LoRA's own choice.
pub(crate) fn default_targets(spec: &ModelSpec) -> Vec<String> {
    targets::names_of(spec, [Site::Qkv, Site::Q, Site::V])
}

fn check_length(config: &Config, spec: &ModelSpec) -> Result<()> {
    let prompt = if config.kind == Kind::SoftPrompt { config.prompt_tokens } else { 0 };
    match spec.max_positions {
        Some(limit) if config.max_tokens.saturating_add(prompt) > limit => Err(asked_wrongly(
            format!("--max-tokens {} is beyond the {limit} positions that this model is made for", config.max_tokens),
            format!("give {} or less", limit - prompt.min(limit)),
        )),
        _ => Ok(()),
    }
}

/// A folder or a file by its absolute path, wherever the program is started next; a name as it is.
fn found_again(model: &str) -> String {
    match std::path::absolute(model) {
        Ok(path) if Path::new(model).exists() => path.display().to_string(),
        _ => model.to_owned(),
    }
}

/// What an adapter says that it is of: of a name the repository alone, since PEFT gives it to transformers as it is, and
/// which revision and which GGUF file are meant has no place in it.
///
/// Of an invite, which holds a key, what its founder calls the model.
fn base_model(model: &str) -> String {
    if let Ok(invite) = model.parse::<Invite>() {
        return base_model(&invite.model);
    }
    match Name::parse(model) {
        Some(name) if !Path::new(model).exists() => name.repository(),
        _ => model.to_owned(),
    }
}

/// What is learned before the first step, and how it is made. Of an adapter to begin with, `config` takes what it is.
fn initial(config: &mut Config, spec: &ModelSpec) -> Result<(Learned, adapter::Settings)> {
    if !config.init_adapter.is_empty() {
        let (mut learned, found) = Learned::open(Path::new(&config.init_adapter), spec)?;
        Arc::make_mut(&mut learned.low_rank).dropout = config.dropout;
        config.kind = match (learned.low_rank.pairs.is_empty(), &learned.soft_prompt) {
            (false, _) => Kind::Lora,
            (true, Some(_)) => Kind::SoftPrompt,
            (true, None) => Kind::DeepPrompt,
        };
        (config.rank, config.alpha, config.rslora) = (found.rank, found.alpha, found.rank_stabilized);
        config.targets = targets::names_of(spec, found.targets.iter().copied());
        let (task, base_model) = (config.objective.task(), base_model(&config.model));
        return Ok((learned, adapter::Settings { dropout: config.dropout, task, base_model, ..found }));
    }
    let names: Vec<&str> = config.targets.iter().map(String::as_str).collect();
    let sites = targets::parse(spec, &names).map_err(|name| {
        asked_wrongly(
            format!("the model has no linear that is called {name:?}"),
            format!("it has {}, and all of them are called all", targets::names(spec).join(", ")),
        )
    })?;
    let lora = config.kind == Kind::Lora;
    let settings = adapter::Settings {
        rank: if lora { config.rank } else { 0 },
        alpha: config.alpha,
        rank_stabilized: config.rslora,
        dropout: if lora { config.dropout } else { 0.0 },
        targets: if lora { sites } else { Vec::new() },
        task: config.objective.task(),
        base_model: base_model(&config.model),
    };
    let learned = match config.kind {
        Kind::Lora => Learned::initial(&settings, spec, config.seed)
            .map_err(|problem| asked_wrongly(problem, "give another --rank or --targets"))?,
        Kind::SoftPrompt => {
            let prompt = soft_prompt(config.prompt_tokens, spec, config.seed);
            Learned { soft_prompt: Some(prompt), ..Learned::default() }
        }
        Kind::DeepPrompt => {
            let zeros = Matrix::zeros(config.prompt_tokens, spec.block.hidden_size);
            let blocks = (0..spec.num_blocks).map(|block| (block, zeros.clone())).collect();
            Learned { deep_prompts: Arc::new(Prompts { blocks }), ..Learned::default() }
        }
    };
    Ok((learned, settings))
}

/// Which columns are which, as the settings say.
pub(super) fn columns(config: &Config) -> Result<ColumnMap> {
    Ok(if config.columns.is_empty() { ColumnMap::default() } else { ColumnMap::parse(&config.columns)? })
}

/// Reads records and says what was read as what, and what could not be used.
pub(super) fn read(
    paths: &[String],
    columns: ColumnMap,
    config: &Config,
    kind: RecordKind,
    quiet: bool,
) -> Result<DataSet> {
    let options = ReadOptions { columns, strict: config.strict, ..ReadOptions::new(kind) };
    let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
    let mut progress = output::Progress::new();
    let data = data::read_and_tell(&paths, &options, &mut |read| {
        let bytes = read
            .total
            .map_or_else(String::new, |total| format!(", {} of {}", output::bytes(read.bytes), output::bytes(total)));
        progress.show(&format!("reading {}{bytes}, {} records", read.file, output::grouped(read.records)));
    })?;
    drop(progress);
    if !quiet {
        for (file, readings) in &data.readings {
            let read: Vec<String> =
                readings.iter().map(|reading| format!("{} is {}", reading.column, reading.role)).collect();
            // A row of names that nobody knows is taken for one of texts.
            let by_position = readings.iter().all(|reading| reading.column.parse::<usize>().is_ok());
            let unnamed = if by_position { ", without names of columns that are known" } else { "" };
            output::note(&format!("{file}{unnamed}: {}", read.join(", ")));
        }
    }
    if data.bad_rows > 0 {
        let shown = data.bad.iter().take(3);
        let rows: Vec<String> = shown.map(ToString::to_string).collect();
        let more = data.bad_rows - rows.len() as u64;
        let more = if more == 0 { String::new() } else { format!(" (and {} more)", output::grouped(more)) };
        output::note(&format!("cannot be used: {}{more}", rows.join("; ")));
    }
    Ok(data)
}

/// Records as token ids, and what batches have to know of them.
fn examples(
    records: &[Record],
    config: &Config,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    spec: &ModelSpec,
    quiet: bool,
) -> Result<(Examples, Vec<RowInfo>)> {
    if config.objective == Objective::Causal {
        let texts = texts(records, config, tokenizer, template, spec)?;
        let rows = texts.lengths().into_iter().map(|length| RowInfo { length, keys: Vec::new() }).collect();
        return Ok((Examples::Texts(texts), rows));
    }
    let cut = sentences(records, config, tokenizer)?;
    if cut.cut > 0 && !quiet {
        output::note(&format!(
            "{} sentences were cut to {} tokens",
            output::grouped(cut.cut as u64),
            config.max_tokens
        ));
    }
    if cut.left_out > 0 {
        output::note(&format!("{} records have a text without tokens and are left out", cut.left_out));
    }
    let rows = cut.infos(records);
    Ok((Examples::Sentences(Sentences::new(cut, records, largest_score(records))), rows))
}

/// The date for chat templates that ask for one, in seconds: 26 July 2024, which those of Llama 3 write where nobody says.
/// That of today would make another run of each day's.
const ANY_DAY: i64 = 1_721_952_000;

pub(super) fn sentences(records: &[Record], config: &Config, tokenizer: &Tokenizer) -> Result<data::Sentences> {
    Ok(data::sentences(records, |texts| tokens(tokenizer, texts, config.max_tokens, system::threads()))?)
}

pub(super) fn texts(
    records: &[Record],
    config: &Config,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    spec: &ModelSpec,
) -> Result<Texts> {
    let Some(&end_of_text) = spec.eos_token_ids.first() else {
        return Err(wrong("the model has no end-of-text token", "name it in config.json, as eos_token_id"));
    };
    let options = ContinuationOptions {
        tokenizer,
        template,
        end_of_text,
        max_tokens: config.max_tokens,
        threads: system::threads(),
    };
    let made = data::continuations(records, &options)?;
    if made.cut > 0 {
        output::note(&format!("{} texts were cut to {} tokens", output::grouped(made.cut as u64), config.max_tokens));
    }
    let (sequences, learned) = made.sequences.into_iter().map(|one| (one.ids, one.learned)).unzip();
    Ok(Texts { sequences, learned })
}

/// What scores are divided by, so that the largest is a cosine of 1.
fn largest_score(records: &[Record]) -> f32 {
    let scores = records.iter().filter_map(|record| match record {
        Record::Scored { score, .. } => Some(*score),
        _ => None,
    });
    let largest = scores.fold(0.0, f32::max);
    if largest > 1.0 { largest } else { 1.0 }
}

fn batches(config: &Config, rows: Vec<RowInfo>) -> Result<Batches> {
    let contrastive = matches!(config.objective, Objective::Contrastive | Objective::Simcse);
    let options = BatchOptions {
        batch_size: config.batch_size,
        min_records: if contrastive { 2 } else { 1 },
        order: match (config.keep_order, config.objective) {
            (true, _) => Order::Kept,
            (false, Objective::Causal) => Order::Shuffled,
            (false, _) => Order::EvenLengths,
        },
        distinct: contrastive,
        seed: config.seed,
    };
    Ok(Batches::new(options, rows)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_is_of_a_repository_or_of_a_path() {
        for name in ["org/name", "org/name:Q4_K_M", "org/name@main:Q4_K_M", "https://huggingface.co/org/name"] {
            assert_eq!(base_model(name), "org/name");
        }
        for path in ["/models/a.gguf", "/models/a", "a.gguf"] {
            assert_eq!(base_model(path), path);
        }
        let file = std::env::current_dir().unwrap().join("Cargo.toml");
        assert_eq!(found_again("Cargo.toml"), file.display().to_string());
        assert_eq!(found_again("org/name:Q4_K_M"), "org/name:Q4_K_M");
    }
}
