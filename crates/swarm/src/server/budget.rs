//! Bytes that are promised, of a bound: to the caches of sessions, and to requests without one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many bytes may be promised, and are.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u64,
    promised: AtomicU64,
}

/// Some of them, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Promise {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Arc<Budget> {
        Arc::new(Budget { limit, promised: AtomicU64::new(0) })
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that can still be promised.
    pub(super) fn left(&self) -> u64 {
        self.limit - self.promised.load(Ordering::Relaxed)
    }

    /// Promises bytes; the error is how many are left.
    pub(super) fn promise(self: &Arc<Self>, bytes: u64) -> Result<Promise, u64> {
        let grow = |promised: u64| promised.checked_add(bytes).filter(|sum| *sum <= self.limit);
        match self.promised.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow) {
            Ok(_) => Ok(Promise { budget: self.clone(), bytes }),
            Err(promised) => Err(self.limit - promised),
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.budget.promised.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_promised_than_there_is() {
        let budget = Budget::new(100);
        let first = budget.promise(70).unwrap();
        assert_eq!(budget.promise(31).err(), Some(30));
        assert_eq!(budget.promise(u64::MAX).err(), Some(30));
        let second = budget.promise(30).unwrap();
        drop(first);
        assert_eq!(budget.left(), 70);
        drop(second);
        assert_eq!(budget.left(), budget.limit());
    }
}
