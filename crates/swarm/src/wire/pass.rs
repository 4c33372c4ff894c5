//! What a request carries besides hidden states, as it is sent: a small header, prompts in the body, and adapters by the
//! hash of their bytes, which go over once and stay with the server for a while.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bouquet_kernels::Matrix;
use bouquet_span::{Adapter, LowRank, Pass, PassGrad, Prompts};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Wire;
use super::fault::linear_of;
use super::frame::MAX_BODY_BYTES;
use super::message::PassHeader;
use crate::Digest;

/// Bytes that an adapter for the blocks of one server may have.
pub const MAX_ADAPTER_BYTES: usize = 1 << 30;

/// A pass on its way: the header, the body, and the adapter that the header names.
pub struct Packed {
    /// What goes into the header.
    pub header: PassHeader,
    /// The prompts.
    pub body: Vec<u8>,
    /// The low-rank matrices.
    pub adapter: Option<Arc<[u8]>>,
}

/// The pairs of an adapter, before their numbers.
#[derive(Serialize, Deserialize)]
struct AdapterHeader {
    dropout: f32,
    /// The linear of each pair, rows and columns of A and of B, and the scale.
    pairs: Vec<(u64, [u32; 4], f32)>,
}

/// What of a pass concerns some blocks. `None` when its prompts are too large for a frame.
pub fn pack(pass: &Pass, blocks: Range<usize>) -> Option<Packed> {
    let mut header = PassHeader {
        dropout: pass.dropout.map(|key| (key.seed, key.step, key.view, key.first_sequence)),
        reserved_tokens: pass.reserved_tokens.map(|tokens| tokens as u64),
        leaf: pass.leaf as u64,
        rounding: Wire::of(pass.rounding),
        ..PassHeader::default()
    };
    let mut body = Vec::new();
    for (&block, prompt) in pass.prompts.iter().flat_map(|prompts| prompts.blocks.range(blocks.clone())) {
        header.prompts.push((u32::try_from(block).ok()?, u32::try_from(prompt.rows()).ok()?));
        body.extend(prompt.data().iter().flat_map(|value| value.to_le_bytes()));
    }
    if body.len() > MAX_BODY_BYTES {
        return None;
    }
    let adapter = pass.adapter.as_ref().and_then(|adapter| pack_adapter(adapter, blocks));
    header.adapter = adapter.as_ref().map(|bytes| hash(bytes));
    Some(Packed { header, body, adapter })
}

/// The pass that a header and a body say, for blocks of `width` channels behind a wire. `None` for what contradicts itself.
pub fn unpack(
    header: &PassHeader,
    body: &[u8],
    width: usize,
    adapter: Option<Arc<Adapter>>,
    wire: Wire,
) -> Option<Pass> {
    let mut rest = body;
    let rounded = wire == Wire::F32 || header.rounding == wire;
    if !rounded || prompt_bytes(header, width)? != body.len() {
        return None;
    }
    let mut blocks = BTreeMap::new();
    for &(block, rows) in &header.prompts {
        let bytes = (rows as usize).checked_mul(width)?.checked_mul(4)?;
        let (prompt, after) = rest.split_at_checked(bytes)?;
        rest = after;
        blocks.insert(block as usize, floats(prompt, rows as usize, width));
    }
    Some(Pass {
        adapter,
        prompts: (!blocks.is_empty()).then(|| Arc::new(Prompts { blocks })),
        dropout: header.dropout(),
        reserved_tokens: match header.reserved_tokens {
            Some(tokens) => Some(usize::try_from(tokens).ok()?),
            None => None,
        },
        rounding: header.rounding.rounding(),
        leaf: usize::try_from(header.leaf).ok()?,
        ..Pass::default()
    })
}

/// Bytes of the prompts that a header names.
pub fn prompt_bytes(header: &PassHeader, width: usize) -> Option<usize> {
    let rows = header.prompts.iter().try_fold(0usize, |sum, &(_, rows)| sum.checked_add(rows as usize))?;
    rows.checked_mul(width)?.checked_mul(4)
}

/// The name of bytes.
pub fn hash(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// The pairs for some blocks; `None` if there are none.
pub fn pack_adapter(adapter: &Adapter, blocks: Range<usize>) -> Option<Arc<[u8]>> {
    let pairs: Vec<_> = adapter.pairs.iter().filter(|(linear, _)| blocks.contains(&linear.block)).collect();
    if pairs.is_empty() {
        return None;
    }
    let size = |(linear, pair): &(&bouquet_span::LinearId, &LowRank)| {
        let sizes = [pair.a.rows(), pair.a.cols(), pair.b.rows(), pair.b.cols()];
        (linear.counter(), sizes.map(|size| size as u32), pair.scale)
    };
    let header = AdapterHeader { dropout: adapter.dropout, pairs: pairs.iter().map(size).collect() };
    let mut bytes = postcard::to_allocvec(&header).expect("numbers can be encoded");
    for (_, pair) in pairs {
        for matrix in [&pair.a, &pair.b] {
            bytes.extend(matrix.data().iter().flat_map(|value| value.to_le_bytes()));
        }
    }
    Some(bytes.into())
}

/// The adapter that bytes say; `None` for what contradicts itself.
pub fn unpack_adapter(bytes: &[u8]) -> Option<Adapter> {
    let (header, mut rest) = postcard::take_from_bytes::<AdapterHeader>(bytes).ok()?;
    let mut pairs = BTreeMap::new();
    for (linear, sizes, scale) in header.pairs {
        let mut matrix = |rows: u32, cols: u32| {
            let (rows, cols) = (rows as usize, cols as usize);
            let (values, after) = rest.split_at_checked(rows.checked_mul(cols)?.checked_mul(4)?)?;
            rest = after;
            Some(floats(values, rows, cols))
        };
        let pair = LowRank { a: matrix(sizes[0], sizes[1])?, b: matrix(sizes[2], sizes[3])?, scale };
        pairs.insert(linear_of(linear)?, pair);
    }
    rest.is_empty().then_some(Adapter { pairs, dropout: header.dropout })
}

/// The gradients of a pass in the order that both ends know: for each leaf those of the adapter, A before B, and those of the
/// prompts.
pub fn pack_gradients(gradients: &PassGrad) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut put = |matrix: &Matrix| bytes.extend(matrix.data().iter().flat_map(|value| value.to_le_bytes()));
    for leaf in &gradients.leaves {
        leaf.adapter.values().for_each(|pair| [&pair.a, &pair.b].into_iter().for_each(&mut put));
        leaf.prompts.values().for_each(&mut put);
    }
    bytes
}

/// The gradients that [`pack_gradients`] had, of a pass over so many sequences through some blocks; `None` for another number
/// of bytes.
pub fn unpack_gradients(bytes: &[u8], pass: &Pass, blocks: Range<usize>, sequences: usize) -> Option<PassGrad> {
    let mut leaves = pass.zero_leaves(blocks, sequences);
    let mut rest = bytes;
    let mut take = |matrix: &mut Matrix| {
        let (values, after) = rest.split_at_checked(4 * matrix.data().len())?;
        rest = after;
        *matrix = floats(values, matrix.rows(), matrix.cols());
        Some(())
    };
    for leaf in &mut leaves {
        for pair in leaf.adapter.values_mut() {
            take(&mut pair.a)?;
            take(&mut pair.b)?;
        }
        leaf.prompts.values_mut().try_for_each(&mut take)?;
    }
    rest.is_empty().then_some(PassGrad { leaves })
}

/// Rows of numbers in single precision.
pub fn floats(bytes: &[u8], rows: usize, cols: usize) -> Matrix {
    let values = bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("4")));
    Matrix::from_vec(rows, cols, values.collect())
}

#[cfg(test)]
mod tests {
    use bouquet_span::contract::Random;
    use bouquet_span::{Dropout, LinearId, Site};

    use super::*;

    #[test]
    fn a_pass_arrives_as_it_was_for_the_blocks_that_it_is_sent_to() {
        let mut random = Random::new(3);
        let pairs = [(2, Site::O), (3, Site::ExpertDown(300)), (5, Site::Qkv)]
            .map(|(block, site)| (LinearId::new(block, site), random.low_rank(6, 4, 2)));
        let adapter = Adapter { pairs: pairs.into(), dropout: 0.25 };
        let pass = Pass {
            adapter: Some(Arc::new(adapter.clone())),
            prompts: Some(Arc::new(random.prompts(1..5, 3, 4))),
            dropout: Some(Dropout { seed: 1, step: 2, view: 3, first_sequence: 4 }),
            reserved_tokens: Some(17),
            leaf: 5,
            ..Pass::default()
        };
        let packed = pack(&pass, 2..4).unwrap();
        let bytes = packed.adapter.unwrap();
        assert_eq!(packed.header.adapter, Some(hash(&bytes)));
        let there = Arc::new(unpack_adapter(&bytes).unwrap());
        let expected = adapter.pairs.iter().filter(|(linear, _)| (2..4).contains(&linear.block));
        assert!(there.pairs.iter().eq(expected) && there.dropout == 0.25);
        let arrived = unpack(&packed.header, &packed.body, 4, Some(there), Wire::F32).unwrap();
        let prompts: Vec<usize> = arrived.prompts.as_ref().unwrap().blocks.keys().copied().collect();
        assert_eq!(prompts, [2, 3]);
        assert_eq!(arrived.prompts.unwrap().blocks[&2], pass.prompts.as_ref().unwrap().blocks[&2]);
        assert_eq!((arrived.dropout, arrived.reserved_tokens, arrived.leaf), (pass.dropout, Some(17), 5));
        for end in 0..bytes.len() {
            assert!(unpack_adapter(&bytes[..end]).is_none());
        }
        assert!(unpack(&packed.header, &packed.body[1..], 4, None, Wire::F32).is_none());
        assert!(pack(&pass, 6..9).unwrap().adapter.is_none());
    }
}
