//! The path of least cost through servers and blocks, for any cost that adds up hop by hop, with no server twice.
//!
//! A hop is a server and a run of its blocks, which may begin and end anywhere in its span. Blocks only ever go up, so
//! that what Dijkstra's algorithm would find is found border by border: the cheapest way to have come to a border with a
//! given server last is continued by each hop that begins there. Since a hop is priced whole, its cost may depend on how
//! many blocks it has.
//!
//! A way that has gone through a server cannot go there again, so that a dearer way which leaves more servers to use may
//! still win. Of ways to the same border with the same server last, those are kept than which none is both cheaper and
//! freer, up to [`WAYS`]; up to four servers, the path is therefore the cheapest there is, and with more it hardly ever
//! is not. There always is one if all blocks are served: where a span begins, no way has been through its server.

use std::ops::Range;

/// Ways that are kept for each border and server.
const WAYS: usize = 4;

/// Ways that the next hop may continue at a border: the cheapest so many.
const ORIGINS: usize = 64;

/// A hop: a server by its place in the list, and blocks.
pub(super) type Leg = (usize, Range<usize>);

/// What to search, and what it costs in seconds; infinite is forbidden.
pub(super) struct Search<'a, Between, Hop> {
    /// To be covered, in order.
    pub blocks: Range<usize>,
    /// What each server has.
    pub spans: &'a [Range<usize>],
    /// To come to each server from where the path begins.
    pub entry: &'a [f64],
    /// From each server to where the path ends.
    pub exit: &'a [f64],
    /// From one server to another.
    pub between: Between,
    /// Of a hop itself.
    pub hop: Hop,
}

/// A way to a border with one server last.
#[derive(Clone)]
struct Way {
    cost: f64,
    /// Where its last hop begins.
    start: usize,
    /// What it continues there: a server, and which of the ways with that last.
    before: Option<(usize, usize)>,
    /// The servers that it has been through and that have blocks beyond this border.
    used: Vec<usize>,
}

/// For each server, the ways to one border that have it last, the cheapest first.
type Ways = Vec<Vec<Way>>;

impl<Between: Fn(usize, usize) -> f64, Hop: Fn(usize, &Range<usize>) -> f64> Search<'_, Between, Hop> {
    /// What it costs, and the path; `None` where there is none.
    pub(super) fn shortest(&self) -> Option<(f64, Vec<Leg>)> {
        let Range { start: first, end: last } = self.blocks;
        let mut borders: Vec<Ways> = vec![vec![Vec::new(); self.spans.len()]; self.blocks.len() + 1];
        for border in self.blocks.clone() {
            let origins = origins(&borders[border - first]);
            for (server, span) in self.spans.iter().enumerate().filter(|(_, span)| span.contains(&border)) {
                let starts = if border == first {
                    vec![Way { cost: self.entry[server], start: first, before: None, used: Vec::new() }]
                } else {
                    self.continued(&borders[border - first], &origins, server, border)
                };
                for start in starts {
                    for end in border + 1..=span.end.min(last) {
                        let mut way = start.clone();
                        way.cost += (self.hop)(server, &(border..end));
                        way.used.push(server);
                        way.used.retain(|used| self.spans[*used].end > end);
                        keep(&mut borders[end - first][server], way);
                    }
                }
            }
        }
        let arrived = borders[last - first].iter().enumerate();
        let costs = arrived.filter_map(|(server, ways)| Some((ways.first()?.cost + self.exit[server], server)));
        let (cost, server) = costs.min_by(|one, other| one.0.total_cmp(&other.0))?;
        (cost < f64::INFINITY).then(|| (cost, self.walked(&borders, server)))
    }

    /// Ways to a border that a hop of this server can continue, the link to it included.
    fn continued(&self, ways: &Ways, origins: &[(usize, usize)], server: usize, border: usize) -> Vec<Way> {
        let mut starts = Vec::new();
        for &(origin, place) in origins {
            let way = &ways[origin][place];
            if origin != server && !way.used.contains(&server) {
                let cost = way.cost + (self.between)(origin, server);
                let before = Some((origin, place));
                keep(&mut starts, Way { cost, start: border, before, used: way.used.clone() });
            }
        }
        starts
    }

    fn walked(&self, borders: &[Ways], last: usize) -> Vec<Leg> {
        let mut legs = Vec::new();
        let mut end = self.blocks.end;
        let mut at = Some((last, 0));
        while let Some((server, place)) = at {
            let way = &borders[end - self.blocks.start][server][place];
            legs.push((server, way.start..end));
            (end, at) = (way.start, way.before);
        }
        legs.reverse();
        legs
    }
}

/// The ways to a border, the cheapest first: the last server of each, and which of its ways it is.
fn origins(ways: &Ways) -> Vec<(usize, usize)> {
    let all = ways.iter().enumerate().flat_map(|(server, ways)| (0..ways.len()).map(move |place| (server, place)));
    let mut all: Vec<(usize, usize)> = all.collect();
    all.sort_by(|one, other| ways[one.0][one.1].cost.total_cmp(&ways[other.0][other.1].cost));
    all.truncate(ORIGINS);
    all
}

/// Keeps a way, unless one is cheaper and leaves as many servers to use.
fn keep(ways: &mut Vec<Way>, way: Way) {
    let beats =
        |one: &Way, other: &Way| one.cost <= other.cost && one.used.iter().all(|server| other.used.contains(server));
    if way.cost == f64::INFINITY || ways.iter().any(|kept| beats(kept, &way)) {
        return;
    }
    ways.retain(|kept| !beats(&way, kept));
    ways.insert(ways.partition_point(|kept| kept.cost <= way.cost), way);
    ways.truncate(WAYS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dearer_way_may_leave_the_server_that_is_needed_later() {
        // Server 0 is cheapest for the first block, but is the only good one for the last.
        let costs = [[1.0, 100.0, 1.0], [100.0, 1.0, 100.0], [2.0, 100.0, 100.0]];
        let found = Search {
            blocks: 0..3,
            spans: &[0..3, 0..3, 0..3],
            entry: &[0.0; 3],
            exit: &[0.0; 3],
            between: |_, _| 0.0,
            hop: |server: usize, blocks: &Range<usize>| costs[server][blocks.clone()].iter().sum(),
        }
        .shortest();
        assert_eq!(found, Some((4.0, vec![(2, 0..1), (1, 1..2), (0, 2..3)])));
    }
}
