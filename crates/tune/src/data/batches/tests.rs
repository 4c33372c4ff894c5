//! What holds for batches of any records.

use proptest::prelude::*;

use super::*;

fn options(batch_size: usize, order: Order, distinct: bool, seed: u64) -> BatchOptions {
    BatchOptions { batch_size, min_records: 2, order, distinct, seed }
}

/// Records of these lengths, each with texts of its own.
fn different(lengths: impl IntoIterator<Item = usize>) -> Vec<RowInfo> {
    let row = |(index, length): (u64, usize)| RowInfo { length, keys: vec![2 * index, 2 * index + 1] };
    (0..).zip(lengths).map(row).collect()
}

/// Records with few different texts, so that many share one.
fn rows() -> impl Strategy<Value = Vec<RowInfo>> {
    let row = (1..50usize, prop::collection::vec(0..40u64, 1..4)).prop_map(|(length, keys)| RowInfo { length, keys });
    prop::collection::vec(row, 1..150)
}

fn orders() -> impl Strategy<Value = Order> {
    prop_oneof![Just(Order::Shuffled), Just(Order::EvenLengths), Just(Order::Kept)]
}

proptest! {
    #[test]
    fn every_record_is_in_an_epoch_at_most_once_and_left_out_ones_are_counted(
        rows in rows(), order in orders(), distinct in any::<bool>(), size in 2..20usize, seed in any::<u64>(),
    ) {
        let Ok(mut batches) = Batches::new(options(size, order, distinct, seed), rows.clone()) else {
            return Ok(());
        };
        for epoch in 0..3 {
            let steps = batches.steps_until(epoch)..batches.steps_until(epoch + 1);
            let mut seen = HashSet::new();
            for step in steps {
                prop_assert_eq!(batches.epoch_of(step), epoch);
                let batch = batches.batch(step);
                prop_assert!((2..=size).contains(&batch.len()));
                for row in batch {
                    prop_assert!(row < rows.len() && seen.insert(row));
                }
            }
            prop_assert_eq!(seen.len() + batches.left_out(epoch), rows.len());
            if !distinct || order == Order::Kept {
                prop_assert!(batches.left_out(epoch) < 2);
            }
        }
    }

    #[test]
    fn no_text_is_in_a_batch_twice(rows in rows(), even in any::<bool>(), size in 2..20usize, seed in any::<u64>()) {
        let order = if even { Order::EvenLengths } else { Order::Shuffled };
        let Ok(mut batches) = Batches::new(options(size, order, true, seed), rows.clone()) else {
            // No two records may be together.
            for (index, row) in rows.iter().enumerate() {
                prop_assert!(rows[..index].iter().all(|other| other.keys.iter().any(|key| row.keys.contains(key))));
            }
            return Ok(());
        };
        for step in 0..batches.steps_until(2) {
            let mut texts = HashSet::new();
            for row in batches.batch(step) {
                let own: HashSet<u64> = rows[row].keys.iter().copied().collect();
                prop_assert!(own.into_iter().all(|key| texts.insert(key)));
            }
        }
    }

    #[test]
    fn a_step_asked_for_alone_is_the_one_of_the_whole_run(
        rows in rows(), order in orders(), distinct in any::<bool>(), size in 2..20usize, seed in any::<u64>(),
    ) {
        let Ok(mut batches) = Batches::new(options(size, order, distinct, seed), rows) else {
            return Ok(());
        };
        let cold = batches.clone();
        let steps = batches.steps_until(4);
        let run: Vec<Vec<usize>> = (0..steps).map(|step| batches.batch(step)).collect();
        for step in (0..steps).rev() {
            prop_assert_eq!(&cold.clone().batch(step), &run[step as usize]);
            prop_assert_eq!(&batches.batch(step), &run[step as usize]);
        }
    }
}

fn first_epoch(options: BatchOptions, rows: Vec<RowInfo>) -> Vec<Vec<usize>> {
    let mut batches = Batches::new(options, rows).expect("enough records");
    (0..batches.steps_until(1)).map(|step| batches.batch(step)).collect()
}

#[test]
fn another_seed_and_another_epoch_give_other_batches() {
    for order in [Order::Shuffled, Order::EvenLengths] {
        let of_seed = |seed| Batches::new(options(8, order, true, seed), different(0..100)).expect("enough records");
        let (mut one, mut same, mut other) = (of_seed(1), of_seed(1), of_seed(2));
        assert_eq!(one.batch(0), same.batch(0));
        assert_ne!(one.batch(0), other.batch(0));
        let next_epoch = one.steps_until(1);
        assert_ne!(one.batch(0), one.batch(next_epoch));
        // Not the first seed moved by an epoch.
        assert_ne!(one.batch(next_epoch), other.batch(0));
    }
}

#[test]
fn batches_of_a_seed_are_these_in_all_versions() {
    let batches = first_epoch(options(4, Order::Shuffled, false, 7), different(0..10));
    assert_eq!(batches, [vec![5, 3, 1, 9], vec![6, 4, 7, 8], vec![2, 0]]);
}

#[test]
fn kept_order_is_the_order_of_the_files_epoch_after_epoch() {
    let mut batches = Batches::new(options(4, Order::Kept, true, 7), different(0..10)).expect("enough records");
    let steps: Vec<Vec<usize>> = (0..4).map(|step| batches.batch(step)).collect();
    assert_eq!(steps, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9], vec![0, 1, 2, 3]]);
}

#[test]
fn records_of_a_batch_are_about_as_long() {
    // 2 windows of 64 batches of 4.
    let rows = different((0..512).map(|index| (index * 37) % 512));
    let batches = first_epoch(options(4, Order::EvenLengths, true, 3), rows.clone());
    assert_eq!(batches.len(), 128);
    let spread = |batch: &Vec<usize>| {
        let lengths = || batch.iter().map(|&row| rows[row].length);
        lengths().max().expect("records") - lengths().min().expect("records")
    };
    // A record of a window is 2 lengths from the next one on average; shuffled alone it would be 300.
    let mean = batches.iter().map(spread).sum::<usize>() as f64 / batches.len() as f64;
    assert!(mean < 8.0, "{mean}");
    let firsts: Vec<usize> = batches.iter().map(|batch| rows[batch[0]].length).collect();
    assert!(!firsts.is_sorted(), "short batches should not all come first");
}

#[test]
fn a_record_that_shares_a_text_waits_for_the_next_batch() {
    let row = |keys: &[u64]| RowInfo { length: 1, keys: keys.to_vec() };
    let rows = [row(&[1, 2]), row(&[2, 3]), row(&[3, 4]), row(&[5, 6]), row(&[7, 8]), row(&[5, 9])];
    let order: Vec<usize> = (0..rows.len()).collect();
    assert_eq!(cut_distinct(&order, &rows, 3), [vec![0, 2, 3], vec![1, 4, 5]]);
}

#[test]
fn a_text_that_is_in_all_records_makes_no_batch_and_takes_no_time() {
    let rows: Vec<RowInfo> = (0..200_000).map(|index| RowInfo { length: 1, keys: vec![u64::MAX, index] }).collect();
    let error = Batches::new(options(32, Order::Shuffled, true, 1), rows).expect_err("none may be together");
    assert_eq!(error.to_string(), "200000 records make no batch: one needs 2 that have no text in common");
}

#[test]
fn equal_texts_have_equal_keys_in_all_records() {
    let pair = Record::Pair { anchor: "x".to_owned(), positive: "y".to_owned(), negatives: vec!["x".to_owned()] };
    let info = RowInfo::new(&pair, 3);
    assert_eq!(info.keys.len(), 3);
    assert_eq!(info.keys[0], info.keys[2]);
    assert_ne!(info.keys[0], info.keys[1]);
    assert_eq!(info.keys[1..2], RowInfo::new(&Record::Text("y".to_owned()), 3).keys);
}
