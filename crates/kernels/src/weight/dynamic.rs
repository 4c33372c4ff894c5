//! The dynamic 8-bit data type: 255 levels whose spacing grows with their magnitude, and 0 (arXiv 1511.04561, 2110.02861),
//! with the levels of bitsandbytes.

/// Levels.
pub const LEVELS: usize = 256;

/// The levels between −1 and 1, ascending. They are not the same on both sides: 1 is one of them, −1 is not.
pub fn signed_map() -> [f32; LEVELS] {
    map(true)
}

/// The levels between 0 and 1, ascending.
pub fn unsigned_map() -> [f32; LEVELS] {
    map(false)
}

/// Each power of ten from 10⁻⁶ to 1 has twice as many levels as the one before, evenly spread over 0.1 to 1 of it.
fn map(signed: bool) -> [f32; LEVELS] {
    const POWERS: [f32; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
    let mut levels = [0.0; LEVELS];
    levels[1] = 1.0;
    let mut count = 2;
    for (i, power) in POWERS.into_iter().enumerate() {
        let parts = if signed { 1 << i } else { 2 << i };
        for part in 0..parts {
            let middle = power * ((border(part, parts) + border(part + 1, parts)) / 2.0);
            levels[count] = middle;
            count += 1;
            if signed {
                levels[count] = -middle;
                count += 1;
            }
        }
    }
    debug_assert_eq!(count, LEVELS);
    levels.sort_by(f32::total_cmp);
    levels
}

/// `index` of the `parts + 1` numbers from 0.1 to 1, evenly apart, counted from the nearer end.
fn border(index: usize, parts: usize) -> f32 {
    let step = (1.0 - 0.1) / parts as f32;
    if index < parts.div_ceil(2) {
        step.mul_add(index as f32, 0.1)
    } else {
        (-step).mul_add((parts - index) as f32, 1.0)
    }
}

/// The level of an ascending `map` that is nearest to `x`; the lower one of two.
pub fn nearest(map: &[f32; LEVELS], x: f32) -> u8 {
    let upper = map.partition_point(|level| *level < x);
    let code = match upper {
        0 => 0,
        LEVELS => LEVELS - 1,
        _ if (map[upper - 1] + map[upper]) / 2.0 < x => upper,
        _ => upper - 1,
    };
    code as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_level_is_found() {
        for map in [signed_map(), unsigned_map()] {
            assert!(map.windows(2).all(|pair| pair[0] < pair[1]));
            for (code, level) in map.into_iter().enumerate() {
                assert_eq!(usize::from(nearest(&map, level)), code);
            }
            for i in -1100..=1100 {
                let x = i as f32 / 1000.0;
                let distance = |code: usize| (x - map[code]).abs();
                let best = (0..LEVELS).fold(f32::INFINITY, |best, code| best.min(distance(code)));
                assert!(distance(nearest(&map, x).into()) <= best + 1e-7, "{x}");
            }
            let middle = (map[100] + map[101]) / 2.0;
            assert_eq!(nearest(&map, middle), 100);
        }
    }
}
