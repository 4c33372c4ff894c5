//! Models put together from parts: ends here, blocks wherever they run. The same bits as the whole.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bouquet_kernels::Cpu;
use bouquet_model::{Encoding, Ends, Fingerprint, KnownHashes, LocalSpan, Model, ModelError, Network, OpenOptions};
use bouquet_span::fake::FakeSpan;
use bouquet_span::{Chain, Limits, Pass, Returned, Rounding, SessionShape, Span, SpanError, Step};

use crate::fixtures::{ARCHITECTURES, CACHE_BYTES, bits, open};

fn options(encoding: Encoding, rounding: Rounding) -> OpenOptions {
    OpenOptions { rounding, ..OpenOptions::new(Cpu::new(2), CACHE_BYTES, encoding) }
}

/// The logits of two sequences in one pass, and of the first in a session.
fn logits(network: &Network) -> [Vec<u32>; 2] {
    let (cpu, ids) = (&network.cpu, [5u32, 9, 33, 2, 61, 17, 40]);
    let hidden = network.embedding.embed(cpu, &[&ids, &[7, 8]]).unwrap();
    let (hidden, _) = network.blocks.forward(hidden, &Pass::default()).unwrap();
    let once = bits(&network.head.logits(cpu, hidden.values().view()));
    let shape = SessionShape { sequences: 1, max_tokens: ids.len(), max_rewind: 0 };
    let mut session = network.blocks.open(shape, &Pass::default()).unwrap();
    let mut stepped = Vec::new();
    for piece in [0..4, 4..5, 5..7] {
        let hidden = network.embedding.embed_at(cpu, &[piece.start], &[&ids[piece]]).unwrap();
        let step = Step { session: &mut session, hidden, returned: Returned::All, limits: Limits::default() };
        let hidden = network.blocks.step(&mut [step]).remove(0).unwrap();
        stepped.extend(bits(&network.head.logits(cpu, hidden.values().view())));
    }
    assert_eq!(stepped, once[..stepped.len()]);
    [once, stepped]
}

/// Spans over parts that are opened one by one.
fn in_parts(folder: &Path, options: &OpenOptions, cuts: &[usize]) -> impl Fn(Range<usize>) -> Arc<dyn Span> {
    let open = |cut: &[usize]| LocalSpan::open(folder, cut[0]..cut[1], options).unwrap();
    let parts: Vec<LocalSpan> = cuts.windows(2).map(open).collect();
    move |range| {
        let within = |part: &LocalSpan| {
            let range = part.range().start.max(range.start)..part.range().end.min(range.end);
            (!range.is_empty()).then(|| Arc::new(part.slice(range)) as Arc<dyn Span>)
        };
        Arc::new(Chain::new(parts.iter().filter_map(within).collect()).unwrap())
    }
}

#[test]
fn ends_and_blocks_from_anywhere_are_the_whole() {
    for name in ARCHITECTURES {
        let folder = open(name, 1).folder;
        for (encoding, rounding) in [
            (Encoding::F32, Rounding::None),
            (Encoding::Int8, Rounding::None),
            (Encoding::Int8, Rounding::Bf16),
            (Encoding::Int4, Rounding::Int8),
        ] {
            let options = options(encoding, rounding);
            let whole = Model::open(&folder, &options).unwrap();
            let (expected, num_blocks) = (logits(&whole), whole.spec.num_blocks);
            let cuts: Vec<usize> = (0..=num_blocks).collect();
            for cuts in [&[0, num_blocks][..], &[0, 1, num_blocks], &cuts] {
                let span = in_parts(&folder, &options, cuts);
                let network = Network::over(Ends::open(&folder, &options).unwrap(), &span).unwrap();
                assert_eq!(logits(&network), expected, "{name}, {encoding}, {rounding}, cut at {cuts:?}");
                assert!(network.linears.is_empty());
                let model = Model::over(&folder, &options, &span).unwrap();
                assert_eq!(logits(&model), expected, "{name}, {encoding}, {rounding}, cut at {cuts:?}");
                // Block by block.
                let mut hidden = model.embedding.embed(&model.cpu, &[&[5, 9, 33, 2, 61, 17, 40], &[7, 8]]).unwrap();
                for block in &model.each_block {
                    hidden = block.forward(hidden, &Pass::default()).unwrap().0;
                }
                let found = bits(&model.head.logits(&model.cpu, hidden.values().view()));
                assert_eq!(found, expected[0], "{name}, {encoding}, {rounding}, cut at {cuts:?}");
            }
        }
    }
}

#[test]
fn rounding_changes_what_is_computed_and_where() {
    let model = |rounding| Model::open(&open("bloom-tiny", 1).folder, &options(Encoding::F32, rounding)).unwrap();
    let [exact, bf16, int8] = Rounding::ALL.map(model);
    let mut all = [&exact, &bf16, &int8].map(|model| logits(model));
    all.sort();
    assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
    for model in [&bf16, &int8] {
        let rounding = model.embedding.rounding;
        let embedded = model.embedding.embed(&model.cpu, &[&[5, 9]]).unwrap();
        let mut rounded = exact.embedding.embed(&model.cpu, &[&[5, 9]]).unwrap();
        rounding.apply(&model.cpu, rounded.values_mut());
        assert_eq!(embedded, rounded);
        // Whatever a pass says, a swarm's wire is what it is.
        let ours = model.blocks.forward(embedded.clone(), &Pass::default()).unwrap().0;
        let plain = exact.blocks.forward(embedded, &Pass { rounding, ..Pass::default() }).unwrap().0;
        assert_eq!(ours, plain);
    }
}

#[test]
fn parts_that_are_not_there_are_refused() {
    let folder = open("bloom-tiny", 1).folder;
    let options = options(Encoding::F32, Rounding::None);
    for range in [0..3, 2..3, 7..9, 1..1, 2..2, Range { start: 2, end: 1 }] {
        let found = LocalSpan::open(&folder, range.clone(), &options).map(drop);
        assert!(found.is_err(), "{range:?}: {found:?}");
    }
    let found = LocalSpan::open(&folder, 1..usize::MAX, &options).map(drop);
    assert!(matches!(found, Err(ModelError::NoSuchBlock { .. })), "{found:?}");
    let over =
        |span: fn(Range<usize>) -> Arc<dyn Span>| Network::over(Ends::open(&folder, &options).unwrap(), span).map(drop);
    let found = over(|range| Arc::new(FakeSpan::new(range.start..range.end + 1, 64)));
    assert!(matches!(found, Err(ModelError::Span(SpanError::Failed(_)))), "{found:?}");
    let found = over(|range| Arc::new(FakeSpan::new(range, 6)));
    assert!(matches!(found, Err(ModelError::Span(SpanError::Shape { .. }))), "{found:?}");
}

#[test]
fn a_part_needs_the_memory_of_a_part() {
    let folder = open("bloom-tiny", 1).folder;
    // Nothing free: only what stays in its files, and what is small, can be opened.
    let options =
        |encoding| OpenOptions { memory_left: || Some((64 << 20) + 60_000), ..options(encoding, Rounding::None) };
    let whole = Network::open(&folder, &options(Encoding::Int8)).map(drop);
    assert!(matches!(whole, Err(ModelError::TooLarge { .. })), "{whole:?}");
    LocalSpan::open(&folder, 0..1, &options(Encoding::Int8)).unwrap();
    let both = LocalSpan::open(&folder, 0..2, &options(Encoding::Int8)).map(drop);
    assert!(matches!(both, Err(ModelError::TooLarge { .. })), "{both:?}");
    Network::open(&folder, &options(Encoding::F32)).unwrap();
}

#[test]
fn every_part_has_the_hash_of_the_list() {
    for name in ARCHITECTURES {
        let folder = open(name, 1).folder;
        for encoding in Encoding::ALL {
            let options = options(encoding, Rounding::None);
            let list = Fingerprint::of(&folder, &options, None, &mut |_, _| Ok(())).unwrap();
            let mut known = KnownHashes::open(&folder, encoding, None).unwrap();
            assert_eq!(known.ends(&options).unwrap(), list.ends, "{name}, {encoding}");
            for block in 0..list.blocks.len() {
                let span = LocalSpan::open(&folder, block..block + 1, &options).unwrap();
                assert_eq!(known.differing(&span, &list.blocks), [] as [usize; 0], "{name}, {encoding}");
                let mut other = list.blocks.clone();
                other[block].0[31] ^= 1;
                assert_eq!(known.differing(&span, &other), [block], "{name}, {encoding}");
                assert_eq!(known.differing(&span, &[]), [block], "{name}, {encoding}");
            }
        }
    }
}

#[test]
fn ends_that_were_written_are_the_ends() {
    for name in ARCHITECTURES.into_iter().chain(["llama-q4_k_m.gguf", "bloom-tiny-sharded", "bloom-tiny-unprefixed"]) {
        let folder = open(name, 1).folder;
        for encoding in Encoding::ALL {
            let (options, room) = (options(encoding, Rounding::None), tempfile::tempdir().unwrap());
            let whole = Model::open(&folder, &options).unwrap();
            let target = room.path().join("ends");
            let path = Ends::write(&folder, &options, &target, &Limits::default()).unwrap();
            assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 1);
            let opened = Ends::open(&path, &options).unwrap();
            assert_eq!(opened.hash(), Ends::open(&folder, &options).unwrap().hash(), "{name}, {encoding}");
            let blocks = LocalSpan::open(&folder, 0..whole.spec.num_blocks, &options).unwrap();
            let model = Model::over(&path, &options, |range| Arc::new(blocks.slice(range))).unwrap();
            assert_eq!(logits(&model), logits(&whole), "{name}, {encoding}");
            let text = "A small text.";
            assert_eq!(model.tokenizer.encode(text, true).unwrap(), whole.tokenizer.encode(text, true).unwrap());
            assert_eq!(model.generation_config, whole.generation_config, "{name}");
            assert!(Network::open(&path, &options).is_err(), "{name}: there are no blocks");
            // What is there is not replaced, and nothing is left beside it.
            let again = Ends::write(&folder, &options, &target, &Limits::default());
            assert!(matches!(again, Err(ModelError::NotANewFolder { .. })), "{name}: {again:?}");
            assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 1);
        }
    }
}
