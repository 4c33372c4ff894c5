//! Random numbers by counter: each is a hash of the seed, the tensor's name and its place, so that they can be made in any
//! order, on any number of threads.

use half::f16;

/// A bell-shaped distribution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    pub(super) mean: f32,
    pub(super) deviation: f32,
}

/// Numbers that are drawn from: few enough to stay in the nearest cache.
const DRAWS: usize = 4096;

/// `count` numbers of a tensor, in f16, but for those that are `replaced`.
pub(super) fn make(
    seed: u64,
    name: &str,
    spread: Spread,
    count: usize,
    replaced: &[(usize, f32)],
    threads: usize,
) -> Vec<u8> {
    let key = name.bytes().fold(hash(seed), |key, byte| hash(key ^ u64::from(byte)));
    let table = table(spread);
    let mut data = vec![0; 2 * count];
    // A word of 64 bits makes 4 numbers of 2 bytes; threads take whole words.
    let per_thread = data.len().div_ceil(8 * threads).max(1 << 12) * 8;
    std::thread::scope(|scope| {
        for (index, part) in data.chunks_mut(per_thread).enumerate() {
            let (table, first) = (&table, (index * per_thread / 8) as u64);
            scope.spawn(move || fill(part, key, first, table));
        }
    });
    for &(index, number) in replaced {
        data[2 * index..2 * index + 2].copy_from_slice(&f16::from_f32(number).to_le_bytes());
    }
    data
}

fn fill(data: &mut [u8], key: u64, first: u64, table: &[[u8; 2]; DRAWS]) {
    for (place, numbers) in data.chunks_mut(8).enumerate() {
        let mut word = hash(key.wrapping_add(first + place as u64));
        for number in numbers.chunks_exact_mut(2) {
            number.copy_from_slice(&table[word as usize % DRAWS]);
            word >>= 16;
        }
    }
}

/// What is drawn from: sums of 12 uniform numbers, which have the variance 1 and need no function that differs between
/// systems.
fn table(spread: Spread) -> Box<[[u8; 2]; DRAWS]> {
    let mut table = Box::new([[0; 2]; DRAWS]);
    for (index, entry) in table.iter_mut().enumerate() {
        let uniform = |draw: u64| (hash(index as u64 * 12 + draw) >> 40) as f32 / (1u64 << 24) as f32;
        let normal = (0..12).map(uniform).sum::<f32>() - 6.0;
        *entry = f16::from_f32(spread.mean + spread.deviation * normal).to_le_bytes();
    }
    table
}

/// SplitMix64 (Steele, Lea and Flood 2014): a counter becomes 64 bits that look random.
fn hash(counter: u64) -> u64 {
    let mut z = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_do_not_depend_on_threads_and_have_the_spread_that_was_asked_for() {
        let spread = Spread { mean: 1.0, deviation: 0.25 };
        let make = |name, threads| make(7, name, spread, 100_001, &[(3, 9.0)], threads);
        let one = make("a", 1);
        assert!(make("a", 3) == one && make("b", 1) != one);
        let numbers: Vec<f32> = one.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect();
        assert_eq!((numbers.len(), numbers[3]), (100_001, 9.0));
        let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
        let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / numbers.len() as f32;
        assert!((mean - 1.0).abs() < 0.01 && (variance.sqrt() - 0.25).abs() < 0.01, "{mean} {variance}");
    }
}
