//! Where the time of a route goes.

use super::{Hop, Servers};

/// What a route is expected to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What each hop takes, in order.
    pub hops: Vec<HopTimes>,
    /// From the last server back to the client.
    pub back_seconds: f64,
}

/// What one decoded token takes in one hop, and on the way there.
#[derive(Clone, Debug, PartialEq)]
pub struct HopTimes {
    /// The hop.
    pub hop: Hop,
    /// From the client, or the server before.
    pub link_seconds: f64,
    /// What waits there.
    pub queue_seconds: f64,
    /// The blocks.
    pub compute_seconds: f64,
    /// One token of a long prompt in the blocks, where chunks follow each other.
    pub prompt_token_seconds: f64,
    /// Whether the session's cache fits.
    pub fits: bool,
}

impl Plan {
    /// What one decoded token takes.
    pub fn token_seconds(&self) -> f64 {
        let hop = |hop: &HopTimes| hop.link_seconds + hop.queue_seconds + hop.compute_seconds;
        self.hops.iter().map(hop).sum::<f64>() + self.back_seconds
    }

    /// Tokens that one session decodes in a second.
    pub fn tokens_per_second(&self) -> f64 {
        1.0 / self.token_seconds()
    }

    /// Tokens of a long prompt in a second: what the slowest hop allows.
    pub fn prompt_tokens_per_second(&self) -> f64 {
        1.0 / self.hops.iter().map(|hop| hop.prompt_token_seconds).fold(0.0, f64::max)
    }

    /// The hop that takes longest, with the way there.
    pub fn slowest(&self) -> Option<&HopTimes> {
        let seconds = |hop: &HopTimes| hop.link_seconds + hop.queue_seconds + hop.compute_seconds;
        self.hops.iter().max_by(|one, other| seconds(one).total_cmp(&seconds(other)))
    }
}

impl Servers<'_> {
    /// Where the time of a route goes, for a session with so much cache; `None` where one of its servers is not among
    /// these.
    pub fn plan(&self, route: &[Hop], cache_tokens: u64) -> Option<Plan> {
        let mut hops = Vec::with_capacity(route.len());
        let mut before = None;
        let mut back_seconds = 0.0;
        for hop in route {
            let server = self.server(&hop.peer)?;
            let blocks = hop.blocks.len();
            let compute_seconds = server.token(blocks) - server.queued;
            hops.push(HopTimes {
                hop: hop.clone(),
                link_seconds: self.to(server, before) / 2.0,
                queue_seconds: server.queued,
                compute_seconds,
                prompt_token_seconds: server.chunk(1, blocks),
                fits: server.fits(cache_tokens, blocks),
            });
            before = Some(hop.peer);
            back_seconds = server.round_trip / 2.0;
        }
        Some(Plan { hops, back_seconds })
    }
}
