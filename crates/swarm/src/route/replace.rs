//! Other servers in place of those that failed.

use std::ops::Range;

use libp2p_identity::PeerId;

use super::choice::Gap;
use super::{Hop, Need, Servers, overlap};
use crate::{Result, SwarmError};

/// Each further successor of a server that failed counts as if it took so many seconds: as few as possible are brought to
/// the present, unless they are very slow.
const SUCCESSOR_SECONDS: f64 = 10.0;

/// A gap for which there are too few servers beside those of the route.
struct Lack {
    /// Which hops.
    gap: Range<usize>,
    /// Which of their blocks nobody has.
    missing: Vec<Range<usize>>,
}

impl Servers<'_> {
    /// A route with others in place of those that failed: the fewest that are not very slow. All other hops stay as they
    /// are, but where nobody else than a server of the route has some of the lost blocks: since it is in a route once,
    /// its hop is made anew as well, and those between.
    ///
    /// `need` is what the route is for from now on; its prompt is what the successors have to be told again. Who failed
    /// is banned for a while ([`Health`](crate::Health)) and not asked; when it comes back, it may succeed itself.
    ///
    /// # Errors
    /// [`SwarmError::Missing`], with those of the lost blocks that nobody serves at the moment.
    pub fn replace(&self, route: &[Hop], failed: &[PeerId], need: &Need) -> Result<Vec<Hop>> {
        let fails = |hop: &Hop| failed.contains(&hop.peer) || self.banned.contains_key(&hop.peer);
        let mut lost: Vec<bool> = route.iter().map(fails).collect();
        let ranges: Vec<Range<usize>> = gaps(&lost).into_iter().map(|gap| blocks(route, &gap)).collect();
        self.covered(&ranges)?;
        loop {
            match self.fill_gaps(route, &lost, need) {
                Ok(hops) => return Ok(hops),
                // Each time around at least one more hop is made anew.
                Err(Lack { gap, missing }) => match self.nearest(route, &lost, &gap, &missing) {
                    Some(helper) => lost[helper.min(gap.start)..gap.end.max(helper + 1)].fill(true),
                    None if gaps(&lost).len() > 1 => lost.fill(true),
                    None => return Err(SwarmError::Missing(missing)),
                },
            }
        }
    }

    /// A route with all that is lost made anew by servers that are not in it; or else the first gap for which there are
    /// too few, and which of its blocks are missing then.
    fn fill_gaps(&self, route: &[Hop], lost: &[bool], need: &Need) -> std::result::Result<Vec<Hop>, Lack> {
        let mut taken: Vec<PeerId> =
            route.iter().zip(lost).filter(|(_, lost)| !**lost).map(|(hop, _)| hop.peer).collect();
        let mut hops = Vec::new();
        let mut done = 0;
        for gap in gaps(lost) {
            hops.extend_from_slice(&route[done..gap.start]);
            done = gap.end;
            let others = self.without(&taken);
            let blocks = blocks(route, &gap);
            let missing = others.missing(&blocks);
            if !missing.is_empty() {
                return Err(Lack { gap, missing });
            }
            let from = gap.start.checked_sub(1).map(|before| route[before].peer);
            let to = route.get(gap.end).map(|after| after.peer);
            let successors = others.fill(&Gap { blocks, from, to, each_hop: SUCCESSOR_SECONDS }, need);
            taken.extend(successors.iter().map(|hop| hop.peer));
            hops.extend(successors);
        }
        hops.extend_from_slice(&route[done..]);
        Ok(hops)
    }

    /// The hop nearest to a gap that is not lost and whose server has some of the missing blocks.
    fn nearest(&self, route: &[Hop], lost: &[bool], gap: &Range<usize>, missing: &[Range<usize>]) -> Option<usize> {
        let helps = |place: &usize| {
            let server = self.server(&route[*place].peer);
            !lost[*place] && server.is_some_and(|server| missing.iter().any(|range| overlap(range, &server.blocks)))
        };
        let distance = |place: &usize| gap.start.saturating_sub(*place).max((place + 1).saturating_sub(gap.end));
        (0..route.len()).filter(helps).min_by_key(distance)
    }
}

/// Hops in a row that are lost.
fn gaps(lost: &[bool]) -> Vec<Range<usize>> {
    let mut gaps: Vec<Range<usize>> = Vec::new();
    for place in (0..lost.len()).filter(|place| lost[*place]) {
        match gaps.last_mut() {
            Some(gap) if gap.end == place => gap.end += 1,
            _ => gaps.push(place..place + 1),
        }
    }
    gaps
}

/// The blocks of some hops in a row.
fn blocks(route: &[Hop], hops: &Range<usize>) -> Range<usize> {
    route[hops.start].blocks.start..route[hops.end - 1].blocks.end
}
