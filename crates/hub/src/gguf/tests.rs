//! Which file is chosen, of the names that people give to theirs.

use super::*;

const FILES: [&str; 10] = [
    "README.md",
    "Tiny-1B-Instruct-BF16.gguf",
    "Tiny-1B-Instruct-IQ4_NL.gguf",
    "Tiny-1B-Instruct-Q4_K_M.gguf",
    "Tiny-1B-Instruct-Q4_K_S.gguf",
    "Tiny-1B-Instruct-Q8_0-00001-of-00002.gguf",
    "Tiny-1B-Instruct-Q8_0-00002-of-00002.gguf",
    "mmproj-Tiny-1B-Q4_K_M.gguf",
    "Tiny-1B-Instruct-imatrix.gguf",
    "Tiny-1B-Instruct.imatrix",
];

fn one(files: &[&str], choice: &str) -> String {
    let chosen = choose(files.iter().copied(), Some(choice)).unwrap_or_else(|error| panic!("{choice}: {error:?}"));
    assert_eq!(chosen.len(), 1, "{chosen:?}");
    chosen.into_iter().next().unwrap()
}

fn listed(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn a_file_is_chosen_by_the_end_of_its_name_in_any_case() {
    for choice in [
        "Q4_K_M",
        "q4_k_m",
        "Instruct-Q4_K_M",
        "Tiny-1B-Instruct-Q4_K_M",
        "Tiny-1B-Instruct-Q4_K_M.gguf",
        "tiny-1b-instruct-q4_k_m.GGUF",
    ] {
        assert_eq!(one(&FILES, choice), "Tiny-1B-Instruct-Q4_K_M.gguf");
    }
    let others =
        [("a.Q4_1.gguf", "q4_1"), ("a_q4_1.gguf", "Q4_1"), ("Q8_0/a.gguf", "Q8_0"), ("a-Q4_1-v2.gguf", "Q4_1")];
    for (file, choice) in others {
        assert_eq!(one(&["b-F16.gguf", file], choice), file);
    }
    assert_eq!(one(&["a-Q8_0.gguf", "Q8_0/b-F16.gguf"], "Q8_0"), "a-Q8_0.gguf", "the name goes before the folder");
    assert_eq!(one(&["a-Q4_0.gguf", "a-Q4_0_4_4.gguf", "a-IQ4_0.gguf"], "Q4_0"), "a-Q4_0.gguf");
    assert_eq!(one(&["x/a-Q4_0.gguf", "y/a-Q4_0.gguf"], "y/a-Q4_0.gguf"), "y/a-Q4_0.gguf");
}

#[test]
fn of_a_split_model_all_parts_are_chosen() {
    let parts = ["Tiny-1B-Instruct-Q8_0-00001-of-00002.gguf", "Tiny-1B-Instruct-Q8_0-00002-of-00002.gguf"];
    for choice in ["Q8_0", "q8_0", parts[0], parts[1]] {
        assert_eq!(choose(FILES, Some(choice)).unwrap(), parts, "{choice}");
    }
    let alone = choose(["q/a-Q8_0-00002-of-00003.gguf"], Some("Q8_0")).unwrap();
    assert_eq!(alone.len(), 3, "what is not there is for who asked to find out");
    assert_eq!(alone[0], "q/a-Q8_0-00001-of-00003.gguf");
    let many = "a-00001-of-99999.gguf";
    assert_eq!(choose([many], None).unwrap(), [many], "so many parts nobody makes");
}

#[test]
fn what_is_not_there_or_not_clear_lists_what_there_is() {
    let there = listed(&["BF16", "IQ4_NL", "Q4_K_M", "Q4_K_S", "Q8_0"]);
    for choice in
        ["Q4_K", "Q5_K_M", "imatrix", "mmproj-Tiny-1B-Q4_K_M.gguf", "README.md", "4_K_M", "K", "", "-", "gguf"]
    {
        assert_eq!(choose(FILES, Some(choice)), Err(Unclear::Nothing(there.clone())), "{choice:?}");
    }
    let sizes = ["a-1B-Q4_0.gguf", "a-3B-Q4_0.gguf", "a-3B-Q8_0.gguf"];
    assert_eq!(choose(sizes, Some("Q4_0")), Err(Unclear::Several(listed(&["1B-Q4_0", "3B-Q4_0"]))));
    assert_eq!(choose(sizes, None), choose(sizes, Some("Q4_0")));
    let folders = ["x/a.gguf", "y/a.gguf"];
    assert_eq!(choose(folders, Some("a")), Err(Unclear::Several(listed(&["x/a", "y/a"]))));
    let many: Vec<String> = (0..100).map(|i| format!("a-{i}.gguf")).collect();
    let Err(Unclear::Several(names)) = choose(many.iter().map(String::as_str), None) else { panic!() };
    assert_eq!((names.len(), names[30].as_str()), (31, "70 more"));
}

/// A name that an error lists has to work.
#[test]
fn each_name_of_a_list_means_its_file_alone() {
    let sets: [&[&str]; 4] = [
        &FILES,
        &["a-1B-Q4_0.gguf", "a-3B-Q4_0.gguf", "b.gguf", "c-UD-Q4_0.gguf", "x/b.gguf"],
        &["Q4_0.gguf", "a-Q4_0.gguf", "Q4_0/a.gguf", "a.Q4_0.b.gguf"],
        &["a b.gguf", "b.gguf", "A.GGUF", "..gguf", "-.gguf", "a..gguf"],
    ];
    for files in sets {
        let models = Models::of(files.iter().copied());
        for model in models.all() {
            let name = models.shortest(model);
            assert_eq!(models.find(&name), [model], "{name:?} of {files:?}");
        }
    }
}

#[test]
fn with_nothing_said_the_usual_one_is_taken_or_the_only_one() {
    assert_eq!(choose(FILES, None).unwrap(), ["Tiny-1B-Instruct-Q4_K_M.gguf"]);
    assert_eq!(choose(["a-Q8_0.gguf", "a-Q4_0.gguf", "a-BF16.gguf"], None).unwrap(), ["a-Q4_0.gguf"]);
    assert_eq!(choose(["a-IQ3_M.gguf", "mmproj-a.gguf"], None).unwrap(), ["a-IQ3_M.gguf"]);
    let unusual = choose(["a-IQ3_M.gguf", "a-BF16.gguf"], None);
    assert_eq!(unusual, Err(Unclear::Several(listed(&["BF16", "IQ3_M"]))));
    assert_eq!(choose(["config.json", "mmproj-a.gguf"], None), Err(Unclear::Nothing(Vec::new())));
}

#[test]
fn a_file_that_could_lie_elsewhere_is_no_model() {
    for file in [
        "../a-Q4_0.gguf",
        "/a-Q4_0.gguf",
        "a/../b-Q4_0.gguf",
        "C:a-Q4_0.gguf",
        "a\\b-Q4_0.gguf",
        ".a-Q4_0.gguf",
        "a\u{202e}-Q4_0.gguf",
        "a\n-Q4_0.gguf",
        "a/b/c/d/e/f-Q4_0.gguf",
        "a/ /b-Q4_0.gguf",
        &format!("{}-Q4_0.gguf", "a".repeat(200)),
    ] {
        assert!(!is_model(file), "{file:?}");
        assert!(choose([file], Some("Q4_0")).is_err());
    }
}
