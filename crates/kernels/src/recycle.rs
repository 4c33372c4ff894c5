//! Large buffers that go from one matrix to the next. Fresh memory costs a page fault for every 4 KiB, which is more than
//! it costs to compute what goes there; and what a product writes whole need not be zeros first.

use std::sync::Mutex;

/// Numbers below which the allocator does as well.
const SMALL: usize = 16 << 10;

/// Most buffers that are kept.
const MOST_BUFFERS: usize = 256;

/// Bytes of the matrices that nobody uses and that are kept for the next ones, at most, unless
/// [`set_most_idle_bytes`] says otherwise.
pub const MOST_IDLE_BYTES: usize = 128 << 20;

static KEPT: Mutex<Kept> = Mutex::new(Kept::new(MOST_IDLE_BYTES));

struct Kept {
    buffers: Vec<Vec<f32>>,
    /// Of all buffers.
    numbers: usize,
    /// How many there may be.
    most_numbers: usize,
}

/// From now on, and in the whole program, no more than so many bytes wait for the next matrices: for those who plan what
/// they take. Changes the time that things take, and no bit of them.
pub fn set_most_idle_bytes(bytes: usize) {
    if let Ok(mut kept) = KEPT.lock() {
        kept.most_numbers = bytes / size_of::<f32>();
        kept.make_room(0);
    }
}

/// `len` numbers, whatever they are: NaN where debug assertions are on, so that a test sees who reads them.
pub(crate) fn take(len: usize) -> Vec<f32> {
    let mut buffer =
        if len < SMALL { Vec::new() } else { KEPT.lock().map_or_else(|_| Vec::new(), |mut kept| kept.take(len)) };
    if buffer.capacity() < len {
        buffer = vec![0.0; len];
    }
    // Longer than last time: the end is filled, within memory that is there.
    buffer.resize(len, 0.0);
    if cfg!(debug_assertions) {
        buffer.fill(f32::NAN);
    }
    buffer
}

/// Keeps a buffer that is not needed any more, if there is room.
pub(crate) fn give(buffer: Vec<f32>) {
    if buffer.capacity() >= SMALL
        && let Ok(mut kept) = KEPT.lock()
    {
        kept.give(buffer);
    }
}

impl Kept {
    const fn new(most_bytes: usize) -> Self {
        Kept { buffers: Vec::new(), numbers: 0, most_numbers: most_bytes / size_of::<f32>() }
    }

    /// The shortest that is long enough, unless it is so long that others will miss it.
    fn take(&mut self, len: usize) -> Vec<f32> {
        let fits = |buffer: &Vec<f32>| (len..=2 * len).contains(&buffer.capacity());
        let index = (0..self.buffers.len()).filter(|&index| fits(&self.buffers[index]));
        match index.min_by_key(|&index| self.buffers[index].capacity()) {
            None => Vec::new(),
            Some(index) => {
                let buffer = self.buffers.swap_remove(index);
                self.numbers -= buffer.capacity();
                buffer
            }
        }
    }

    fn give(&mut self, buffer: Vec<f32>) {
        if self.make_room(buffer.capacity()) {
            self.numbers += buffer.capacity();
            self.buffers.push(buffer);
        }
    }

    /// Whether a buffer of so many numbers may stay. What was kept longest goes for it.
    fn make_room(&mut self, more: usize) -> bool {
        let room = |kept: &Kept| kept.buffers.len() < MOST_BUFFERS && kept.numbers + more <= kept.most_numbers;
        while !room(self) && !self.buffers.is_empty() {
            self.numbers -= self.buffers.remove(0).capacity();
        }
        room(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_the_oldest_go() {
        let mut kept = Kept::new(MOST_IDLE_BYTES);
        let most_numbers = kept.most_numbers;
        let buffer = Vec::with_capacity(30_000);
        let address = buffer.as_ptr();
        kept.give(buffer);
        assert_eq!(kept.take(30_001).capacity(), 0, "too short");
        assert_eq!(kept.take(14_999).capacity(), 0, "too long");
        let taken = kept.take(15_000);
        assert_eq!(taken.as_ptr(), address);
        assert_eq!((kept.buffers.len(), kept.numbers), (0, 0));
        (0..MOST_BUFFERS + 3).for_each(|more| kept.give(Vec::with_capacity(SMALL + more)));
        assert_eq!((kept.buffers.len(), kept.buffers[0].capacity()), (MOST_BUFFERS, SMALL + 3));
        kept.give(Vec::with_capacity(most_numbers));
        assert_eq!((kept.buffers.len(), kept.numbers), (1, most_numbers));
        kept.give(Vec::with_capacity(most_numbers + 1));
        assert_eq!((kept.buffers.len(), kept.numbers), (0, 0));
        kept.give(Vec::with_capacity(3 * SMALL));
        kept.give(Vec::with_capacity(SMALL));
        kept.most_numbers = 2 * SMALL;
        assert!(kept.make_room(0));
        assert_eq!((kept.buffers.len(), kept.numbers), (1, SMALL), "less may wait");
    }
}
