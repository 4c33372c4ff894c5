//! How much memory the caches of a span's sessions may take, all together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bouquet_span::{Result, SpanError};

/// How many bytes sessions may reserve, and have.
#[derive(Debug)]
pub(super) struct CacheBudget {
    limit: u64,
    reserved: AtomicU64,
}

/// A part of the budget; given back when dropped.
pub(super) struct Reservation {
    budget: Arc<CacheBudget>,
    bytes: u64,
}

impl CacheBudget {
    /// None of `limit` bytes reserved yet.
    pub(super) fn new(limit: u64) -> Self {
        CacheBudget { limit, reserved: AtomicU64::new(0) }
    }
}

impl Reservation {
    /// Reserves `bytes`, or says how many are left.
    pub(super) fn take(budget: &Arc<CacheBudget>, bytes: u64) -> Result<Self> {
        let grow = |reserved: u64| reserved.checked_add(bytes).filter(|&sum| sum <= budget.limit);
        match budget.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow) {
            Ok(_) => Ok(Reservation { budget: budget.clone(), bytes }),
            Err(reserved) => Err(SpanError::CacheFull { needed: bytes, available: budget.limit - reserved }),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
