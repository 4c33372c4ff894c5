//! AMX: an instruction that multiplies 16 tokens with 16 rows, 64 codes of each. Weights are packed as for AVX-512 VNNI,
//! unsigned; tokens are read as they lie.
//!
//! Compilers know AMX on nightly Rust only, so all of it is one program in assembly, which sets the tiles up, walks
//! through a block and lets go of them: no state is left between calls. This project has had no machine with AMX: tests
//! run the text of the program on a model of it, and at its first use the machine must show that its sums are those of
//! scalar code ([`works`]).

use std::arch::asm;
use std::ops::Range;
use std::sync::OnceLock;

use super::backward::pack_columns;
use super::tiles::{Block, CODES, Tiles, backward_in_tiles, many_in_tiles, spin_tiles};
use super::vnni::Bytes512;
use super::{BIAS, BLOCK, GroupCodes, MOST_OUTPUTS, Source, Sums, TokenCodes, scalar};
use crate::permission;
use crate::weight::codes::{CodeRows, Int8Rows};

/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and VNNI, and AMX [`works`]; shapes are checked.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn many(w: CodeRows<'_>, rows: Range<usize>, x: TokenCodes<'_>, done: impl FnMut(usize, &[Sums])) {
    // SAFETY: the caller's.
    unsafe { many_in_tiles::<Amx>(w, rows, x, done) }
}

/// # Safety
/// As [`many`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn backward(w: CodeRows<'_>, cols: Range<usize>, dy: GroupCodes<'_>, dx: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { backward_in_tiles::<Amx>(w, cols, dy, dx) }
}

/// # Safety
/// As [`many`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn spin_products(steps: usize) -> u64 {
    // SAFETY: the caller's.
    unsafe { spin_tiles::<Amx>(steps) }
}

/// Whether this machine has AMX for bytes, the system lets this process use it, and it computes what it should. Needs
/// AVX-512 VNNI.
pub(crate) fn works() -> bool {
    /// Bits 24 and 25 of EDX: AMX-TILE, AMX-INT8.
    const TILES_OF_BYTES: u32 = 0b11 << 24;
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| {
        std::arch::x86_64::__cpuid_count(7, 0).edx & TILES_OF_BYTES == TILES_OF_BYTES
            && permission::to_use_tiles()
            // SAFETY: both are here, and AVX-512 VNNI by the caller's word.
            && unsafe { agrees::<Amx>() }
    })
}

/// Whether the sums of a small product, of more than one block and with ragged edges, are those of scalar code.
///
/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and VNNI, and what `T` needs.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn agrees<T: Tiles>() -> bool {
    const TOKENS: usize = 71;
    const ROWS: usize = 29;
    const COLS: usize = BLOCK + 75;
    const STRIDE: usize = BLOCK + 192;
    let number = |i: usize| (i as u32).wrapping_mul(0x9e37_79b9) >> 24;
    let weight: Vec<u8> = (0..ROWS * COLS).map(|i| number(i) as u8).collect();
    let mut tokens = vec![0; TOKENS * STRIDE];
    for (token, codes) in tokens.chunks_exact_mut(STRIDE).enumerate() {
        for (col, code) in codes[..COLS].iter_mut().enumerate() {
            *code = (number(7 * token + 3 * col) as u8 as i8).max(-127) as u8;
        }
    }
    let w = CodeRows::Int8(Int8Rows { data: &weight, rows: ROWS, cols: COLS });
    let x = TokenCodes { data: &tokens, count: TOKENS, stride: STRIDE };
    let (mut seen, mut agree) = (0, true);
    let mut expected = Vec::new();
    scalar::many(w, 0..ROWS, x, |_, sums| expected.extend_from_slice(sums));
    // SAFETY: the caller's; the shapes fit.
    unsafe {
        many_in_tiles::<T>(w, 0..ROWS, x, |token, sums| {
            for (i, sums) in sums.iter().enumerate() {
                let codes: &[i8] = bytemuck::cast_slice(&tokens[(token + i) * STRIDE..][..COLS]);
                let bias = BIAS * codes.iter().map(|&code| i32::from(code)).sum::<i32>();
                agree &= (0..ROWS).all(|row| sums[row] - bias == expected[token + i][row]);
            }
            seen += sums.len();
        });
    }
    agree && seen == TOKENS
}

/// 2 × 2 tiles of sums, 2 of tokens and 2 of weights are all 8 registers. A panel is `[cols / 4][OUTPUTS][4]`.
struct Amx;

/// Tokens and outputs of a register.
const SIDE: usize = 16;

/// Bytes of a panel's row of 4 columns.
const PANEL_ROW: usize = 4 * <Amx as Tiles>::OUTPUTS;

/// The program's constants are these.
const _: () = assert!(CODES == 64 && CODES / 4 * PANEL_ROW == 2048 && SIDE * size_of::<Sums>() == 4096);

/// All registers of 16 rows of 64 bytes: palette 1; the bytes of their rows from byte 16 on, their rows from byte 48 on.
#[repr(C, align(64))]
struct Configuration([u8; 64]);

static CONFIGURATION: Configuration = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut register = 0;
    while register < 8 {
        bytes[16 + 2 * register] = 64;
        bytes[48 + register] = SIDE as u8;
        register += 1;
    }
    Configuration(bytes)
};

/// The program. At a tile's address stands its first row; the index register holds the distance of the others.
macro_rules! program {
    () => {
        "
        ldtilecfg [{at}]
    2:
        mov {at}, {panel}
        test {first}, {first}
        jnz 3f
        tileloadd tmm0, [{sums} + {sums_row}]
        tileloadd tmm1, [{sums} + {sums_row} + 64]
        tileloadd tmm2, [{sums} + {sums_row} + 4096]
        tileloadd tmm3, [{sums} + {sums_row} + 4160]
        jmp 4f
    3:
        tilezero tmm0
        tilezero tmm1
        tilezero tmm2
        tilezero tmm3
    4:
        tileloadd tmm4, [{upper} + {stride}]
        tileloadd tmm6, [{at} + {panel_row}]
        tileloadd tmm7, [{at} + {panel_row} + 64]
        tileloadd tmm5, [{lower} + {stride}]
        tdpbsud tmm0, tmm4, tmm6
        tdpbsud tmm1, tmm4, tmm7
        tdpbsud tmm2, tmm5, tmm6
        tdpbsud tmm3, tmm5, tmm7
        add {upper}, 64
        add {lower}, 64
        add {at}, 2048
        cmp {at}, {end}
        jne 4b
        tilestored [{sums} + {sums_row}], tmm0
        tilestored [{sums} + {sums_row} + 64], tmm1
        tilestored [{sums} + {sums_row} + 4096], tmm2
        tilestored [{sums} + {sums_row} + 4160], tmm3
        add {upper}, {next}
        add {lower}, {next}
        add {sums}, 8192
        dec {tiles}
        jnz 2b
        tilerelease
        "
    };
}

impl Tiles for Amx {
    const TOKENS: usize = 2 * SIDE;
    const OUTPUTS: usize = 2 * SIDE;

    #[inline(always)]
    unsafe fn pack<S: Source>(w: S, rows: Range<usize>, cols: Range<usize>, panel: *mut u8) {
        // SAFETY: the caller's.
        unsafe { super::many::pack::<Bytes512, S, 2>(w, rows, cols, panel) }
    }

    #[inline(always)]
    unsafe fn pack_columns<S: Source>(w: S, rows: Range<usize>, cols: Range<usize>, panel: *mut u8) {
        // SAFETY: the caller's.
        unsafe { pack_columns::<Bytes512, S, 2>(w, rows, cols, panel) }
    }

    #[inline(always)]
    unsafe fn add_products(block: Block) {
        let registers = Registers::new(block);
        // SAFETY: the caller vouches for panel, tokens and sums; the program reads and writes these alone.
        unsafe {
            asm!(
                program!(),
                at = inout(reg) registers.at => _,
                panel = in(reg) registers.panel,
                end = in(reg) registers.end,
                panel_row = in(reg) registers.panel_row,
                upper = inout(reg) registers.upper => _,
                lower = inout(reg) registers.lower => _,
                stride = in(reg) registers.stride,
                next = in(reg) registers.next,
                sums = inout(reg) registers.sums => _,
                sums_row = in(reg) registers.sums_row,
                tiles = inout(reg) registers.tiles => _,
                first = in(reg) registers.first,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

/// What the program begins with.
struct Registers {
    /// First the configuration, then where in the panel we are.
    at: usize,
    panel: usize,
    end: usize,
    panel_row: usize,
    /// The first 16 tokens of a tile, at the columns where we are.
    upper: usize,
    /// The other 16.
    lower: usize,
    stride: usize,
    /// From the end of these columns to where the next tile's begin.
    next: usize,
    sums: usize,
    sums_row: usize,
    tiles: usize,
    first: usize,
}

impl Registers {
    #[inline(always)]
    fn new(block: Block) -> Self {
        let (panel, upper) = (block.panel as usize, block.tokens as usize);
        Registers {
            at: CONFIGURATION.0.as_ptr() as usize,
            panel,
            end: panel + block.cols * Amx::OUTPUTS,
            panel_row: PANEL_ROW,
            upper,
            lower: upper + SIDE * block.stride,
            stride: block.stride,
            next: (Amx::TOKENS * block.stride).wrapping_sub(block.cols),
            sums: block.sums as usize,
            sums_row: size_of::<i32>() * MOST_OUTPUTS,
            tiles: block.tiles,
            first: usize::from(block.first),
        }
    }
}

#[cfg(test)]
mod tests;
