//! Products and attention in GFLOP/s and GB/s, beside what the machine could do in the same run.
//!
//!     cargo bench -p bouquet-kernels -- [--threads N] [--isa scalar|avx2|avxvnni|avx512|avx512vnni|neon] [WORD ...]
//!
//! With words, only groups of lines that contain one of them. A multiply-add counts as two operations. Times are the
//! best of many, and the peak beside a line is the best between its calls, since a shared machine's comes and goes.

use std::time::{Duration, Instant};

use bouquet_kernels::ops::activation::{Activation, activate};
use bouquet_kernels::ops::alibi::{Alibi, AlibiKind};
use bouquet_kernels::ops::attention::{
    AttentionShape, KEY_PIECE, Numbers, Piece, Sequence, attention, attention_backward,
};
use bouquet_kernels::ops::norm::layer_norm;
use bouquet_kernels::product::weight_gradient;
use bouquet_kernels::weight::{BlockFormat, BlockWeight, Int4Weight, Int8Weight, Nf4Weight, blocks, int4, nf4};
use bouquet_kernels::{Arithmetic, Cpu, FloatEncoding, Isa, Matrix, Weight, limits};
use bytes::Bytes;

fn main() {
    let (mut threads, mut isas, mut words) = (2, Vec::new(), Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {}
            "--threads" => threads = arguments.next().and_then(|n| n.parse().ok()).expect("a number of threads"),
            "--isa" => {
                let name = arguments.next().unwrap_or_default();
                let named = |isa: &Isa| isa.name() == name;
                isas.push(
                    Isa::ALL.into_iter().find(named).expect("the name of an instruction set, such as avx512vnni"),
                );
            }
            word => words.push(word.to_owned()),
        }
    }
    if isas.is_empty() {
        isas = Isa::ALL.into_iter().filter(|isa| *isa != Isa::Scalar && isa.is_available()).collect();
    }
    for isa in isas {
        let cpu = Cpu::with_isa(isa, threads).expect("an instruction set of this machine");
        let mut bench = Bench { cpu, words: words.clone(), read: 0.0 };
        bench.peaks();
        bench.prompts();
        bench.integer_prompts();
        bench.decoding();
        bench.integer_decoding();
        bench.training();
        bench.attention();
        bench.long_attention();
        bench.ops();
        bench.jobs();
        bench.peaks();
    }
}

struct Bench {
    cpu: Cpu,
    words: Vec<String>,
    /// GB/s.
    read: f64,
}

/// Numbers that are neither special nor all the same.
fn numbers(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_769) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn matrix(rows: usize, cols: usize) -> Matrix {
    Matrix::from_vec(rows, cols, numbers(rows * cols))
}

fn weight(encoding: FloatEncoding, rows: usize, cols: usize) -> Weight {
    let bytes = match encoding {
        FloatEncoding::F32 => bytemuck::cast_slice(&numbers(rows * cols)).to_vec(),
        // Any bits that are ordinary numbers will do.
        _ => (0..rows * cols).flat_map(|i| (0x3000 | ((i * 2_531) & 0x8fff) as u16).to_le_bytes()).collect(),
    };
    Weight::from_bytes(encoding, rows, cols, Bytes::from(bytes))
}

/// Encodings of codes.
const CODED: [&str; 8] = ["int8", "int4", "nf4", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"];

/// A weight of random codes.
fn coded(encoding: &str, rows: usize, cols: usize) -> Weight {
    let bytes = |len: usize| Bytes::from((0..len).map(|i| ((i * 2_531) >> 3) as u8 & 0x7f).collect::<Vec<_>>());
    if encoding == "nf4" {
        let absmax = vec![1.0; nf4::blocks(rows, cols)];
        return Weight::Nf4(Nf4Weight::new(rows, cols, bytes(nf4::code_bytes(rows, cols)), absmax).into());
    }
    if encoding == "int8" {
        return Weight::Int8(
            Int8Weight::new(rows, cols, bytes(rows * cols), vec![1.0; rows]).into(),
            Arithmetic::Integer,
        );
    }
    if let Some(format) = BlockFormat::ALL.into_iter().find(|format| format.name() == encoding) {
        // Not 0x7f: scales are f16 numbers, and finite.
        let data = bytes(blocks::block_bytes(format, rows, cols)).iter().map(|byte| byte & 0x3f).collect::<Vec<_>>();
        return Weight::Blocks(BlockWeight::new(format, rows, cols, data.into()), Arithmetic::Integer);
    }
    let groups = int4::groups(cols);
    let weight = Int4Weight::new(rows, cols, bytes(rows * groups * 32), bytes(rows * groups), vec![1.0; rows]);
    Weight::Int4(weight.into(), Arithmetic::Integer)
}

impl Bench {
    /// The best of at least 7 calls and 0.25 s, and the best peak between them; `call` is told how many came before.
    fn line(&self, name: &str, flops: f64, bytes: f64, call: impl FnMut(usize)) {
        self.line_of(false, name, flops, bytes, call);
    }

    /// The same, beside the peak of int8 products.
    fn line_of(&self, integer: bool, name: &str, flops: f64, bytes: f64, mut call: impl FnMut(usize)) {
        let name = format!("{name} {:?}", self.cpu.isa());
        call(0);
        let begin = Instant::now();
        let (mut calls, mut seconds, mut peak) = (0, f64::INFINITY, 0.0f64);
        while calls < 7 || begin.elapsed().as_secs_f64() < 0.25 {
            peak = peak.max(
                if integer { limits::int8_ops_per_sec(&self.cpu, 1) } else { limits::f32_ops_per_sec(&self.cpu, 1) }
                    / 1e9,
            );
            let start = Instant::now();
            calls += 1;
            call(calls);
            seconds = seconds.min(start.elapsed().as_secs_f64());
        }
        let (flops, bytes) = (flops / seconds / 1e9, bytes / seconds / 1e9);
        print!("{name:<52} {:>9.1} µs", seconds * 1e6);
        if flops > 0.0 {
            print!(" {flops:>6.1} G/s = {:>2.0} % of {peak:>3.0}", 100.0 * flops / peak);
        }
        if bytes > 0.0 {
            print!(" {bytes:>5.1} GB/s = {:>2.0} % of {:.0}", 100.0 * bytes / self.read, self.read);
        }
        println!();
    }

    /// Whether a line was asked for.
    fn wants(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word.as_str()))
    }

    fn peaks(&mut self) {
        let (threads, isa) = (self.cpu.threads(), self.cpu.isa());
        let floats = limits::f32_ops_per_sec(&self.cpu, 200) / 1e9;
        let ints = limits::int8_ops_per_sec(&self.cpu, 200) / 1e9;
        self.read = limits::read_bytes_per_sec(&self.cpu, &[&vec![1u8; 1 << 29]], 7) / 1e9;
        let read = self.read;
        println!("{isa:?} on {threads} threads: {floats:.0} GFLOP/s f32, {ints:.0} GOP/s int8, reads {read:.1} GB/s");
    }

    fn prompts(&self) {
        for encoding in [FloatEncoding::F32, FloatEncoding::F16, FloatEncoding::Bf16] {
            for (inner, outputs) in [(1024, 1024), (1024, 4096), (2048, 2048), (4096, 1024), (4096, 4096)] {
                for tokens in [8, 64, 512] {
                    let name = format!("x Wᵀ {encoding:?} {tokens}×{inner}→{outputs}");
                    if !self.wants(&name) {
                        continue;
                    }
                    let (x, w, mut y) =
                        (matrix(tokens, inner), weight(encoding, outputs, inner), Matrix::zeros(tokens, outputs));
                    let flops = 2.0 * (tokens * inner * outputs) as f64;
                    self.line(&name, flops, 0.0, |_| w.product(&self.cpu, x.view(), None, y.view_mut()));
                }
            }
        }
    }

    fn decoding(&self) {
        for encoding in [FloatEncoding::F32, FloatEncoding::F16, FloatEncoding::Bf16] {
            for (inner, outputs) in [(1024, 4096), (4096, 4096)] {
                // Enough copies that none is still in a cache when its turn comes again.
                let bytes = inner * outputs * encoding.bytes();
                if !self.wants(&format!("decode {encoding:?} {inner}→{outputs}")) {
                    continue;
                }
                let copies: Vec<_> = (0..(1usize << 30) / bytes).map(|_| weight(encoding, outputs, inner)).collect();
                for tokens in [1, 2, 4, 8] {
                    let (x, mut y) = (matrix(tokens, inner), Matrix::zeros(tokens, outputs));
                    let flops = 2.0 * (tokens * inner * outputs) as f64;
                    let name = format!("decode {encoding:?} {tokens}×{inner}→{outputs}");
                    self.line(&name, flops, bytes as f64, |call| {
                        copies[call % copies.len()].product(&self.cpu, x.view(), None, y.view_mut());
                    });
                }
            }
        }
    }

    fn integer_prompts(&self) {
        for encoding in CODED {
            for (inner, outputs) in
                [(1024, 1024), (1024, 3072), (1024, 4096), (4096, 1024), (4096, 4096), (16384, 4096)]
            {
                for tokens in [16, 20, 64, 128, 512] {
                    let name = format!("{encoding} {tokens}×{inner}→{outputs}");
                    if !self.wants(&name) {
                        continue;
                    }
                    let (x, w, mut y) =
                        (matrix(tokens, inner), coded(encoding, outputs, inner), Matrix::zeros(tokens, outputs));
                    let ops = 2.0 * (tokens * inner * outputs) as f64;
                    self.line_of(encoding != "nf4", &name, ops, 0.0, |_| {
                        w.product(&self.cpu, x.view(), None, y.view_mut())
                    });
                }
            }
        }
    }

    fn integer_decoding(&self) {
        for encoding in CODED {
            for (inner, outputs) in [(1024, 1024), (1024, 3072), (4096, 1024), (4096, 4096), (16384, 4096)] {
                if !self.wants(&format!("decode {encoding} {inner}→{outputs}")) {
                    continue;
                }
                // Enough copies that none is still in a cache when its turn comes again.
                let weight = coded(encoding, outputs, inner);
                let bytes = weight.bytes();
                let copies: Vec<_> = (0..(1usize << 29) / bytes).map(|_| coded(encoding, outputs, inner)).collect();
                for tokens in [1, 2, 4, 8] {
                    let (x, mut y) = (matrix(tokens, inner), Matrix::zeros(tokens, outputs));
                    let name = format!("decode {encoding} {tokens}×{inner}→{outputs}");
                    self.line_of(encoding != "nf4", &name, 0.0, bytes as f64, |call| {
                        copies[call % copies.len()].product(&self.cpu, x.view(), None, y.view_mut());
                    });
                }
            }
        }
    }

    fn training(&self) {
        for (inner, outputs) in [(1024, 1024), (1024, 4096), (4096, 1024), (4096, 4096)] {
            let tokens = 512;
            if !self.wants(&format!("dy W dyᵀ x {inner} {outputs}")) {
                continue;
            }
            let flops = 2.0 * (tokens * inner * outputs) as f64;
            let (x, dy) = (matrix(tokens, inner), matrix(tokens, outputs));
            for encoding in ["f32", "f16", "nf4", "int8", "int4"] {
                let w = match encoding {
                    "f32" => weight(FloatEncoding::F32, outputs, inner),
                    "f16" => weight(FloatEncoding::F16, outputs, inner),
                    _ => coded(encoding, outputs, inner),
                };
                let mut dx = Matrix::zeros(tokens, inner);
                let name = format!("dy W {encoding} {tokens}×{outputs}→{inner}");
                self.line_of(encoding.starts_with("int"), &name, flops, 0.0, |_| {
                    w.product_backward(&self.cpu, dy.view(), dx.view_mut());
                });
            }
            let mut dw = Matrix::zeros(outputs, inner);
            self.line(&format!("dyᵀ x {outputs}×{tokens}→{inner}"), flops, 0.0, |_| {
                weight_gradient(&self.cpu, dy.view(), x.view(), dw.view_mut());
            });
        }
    }

    fn attention(&self) {
        for (heads, kv_heads, head_dim) in [(16, 16, 64), (32, 8, 128)] {
            let scale = 1.0 / (head_dim as f32).sqrt();
            let alibi = (kv_heads == heads).then(|| Alibi::new(heads, AlibiKind::Distances));
            let shape = AttentionShape { heads, kv_heads, head_dim, scale, alibi, window: None };
            for keys in [512, 2048] {
                let piece = numbers(kv_heads * KEY_PIECE * head_dim);
                let pieces =
                    vec![
                        Piece { keys: Numbers::F32(&piece), values: Numbers::F32(&piece), capacity: KEY_PIECE };
                        keys / KEY_PIECE
                    ];
                for tokens in [1, keys] {
                    let name = format!("attention {tokens} of {keys}, {heads}/{kv_heads} heads of {head_dim}");
                    if !self.wants(&name) {
                        continue;
                    }
                    let sequence = [Sequence { rows: 0..tokens, start: keys - tokens, pieces: pieces.clone() }];
                    let (q, mut out) = (matrix(tokens, heads * head_dim), Matrix::zeros(tokens, heads * head_dim));
                    // Only what causality leaves counts.
                    let pairs = (tokens * (2 * keys - tokens + 1) / 2 * heads) as f64;
                    let flops = 4.0 * pairs * head_dim as f64;
                    self.line(&name, flops, 0.0, |_| {
                        attention(&self.cpu, &shape, q.view(), &sequence, out.view_mut());
                    });
                    if tokens == keys {
                        let mut d_q = q.clone();
                        let mut d_k = Matrix::zeros(tokens, kv_heads * head_dim);
                        let mut d_v = d_k.clone();
                        self.line(&format!("backward of {name}"), 2.5 * flops, 0.0, |_| {
                            let (q, out) = (q.view(), out.view());
                            let (d_q, d_k, d_v) = (d_q.view_mut(), d_k.view_mut(), d_v.view_mut());
                            attention_backward(&self.cpu, &shape, q, &sequence, out, out, d_q, d_k, d_v);
                        });
                    }
                }
            }
        }
    }

    /// One token behind a long context, whose keys and values are read from memory.
    fn long_attention(&self) {
        let (keys, heads, head_dim) = (8192, 32, 64);
        for kv_heads in [8, 32] {
            let name = format!("attention 1 of {keys}, {heads}/{kv_heads} heads of {head_dim}, from memory");
            if !self.wants(&name) {
                continue;
            }
            let scale = 1.0 / (head_dim as f32).sqrt();
            let shape = AttentionShape { heads, kv_heads, head_dim, scale, alibi: None, window: None };
            let bytes = 2 * 4 * keys * kv_heads * head_dim;
            let caches: Vec<Vec<Vec<f32>>> = (0..(1usize << 29) / bytes)
                .map(|_| (0..2 * keys / KEY_PIECE).map(|_| numbers(kv_heads * KEY_PIECE * head_dim)).collect())
                .collect();
            let (q, mut out) = (matrix(1, heads * head_dim), Matrix::zeros(1, heads * head_dim));
            self.line(&name, (4 * keys * heads * head_dim) as f64, bytes as f64, |call| {
                let pieces = caches[call % caches.len()]
                    .chunks(2)
                    .map(|of| Piece { keys: Numbers::F32(&of[0]), values: Numbers::F32(&of[1]), capacity: KEY_PIECE })
                    .collect();
                let sequence = [Sequence { rows: 0..1, start: keys - 1, pieces }];
                attention(&self.cpu, &shape, q.view(), &sequence, out.view_mut());
            });
        }
    }

    /// Jobs of one task of 20 µs for each thread, some time after each other: what waking the others costs.
    fn jobs(&self) {
        let threads = self.cpu.threads();
        for pause in [0, 50, 200, 2000, 10_000] {
            let name = format!("job: {threads} × 20 µs every {pause} µs");
            if !self.wants(&name) {
                continue;
            }
            let wait = |micros: u64| {
                let start = Instant::now();
                while (start.elapsed().as_nanos() as u64) < micros * 1000 {
                    std::hint::spin_loop();
                }
            };
            let mut times: Vec<f64> = (0..200)
                .map(|_| {
                    if pause < 1000 {
                        wait(pause)
                    } else {
                        std::thread::sleep(Duration::from_micros(pause))
                    }
                    let start = Instant::now();
                    self.cpu.run(threads, |_| wait(20));
                    start.elapsed().as_secs_f64() * 1e6
                })
                .collect();
            times.sort_by(f64::total_cmp);
            println!("{name:<52} {:>9.1} µs median, {:.1} at the 90th", times[100], times[180]);
        }
    }

    fn ops(&self) {
        if !self.wants("op: layer_norm GeluTanh Silu") {
            return;
        }
        let (x, mut y) = (matrix(512, 4096), Matrix::zeros(512, 4096));
        let bytes = (2 * 4 * 512 * 4096) as f64;
        let ones = vec![1.0; 4096];
        self.line("op: layer_norm 512×4096", 0.0, bytes, |_| {
            layer_norm(&self.cpu, x.view(), &ones, &ones, 1e-5, y.view_mut());
        });
        for activation in Activation::ALL {
            self.line(&format!("op: {activation:?} 512×4096"), 0.0, bytes, |_| {
                activate(&self.cpu, activation, x.view(), y.view_mut());
            });
        }
    }
}
