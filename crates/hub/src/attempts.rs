//! What failed and may pass: whether to try again, and when.

use std::thread;
use std::time::Duration;

use crate::{Event, HubError, Result};

/// The longest wait between two attempts, whatever a hub asks for.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Why an attempt failed, and whether another one may do better.
pub(crate) struct Failure {
    pub(crate) error: HubError,
    pub(crate) passing: bool,
    /// What the hub asks to wait.
    pub(crate) wait: Option<Duration>,
}

/// Attempts at one thing.
pub(crate) struct Attempts {
    left: u32,
    all: u32,
    wait: Duration,
    first_wait: Duration,
}

impl Failure {
    /// What went wrong, but would not with another attempt.
    pub(crate) fn once(error: HubError) -> Failure {
        Failure { error, passing: true, wait: None }
    }

    /// What may go better the next time.
    pub(crate) fn passing(host: &str, problem: impl Into<String>) -> Failure {
        let error = HubError::Unreachable { host: host.to_owned(), problem: problem.into() };
        Failure { error, passing: true, wait: None }
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Failure {
        Failure { error, passing: false, wait: None }
    }
}

impl Attempts {
    /// One, and so many more; before the first of these a wait, before each further one twice as long.
    pub(crate) fn new(left: u32, first_wait: Duration) -> Attempts {
        Attempts { left, all: left, wait: first_wait, first_wait }
    }

    /// Waits before another attempt, or says that there is none.
    ///
    /// # Errors
    /// That of the failure, when it will not pass, or too many have failed.
    pub(crate) fn again(&mut self, failure: Failure, observe: &mut dyn FnMut(Event)) -> Result<()> {
        if !failure.passing || self.left == 0 {
            return Err(failure.error);
        }
        self.left -= 1;
        let wait = failure.wait.unwrap_or_default().max(self.wait).min(MAX_WAIT);
        self.wait = self.wait.saturating_mul(2);
        observe(Event::Retries { problem: &failure.error, wait });
        thread::sleep(wait);
        Ok(())
    }

    /// Forgets what failed: there was progress since.
    pub(crate) fn renew(&mut self) {
        (self.left, self.wait) = (self.all, self.first_wait);
    }

    /// Attempts until one works.
    pub(crate) fn until<T>(
        mut self,
        observe: &mut dyn FnMut(Event),
        mut attempt: impl FnMut() -> std::result::Result<T, Failure>,
    ) -> Result<T> {
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(failure) => self.again(failure, observe)?,
            }
        }
    }
}
