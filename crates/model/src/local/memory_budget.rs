//! How much memory the caches of a span's sessions and the passes through it may take, all together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many bytes may be reserved, and are.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    limit: u64,
    reserved: AtomicU64,
}

/// A part of the budget; given back when dropped.
pub(super) struct Reservation {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl MemoryBudget {
    /// None of `limit` bytes reserved yet.
    pub(super) fn new(limit: u64) -> Self {
        MemoryBudget { limit, reserved: AtomicU64::new(0) }
    }

    /// Bytes that can still be reserved.
    pub(super) fn left(&self) -> u64 {
        self.limit - self.reserved.load(Ordering::Relaxed)
    }
}

impl Reservation {
    /// Reserves `bytes`; the error is how many are left.
    pub(super) fn take(budget: &Arc<MemoryBudget>, bytes: u64) -> Result<Self, u64> {
        let grow = |reserved: u64| reserved.checked_add(bytes).filter(|&sum| sum <= budget.limit);
        match budget.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow) {
            Ok(_) => Ok(Reservation { budget: budget.clone(), bytes }),
            Err(reserved) => Err(budget.limit - reserved),
        }
    }

    /// Gives back what is more than `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: u64) {
        let more = self.bytes.saturating_sub(bytes);
        self.budget.reserved.fetch_sub(more, Ordering::Relaxed);
        self.bytes -= more;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_never_more_than_the_limit_and_comes_back() {
        let budget = Arc::new(MemoryBudget::new(100));
        let mut first = Reservation::take(&budget, 70).unwrap();
        assert_eq!(Reservation::take(&budget, 31).err(), Some(30));
        assert_eq!(Reservation::take(&budget, u64::MAX).err(), Some(30));
        first.shrink_to(80);
        assert_eq!(budget.left(), 30);
        first.shrink_to(20);
        assert_eq!(budget.left(), 80);
        drop(first);
        assert_eq!(budget.left(), 100);
    }
}
