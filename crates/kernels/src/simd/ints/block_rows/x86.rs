//! Rows of blocks in registers of 32 bytes: 8 rows at a time, 32 columns of each.

use std::arch::x86_64::*;
use std::ops::Range;

use super::products::{Halves, Products, Vnni256, Vnni512};

use crate::simd::bytes::Avx2Bytes;
use crate::simd::ints::avx2::transpose;
use crate::simd::ints::blocks::Terms;
use crate::simd::ints::few::AHEAD;
use crate::simd::ints::{BlockCodes, MOST_LANES};
use crate::simd::{prefetch, unroll};
use crate::weight::BlockWeight;
use crate::weight::blocks::format::{Block, MOST_GROUPS, in_format};

/// Rows at a time.
const ROWS: usize = 8;

/// Columns whose scales are made ready together.
const STRETCH: usize = 256;

/// # Safety
/// The machine has AVX2, FMA and F16C; shapes are checked.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn avx2(w: &BlockWeight, rows: Range<usize>, x: BlockCodes<'_>, y: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { in_format!(w.format(), B => rows_with::<Halves, B>(w, rows, x, y)) };
}

/// # Safety
/// The machine has AVX-VNNI besides; shapes are checked.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn avx_vnni(w: &BlockWeight, rows: Range<usize>, x: BlockCodes<'_>, y: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { in_format!(w.format(), B => rows_with::<Vnni256, B>(w, rows, x, y)) };
}

/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and VNNI; shapes are checked.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn avx512_vnni(w: &BlockWeight, rows: Range<usize>, x: BlockCodes<'_>, y: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { in_format!(w.format(), B => rows_with::<Vnni512, B>(w, rows, x, y)) };
}

#[inline(always)]
unsafe fn rows_with<P: Products, B: Block>(w: &BlockWeight, rows: Range<usize>, x: BlockCodes<'_>, y: &mut [f32]) {
    let (count, width) = (rows.len(), w.cols() / B::SIZE * B::BYTES);
    // Each stream has its own part of the rows, so that it goes on where it is, far from the others.
    let part = count.div_ceil(ROWS);
    for index in 0..part {
        let place = |stream: usize| stream * part + index;
        let here = (0..ROWS).take_while(|&stream| place(stream) < count).count();
        // Where there are fewer rows, the first stands in; its copies are not stored.
        let mut streams = [&w.data()[(rows.start + index) * width..][..width]; ROWS];
        for (stream, row) in streams.iter_mut().enumerate().take(here) {
            *row = &w.data()[(rows.start + place(stream)) * width..][..width];
        }
        let mut token = 0;
        while token < x.tokens.count {
            let mut sums = [[0.0; ROWS]; 2];
            // SAFETY: rows are as long as the weight says, and tokens exist.
            let tile = unsafe {
                match x.tokens.count - token {
                    1 => tile::<P, B, 1>(streams, w.cols(), x, token, &mut sums),
                    _ => tile::<P, B, 2>(streams, w.cols(), x, token, &mut sums),
                }
            };
            for sums in &sums[..tile] {
                for (stream, sum) in sums[..here].iter().enumerate() {
                    y[token * count + place(stream)] = *sum;
                }
                token += 1;
            }
        }
    }
}

/// `T` tokens from `token` on; returns `T`, and the sums of each.
#[inline(always)]
unsafe fn tile<P: Products, B: Block, const T: usize>(
    rows: [&[u8]; ROWS],
    cols: usize,
    x: BlockCodes<'_>,
    token: usize,
    sums: &mut [[f32; ROWS]; 2],
) -> usize {
    // SAFETY: the caller's.
    unsafe {
        let mut totals = [_mm256_setzero_ps(); T];
        for start in (0..cols).step_by(STRETCH) {
            let (first, blocks) = (start / B::SIZE, STRETCH.min(cols - start) / B::SIZE);
            let scales = scales::<B>(rows, first, blocks);
            for row in rows {
                for line in 0..(STRETCH / B::SIZE * B::BYTES).div_ceil(64) {
                    prefetch(row.as_ptr().wrapping_add(first * B::BYTES + AHEAD + 64 * line));
                }
            }
            if B::SIZE == STRETCH {
                unroll!(PART < 8, { part::<P, B, T>(rows, first, PART, &scales, PART, x, token, &mut totals) });
            } else {
                for block in 0..blocks {
                    part::<P, B, T>(rows, first + block, 0, &scales, block, x, token, &mut totals);
                }
            }
        }
        unroll!(U < T, { _mm256_storeu_ps(sums[U % 2].as_mut_ptr(), totals[U]) });
    }
    T
}

/// Scales and minimums of a stretch: of each group those of all rows.
struct Scales {
    scales: [__m256; MOST_GROUPS],
    minimums: [__m256; MOST_GROUPS],
}

/// Those of `blocks` blocks from the first on.
#[inline(always)]
unsafe fn scales<B: Block>(rows: [&[u8]; ROWS], first: usize, blocks: usize) -> Scales {
    // SAFETY: the caller's.
    unsafe {
        let nothing = [_mm256_setzero_ps(); MOST_GROUPS];
        let mut all = Scales { scales: nothing, minimums: nothing };
        if B::SIZE == B::GROUP {
            // A block with one scale begins with it, and the minimum follows.
            for block in 0..blocks {
                all.scales[block] = halves(rows, (first + block) * B::BYTES);
                if B::MINIMUMS {
                    let minimums = halves(rows, (first + block) * B::BYTES + 2);
                    all.minimums[block] = _mm256_xor_ps(minimums, _mm256_set1_ps(-0.0));
                }
            }
            return all;
        }
        let mut by_row = [[[0.0f32; MOST_GROUPS]; ROWS]; 2];
        let [scales, minimums] = &mut by_row;
        for row in 0..ROWS {
            B::scales(&rows[row][first * B::BYTES..][..B::BYTES], &mut scales[row], &mut minimums[row]);
        }
        for start in (0..B::SIZE / B::GROUP).step_by(8) {
            columns(scales, start, &mut all.scales);
            if B::MINIMUMS {
                columns(minimums, start, &mut all.minimums);
            }
        }
        all
    }
}

/// The f16 at a byte of each row.
#[inline(always)]
unsafe fn halves(rows: [&[u8]; ROWS], at: usize) -> __m256 {
    // SAFETY: the caller's; rows have two bytes there.
    unsafe {
        let mut halves = _mm_setzero_si128();
        unroll!(R < 8, {
            let half = rows[R].as_ptr().add(at).cast::<u16>().read_unaligned();
            halves = _mm_insert_epi16::<{ R as i32 }>(halves, i32::from(half));
        });
        _mm256_cvtph_ps(halves)
    }
}

/// 8 columns of all rows.
#[inline(always)]
unsafe fn columns(rows: &[[f32; MOST_GROUPS]; ROWS], start: usize, columns: &mut [__m256; MOST_GROUPS]) {
    // SAFETY: the caller's; there are 8 numbers from `start` on.
    unsafe {
        let mut square = [_mm256_setzero_si256(); MOST_LANES];
        unroll!(R < 8, { square[R] = _mm256_loadu_si256(rows[R][start..start + 8].as_ptr().cast()) });
        transpose(&mut square);
        unroll!(C < 8, { columns[start + C] = _mm256_castsi256_ps(square[C]) });
    }
}

/// 32 columns: part `part` of a block, which is part `at` of the stretch.
#[expect(clippy::too_many_arguments, reason = "all of a tile, which stays in registers")]
#[inline(always)]
unsafe fn part<P: Products, B: Block, const T: usize>(
    rows: [&[u8]; ROWS],
    block: usize,
    part: usize,
    scales: &Scales,
    at: usize,
    x: BlockCodes<'_>,
    token: usize,
    totals: &mut [__m256; T],
) {
    let column = block * B::SIZE + 32 * part;
    // SAFETY: the caller's.
    unsafe {
        let mut activations = [_mm256_setzero_si256(); T];
        unroll!(U < T, { activations[U] = P::activations(x.tokens.token(token + U), column) });
        // Of four rows the sums of columns 0 to 15, then those of columns 16 to 31; and of the other four.
        let mut fours = [[_mm256_setzero_si256(); 2]; T];
        unroll!(HALF < 2, {
            let mut codes = [_mm256_setzero_si256(); 4];
            unroll!(R < 4, {
                let block = rows[(4 * HALF + R) % ROWS].get_unchecked(block * B::BYTES..).get_unchecked(..B::BYTES);
                codes[R % 4] = B::codes::<Avx2Bytes>(block, part).0;
            });
            unroll!(U < T, {
                let [a, b, c, d] = [
                    P::products(codes[0], B::SIGNED, activations[U]),
                    P::products(codes[1], B::SIGNED, activations[U]),
                    P::products(codes[2], B::SIGNED, activations[U]),
                    P::products(codes[3], B::SIGNED, activations[U]),
                ];
                fours[U][HALF % 2] = add_pairs_of_lanes(add_lanes(a, b), add_lanes(c, d));
            });
        });
        unroll!(U < T, {
            let [a, b] = fours[U];
            let (left, right) = (_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b));
            if B::GROUP == 32 {
                let terms = x.terms(token + U, column / 32);
                totals[U] = add_group::<P, B>(totals[U], _mm256_add_epi32(left, right), scales, at, terms);
            } else {
                let (first, second) = (x.terms(token + U, column / 16), x.terms(token + U, column / 16 + 1));
                totals[U] = add_group::<P, B>(totals[U], left, scales, 2 * at, first);
                totals[U] = add_group::<P, B>(totals[U], right, scales, 2 * at + 1, second);
            }
        });
    }
}

/// In each half the lanes 0 and 2, and 1 and 3, of both added, next to each other.
#[inline(always)]
unsafe fn add_lanes(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller's.
    unsafe { _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)) }
}

/// In each half the first and the second pair of lanes of both added.
#[inline(always)]
unsafe fn add_pairs_of_lanes(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller's.
    unsafe { _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)) }
}

/// One group of all rows, from its sums of products.
#[inline(always)]
unsafe fn add_group<P: Products, B: Block>(
    mut total: __m256,
    mut sums: __m256i,
    scales: &Scales,
    group: usize,
    terms: Terms,
) -> __m256 {
    let zero = i32::from(B::ZERO) + if B::SIGNED { i32::from(P::BIAS) } else { 0 };
    // SAFETY: the caller's.
    unsafe {
        if zero != 0 {
            sums = _mm256_sub_epi32(sums, _mm256_set1_epi32(terms.sum.wrapping_mul(zero)));
        }
        let scale = _mm256_mul_ps(scales.scales[group], _mm256_set1_ps(terms.scale));
        total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, total);
        if B::MINIMUMS {
            total = _mm256_fnmadd_ps(scales.minimums[group], _mm256_set1_ps(terms.scaled), total);
        }
    }
    total
}
