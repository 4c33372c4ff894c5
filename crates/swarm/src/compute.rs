//! Where blocks are computed: a thread of its own, so that the network is heard whatever is computed; or, in a simulation,
//! at once, for as long as it is said to take.

use std::sync::Arc;
use std::time::Duration;

use bouquet_span::Span;
use tokio::sync::oneshot;

use crate::{Result, SwarmError};

/// Blocks that a server has, from which any in a row can be run.
pub trait Blocks: Send + Sync {
    /// All of them.
    fn range(&self) -> std::ops::Range<usize>;

    /// Some of them as a span. Spans of the same range are the same span, so that their sessions can be stepped together.
    fn span(&self, range: std::ops::Range<usize>) -> Arc<dyn Span>;

    /// Bytes that a token of a session takes in the cache of one block.
    fn cache_bytes(&self) -> u64;
}

/// Runs jobs one after another.
pub enum Compute {
    /// In a thread.
    Thread(std::sync::mpsc::Sender<Job>),
    /// At once, by simulated time: so long for each call, and for each token of it in one block.
    Simulated {
        /// For each call.
        call: Duration,
        /// For each token in a block.
        token: Duration,
    },
}

/// What is to be run.
pub type Job = Box<dyn FnOnce() + Send>;

impl Compute {
    /// A thread of its own.
    ///
    /// # Errors
    /// [`SwarmError::Network`] when there can be no more threads.
    pub fn thread() -> Result<Compute> {
        let (sender, jobs) = std::sync::mpsc::channel::<Job>();
        let run = move || jobs.into_iter().for_each(|job| job());
        match std::thread::Builder::new().name("blocks".to_owned()).spawn(run) {
            Ok(_) => Ok(Compute::Thread(sender)),
            Err(error) => Err(SwarmError::Network(format!("no thread for the blocks: {error}"))),
        }
    }

    /// Runs a job over so many tokens and blocks; `None` when it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        tokens: usize,
        blocks: usize,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        match self {
            Compute::Thread(sender) => {
                let (answer, answered) = oneshot::channel();
                let job = move || {
                    if let Ok(result) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)) {
                        let _ = answer.send(result);
                    }
                };
                sender.send(Box::new(job)).ok()?;
                answered.await.ok()
            }
            Compute::Simulated { call, token } => {
                tokio::time::sleep(*call + *token * u32::try_from(tokens * blocks).unwrap_or(u32::MAX)).await;
                Some(job())
            }
        }
    }
}
