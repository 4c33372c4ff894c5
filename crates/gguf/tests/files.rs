//! Files written and read again, a file of others, every lie that a file can tell, and random damage.

use bouquet_gguf::{Array, Gguf, GgufError, Metadata, Planned, TensorKind, Value, Writer};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

fn write(metadata: &Metadata, tensors: &[(Planned, Vec<u8>)]) -> Result<Vec<u8>, GgufError> {
    let plan: Vec<Planned> = tensors.iter().map(|(planned, _)| planned.clone()).collect();
    let mut writer = Writer::begin(Vec::new(), metadata, &plan)?;
    let length = writer.bytes();
    for (planned, bytes) in tensors {
        // In pieces, as a converter would.
        bytes.chunks(7).try_for_each(|piece| writer.write(&planned.name, piece))?;
    }
    let bytes = writer.finish()?;
    assert_eq!(bytes.len() as u64, length, "the length that was foretold");
    Ok(bytes)
}

/// What every file that opens must keep; else its tensors would not be where it says.
fn open(bytes: &[u8]) -> Option<Gguf> {
    let file = Gguf::parse(bytes).ok()?;
    let mut places: Vec<(usize, usize)> = Vec::new();
    for tensor in &file.tensors {
        assert_eq!(file.tensor(&tensor.name), Some(tensor));
        assert_eq!(tensor.kind.bytes(&tensor.shape), Some(tensor.data.len()), "{}", tensor.name);
        assert!(tensor.data.end <= bytes.len() && (tensor.data.start - file.data.start).is_multiple_of(file.alignment));
        if !tensor.data.is_empty() {
            places.push((tensor.data.start, tensor.data.end));
        }
    }
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{places:?}");
    Some(file)
}

/// A header byte by byte, for lies that the writer does not tell.
#[derive(Clone)]
struct Raw(Vec<u8>);

impl Raw {
    fn new(version: u32, tensors: u64, entries: u64) -> Self {
        Raw(b"GGUF".to_vec()).u32(version).u64(tensors).u64(entries)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn u32(self, number: u32) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    fn u64(self, number: u64) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    fn text(self, text: &str) -> Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    /// A tensor of these ggml dimensions, contiguous one first.
    fn tensor(self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        let raw = self.text(name).u32(dimensions.len() as u32);
        dimensions.iter().fold(raw, |raw, &length| raw.u64(length)).u32(kind).u64(offset)
    }

    /// Zeros up to the alignment, then data.
    fn data(mut self, bytes: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + bytes, 0);
        self
    }
}

fn small() -> Vec<u8> {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", "bloom");
    metadata.set("n", 7u32);
    metadata.set("words", vec!["a".to_owned(), "日本".to_owned(), String::new()]);
    metadata.set("numbers", vec![1i32, -1]);
    metadata.set("flag", true);
    let tensors = [
        (Planned::new("a", &[2, 3], TensorKind::F32), (0..24).collect()),
        (Planned::new("none", &[0, 3], TensorKind::F16), Vec::new()),
        (Planned::new("b", &[1, 32], TensorKind::Q8_0), vec![9; 34]),
    ];
    write(&metadata, &tensors).unwrap()
}

#[test]
fn what_is_written_is_read() {
    let bytes = small();
    let file = open(&bytes).unwrap();
    assert_eq!((file.version, file.alignment, file.tensors.len()), (3, 32, 3));
    assert_eq!(file.metadata.texts("words").unwrap(), ["a", "日本", ""]);
    let tensor = file.tensor("b").unwrap();
    assert_eq!(
        (tensor.shape.as_slice(), tensor.kind, &bytes[tensor.data.clone()]),
        (&[1, 32][..], TensorKind::Q8_0, &[9; 34][..])
    );
    assert_eq!(bytes[file.tensor("a").unwrap().data.clone()], (0..24).collect::<Vec<u8>>());
    // Outermost first here, contiguous first in the file.
    let name = b"\x01\0\0\0\0\0\0\0a\x02";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len() - 1;
    assert_eq!(bytes[at..at + 20], [&2u32.to_le_bytes()[..], &3u64.to_le_bytes(), &2u64.to_le_bytes()].concat());
}

#[test]
fn version_2_is_read_as_well() {
    let mut bytes = small();
    bytes[4] = 2;
    assert_eq!(open(&bytes).unwrap().version, 2);
}

/// Written by the Python package gguf: `tests/interop/check_gguf.py --write`.
#[test]
fn a_file_of_others_is_read() {
    let bytes = include_bytes!("python.gguf");
    let file = open(bytes).unwrap();
    let metadata = &file.metadata;
    assert_eq!(metadata.text("general.architecture").unwrap(), "bloom");
    assert_eq!(metadata.u64("test.u8").unwrap(), 255);
    assert_eq!(metadata.get("test.i64"), Some(&Value::I64(i64::MIN)));
    assert_eq!(metadata.f64("test.f32").unwrap(), 0.5);
    assert_eq!(metadata.get("test.f64"), Some(&Value::F64(1e300)));
    assert!(metadata.flag("test.flag").unwrap());
    assert_eq!(metadata.texts("test.words").unwrap(), ["a", "", "日本"]);
    assert_eq!(metadata.get("test.numbers"), Some(&Value::Array(Array::I32(vec![1, -2, 3]))));
    assert_eq!(metadata.floats("test.floats").unwrap(), [0.25, -0.5]);
    assert_eq!(file.alignment, 64);
    let found: Vec<_> = file.tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice(), t.kind)).collect();
    let expected: [(&str, &[usize], TensorKind); 4] = [
        ("a.weight", &[2, 3], TensorKind::F32),
        ("b.weight", &[1, 2, 4], TensorKind::F16),
        ("c.weight", &[2, 64], TensorKind::Q8_0),
        ("d.weight", &[1, 256], TensorKind::Q4K),
    ];
    assert_eq!(found, expected);
    let a: Vec<u8> = (0..6).flat_map(|n| (n as f32).to_le_bytes()).collect();
    assert_eq!(bytes[file.tensors[0].data.clone()], a);
    assert_eq!(bytes[file.tensors[3].data.clone()], [7; 144]);
}

#[test]
fn a_file_that_breaks_off_is_refused_wherever_it_does() {
    let bytes = small();
    let end = open(&bytes).unwrap().data.end;
    for length in 0..end {
        let error = Gguf::parse(&bytes[..length]).expect_err("a part of a file").to_string();
        assert!(error.contains("truncated") || length < 4, "{length}: {error}");
    }
    assert!(open(&bytes[..end]).is_some(), "without the zeros at its end");
}

#[test]
fn a_bit_that_flips_is_never_a_panic() {
    let bytes = small();
    let header = open(&bytes).unwrap().data.start;
    for bit in 0..header * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        open(&flipped);
    }
}

#[test]
fn lies_are_refused() {
    let key = |raw: Raw, kind: u32| raw.text("k").u32(kind);
    let one = |kind: u32| key(Raw::new(3, 0, 1), kind);
    let of_array = |kind: u32, count: u64| one(9).u32(kind).u64(count);
    let tensors = |count: u64| Raw::new(3, count, 0);
    let long = "x".repeat(70_000);
    let quoted = format!("\"{}\"…", "x".repeat(80));
    for (raw, expected) in [
        (Raw(b"GGML\x03\0\0\0".to_vec()), "it is not a GGUF file: it does not begin with the letters GGUF"),
        (Raw::new(1, 0, 0), "it is of version 1 of GGUF; versions 2 and 3 are read"),
        (Raw::new(4, 0, 0), "it is of version 4 of GGUF"),
        (Raw::new(0, 0, 0), "it is of version 0 of GGUF"),
        (Raw::new(3u32.swap_bytes(), 0, 0), "it is a big-endian GGUF file; only little-endian files are read"),
        (Raw::new(3, u64::MAX, 0), "it has 18446744073709551615 tensors, more than 262144"),
        (Raw::new(3, 0, u64::MAX), "its metadata has 18446744073709551615 entries, more than 65536"),
        (
            Raw::new(3, 0, 65_536),
            "it is truncated, or a length in it is wrong: its metadata needs 851968 bytes, of which 0",
        ),
        (Raw::new(3, 262_144, 0), "its list of tensors needs 6291456 bytes, of which 0 are left"),
        (one(13).u64(0), "its metadata \"k\" is of type 13; types 0 to 12 are known"),
        (one(7).bytes(&[2]), "its metadata \"k\" should be true (1) or false (0), but is 2"),
        (one(8).u64(u64::MAX), "its metadata \"k\" needs 18446744073709551615 bytes, of which 0 are left"),
        (one(8).u64(1).bytes(&[0xff]), "its metadata \"k\" is not UTF-8"),
        (of_array(9, 1).u32(0).u64(0), "its metadata \"k\" is an array of arrays, which no model has"),
        (of_array(13, 1), "its metadata \"k\" is of type 13"),
        (
            of_array(8, u64::MAX),
            "its metadata \"k\", an array of 18446744073709551615, needs 18446744073709551615 bytes",
        ),
        (of_array(12, 1 << 61), "its metadata \"k\", an array of 2305843009213693952, needs"),
        (of_array(8, 1).u64(1).bytes(&[0xff]), "text 0 of its metadata \"k\" is not UTF-8"),
        (of_array(7, 1).bytes(&[7]), "its metadata \"k\" should be true (1) or false (0), but is 7"),
        (key(key(Raw::new(3, 0, 2), 0).bytes(&[1]), 0).bytes(&[1]), "its metadata \"k\" stands there twice"),
        (Raw::new(3, 0, 1).text(&long).u32(0).u64(0), "metadata key 0 has 70000 bytes, more than 65535"),
        (
            Raw::new(3, 0, 1).text("general.alignment").u32(4).u32(33),
            "should be a power of two from 8 to 1048576, but is 33",
        ),
        (
            Raw::new(3, 0, 1).text("general.alignment").u32(4).u32(0),
            "should be a power of two from 8 to 1048576, but is 0",
        ),
        (Raw::new(3, 0, 1).text("general.alignment").u32(8).text("x"), "general.alignment should be a whole number"),
        (tensors(1).tensor("t", &[1; 5], 0, 0), "its tensor \"t\" has 5 dimensions, more than 4"),
        (tensors(1).tensor("t", &[u64::MAX, 2], 0, 0), "its tensor \"t\" has the shape"),
        (tensors(1).tensor("t", &[1 << 40, 1 << 40], 0, 0), "which no file can hold in F32"),
        (
            tensors(1).tensor("t", &[8], 99, 0),
            "its tensor \"t\" is stored as kind 99, which is not read; known are F32, F16",
        ),
        (tensors(1).tensor("t", &[256], 23, 0), "its tensor \"t\" is stored as IQ4_XS, which is not read"),
        (tensors(1).tensor("t", &[33], 2, 0), "its tensor \"t\" has rows of 33 values, but Q4_0 stores blocks of 32"),
        (
            tensors(1).tensor("t", &[8], 0, 8).data(64),
            "its tensor \"t\" begins at byte 8 of the data, no multiple of 32",
        ),
        (
            tensors(1).tensor("t", &[9], 0, 0).data(32),
            "its tensor \"t\" is not in the file, which is truncated or lies: 36 bytes",
        ),
        (tensors(1).tensor("t", &[8], 0, !31).data(32), "its tensor \"t\" is not in the file"),
        (tensors(1).tensor(&long, &[8], 0, 0), "the name of tensor 0 has 70000 bytes, more than 65535"),
        (tensors(1).tensor(&long[..60_000], &[8], 0, 0), &format!("its tensor {quoted} is not in the file")),
        (tensors(2).tensor("t", &[8], 0, 0).tensor("t", &[8], 0, 32).data(64), "its tensor \"t\" stands there twice"),
        (
            tensors(2).tensor("t", &[9], 0, 0).tensor("u", &[8], 0, 32).data(64),
            "its tensor \"u\" begins inside of the tensor \"t\"",
        ),
    ] {
        let error = Gguf::parse(&raw.0).expect_err(expected).to_string();
        assert!(error.contains(expected), "expected …{expected}…, found: {error}");
        assert!(!error.contains('\n') && error.len() < 400, "not one short line: {error}");
    }
}

#[test]
fn tensors_may_stand_in_any_order_and_alignments_differ() {
    let raw = Raw::new(3, 2, 1).text("general.alignment").u32(4).u32(64);
    let raw = raw.tensor("behind", &[8], 0, 64).tensor("before", &[16], 0, 0);
    let mut bytes = raw.0;
    bytes.resize(bytes.len().next_multiple_of(64) + 96, 0);
    let file = open(&bytes).unwrap();
    assert_eq!(file.tensor("before").unwrap().data.end, file.tensor("behind").unwrap().data.start);
    assert_eq!(file.data.len(), 96);
}

#[test]
fn what_no_reader_takes_is_not_written() {
    let refused = |key: &str, value: Value, plan: &[Planned], expected: &str| {
        let mut metadata = Metadata::default();
        metadata.set(key, value);
        let error = Writer::begin(Vec::new(), &metadata, plan).err().expect(expected).to_string();
        assert!(error.contains(expected), "expected …{expected}…, found: {error}");
    };
    let tensor = |name: &str, shape: &[usize], kind| Planned::new(name, shape, kind);
    let (f32, zero) = (TensorKind::F32, || Value::from(0u8));
    refused("general.alignment", 64u64.into(), &[], "its metadata \"general.alignment\" has to be u32");
    refused("general.alignment", 48u32.into(), &[], "should be a power of two");
    refused(&"k".repeat(70_000), zero(), &[], "has a key of 70000 bytes");
    refused("k", zero(), &[tensor("t", &[1], f32), tensor("t", &[1], f32)], "its tensor \"t\" was to be written twice");
    refused("k", zero(), &[tensor(&"t".repeat(64), &[1], f32)], "has a name of 64 bytes, more than 63");
    refused("k", zero(), &[tensor("t", &[1; 5], f32)], "has 5 dimensions");
    refused("k", zero(), &[tensor("t", &[31], TensorKind::Q4_0)], "rows of 31 values, but Q4_0 stores blocks of 32");
    refused("k", zero(), &[tensor("t", &[usize::MAX], f32)], "which no file can hold");
    let large = [tensor("t", &[usize::MAX / 4], f32), tensor("u", &[usize::MAX / 4], f32)];
    refused("k", zero(), &large, "its tensor \"t\"");
}

#[test]
#[should_panic(expected = "4 of 8 bytes of t were written")]
fn a_tensor_that_is_missing_is_a_mistake() {
    let plan = [Planned::new("t", &[2], TensorKind::F32)];
    let mut writer = Writer::begin(Vec::new(), &Metadata::default(), &plan).unwrap();
    writer.write("t", &[0; 4]).unwrap();
    let _ = writer.finish();
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        any::<u16>().prop_map(Value::from),
        any::<i16>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        vec(any::<u8>(), 0..4).prop_map(Value::from),
        vec(any::<i16>(), 0..4).prop_map(Value::from),
        vec(any::<u64>(), 0..4).prop_map(Value::from),
        vec(any::<f32>(), 0..4).prop_map(Value::from),
        vec(any::<bool>(), 0..4).prop_map(Value::from),
        vec(any::<String>(), 0..4).prop_map(Value::from),
    ]
}

fn tensors() -> impl Strategy<Value = Vec<(Planned, Vec<u8>)>> {
    let kind = select(vec![TensorKind::F32, TensorKind::F16, TensorKind::Bf16, TensorKind::Q4_0, TensorKind::Iq4Nl]);
    let tensor = (kind, vec(0usize..3, 0..4), any::<u8>());
    vec(tensor, 0..5).prop_map(|tensors| {
        let named = tensors.into_iter().enumerate().map(|(number, (kind, mut shape, byte))| {
            shape.push(2 * kind.block_size());
            let bytes = vec![byte; kind.bytes(&shape).expect("whole blocks")];
            (Planned::new(format!("t{number}"), &shape, kind), bytes)
        });
        named.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn files_come_back_as_they_were(entries in vec(("[a-z.]{0,9}", value()), 0..6), tensors in tensors(), power in 3u32..8) {
        let mut metadata = Metadata::default();
        entries.into_iter().for_each(|(key, value)| metadata.set(key, value));
        metadata.set("general.alignment", 1u32 << power);
        let bytes = write(&metadata, &tensors).unwrap();
        let file = open(&bytes).unwrap();
        // By their debug form, in which numbers that are none are equal.
        prop_assert_eq!(format!("{:?}", file.metadata), format!("{metadata:?}"));
        prop_assert_eq!(file.tensors.len(), tensors.len());
        for (found, (planned, data)) in file.tensors.iter().zip(&tensors) {
            prop_assert_eq!((&found.name, &found.shape, found.kind), (&planned.name, &planned.shape, planned.kind));
            prop_assert_eq!(&bytes[found.data.clone()], data.as_slice());
        }
    }

    #[test]
    fn a_damaged_file_opens_whole_or_not_at_all(damages in vec((any::<Index>(), any::<u8>()), 1..6), cut in any::<Index>()) {
        let mut bytes = small();
        for (at, byte) in damages {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        open(&bytes);
        open(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn random_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        open(&bytes);
        open(&Raw::new(3, 1, 1).bytes(&bytes).0);
    }
}
