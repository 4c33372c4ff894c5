//! GGUF files: which is meant, what is fetched of it, and how the cache has it.

use std::fs;

use crate::*;

const FILES: [(&str, &[u8]); 7] = [
    ("README.md", b"# A model"),
    ("config.json", CONFIG),
    ("mmproj-F16.gguf", b"pictures"),
    ("name-Q4_K_M.gguf", b"four bits"),
    ("name-Q8_0.gguf", b"eight bits"),
    ("BF16/name-BF16-00001-of-00002.gguf", b"the first part"),
    ("BF16/name-BF16-00002-of-00002.gguf", b"the second part"),
];

impl Bench {
    fn fetch_named(&self, name: &str) -> Result<PathBuf, HubError> {
        self.fetch_with(self.settings(), name, &mut |_| {})
    }

    fn offline_named(&self, name: &str) -> Result<PathBuf, HubError> {
        self.fetch_with(Settings { offline: true, ..self.settings() }, name, &mut |_| {})
    }

    fn found(&self, name: &str) -> Option<PathBuf> {
        self.hub().find(&Name::parse(name).unwrap())
    }

    fn snapshot(&self) -> PathBuf {
        self.repository().join("snapshots").join(server::COMMIT)
    }
}

#[test]
fn the_file_that_is_meant_is_fetched_and_nothing_else() {
    let bench = Bench::new(&FILES);
    for name in ["org/name:Q8_0", "org/name@main:q8_0", "hf.co/org/name:name-Q8_0.gguf"] {
        let file = bench.fetch_named(name).unwrap();
        assert_eq!(file, bench.snapshot().join("name-Q8_0.gguf"));
        assert_eq!(fs::read(&file).unwrap(), b"eight bits");
        bench.server.requests();
        assert_eq!(bench.found(name), Some(file.clone()), "{name}");
        assert_eq!(bench.offline_named(name).unwrap(), file);
        assert!(bench.server.requests().is_empty(), "nobody is asked for what is there");
    }
    assert_eq!(listed(&bench.snapshot()).into_keys().collect::<Vec<_>>(), ["name-Q8_0.gguf"]);
    assert!(matches!(bench.offline_named("org/name:Q4_K_M"), Err(HubError::NotCached { .. })));
    assert_eq!(bench.found("org/name:Q4_K_M"), None);
}

#[test]
fn a_split_file_is_all_its_parts_in_their_folder() {
    let bench = Bench::new(&FILES);
    let first = bench.fetch_named("org/name:bf16").unwrap();
    let folder = bench.snapshot().join("BF16");
    assert_eq!(first, folder.join("name-BF16-00001-of-00002.gguf"));
    let second = folder.join("name-BF16-00002-of-00002.gguf");
    assert_eq!(fs::read(&first).unwrap(), b"the first part");
    assert_eq!(fs::read(&second).unwrap(), b"the second part");
    let paths: Vec<String> = bench.server.requests().into_iter().map(|request| request.path).collect();
    let asked = format!("/org/name/resolve/{}/BF16/name-BF16-00001-of-00002.gguf", server::COMMIT);
    assert!(paths.contains(&asked), "folders stay folders in an address: {paths:?}");
    assert_eq!(bench.offline_named("org/name:BF16").unwrap(), first);
    fs::remove_file(&second).unwrap();
    assert_eq!(bench.found("org/name:BF16"), None);
    let partly = bench.offline_named("org/name:BF16");
    assert!(matches!(partly, Err(HubError::PartlyCached { file, .. }) if file.ends_with("00002-of-00002.gguf")));
    assert_eq!(bench.fetch_named("org/name:BF16").unwrap(), first);
    assert!(second.exists());
}

#[test]
fn with_nothing_said_the_usual_file_is_taken_where_there_is_nothing_else() {
    let bench = Bench::new(&FILES);
    let file = bench.fetch_named("org/name").unwrap();
    assert_eq!(file, bench.snapshot().join("name-Q4_K_M.gguf"));
    bench.server.requests();
    assert_eq!(bench.found("org/name"), Some(file.clone()));
    assert_eq!(bench.offline_named("org/name").unwrap(), file);
    assert!(bench.server.requests().is_empty());
    // Another program leaves no word about what the repository lacks.
    fs::remove_dir_all(bench.repository().join(".no_exist")).unwrap();
    assert_eq!(bench.found("org/name"), None, "there may be safetensors");
    assert_eq!(bench.offline_named("org/name").unwrap(), file);
}

#[test]
fn safetensors_go_first_unless_a_file_is_named() {
    let bench = Bench::new(&[&FILES[..], &[("model.safetensors", b"weights")]].concat());
    assert_eq!(bench.fetch_named("org/name:Q4_K_M").unwrap(), bench.snapshot().join("name-Q4_K_M.gguf"));
    assert_eq!(bench.found("org/name"), None);
    assert_eq!(bench.fetch_named("org/name").unwrap(), bench.snapshot());
    assert_eq!(bench.found("org/name"), Some(bench.snapshot()));
}

#[test]
fn what_is_not_there_or_not_clear_is_told_with_what_there_is() {
    let bench = Bench::new(&FILES);
    let error = bench.fetch_named("org/name:Q5_K_M").unwrap_err().to_string();
    assert_eq!(error, "org/name has no GGUF file Q5_K_M: it has BF16, Q4_K_M, Q8_0");
    let without = Bench::model(30).fetch_named("org/name:Q8_0").unwrap_err().to_string();
    assert_eq!(without, "org/name has no GGUF file Q8_0, nor any other");
    let bench = Bench::new(&[("a-1B-Q8_0.gguf", b"1"), ("a-3B-Q8_0.gguf", b"3")]);
    for name in ["org/name:Q8_0", "org/name"] {
        let error = bench.fetch_named(name).unwrap_err().to_string();
        assert_eq!(error, "org/name has several GGUF files that may be meant: 1B-Q8_0, 3B-Q8_0");
    }
    assert!(!bench.repository().exists(), "nothing is written for it");
    let half = Bench::new(&[("a-Q8_0-00001-of-00002.gguf", b"1")]).fetch_named("org/name:Q8_0").unwrap_err();
    assert!(half.to_string().contains("it has no a-Q8_0-00002-of-00002.gguf"), "{half}");
}

/// What the cache has may be unclear offline, and is asked about otherwise.
#[test]
fn several_files_in_the_cache_are_told_apart() {
    let bench = Bench::new(&[("a-BF16.gguf", b"1"), ("a-F16.gguf", b"2")]);
    bench.fetch_named("org/name:BF16").unwrap();
    assert_eq!(bench.found("org/name"), Some(bench.snapshot().join("a-BF16.gguf")), "what is there");
    bench.fetch_named("org/name:F16").unwrap();
    assert_eq!(bench.found("org/name"), None);
    assert!(matches!(bench.offline_named("org/name"), Err(HubError::SeveralFiles { .. })));
}

#[test]
fn a_list_of_files_that_lead_elsewhere_gives_nothing() {
    let bench = Bench::new(&[("../../../name-Q4_K_M.gguf", b"out"), ("/etc/name-Q4_K_M.gguf", b"out")]);
    assert!(matches!(bench.fetch_named("org/name:Q4_K_M"), Err(HubError::NoSuchFile { .. })));
    assert!(matches!(bench.fetch_named("org/name"), Err(HubError::NotAModel { .. })));
}

#[test]
fn a_file_that_has_no_checksum_of_its_own_is_not_taken() {
    let bench = Bench::new(&FILES);
    bench.server.behave(|request, reply| {
        if request.is_cdn {
            reply.body = b"EIGHT bits".to_vec();
        }
    });
    assert!(matches!(bench.fetch_named("org/name:Q8_0"), Err(HubError::Wrong { .. })));
    assert!(!bench.snapshot().join("name-Q8_0.gguf").exists());
    assert_eq!(bench.found("org/name:Q8_0"), None);
}
