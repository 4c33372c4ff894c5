//! Weights that are not what they say.

use std::fs;

use bouquet_model::checkpoint::{Checkpoint, InMemory, TensorSource, load_vector, load_weight};
use bouquet_model::families::bloom::NAMES;
use bouquet_model::families::load_spec;
use bouquet_model::load::Loader;

use crate::{folder, model, refused, safetensors};

/// Two tensors of 16 and 4 bytes.
const HEADER: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"F16","shape":[2],"data_offsets":[16,20]}}"#;

fn open(bytes: &[u8]) -> bouquet_model::Result<Checkpoint> {
    Checkpoint::open(folder(&[("model.safetensors", bytes)]).path())
}

#[test]
fn an_honest_file_opens() {
    let data: Vec<u8> = (0..20).collect();
    let checkpoint = open(&safetensors(HEADER, &data)).unwrap();
    assert_eq!(checkpoint.names(), ["a", "b"]);
    let b = checkpoint.tensor("b").unwrap().unwrap();
    assert_eq!((b.shape, b.dtype.to_string(), &b.data[..]), (vec![2], "F16".to_owned(), &data[16..]));
    assert!(checkpoint.tensor("c").unwrap().is_none());
}

#[test]
fn a_file_without_tensors_and_tensors_without_numbers_are_honest() {
    assert!(open(&safetensors("{}", &[])).unwrap().names().is_empty());
    let empty = r#"{"a":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]},"b":{"dtype":"I8","shape":[],"data_offsets":[0,1]}}"#;
    assert_eq!(open(&safetensors(empty, &[1])).unwrap().tensor("b").unwrap().unwrap().data.len(), 1);
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let whole = safetensors(HEADER, &[0; 20]);
    for length in 0..whole.len() {
        refused(open(&whole[..length]), "is damaged: it", &format!("a file cut to {length} bytes"));
    }
}

#[test]
fn a_header_that_lies_is_refused() {
    let edited = |from: &str, to: &str| {
        assert!(HEADER.contains(from), "{from}");
        safetensors(&HEADER.replacen(from, to, 1), &[0; 20])
    };
    let of_length = |length: u64| [&length.to_le_bytes()[..], HEADER.as_bytes(), &[0; 20]].concat();
    let nested = format!(r#"{{"a":{}"#, "[".repeat(100_000));
    let long_name = format!(r#"{{"{}":{{"dtype":"F32","shape":[1],"data_offsets":[0,5]}}}}"#, "n".repeat(5000));
    let dimensions = format!("[{}2,2]", "1,".repeat(15));
    let cases: [(&str, Vec<u8>, &str); 29] = [
        ("a header of no length", of_length(0), "header is wrong: EOF"),
        ("a header shorter than it is", of_length(20), "header is wrong"),
        ("a header longer than it is", of_length(HEADER.len() as u64 + 3), "header is wrong: trailing"),
        ("a header longer than the file", of_length(100_000), "does not fit into a file"),
        ("a header of 100 MB and one", of_length(100_000_001), "no header has more than 100000000"),
        ("a header of 2^63 bytes", of_length(1 << 63), "no header has more than"),
        ("a header of 2^64 - 1 bytes", of_length(u64::MAX), "no header has more than"),
        ("text that is not UTF-8", [&8u64.to_le_bytes()[..], b"{\"\xff\xfe\":1}"].concat(), "not UTF-8"),
        ("deep nesting", safetensors(&nested, &[]), "header is wrong: expected value"),
        ("a list", safetensors("[]", &[]), "expected an object whose keys are names of tensors"),
        ("a tensor that is a number", safetensors(r#"{"a":1}"#, &[]), "header is wrong: invalid type: integer"),
        ("a tensor twice", edited(r#""b""#, r#""a""#), r#""a" stands in it twice"#),
        ("an unknown type", edited("F32", "F31"), "unknown variant `F31`"),
        ("no type", edited(r#""dtype":"F32","#, ""), "missing field `dtype`"),
        ("a wider type", edited("F32", "F64"), r#""a" has 16 bytes, but F64 of shape [2, 2] needs 32"#),
        ("a narrower type", edited("F32", "BF16"), r#""a" has 16 bytes, but BF16 of shape [2, 2] needs 8"#),
        ("a type of half bytes", edited(r#""F16","shape":[2]"#, r#""F4","shape":[3]"#), "which no file can hold in F4"),
        ("another shape", edited("[2,2]", "[2,3]"), r#""a" has 16 bytes, but F32 of shape [2, 3] needs 24"#),
        ("a negative dimension", edited("[2,2]", "[-2,-2]"), "invalid value: integer `-2`"),
        ("a shape beyond 2^64", edited("[2,2]", "[4294967296,4294967296,2]"), "which no file can hold"),
        ("a size beyond 2^64", edited("[2,2]", "[4611686018427387904,2]"), "which no file can hold"),
        ("a dimension beyond 2^64", edited("[2,2]", "[18446744073709551617]"), "header is wrong"),
        ("many dimensions", edited("[2,2]", &dimensions), "more than 16 dimensions"),
        ("an end beyond the file", edited("[16,20]", "[16,21]"), r#"truncated: "b" ends at byte 21"#),
        ("an end far beyond the file", edited("[16,20]", "[16,18446744073709551615]"), "truncated"),
        ("an end before its begin", edited("[16,20]", "[20,16]"), "ends at byte 16, before its begin"),
        ("an overlap", edited("[16,20]", "[12,16]"), r#""b" begins at byte 12, inside of the tensor before it"#),
        ("a hole", safetensors(&HEADER.replace("[16,20]", "[17,21]"), &[0; 21]), "bytes 16 to 17"),
        ("a long name", safetensors(&long_name, &[0; 5]), "nnn\"... has 5 bytes, but"),
    ];
    for (what, bytes, expected) in cases {
        refused(open(&bytes), expected, what);
    }
    refused(open(&safetensors(HEADER, &[0; 21])), "it ends with 1 byte of no tensor", "a byte too many");
    refused(open(&edited("[0,16]", "[0,16,17]")), "header is wrong", "three offsets");
}

/// None of the lies above makes the reader reserve what they promise.
#[test]
#[cfg(target_os = "linux")]
fn lies_reserve_no_memory() {
    a_header_that_lies_is_refused();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 8 << 20, "{kib} KiB of address space were reserved");
}

/// Two shards, each with a tensor of 4 bytes, and the index that an honest program writes.
fn shards(index: &str) -> tempfile::TempDir {
    let shard = |name: &str| {
        safetensors(&format!(r#"{{"{name}":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}}}"#), &[0; 4])
    };
    folder(&[
        ("model.safetensors.index.json", index.as_bytes()),
        ("one.safetensors", &shard("a")),
        ("two.safetensors", &shard("b")),
        ("again.safetensors", &shard("a")),
    ])
}

#[test]
fn an_index_that_lies_is_refused() {
    let honest = r#"{"metadata":{"total_size":8},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#;
    assert_eq!(Checkpoint::open(shards(honest).path()).unwrap().names(), ["a", "b"]);
    let cases = [
        ("{", "it is no index: EOF"),
        ("[]", "it is no index"),
        (r#"{"metadata":{}}"#, "missing field `weight_map`"),
        (r#"{"weight_map":{}}"#, "names no tensors"),
        (r#"{"weight_map":{"a":7}}"#, "it is no index: invalid type"),
        (r#"{"weight_map":{"a":"one.safetensors","a":"two.safetensors"}}"#, r#""a" stands in it twice"#),
        (r#"{"weight_map":{"a":"three.safetensors"}}"#, "three.safetensors is missing"),
        (r#"{"weight_map":{"b":"one.safetensors"}}"#, r#"promises "b" in it, but it is not there"#),
        (r#"{"weight_map":{"a":"two.safetensors","b":"one.safetensors"}}"#, r#"promises "a" in it"#),
        (
            r#"{"weight_map":{"a":"one.safetensors","b":"again.safetensors"}}"#,
            r#""a" is in it, but in "again.safetensors" as well"#,
        ),
        (r#"{"weight_map":{"a":"../one.safetensors"}}"#, "is not the name of a safetensors file beside it"),
        (r#"{"weight_map":{"a":"/etc/one.safetensors"}}"#, "is not the name of"),
        (r#"{"weight_map":{"a":"sub/one.safetensors"}}"#, "is not the name of"),
        (r#"{"weight_map":{"a":"./one.safetensors"}}"#, "is not the name of"),
        (r#"{"weight_map":{"a":"sub\\one.safetensors"}}"#, "is not the name of"),
        (r#"{"weight_map":{"a":"C:one.safetensors"}}"#, "is not the name of"),
        (r#"{"weight_map":{"a":"one.safetensors\u0000"}}"#, "is not the name of"),
        (r#"{"weight_map":{"a":"pytorch_model.bin"}}"#, "is not the name of"),
        (r#"{"weight_map":{"a":""}}"#, "is not the name of"),
        (r#"{"weight_map":{"a":".."}}"#, "is not the name of"),
    ];
    for (index, expected) in cases {
        refused(Checkpoint::open(shards(index).path()), expected, index);
    }
}

#[test]
fn a_shard_that_is_damaged_is_named() {
    let copy = tempfile::TempDir::new().unwrap();
    for file in fs::read_dir(model("bloom-tiny-sharded")).unwrap() {
        let file = file.unwrap();
        fs::write(copy.path().join(file.file_name()), fs::read(file.path()).unwrap()).unwrap();
    }
    let shard = copy.path().join("model-00002-of-00003.safetensors");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    refused(
        Checkpoint::open(copy.path()),
        "model-00002-of-00003.safetensors is damaged: it is truncated",
        "half a shard",
    );
    fs::remove_file(&shard).unwrap();
    refused(Checkpoint::open(copy.path()), "model-00002-of-00003.safetensors is missing", "a shard taken away");
}

#[test]
fn a_folder_without_weights_says_what_it_has() {
    type Files<'a> = &'a [(&'a str, &'a [u8])];
    let cases: [(Files<'_>, &str); 5] = [
        (&[], "model.safetensors is missing: a model has its weights there"),
        (&[("pytorch_model.bin", b"PK")], "holds only pickled weights (pytorch_model.bin), which Bouquet never opens"),
        (&[("config.json", b"{}"), ("consolidated.00.pth", b"PK")], "holds only pickled weights (consolidated.00.pth)"),
        (&[("one.safetensors", b""), ("old.bin", b"")], "model.safetensors.index.json is missing"),
        (&[("model.gguf", b"GGUF")], "model.safetensors is missing"),
    ];
    for (files, expected) in cases {
        refused(Checkpoint::open(folder(files).path()), expected, &format!("{files:?}"));
    }
    let some = folder(&[("file", b"")]);
    refused(Checkpoint::open(&some.path().join("nothing")), "there is no such folder", "a folder that is not there");
    refused(Checkpoint::open(&some.path().join("file")), "it is a file", "a file");
    fs::create_dir(some.path().join("model.safetensors")).unwrap();
    refused(Checkpoint::open(some.path()), "it is not a regular file", "a folder in place of weights");
}

#[test]
#[cfg(unix)]
fn a_link_to_weights_is_followed_and_a_broken_one_told() {
    let some = folder(&[("blob", &safetensors(HEADER, &[0; 20]))]);
    std::os::unix::fs::symlink("blob", some.path().join("model.safetensors")).unwrap();
    assert_eq!(Checkpoint::open(some.path()).unwrap().names().len(), 2);
    fs::remove_file(some.path().join("blob")).unwrap();
    refused(Checkpoint::open(some.path()), "cannot read", "a link that leads nowhere");
}

#[test]
fn a_part_of_another_shape_or_type_is_refused() {
    let mut source = InMemory::default();
    source.insert_f32("transformer.h.0.w.weight", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, f32::NAN]);
    source.insert_f32("ln_f.bias", &[2], &[0.5, -0.5]);
    source.insert_f32("nan", &[2], &[0.5, f32::NAN]);
    source.insert_f32("infinite", &[1], &[f32::NEG_INFINITY]);
    let ids = r#"{"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
    let ids = open(&safetensors(ids, &[0; 8])).unwrap().tensor("ids").unwrap().unwrap();
    source.tensors.insert("ids".to_owned(), ids);

    // Found with and without prefix; the numbers of a matrix are not looked at.
    let (_, weight) = load_weight(&source, &NAMES, "h.0.w.weight", 2, 3).unwrap();
    assert_eq!((weight.rows(), weight.cols()), (2, 3));
    assert_eq!(load_vector(&source, &NAMES, "ln_f.bias", 2).unwrap(), [0.5, -0.5]);

    let matrix = |name, rows, cols| load_weight(&source, &NAMES, name, rows, cols).map(|_| ());
    let vector = |name, length| load_vector(&source, &NAMES, name, length).map(|_| ());
    let transposed = r#"the tensor "transformer.h.0.w.weight" should have shape [3, 2], but has [2, 3]"#;
    refused(matrix("h.0.w.weight", 3, 2), transposed, "a transposed weight");
    refused(matrix("ln_f.bias", 1, 2), "should have shape [1, 2], but has [2]", "a vector as a matrix");
    refused(vector("ln_f.bias", 3), "should have shape [3], but has [2]", "a short vector");
    refused(vector("h.1.w.weight", 3), r#"the tensor "transformer.h.1.w.weight" is missing from memory"#, "no tensor");
    refused(vector("ids", 1), r#"the tensor "ids" should hold F32, F16 or BF16 numbers, but holds I64"#, "ids");
    refused(vector("nan", 2), r#"the tensor "nan" has NaN at index 1"#, "a NaN");
    refused(vector("infinite", 1), r#"the tensor "infinite" has -inf at index 0"#, "an infinity");
}

#[test]
fn a_model_with_one_wrong_tensor_is_refused_by_its_name() {
    let folder = model("llama-tiny-tied");
    let spec = load_spec(&folder).unwrap();
    let honest = InMemory::copy_of(&Checkpoint::open(&folder).unwrap()).unwrap();
    let load = |source: &InMemory| {
        let loader = Loader { source, spec: &spec, encoding: None };
        loader.embedding()?;
        loader.blocks(0..spec.num_blocks)?;
        loader.head(&loader.embedding()?).map(|_| ())
    };
    load(&honest).unwrap();

    for name in honest.names() {
        let mut source = honest.clone();
        source.tensors.remove(name);
        refused(load(&source), &format!("the tensor {name:?} is missing"), name);

        let mut source = honest.clone();
        source.tensors.get_mut(name).unwrap().shape.push(1);
        refused(load(&source), &format!("the tensor {name:?} should have shape"), name);
    }
    let mut source = honest.clone();
    source.insert_f32("model.layers.1.input_layernorm.weight", &[64], &[f32::NAN; 64]);
    refused(
        load(&source),
        r#"the tensor "model.layers.1.input_layernorm.weight" has NaN at index 0"#,
        "a NaN in a norm",
    );
}
