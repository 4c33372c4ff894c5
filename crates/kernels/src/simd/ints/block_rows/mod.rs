//! Products of blocks with few tokens: rows are streamed as they lie, several at once, each group of columns taken apart in
//! registers and multiplied with all tokens. What it computes is what [`blocks`](super::blocks) says.

#[cfg(target_arch = "x86_64")]
mod products;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

use super::BlockCodes;
use crate::weight::BlockWeight;
use crate::{Cpu, Isa};

/// Most tokens for which [`block_rows`] is the faster way; 0 on an instruction set that lacks it.
pub(crate) fn few_tokens(isa: Isa) -> usize {
    match isa {
        Isa::Avx2 | Isa::AvxVnni => 4,
        Isa::Avx512 | Isa::Avx512Vnni | Isa::Amx => 2,
        Isa::Scalar | Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => 0,
    }
}

/// `y[t * rows.len() + r]`: rows of the weight with tokens. Panics on shapes that do not fit, and on an instruction set
/// that lacks it.
pub(crate) fn block_rows(cpu: &Cpu, w: &BlockWeight, rows: Range<usize>, x: BlockCodes<'_>, y: &mut [f32]) {
    assert!(rows.start <= rows.end && rows.end <= w.rows(), "rows");
    assert_eq!(y.len(), rows.len() * x.tokens.count, "room for sums");
    x.check(w.format().group(), w.cols(), cpu.isa());
    match cpu.isa() {
        // SAFETY: a `Cpu` holds only an instruction set that this machine has; shapes are checked.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => unsafe { x86::avx2(w, rows, x, y) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => unsafe { x86::avx_vnni(w, rows, x, y) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::Amx => unsafe { x86::avx512_vnni(w, rows, x, y) },
        isa => panic!("no rows of blocks on {isa:?}"),
    }
}
