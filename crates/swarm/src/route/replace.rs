//! Other servers in place of those that failed.

use std::ops::Range;

use libp2p_identity::PeerId;

use super::choice::Gap;
use super::{Hop, Need, Servers, overlap};
use crate::{Result, SwarmError};

/// Each further successor of a server that failed counts as if it took so many seconds: as few as possible are brought to
/// the present, unless they are very slow.
const SUCCESSOR_SECONDS: f64 = 10.0;

/// A part of a route: a hop that is kept, or blocks that have none.
struct Piece {
    peer: Option<PeerId>,
    blocks: Range<usize>,
}

/// A gap for which there are too few servers beside those of the route.
struct Lack {
    /// Which pieces.
    gap: Range<usize>,
    /// Which of their blocks nobody has.
    missing: Vec<Range<usize>>,
}

impl Servers<'_> {
    /// A route that keeps hops, given in order, and has others for the blocks before, between and behind them: the fewest
    /// that are not very slow. A hop is made anew only where nobody but a server of the route has some of those blocks:
    /// since it is in a route once, others get its place, and all between.
    ///
    /// `need` is what the route is for from now on; its prompt is what the successors have to be told again. Who failed
    /// is banned for a while ([`Health`](crate::Health)) and not asked; when it comes back, it may succeed itself.
    ///
    /// # Errors
    /// [`SwarmError::Missing`], with those of the blocks that nobody serves at the moment.
    pub fn complete(&self, blocks: Range<usize>, kept: &[Hop], need: &Need) -> Result<Vec<Hop>> {
        let mut pieces = pieces(blocks, kept);
        let lost: Vec<Range<usize>> =
            pieces.iter().filter(|piece| piece.is_lost()).map(|lost| lost.blocks.clone()).collect();
        self.covered(&lost)?;
        loop {
            match self.fill_gaps(&pieces, need) {
                Ok(hops) => return Ok(hops),
                // Each time around at least one more hop is made anew.
                Err(Lack { gap, missing }) => {
                    let anew = match self.nearest(&pieces, &gap, &missing) {
                        Some(helper) => helper.min(gap.start)..gap.end.max(helper + 1),
                        None if gaps(&pieces).len() > 1 => 0..pieces.len(),
                        None => return Err(SwarmError::Missing(missing)),
                    };
                    pieces[anew].iter_mut().for_each(|piece| piece.peer = None);
                }
            }
        }
    }

    /// A route with all that is lost made anew by servers that are not in it; or else the first gap for which there are
    /// too few, and which of its blocks are missing then.
    fn fill_gaps(&self, pieces: &[Piece], need: &Need) -> std::result::Result<Vec<Hop>, Lack> {
        let mut taken: Vec<PeerId> = pieces.iter().filter_map(|piece| piece.peer).collect();
        let mut hops = Vec::new();
        let mut done = 0;
        for gap in gaps(pieces) {
            hops.extend(pieces[done..gap.start].iter().filter_map(Piece::hop));
            done = gap.end;
            let others = self.without(&taken);
            let blocks = pieces[gap.start].blocks.start..pieces[gap.end - 1].blocks.end;
            let missing = others.missing(&blocks);
            if !missing.is_empty() {
                return Err(Lack { gap, missing });
            }
            let from = gap.start.checked_sub(1).and_then(|before| pieces[before].peer);
            let to = pieces.get(gap.end).and_then(|after| after.peer);
            let successors = others.fill(&Gap { blocks, from, to, each_hop: SUCCESSOR_SECONDS }, need);
            taken.extend(successors.iter().map(|hop| hop.peer));
            hops.extend(successors);
        }
        hops.extend(pieces[done..].iter().filter_map(Piece::hop));
        Ok(hops)
    }

    /// The hop nearest to a gap that is not lost and whose server has some of the missing blocks.
    fn nearest(&self, pieces: &[Piece], gap: &Range<usize>, missing: &[Range<usize>]) -> Option<usize> {
        let helps = |place: &usize| {
            let server = pieces[*place].peer.and_then(|peer| self.server(&peer));
            server.is_some_and(|server| missing.iter().any(|range| overlap(range, &server.blocks)))
        };
        let distance = |place: &usize| gap.start.saturating_sub(*place).max((place + 1).saturating_sub(gap.end));
        (0..pieces.len()).filter(helps).min_by_key(distance)
    }
}

impl Piece {
    fn is_lost(&self) -> bool {
        self.peer.is_none()
    }

    fn hop(&self) -> Option<Hop> {
        self.peer.map(|peer| Hop { peer, blocks: self.blocks.clone() })
    }
}

/// The hops that are kept, and what is between them.
fn pieces(blocks: Range<usize>, kept: &[Hop]) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(2 * kept.len() + 1);
    let mut reached = blocks.start;
    for Hop { peer, blocks } in kept {
        if reached < blocks.start {
            pieces.push(Piece { peer: None, blocks: reached..blocks.start });
        }
        pieces.push(Piece { peer: Some(*peer), blocks: blocks.clone() });
        reached = blocks.end;
    }
    if reached < blocks.end {
        pieces.push(Piece { peer: None, blocks: reached..blocks.end });
    }
    pieces
}

/// Pieces in a row that are lost.
fn gaps(pieces: &[Piece]) -> Vec<Range<usize>> {
    let mut gaps: Vec<Range<usize>> = Vec::new();
    for place in (0..pieces.len()).filter(|place| pieces[*place].is_lost()) {
        match gaps.last_mut() {
            Some(gap) if gap.end == place => gap.end += 1,
            _ => gaps.push(place..place + 1),
        }
    }
    gaps
}
