//! `bouquet compare`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::*;

fn adapter() -> PathBuf {
    root().join("tests/fixtures/goldens/embed/bloom-small-sts-adapter")
}

/// A folder with the first scored pairs of both languages, and a file of parallel sentences.
fn examples(folder: &Path) -> (PathBuf, PathBuf) {
    let (sts, parallel) = (folder.join("stsb"), folder.join("parallel.tsv"));
    std::fs::create_dir(&sts).unwrap();
    for name in ["de.test.csv", "en.test.csv"] {
        let all = std::fs::read_to_string(root().join("tests/fixtures/data/stsb").join(name)).unwrap();
        std::fs::write(sts.join(name), all.lines().take(60).collect::<Vec<_>>().join("\n")).unwrap();
    }
    std::fs::write(&parallel, "A cat sleeps.\tTwo cats are asleep.\nA man cooks.\tSomeone is cooking rice.\n").unwrap();
    (sts, parallel)
}

#[test]
fn candidates_have_the_figures_of_eval_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let ((sts, parallel), page) = (examples(folder.path()), folder.path().join("page.html"));
    let (model, adapter) = (small(), adapter());
    let (sts, parallel, model, adapter, page) = (arg(&sts), arg(&parallel), arg(&model), arg(&adapter), arg(&page));
    let tuned = format!("{model},adapter={adapter}");
    let args = ["compare", model, &tuned, "--sts", sts, "--retrieval", parallel];
    let told = json(&[args.as_slice(), &["--json", "-o", page]].concat());
    let candidates = told["candidates"].as_array().unwrap();
    let names: Vec<&Value> = candidates.iter().map(|candidate| &candidate["name"]).collect();
    assert_eq!(names, ["bloom-small-trained", "bloom-small-trained + bloom-small-sts-adapter"]);
    assert_eq!((&told["encoding"], &candidates[0]["adapter"]), (&json!("f32"), &Value::Null));

    for (candidate, flags) in candidates.iter().zip([&[][..], &["--adapter", adapter]]) {
        let eval = |task, path| json(&[&["eval", task, path, "--model", model, "--json"][..], flags].concat());
        let (scored, retrieved) = (eval("sts", sts), eval("retrieval", parallel));
        assert_eq!((&candidate["sts"], &candidate["retrieval"]), (&scored["files"], &retrieved["files"]));
        let figure = |of: &Value, pointer| of.pointer(pointer).unwrap().as_f64().unwrap();
        let directions = ["/mean/forward/accuracy_at_1", "/mean/backward/accuracy_at_1"];
        let accuracy = directions.map(|pointer| figure(&retrieved, pointer)).iter().sum::<f64>() / 2.0;
        let mean = (2.0 * figure(&scored, "/mean/spearman") + accuracy) / 3.0;
        assert!((figure(candidate, "/mean") - mean).abs() < 1e-9, "{candidate}");
    }

    let html = std::fs::read_to_string(page).unwrap();
    assert!(html.contains(">bloom-small-trained<") && html.contains("bloom-small-trained + bloom-small-sts-adapter"));
    assert!(html.contains("<svg") && html.contains("de.test.csv") && html.contains("parallel.tsv"), "{html}");
    for reference in ["http:", "https:", "src=", "href=", "url(", "@import", "<script"] {
        assert!(!html.contains(reference), "{reference}");
    }

    let shown = stdout(&["compare", &format!("{model},name=base"), &format!("{tuned},name=tuned"), "--sts", sts]);
    let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((rows.len(), &rows[0]), (4, &vec!["task", "base", "tuned"]), "{shown}");
    for (row, file) in rows[1..3].iter().zip(0usize..) {
        let mut expected = vec![row[0].to_owned()];
        let figures = candidates.iter().map(|candidate| candidate["sts"][file]["spearman"].as_f64().unwrap());
        let best = figures.clone().fold(f64::MIN, f64::max);
        for figure in figures {
            expected.push(format!("{figure:.2}"));
            expected.extend((figure == best).then(|| "*".to_owned()));
        }
        assert_eq!(*row, expected, "{shown}");
    }
    assert_eq!(rows[3][0], "mean", "{shown}");
}

#[test]
fn what_cannot_be_compared_is_refused_before_a_model_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let (sts, _) = examples(folder.path());
    // Opens as far as its configuration; its weights are not there.
    let hollow = copy("bloom-tiny");
    for entry in std::fs::read_dir(hollow.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "safetensors") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let (model, sts, page) = (arg(hollow.path()), arg(&sts), folder.path().join("page.html"));
    let other = format!("{model},name=other");
    refused(&["compare", model, "--sts", sts], 2, "2 values required");
    refused(&["compare", model, &other], 2, "required arguments were not provided");
    refused(&["compare", model, model, "--sts", sts], 2, "two candidates are called");
    refused(&["compare", model, "m,adapter=", "--sts", sts], 2, "nothing follows adapter=");
    refused(&["compare", model, &other, "--sts", "no/such.csv", "-o", arg(&page)], 1, "no/such.csv");
    refused(&["compare", model, &other, "--sts", sts, "-o", arg(folder.path())], 2, "is a folder, not a file to write");
    refused(&["compare", model, &other, "--sts", sts, "-o", "no/such/page.html"], 1, "cannot write no/such/page.html");
    refused(&["compare", model, "no/such/model", "--sts", sts], 1, "no/such/model");
    let lost = format!("{model},adapter=no/such/adapter");
    refused(&["compare", model, &lost, "--sts", sts, "-o", arg(&page)], 1, "no/such/adapter");
    // The weights would have been missed last.
    refused(&["compare", model, &other, "--sts", sts, "-o", arg(&page)], 1, "safetensors");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}
