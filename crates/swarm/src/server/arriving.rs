//! Rows on their way from the network to where they are computed: how many bytes of them there may be, whoever sends them.
//! Whoever brings more waits before its rows are read, so that they stay where they come from.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of rows that may have been sent and not been computed yet, in all sessions together. Tokens of sessions that decode
/// are so few that they wait for nobody.
pub const ARRIVING_BYTES: u64 = 32 << 20;

/// Bytes that are counted as one.
const UNIT: u64 = 1 << 10;

/// Rows that find room in any case: those of a step of decoding.
const FEW_ROWS: u64 = 16;

/// The room for them.
#[derive(Debug)]
pub(super) struct Arriving {
    units: Arc<Semaphore>,
    all: u32,
}

/// Some of the room, given back when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Room {
    _units: Option<OwnedSemaphorePermit>,
}

impl Arriving {
    pub(super) fn new(bytes: u64) -> Arriving {
        let all = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).max(1);
        Arriving { units: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// Waits for room for rows of so many bytes, of which one row takes `row`. More than there is takes all of it.
    pub(super) async fn room(&self, bytes: u64, row: u64) -> Room {
        if bytes <= FEW_ROWS * row {
            return Room::default();
        }
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.all);
        Room { _units: self.units.clone().acquire_many_owned(units).await.ok() }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn rows_wait_for_room_and_tokens_do_not() {
        let arriving = Arriving::new(100 * UNIT);
        let room = |bytes| arriving.room(bytes, 64).now_or_never();
        let first = room(60 * UNIT).expect("there is room");
        assert!(room(60 * UNIT).is_none());
        assert!(room(FEW_ROWS * 64).is_some(), "a token passes");
        drop(first);
        let all = room(u64::MAX).expect("what is larger than all of it takes all");
        assert!(room(2 * UNIT).is_none());
        drop(all);
        assert!(room(100 * UNIT).is_some());
    }
}
