//! A client: it keeps the ends of a model and runs the blocks through others.
//!
//! | module | job |
//! |---|---|
//! | [`guide`] | who is asked |
//! | `hop` | a stream to one server of a session |
//! | [`ring`] | a session over several servers, mended when one is lost |
//! | [`passes`] | whole sequences, forward and backward |
//! | [`routed`] | all of it as a span |

pub mod guide;
mod hop;
pub mod passes;
pub mod ring;
pub mod routed;

use std::sync::Arc;
use std::time::Duration;

use self::guide::Guide;
use crate::transport::Transport;
use crate::{Digest, Wire};

/// How long a token may take, of those that are on their way, besides what anything may.
const PER_TOKEN: Duration = Duration::from_millis(50);

/// Who says that it is at it and does not get on is waited for, where nobody else has its blocks, so many times as long as
/// anything may take.
const ALONE: u32 = 30;

/// A client of a swarm.
pub struct Client {
    /// The network.
    pub transport: Arc<dyn Transport>,
    /// Who is asked.
    pub guide: Arc<dyn Guide>,
    /// Of the model.
    pub fingerprint: Digest,
    /// How hidden states travel.
    pub wire: Wire,
    /// How patient it is.
    pub patience: Patience,
}

/// How long a client waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a server to say anything at all. It beats four times as often.
    pub silence: Duration,
    /// For a server to open a session, or to take one up again.
    pub open: Duration,
    /// For rows to get on, besides what their number takes.
    pub progress: Duration,
    /// For somebody to serve blocks that nobody serves now.
    pub missing: Duration,
}

impl Patience {
    /// For so many tokens, before somebody is called slow and another is asked.
    fn with(&self, tokens: usize) -> Duration {
        self.progress.saturating_add(PER_TOKEN.saturating_mul(u32::try_from(tokens).unwrap_or(u32::MAX)))
    }

    /// For so many tokens, times blocks, where there is no other to be asked.
    fn alone(&self, work: usize) -> Duration {
        let work = u32::try_from(work).unwrap_or(u32::MAX);
        self.progress.saturating_mul(ALONE).saturating_add(PER_TOKEN.saturating_mul(work))
    }
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            // With the time until it is looked again, at most 2 s after a machine froze.
            silence: Duration::from_millis(1800),
            open: Duration::from_secs(5),
            progress: Duration::from_secs(20),
            missing: Duration::from_secs(30),
        }
    }
}
