//! A client: it keeps the ends of a model and runs the blocks through others.
//!
//! | module | job |
//! |---|---|
//! | [`guide`] | who is asked |
//! | `hop` | a stream to one server of a session |
//! | [`ring`] | a session over several servers, mended when one is lost |
//! | `passes` | whole sequences, forward and backward |
//! | [`routed`] | all of it as a span |

pub mod guide;
mod hop;
pub(crate) mod passes;
pub mod ring;
pub mod routed;

use std::sync::Arc;
use std::time::Duration;

use self::guide::Guide;
use crate::transport::Transport;
use crate::{Digest, Wire};

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
