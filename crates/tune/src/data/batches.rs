//! Which records make a batch.
//!
//! The batches of an epoch are a pure function of the options and the records, so that a run that goes on at a step gets
//! the batch that the undisturbed run would have had, and a step can be asked for without those before it.
//!
//! ```text
//! records -> shuffled -> sorted by length in windows -> cut, no text twice in a batch -> batches shuffled
//!            (unless kept)   (EvenLengths)                (distinct)                       (EvenLengths)
//! ```

use std::collections::{HashMap, HashSet};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use super::collect::texts;
use super::{DataError, Record, Result};

/// Batches whose records are sorted by length together.
const WINDOW: usize = 64;

/// Batches that are tried for a record whose texts are in others already, before it begins a batch of its own.
const TRIES: usize = 256;

/// In which order records come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they stand in the files: batch `s` of an epoch has records `s · batch_size ..`, whether texts are distinct or not.
    Kept,
    /// Another one in each epoch.
    Shuffled,
    /// Shuffled, but so that the records of a batch are about as long.
    EvenLengths,
}

/// How records become batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// Records of a batch; at least 1. Only where they run out, a batch has fewer.
    pub batch_size: usize,
    /// Fewer records are no batch; at least 1, and 2 where the others of a batch are what a record is told from.
    pub min_records: usize,
    /// In which order.
    pub order: Order,
    /// Whether no text is in a batch twice: as the negative of another record it would be told that it is wrong.
    pub distinct: bool,
    /// Another seed gives other batches.
    pub seed: u64,
}

/// What has to be known of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowInfo {
    /// How long it is, in any unit.
    pub length: usize,
    /// One number for each of its texts, equal for equal texts.
    pub keys: Vec<u64>,
}

impl RowInfo {
    /// What has to be known of a record of this length.
    pub fn new(record: &Record, length: usize) -> Self {
        RowInfo { length, keys: texts(record).map(text_key).collect() }
    }
}

/// A number for a text, the same on every machine.
fn text_key(text: &str) -> u64 {
    let hash: [u8; 32] = Sha256::digest(text).into();
    u64::from_le_bytes(hash[..8].try_into().expect("8 bytes"))
}

/// The batches of all epochs, which are made when they are asked for.
#[derive(Clone, Debug)]
pub struct Batches {
    options: BatchOptions,
    rows: Vec<RowInfo>,
    /// The first step of each epoch that is known, and of the one after them.
    starts: Vec<u64>,
    /// The epoch that was asked for last, and its batches.
    epoch: (u64, Vec<Vec<usize>>),
}

impl Batches {
    /// The batches of records; a batch names them by their position in `rows`. Panics where a batch is to have none.
    ///
    /// # Errors
    /// [`DataError::NoBatch`] where there are not enough records that may be together.
    pub fn new(options: BatchOptions, rows: Vec<RowInfo>) -> Result<Self> {
        assert!(options.batch_size > 0 && options.min_records > 0, "a batch has records: {options:?}");
        let first = epoch(&options, &rows, 0);
        if first.is_empty() {
            return Err(DataError::NoBatch { records: rows.len(), needed: options.min_records });
        }
        Ok(Batches { options, rows, starts: vec![0, first.len() as u64], epoch: (0, first) })
    }

    /// The records of the batch of a step, counted from 0 over all epochs.
    pub fn batch(&mut self, step: u64) -> Vec<usize> {
        let epoch = self.epoch_of(step);
        let batch = step - self.starts[epoch as usize];
        self.of_epoch(epoch)[batch as usize].clone()
    }

    /// The epoch, counted from 0, to which a step belongs.
    pub fn epoch_of(&mut self, step: u64) -> u64 {
        while self.known_steps() <= step {
            self.know_another_epoch();
        }
        self.starts.partition_point(|&start| start <= step) as u64 - 1
    }

    /// How many steps an epoch takes. Where no text may be in a batch twice, that may differ by some.
    pub fn steps_per_epoch(&mut self, epoch: u64) -> u64 {
        self.steps_until(epoch + 1) - self.steps_until(epoch)
    }

    /// How many steps all epochs before this one take.
    pub fn steps_until(&mut self, epoch: u64) -> u64 {
        while self.starts.len() as u64 <= epoch {
            self.know_another_epoch();
        }
        self.starts[epoch as usize]
    }

    /// How many records are in no batch of an epoch, because they would have been in one with too few.
    pub fn left_out(&mut self, epoch: u64) -> usize {
        let records: usize = self.of_epoch(epoch).iter().map(Vec::len).sum();
        self.rows.len() - records
    }

    fn known_steps(&self) -> u64 {
        *self.starts.last().expect("the first epoch is always known")
    }

    fn know_another_epoch(&mut self) {
        let next = self.starts.len() as u64 - 1;
        // Without `distinct` all epochs take as many steps.
        let steps = if self.options.distinct { self.of_epoch(next).len() as u64 } else { self.starts[1] };
        self.starts.push(self.known_steps() + steps);
    }

    fn of_epoch(&mut self, number: u64) -> &[Vec<usize>] {
        if self.epoch.0 != number {
            let mut batches = epoch(&self.options, &self.rows, number);
            if batches.is_empty() {
                // The first epoch has batches, and an epoch without any would be waited for.
                batches = epoch(&self.options, &self.rows, 0);
            }
            self.epoch = (number, batches);
        }
        &self.epoch.1
    }
}

fn epoch(options: &BatchOptions, rows: &[RowInfo], epoch: u64) -> Vec<Vec<usize>> {
    let size = options.batch_size;
    let mut order: Vec<usize> = (0..rows.len()).collect();
    let mut random = random(options.seed, epoch);
    if options.order != Order::Kept {
        shuffle(&mut order, &mut random);
    }
    if options.order == Order::EvenLengths {
        for window in order.chunks_mut(size.saturating_mul(WINDOW)) {
            window.sort_unstable_by_key(|&row| (rows[row].length, row));
        }
    }
    let mut batches = if options.distinct && options.order != Order::Kept {
        cut_distinct(&order, rows, size)
    } else {
        order.chunks(size).map(<[usize]>::to_vec).collect()
    };
    batches.retain(|batch| batch.len() >= options.min_records);
    if options.order == Order::EvenLengths {
        shuffle(&mut batches, &mut random);
    }
    batches
}

/// Each record goes into the first batch that has room and none of its texts, so that one that finds its text there waits
/// for a later batch.
fn cut_distinct(order: &[usize], rows: &[RowInfo], size: usize) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    // The texts of each batch, until it is full.
    let mut texts: Vec<HashSet<u64>> = Vec::new();
    let mut first_open = 0;
    // Each batch before this one is full or has the text: many records with one text are not tried again and again.
    let mut first_without: HashMap<u64, usize> = HashMap::new();
    for &row in order {
        let keys = &rows[row].keys;
        let first = keys.iter().filter_map(|key| first_without.get(key).copied()).max().unwrap_or(0).max(first_open);
        let takes = |&batch: &usize| batches[batch].len() < size && keys.iter().all(|key| !texts[batch].contains(key));
        let batch = (first..batches.len()).take(TRIES).find(takes).unwrap_or(batches.len());
        if batch == batches.len() {
            batches.push(Vec::new());
            texts.push(HashSet::new());
        }
        batches[batch].push(row);
        texts[batch].extend(keys);
        for &key in keys {
            let without = first_without.entry(key).or_insert(0);
            if batch <= (*without).max(first_open) {
                *without = batch + 1;
            }
        }
        if batches[batch].len() == size {
            texts[batch] = HashSet::new();
        }
        while batches.get(first_open).is_some_and(|batch| batch.len() == size) {
            first_open += 1;
        }
    }
    batches
}

/// Random numbers of an epoch.
fn random(seed: u64, epoch: u64) -> ChaCha8Rng {
    let mut key = *b"................batches, bouquet";
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// Fisher and Yates. What becomes of random numbers is our own, so that a seed means the same in all versions.
fn shuffle<T>(items: &mut [T], random: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        let other = (u128::from(random.next_u64()) * (last as u128 + 1)) >> 64;
        items.swap(last, other as usize);
    }
}

#[cfg(test)]
mod tests;
