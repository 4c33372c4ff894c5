//! A step of low-rank training through the frozen blocks of a published shape with random weights: forward and backward
//! of packed sequences, with an adapter on the matrices that make queries, keys and values.
//!
//!     cargo bench -p bouquet-model -- [--threads N] [--isa NAME] [--shape NAME] [--encoding f32|int8|int4|nf4]
//!         [--sequences N] [--tokens N] [--rank N] [--keep nothing|block-inputs|activations] [--steps N] [--profile]
//!
//! Seconds of each step, and the best; with `--profile` what the operations of the last step took.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use bouquet_kernels::profile::OperationTime;
use bouquet_kernels::{Cpu, Isa, Matrix};
use bouquet_model::random::{RandomModel, Shape};
use bouquet_model::{Encoding, Network, OpenOptions};
use bouquet_span::{Adapter, HiddenStates, Keep, LinearId, LowRank, Pass, Site};

/// What was typed.
struct Flags(Vec<String>);

impl Flags {
    fn value<T: FromStr>(&self, name: &str, default: T) -> T {
        match self.0.iter().position(|flag| flag == name) {
            None => default,
            Some(at) => {
                let value = self.0.get(at + 1).unwrap_or_else(|| panic!("{name} needs a value"));
                value.parse().unwrap_or_else(|_| panic!("{name} {value}"))
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|flag| flag == name)
    }
}

fn main() {
    let flags = Flags(std::env::args().skip(1).collect());
    let isa_name = flags.value("--isa", Isa::best().name().to_owned());
    let isa = Isa::ALL.into_iter().find(|isa| isa.name() == isa_name).expect("the name of an instruction set");
    let mut cpu = Cpu::with_isa(isa, flags.value("--threads", 2)).expect("an instruction set of this machine");
    if flags.has("--profile") {
        cpu = cpu.profiled();
    }
    let shape = Shape::of_name(&flags.value("--shape", "bloom-560m".to_owned())).expect("a published shape");
    let encoding = flags.value("--encoding", Encoding::Int8);
    let keep = match flags.value("--keep", "activations".to_owned()).as_str() {
        "nothing" => Keep::Input,
        "block-inputs" => Keep::BlockInputs,
        _ => Keep::Activations { bytes: u64::MAX },
    };
    let (sequences, tokens) = (flags.value("--sequences", 16), flags.value("--tokens", 64));
    let (rank, steps) = (flags.value("--rank", 8), flags.value("--steps", 5));

    let spec = shape.spec();
    let options = OpenOptions::new(cpu, 16 << 30, encoding);
    let source = RandomModel::new(&spec, 1, false, options.cpu.threads());
    let network = Network::from_source(&source, spec, &options).expect("random weights");
    let pass = Pass { adapter: Some(Arc::new(adapter(&network, rank))), keep, ..Pass::default() };
    let hidden = network.spec.block.hidden_size;
    println!(
        "{} in {encoding}, {} on {} threads, {sequences} sequences of {tokens} tokens, rank {rank}, {keep:?}",
        shape.name,
        network.cpu.isa().name(),
        network.cpu.threads()
    );

    let states = || HiddenStates::new(numbers(sequences * tokens, hidden), vec![tokens; sequences]).expect("states");
    let mut best = [f64::INFINITY; 2];
    let mut profiles = [Vec::new(), Vec::new()];
    for _ in 0..=steps {
        let (input, gradient) = (states(), states());
        network.cpu.take_profile();
        let start = Instant::now();
        let (output, saved) = network.blocks.forward(input, &pass).expect("a forward");
        let forward = start.elapsed().as_secs_f64();
        profiles[0] = network.cpu.take_profile();
        let start = Instant::now();
        let gradients = network.blocks.backward(saved, gradient, &pass).expect("a backward");
        let backward = start.elapsed().as_secs_f64();
        profiles[1] = network.cpu.take_profile();
        std::hint::black_box((output, gradients));
        println!("forward {forward:.3} s, backward {backward:.3} s, together {:.3} s", forward + backward);
        best = [best[0].min(forward), best[1].min(backward)];
    }
    println!("best: forward {:.3} s, backward {:.3} s, together {:.3} s", best[0], best[1], best[0] + best[1]);
    for (name, profile) in ["forward", "backward"].into_iter().zip(profiles) {
        print_profile(name, profile);
    }
}

/// A pair for each matrix that makes queries, keys and values; as in training after its first step, none is zero.
fn adapter(network: &Network, rank: usize) -> Adapter {
    let adapted = |site: &Site| matches!(site, Site::Qkv | Site::Q | Site::K | Site::V);
    let mut adapter = Adapter::default();
    for linear in network.spec.block.linears().iter().filter(|linear| adapted(&linear.site)) {
        for block in 0..network.spec.num_blocks {
            let pair = LowRank { a: numbers(rank, linear.inputs), b: numbers(linear.outputs, rank), scale: 0.01 };
            adapter.pairs.insert(LinearId::new(block, linear.site), pair);
        }
    }
    adapter
}

/// Evenly from −1 to 1.
fn numbers(rows: usize, cols: usize) -> Matrix {
    let number = |i: u32| (i.wrapping_mul(2_654_435_769) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    Matrix::from_vec(rows, cols, (0..(rows * cols) as u32).map(number).collect())
}

fn print_profile(name: &str, mut profile: Vec<OperationTime>) {
    profile.sort_by_key(|times| std::cmp::Reverse(times.time));
    for OperationTime { operation, calls, time } in profile {
        println!("{name} {operation:<24} {calls:>5} calls {:>8.1} ms", time.as_secs_f64() * 1e3);
    }
}
