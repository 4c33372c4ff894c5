//! Where the time goes, operation by operation, for those who ask: a [`Cpu`](crate::Cpu) counts nothing unless it was
//! made to. One thread at a time is watched, that which calls the operations; what workers do meanwhile is its time too.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One operation's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationTime {
    /// What it is called.
    pub operation: &'static str,
    /// How often it ran.
    pub calls: u64,
    /// How long in all, without the operations inside of it.
    pub time: Duration,
}

/// Times of operations so far.
#[derive(Debug, Default)]
pub(crate) struct Profile(Mutex<Times>);

#[derive(Debug, Default)]
struct Times {
    /// In the order in which they first ended.
    operations: Vec<OperationTime>,
    /// Of what ended inside of the operation that runs now.
    inside: Duration,
}

impl Profile {
    /// Runs `work` and adds its time to that of `operation`. Operations may run inside of others; each moment counts for
    /// the innermost.
    pub(crate) fn timed<T>(&self, operation: &'static str, work: impl FnOnce() -> T) -> T {
        let outside = std::mem::take(&mut self.times().inside);
        let start = Instant::now();
        let result = work();
        let elapsed = start.elapsed();
        let mut times = self.times();
        let own = elapsed.saturating_sub(times.inside);
        times.inside = outside + elapsed;
        match times.operations.iter_mut().find(|known| known.operation == operation) {
            Some(known) => {
                known.calls += 1;
                known.time += own;
            }
            None => times.operations.push(OperationTime { operation, calls: 1, time: own }),
        }
        result
    }

    /// The times so far, which begin anew.
    pub(crate) fn take(&self) -> Vec<OperationTime> {
        std::mem::take(&mut *self.times()).operations
    }

    fn times(&self) -> std::sync::MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cpu;

    fn spin(time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {}
    }

    #[test]
    fn each_moment_counts_for_the_innermost_operation() {
        let cpu = Cpu::new(1).profiled();
        let (inner, outer) = (Duration::from_millis(20), Duration::from_millis(2));
        for _ in 0..2 {
            cpu.timed("outer", || {
                spin(outer);
                cpu.timed("inner", || spin(inner));
                cpu.timed("inner", || spin(inner));
            });
        }
        let times = cpu.take_profile();
        let of = |name| *times.iter().find(|times| times.operation == name).unwrap();
        assert_eq!((times.len(), of("inner").calls, of("outer").calls), (2, 4, 2));
        assert!(of("inner").time >= 4 * inner && of("outer").time >= 2 * outer, "{times:?}");
        // What is inside is not counted twice.
        assert!(of("outer").time < 2 * inner, "{times:?}");
        assert_eq!(cpu.take_profile(), []);
    }

    #[test]
    fn nothing_is_counted_unless_asked_for() {
        let cpu = Cpu::new(1);
        assert_eq!(cpu.timed("anything", || 5), 5);
        assert_eq!(cpu.take_profile(), []);
    }
}
