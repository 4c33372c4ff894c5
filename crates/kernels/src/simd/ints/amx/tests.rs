//! The program on a model of the instructions, written after Intel's manual (Instruction Set Extensions, chapter 3).

use std::collections::HashMap;

use super::super::{GROUP, PANEL};
use super::*;
use crate::Isa;
use crate::scratch::Scratch;

/// Runs the text of the program; with `WRONG`, one that takes the weights of a register as signed.
struct Model<const WRONG: bool>;

impl<const WRONG: bool> Tiles for Model<WRONG> {
    const TOKENS: usize = Amx::TOKENS;
    const OUTPUTS: usize = Amx::OUTPUTS;

    #[inline(always)]
    unsafe fn pack<S: Source>(w: S, rows: Range<usize>, cols: Range<usize>, panel: *mut u8) {
        // SAFETY: the caller's.
        unsafe { Amx::pack(w, rows, cols, panel) }
    }

    #[inline(always)]
    unsafe fn pack_columns<S: Source>(w: S, rows: Range<usize>, cols: Range<usize>, panel: *mut u8) {
        // SAFETY: the caller's.
        unsafe { Amx::pack_columns(w, rows, cols, panel) }
    }

    unsafe fn add_products(block: Block) {
        let program = program!();
        let wrong = program.replace("tdpbsud tmm3", "tdpbssd tmm3");
        Machine::new(block).run(if WRONG { &wrong } else { program });
    }
}

type Tile = [[u8; 64]; 16];

struct Machine {
    registers: HashMap<&'static str, usize>,
    /// None unless they are set up.
    tiles: Option<[Tile; 8]>,
    zero_flag: bool,
    /// What may be read.
    readable: Vec<Range<usize>>,
    /// What may be written, and read.
    writable: Range<usize>,
}

impl Machine {
    fn new(block: Block) -> Self {
        let from = Registers::new(block);
        let registers = HashMap::from([
            ("{at}", from.at),
            ("{panel}", from.panel),
            ("{end}", from.end),
            ("{panel_row}", from.panel_row),
            ("{upper}", from.upper),
            ("{lower}", from.lower),
            ("{stride}", from.stride),
            ("{next}", from.next),
            ("{sums}", from.sums),
            ("{sums_row}", from.sums_row),
            ("{tiles}", from.tiles),
            ("{first}", from.first),
        ]);
        let tokens = block.tiles * Amx::TOKENS;
        let range = |from: usize, len: usize| from..from + len;
        Machine {
            registers,
            tiles: None,
            zero_flag: false,
            readable: vec![
                range(from.at, 64),
                range(from.panel, block.cols * Amx::OUTPUTS),
                range(from.upper, (tokens - 1) * block.stride + block.cols),
            ],
            writable: range(from.sums, tokens * size_of::<Sums>()),
        }
    }

    fn run(mut self, program: &str) {
        let lines: Vec<&str> = program.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let mut at = 0;
        while at < lines.len() {
            let (instruction, operands) = lines[at].split_once(' ').unwrap_or((lines[at], ""));
            let operands: Vec<&str> = operands.split(", ").collect();
            at = self.step(instruction, &operands).map_or(at + 1, |label| target(&lines, at, label));
        }
        assert!(self.tiles.is_none(), "tiles are let go");
    }

    /// Returns the label to go to.
    fn step<'a>(&mut self, instruction: &str, operands: &[&'a str]) -> Option<&'a str> {
        match (instruction, operands) {
            ("mov", [to, from]) => self.set(to, self.value(from)),
            ("add", [to, from]) => self.set(to, self.value(to).wrapping_add(self.value(from))),
            ("dec", [to]) => {
                self.set(to, self.value(to) - 1);
                self.zero_flag = self.value(to) == 0;
            }
            ("cmp", [a, b]) => self.zero_flag = self.value(a) == self.value(b),
            ("test", [a, b]) => self.zero_flag = self.value(a) & self.value(b) == 0,
            ("jmp", [label]) => return Some(label),
            ("jne" | "jnz", [label]) => return (!self.zero_flag).then_some(label),
            ("ldtilecfg", [from]) => {
                let (from, _) = self.address(from);
                let bytes = self.row(from, false).cast_const();
                // SAFETY: `row` has checked it.
                let bytes = unsafe { bytes.read_unaligned() };
                assert_eq!(bytes[..2], [1, 0], "palette and first row");
                assert!(bytes[16..32].chunks_exact(2).all(|cols| cols == [64, 0]) && bytes[48..56] == [16; 8]);
                assert!(bytes[2..16].iter().chain(&bytes[32..48]).chain(&bytes[56..]).all(|reserved| *reserved == 0));
                self.tiles = Some([[[0; 64]; 16]; 8]);
            }
            ("tilerelease", _) => self.tiles = None,
            ("tilezero", [tile]) => *self.tile(tile) = [[0; 64]; 16],
            ("tileloadd", [tile, from]) => {
                let (from, stride) = self.address(from);
                for i in 0..16 {
                    let row = self.row(from + i * stride, false);
                    // SAFETY: `row` has checked it.
                    self.tile(tile)[i] = unsafe { row.read_unaligned() };
                }
            }
            ("tilestored", [to, tile]) => {
                let (to, stride) = self.address(to);
                for i in 0..16 {
                    let row = self.row(to + i * stride, true);
                    // SAFETY: `row` has checked it.
                    unsafe { row.write_unaligned(self.tile(tile)[i]) };
                }
            }
            ("tdpbsud", [sums, a, b]) => self.add_products(sums, a, b, i32::from),
            ("tdpbssd", [sums, a, b]) => self.add_products(sums, a, b, |b| i32::from(b as i8)),
            (label, [""]) if label.ends_with(':') => {}
            _ => panic!("{instruction} {operands:?}"),
        }
        None
    }

    /// `sums[m][n] += Σ a[m][4 k + i] · b[k][4 n + i]`: signed `a`, and `b` as it is read.
    fn add_products(&mut self, sums: &str, a: &str, b: &str, read: fn(u8) -> i32) {
        let (a, b) = (*self.tile(a), *self.tile(b));
        let sums = self.tile(sums);
        for m in 0..16 {
            for n in 0..16 {
                let place = 4 * n..4 * n + 4;
                let mut sum = i32::from_le_bytes(sums[m][place.clone()].try_into().unwrap());
                for k in 0..16 {
                    for i in 0..4 {
                        sum = sum.wrapping_add(i32::from(a[m][4 * k + i] as i8) * read(b[k][4 * n + i]));
                    }
                }
                sums[m][place].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }

    fn value(&self, operand: &str) -> usize {
        self.registers.get(operand).copied().unwrap_or_else(|| operand.parse().expect("a register or a number"))
    }

    fn set(&mut self, register: &str, value: usize) {
        *self.registers.get_mut(register).expect("a register") = value;
    }

    fn tile(&mut self, name: &str) -> &mut Tile {
        let index: usize = name.strip_prefix("tmm").expect("a tile").parse().expect("its number");
        &mut self.tiles.as_mut().expect("tiles are set up")[index]
    }

    /// `[base + index + displacement]`: where the first row is, and the distance of the others.
    fn address(&self, operand: &str) -> (usize, usize) {
        let inside = operand.strip_prefix('[').and_then(|operand| operand.strip_suffix(']')).expect("an address");
        let values: Vec<usize> = inside.split(" + ").map(|part| self.value(part)).collect();
        let displacement = values.get(2).copied().unwrap_or(0);
        (values[0] + displacement, values.get(1).copied().unwrap_or(0))
    }

    /// 64 bytes, if they may be touched.
    fn row(&self, address: usize, write: bool) -> *mut [u8; 64] {
        let within = |range: &Range<usize>| range.start <= address && address + 64 <= range.end;
        assert!(within(&self.writable) || !write && self.readable.iter().any(within), "{address:#x}");
        address as *mut [u8; 64]
    }
}

/// Where a jump from line `at` to `2b`, say, goes: the label 2 next before.
fn target(lines: &[&str], at: usize, label: &str) -> usize {
    let (name, direction) = label.split_at(1);
    let is_it = |line: &usize| lines[*line].strip_suffix(':') == Some(name);
    let found = if direction == "b" { (0..at).rev().find(is_it) } else { (at..lines.len()).find(is_it) };
    found.expect("a label")
}

#[test]
fn the_program_computes_the_sums_of_scalar_code() {
    if Isa::Avx512Vnni.is_available() {
        // SAFETY: just checked; the model needs nothing.
        unsafe {
            assert!(agrees::<Model<false>>());
            assert!(!agrees::<Model<true>>());
        }
    }
}

#[test]
fn gradients_are_those_of_scalar_code() {
    if Isa::Avx512Vnni.is_available() {
        // SAFETY: just checked; the model needs nothing.
        unsafe { compare_gradients() }
    }
}

/// # Safety
/// As [`agrees`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn compare_gradients() {
    const TOKENS: usize = 71;
    const ROWS: usize = 2 * GROUP + 44;
    const COLS: usize = PANEL + 11;
    const STRIDE: usize = 4 * GROUP;
    let number = |i: usize| ((i as u32).wrapping_mul(0x9e37_79b9) >> 24) as u8;
    let weight: Vec<u8> = (0..ROWS * COLS).map(number).collect();
    let mut tokens = vec![0; TOKENS * STRIDE];
    for (token, bytes) in tokens.chunks_exact_mut(STRIDE).enumerate() {
        let (codes, scales) = bytes.split_at_mut(3 * GROUP);
        for (row, code) in codes[..ROWS].iter_mut().enumerate() {
            *code = (number(7 * token + 3 * row) as i8).max(-127) as u8;
        }
        for (group, codes) in codes.chunks_exact(GROUP).enumerate() {
            let sum: i32 = codes.iter().map(|&code| i32::from(code as i8)).sum();
            scales[8 * group..][..4].copy_from_slice(&(1.0 / (token + group + 1) as f32).to_le_bytes());
            scales[8 * group + 4..][..4].copy_from_slice(&(-BIAS * sum).to_le_bytes());
        }
    }
    let w = CodeRows::Int8(Int8Rows { data: &weight, rows: ROWS, cols: COLS });
    let dy = TokenCodes { data: &tokens, count: TOKENS, stride: STRIDE };
    let dy = GroupCodes { tokens: dy, scales: 3 * GROUP };
    for cols in [0..PANEL, PANEL..COLS] {
        let (mut expected, mut found) = (vec![0.0; TOKENS * PANEL], vec![0.0; TOKENS * PANEL]);
        scalar::backward(w, cols.clone(), dy, &mut expected);
        // SAFETY: the caller's; the shapes fit.
        unsafe { backward_in_tiles::<Model<false>>(w, cols.clone(), dy, &mut found) };
        for (expected, found) in expected.chunks_exact(PANEL).zip(found.chunks_exact(PANEL)) {
            assert_eq!(expected[..cols.len()], found[..cols.len()]);
        }
    }
}

#[test]
fn sums_are_continued_and_begun() {
    let panel = Scratch::zeros(CODES * Amx::OUTPUTS / 4);
    let tokens = Scratch::zeros(2 * Amx::TOKENS * CODES / 4);
    for (first, expected) in [(false, 7), (true, 0)] {
        let mut sums = vec![[7; MOST_OUTPUTS]; 2 * Amx::TOKENS];
        let block = Block {
            panel: panel.as_ptr().cast(),
            cols: CODES,
            tiles: 2,
            tokens: tokens.as_ptr().cast(),
            stride: CODES,
            sums: sums.as_mut_ptr(),
            first,
        };
        // SAFETY: the model checks what it touches.
        unsafe { Model::<false>::add_products(block) };
        for sums in sums {
            assert!(sums[..Amx::OUTPUTS].iter().all(|sum| *sum == expected));
            assert!(sums[Amx::OUTPUTS..].iter().all(|sum| *sum == 7), "the others are left alone");
        }
    }
}
