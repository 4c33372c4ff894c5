//! The cache: what is put there, and what is found.

use std::fs;

use crate::*;

#[test]
fn what_is_fetched_lies_as_python_lays_it_out() {
    let bench = Bench::model(3000);
    let hub = bench.hub();
    let plan = hub.plan(&bench.name(), &mut |_| {}).unwrap();
    let bytes = (CONFIG.len() + "{}".len() + 3000) as u64;
    let order: Vec<&str> = plan.missing.iter().map(Missing::file).collect();
    assert_eq!(order, ["config.json", "tokenizer.json", "model.safetensors"]);
    assert_eq!((plan.bytes(), plan.bytes_arrived(), plan.bytes_to_come()), (bytes, 0, bytes));
    assert!(listed(bench.cache.path()).is_empty(), "a plan writes nothing");
    let mut last = None;
    let folder = hub.carry_out(&plan, &mut |event| match event {
        Event::Progress { file, number, done } => last = Some((file.to_owned(), number, done)),
        other => panic!("{other:?}"),
    });
    let folder = folder.unwrap();
    assert_eq!(last, Some(("model.safetensors".to_owned(), 3, bytes)));
    assert_eq!((&plan.folder, plan.commit.as_str()), (&folder, server::COMMIT));
    assert_eq!(folder, bench.repository().join("snapshots").join(server::COMMIT));
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights(3000));
    assert_eq!(fs::read_to_string(bench.repository().join("refs/main")).unwrap(), server::COMMIT);
    let files: [(&str, &[u8]); 3] =
        [("config.json", CONFIG), ("tokenizer.json", b"{}"), ("model.safetensors", &weights(3000))];
    let names = files.map(|(file, contents)| (server::etag(file, contents), contents.len() as u64));
    assert_eq!(bench.listed("blobs"), BTreeMap::from(names));
    #[cfg(unix)]
    for (file, contents) in files {
        let target = format!("../../blobs/{}", server::etag(file, contents));
        assert_eq!(fs::read_link(folder.join(file)).unwrap(), Path::new(&target));
    }
    let wanted = ["config.json", "model.safetensors", "tokenizer.json"];
    assert_eq!(listed(&folder).into_keys().collect::<Vec<_>>(), wanted, "and neither the pickle nor the rest");
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let bench = Bench::model(300);
    let folder = bench.fetch().unwrap();
    bench.server.requests();
    assert_eq!(bench.find(), Some(folder.clone()));
    let at_commit = Name::parse(&format!("org/name@{}", server::COMMIT)).unwrap();
    assert_eq!(bench.hub().find(&at_commit), Some(folder.clone()));
    assert_eq!(bench.offline().unwrap(), folder);
    assert!(bench.server.requests().is_empty(), "nobody is asked for what is there");
    assert_eq!(bench.fetch().unwrap(), folder);
    let paths: Vec<String> = bench.server.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/api/models/org/name/revision/main"], "only whether there is something newer");
}

#[test]
fn a_new_commit_shares_what_did_not_change() {
    let bench = Bench::model(300);
    let old = bench.fetch().unwrap();
    let newer = "f".repeat(40);
    bench.server.push(&newer, "config.json", b"{}");
    bench.server.requests();
    let new = bench.fetch().unwrap();
    assert_eq!(new.file_name().unwrap().to_str(), Some(newer.as_str()));
    assert_eq!(fs::read(new.join("config.json")).unwrap(), b"{}");
    assert_eq!(fs::read(new.join("model.safetensors")).unwrap(), weights(300));
    assert_eq!(fs::read(old.join("config.json")).unwrap(), CONFIG);
    let fetched: Vec<String> = bench
        .server
        .requests()
        .into_iter()
        .filter(|request| request.method == "GET")
        .map(|request| request.path)
        .collect();
    assert_eq!(fetched, ["/api/models/org/name/revision/main", &format!("/org/name/resolve/{newer}/config.json")]);
    assert_eq!(bench.offline().unwrap(), new);
}

#[test]
fn weights_in_shards_are_those_of_the_index() {
    let index = br#"{"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let files: [(&str, &[u8]); 5] = [
        ("config.json", CONFIG),
        ("model.safetensors.index.json", index),
        ("model-1.safetensors", b"one"),
        ("model-2.safetensors", b"two"),
        ("model-3.safetensors", b"three"),
    ];
    let bench = Bench::new(&files);
    let folder = bench.fetch().unwrap();
    let wanted = ["config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"];
    assert_eq!(listed(&folder).into_keys().collect::<Vec<_>>(), wanted);
    fs::remove_file(folder.join("model-2.safetensors")).unwrap();
    assert!(matches!(bench.offline(), Err(HubError::PartlyCached { file, .. }) if file == "model-2.safetensors"));
    bench.fetch().unwrap();
    assert_eq!(bench.offline().unwrap(), folder);
}

#[cfg(unix)]
#[test]
fn what_python_put_there_is_found() {
    let bench = Bench::model(300);
    // As huggingface_hub leaves it, with files that it needs and we do not.
    let repository = bench.repository();
    let snapshot = repository.join("snapshots").join(server::COMMIT);
    for folder in [&snapshot, &repository.join("blobs"), &repository.join("refs"), &repository.join(".no_exist")] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(repository.join("refs/main"), server::COMMIT).unwrap();
    fs::write(bench.cache.path().join("CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55").unwrap();
    for (file, contents) in [("config.json", CONFIG), ("model.safetensors", &weights(300)), ("README.md", b"# A model")]
    {
        let etag = server::etag(file, contents);
        fs::write(repository.join("blobs").join(&etag), contents).unwrap();
        std::os::unix::fs::symlink(format!("../../blobs/{etag}"), snapshot.join(file)).unwrap();
    }
    assert_eq!(bench.offline().unwrap(), snapshot);
    assert_eq!(bench.fetch().unwrap(), snapshot);
    let fetched: Vec<String> =
        bench.server.requests().into_iter().filter(|request| request.is_cdn).map(|request| request.path).collect();
    assert_eq!(fetched, ["/cdn/tokenizer.json"], "only what is missing");
}

#[test]
fn a_link_that_leads_nowhere_is_mended() {
    let bench = Bench::model(300);
    let folder = bench.fetch().unwrap();
    fs::remove_file(bench.repository().join("blobs").join(server::etag("model.safetensors", &weights(300)))).unwrap();
    if !folder.join("model.safetensors").exists() {
        assert!(matches!(bench.offline(), Err(HubError::PartlyCached { .. })));
    }
    bench.fetch().unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights(300));
}

#[test]
fn offline_says_what_is_not_there() {
    let bench = Bench::model(300);
    assert!(matches!(bench.offline(), Err(HubError::NotCached { .. })));
    assert!(bench.server.requests().is_empty());
    assert!(!bench.repository().exists());
}

#[test]
fn a_repository_without_a_tokenizer_is_asked_about_it_once() {
    let bench = Bench::new(&[("config.json", CONFIG), ("model.safetensors", b"weights")]);
    let folder = bench.fetch().unwrap();
    assert_eq!(bench.find(), Some(folder.clone()));
    fs::remove_dir_all(bench.repository().join(".no_exist")).unwrap();
    assert_eq!(bench.find(), None, "another program may have left the tokenizer out");
    assert_eq!(bench.offline().unwrap(), folder);
    bench.fetch().unwrap();
    assert_eq!(bench.find(), Some(folder));
}

#[test]
fn an_index_that_is_damaged_on_the_disk_says_which_file_it_is() {
    let index = br#"{"weight_map": {"a": "model-1.safetensors"}}"#;
    let files: [(&str, &[u8]); 3] =
        [("config.json", CONFIG), ("model.safetensors.index.json", index), ("model-1.safetensors", b"one")];
    let bench = Bench::new(&files);
    let path = bench.fetch().unwrap().join("model.safetensors.index.json");
    fs::write(&path, "{").unwrap();
    assert_eq!(bench.find(), None);
    assert!(matches!(bench.fetch(), Err(HubError::Damaged { path: damaged, .. }) if damaged == path));
}

#[cfg(unix)]
#[test]
fn a_cache_that_may_only_be_read_is_enough_for_what_it_has() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::model(300);
    let folder = bench.fetch().unwrap();
    fs::remove_file(bench.repository().join("refs/main")).unwrap();
    fs::set_permissions(bench.repository().join("refs"), fs::Permissions::from_mode(0o500)).unwrap();
    let found = bench.fetch();
    fs::set_permissions(bench.repository().join("refs"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(found.unwrap(), folder);
}

#[test]
fn repositories_that_cannot_be_run_say_so() {
    let pickled = Bench::new(&[("config.json", CONFIG), ("pytorch_model.bin", b"pickle")]);
    assert!(matches!(pickled.fetch(), Err(HubError::PickleOnly { file, .. }) if file == "pytorch_model.bin"));
    let empty = Bench::new(&[("README.md", b"")]);
    assert!(matches!(empty.fetch(), Err(HubError::NotAModel { .. })));
    assert!(!empty.repository().exists());
}

#[test]
fn names_that_the_hub_does_not_know_are_told_apart() {
    let bench = Bench::model(30);
    let fetch = |name: &str| bench.fetch_with(bench.settings(), name, &mut |_| {}).unwrap_err();
    assert!(matches!(fetch("org/other"), HubError::NoSuchModel { with_token: false, .. }));
    assert!(matches!(fetch("org/name@v2"), HubError::NoSuchRevision { revision, .. } if revision == "v2"));
    bench.server.behave(|_, reply| {
        *reply = server::Reply::error(403, "GatedRepo");
        reply.set("X-Error-Message", "Ask for access.");
    });
    assert!(matches!(fetch("org/name"), HubError::Gated { message, .. } if message == "Ask for access."));
    bench.server.behave(|_, reply| {
        *reply = server::Reply::error(400, "");
        reply.set("X-Error-Message", "a".repeat(5000));
    });
    assert!(fetch("org/name").to_string().len() < 400);
}
