//! The program `bouquet`, where every room meets. This file is the table from command to function, and what becomes of
//! errors; a command is a file in `commands`: first what was typed, as clap reads it, then what it means.

#![forbid(unsafe_code)]

mod commands;
mod compute;
mod embedding;
mod errors;
mod hosting;
mod hub;
mod input;
mod interrupt;
mod limits;
mod open;
mod output;
mod swarm;
mod system;
mod tasks;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Run open language models on your own machine.
#[derive(Parser)]
#[command(name = "bouquet", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  bouquet demo                                   see it work, with the small model of the repository
  bouquet run MODEL \"Once upon a time\"           go on from a text, or answer it
  bouquet run MODEL                              talk to a model
  bouquet inspect MODEL                          what it is, and whether it fits
  bouquet quantize MODEL --encoding int8 -o DIR  the same in 8 bits
  bouquet convert MODEL -o model.gguf            the same as a GGUF file, or from one
  bouquet merge MODEL --adapter DIR -o DIR       the same with an adapter folded in
  bouquet embed MODEL texts.txt -o vectors.npy   texts to vectors, to search in or to learn from
  bouquet pull bigscience/bloom-560m             fetch it, or what is new of it
  bouquet join MODEL                             host its blocks together with others

A MODEL is a folder in the layout of Hugging Face (config.json, tokenizer.json, safetensors), a GGUF
file, or a name of the hub: org/name, org/name@revision, or org/name:Q4_K_M for one of its GGUF files.
What the cache lacks of it is fetched. Where others host one together (bouquet join), their invite
stands for the model.";

#[derive(Subcommand)]
enum Command {
    /// See it work, with the small model of the repository
    Demo(commands::demo::DemoArgs),
    /// Go on from a text, or talk to a model
    Run(commands::run::RunArgs),
    /// Measure how well a model predicts a text
    Perplexity(commands::perplexity::PerplexityArgs),
    /// Learn from your own texts, on top of a frozen model
    Finetune(Box<commands::finetune::FinetuneArgs>),
    /// Turn texts into vectors
    Embed(commands::embed::EmbedArgs),
    /// Find the texts that are nearest to a query
    Search(commands::search::SearchArgs),
    /// Measure how good embeddings are, on files of examples
    Eval(commands::eval::EvalArgs),
    /// Compare the embeddings of models and adapters, side by side
    Compare(commands::compare::CompareArgs),
    /// Say what a model is, and what it needs
    Inspect(commands::inspect::InspectArgs),
    /// Write a model's folder with weights in 8 bits or fewer
    Quantize(commands::quantize::QuantizeArgs),
    /// Write a model in another form: a folder, or a GGUF file
    Convert(commands::convert::ConvertArgs),
    /// Write a model's folder with an adapter folded into its weights
    Merge(commands::merge::MergeArgs),
    /// Fetch a model from the hub, or what is new of it
    Pull(commands::pull::PullArgs),
    /// Host some of a model's blocks, together with others
    Join(Box<commands::join::JoinArgs>),
    /// Look at a swarm
    Swarm(commands::swarm::SwarmArgs),
    /// Measure how fast a model runs here, beside the limits of the machine
    Bench(commands::bench::BenchArgs),
    /// Say what of this machine is used, how fast it is, and what stands in the way
    Doctor(commands::doctor::DoctorArgs),
    /// Write logits and hidden states to a file
    Forward(commands::forward::ForwardArgs),
    /// Print a completion script for a shell
    Completions(commands::completions::CompletionsArgs),
}

fn main() -> ExitCode {
    system::outlive_file_limit();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return errors::not_a_command(&error),
    };
    interrupt::install();
    errors::exit_code(|| match cli.command {
        Command::Demo(args) => commands::demo::run(args),
        Command::Run(args) => commands::run::run(args),
        Command::Perplexity(args) => commands::perplexity::run(args),
        Command::Finetune(args) => commands::finetune::run(*args),
        Command::Embed(args) => commands::embed::run(args),
        Command::Search(args) => commands::search::run(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Compare(args) => commands::compare::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Quantize(args) => commands::quantize::run(args),
        Command::Convert(args) => commands::convert::run(args),
        Command::Merge(args) => commands::merge::run(args),
        Command::Pull(args) => commands::pull::run(args),
        Command::Join(args) => commands::join::run(*args),
        Command::Swarm(args) => commands::swarm::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Doctor(args) => commands::doctor::run(args),
        Command::Forward(args) => commands::forward::run(args),
        Command::Completions(args) => commands::completions::run(args),
    })
}
