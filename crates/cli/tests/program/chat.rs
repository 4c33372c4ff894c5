//! `bouquet run` with models that have a chat template: one question; and a conversation in a terminal.

use crate::harness::*;

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}\
                        {% if add_generation_prompt %}assistant:{% endif %}";

/// A model with a chat template.
fn chatty(template: &str) -> tempfile::TempDir {
    let folder = copy("llama-tiny");
    edit_json(&folder.path().join("tokenizer_config.json"), |config| config["chat_template"] = template.into());
    folder
}

#[test]
fn a_prompt_is_what_a_user_says_unless_it_is_raw() {
    let (folder, plain) = (chatty(TEMPLATE), tiny("llama-tiny"));
    let rest = ["--max-tokens", "8", "--ignore-eos"];
    let run = |model: &std::path::Path, more: &[&str]| {
        stdout(&[["run", arg(model)].as_slice(), more, rest.as_slice()].concat())
    };
    let answer = run(folder.path(), &["Hello"]);
    // The template has no begin-of-text, so its text is cut without one: what is asked raw has to be told so.
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, "Hello\n").unwrap();
    assert_eq!(run(folder.path(), &["--file", arg(&file)]), answer);
    let args = [["run", arg(folder.path())].as_slice(), &rest].concat();
    assert_eq!(text(&output_with_stdin(&args, b"Hello\n").stdout), answer);
    assert_ne!(run(folder.path(), &["Hello", "--system", "Be brief."]), answer);
    assert_eq!(run(folder.path(), &["Hello", "--raw"]), run(&plain, &["Hello"]));
    assert_ne!(run(folder.path(), &["Hello", "--raw"]), answer);
    // With begin-of-text, written by the template, it is the text that `--raw` goes on from: it is there once.
    let begins = chatty("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}");
    assert_eq!(run(begins.path(), &["Hello"]), run(&plain, &["Hello"]));
}

#[test]
fn the_end_of_a_turn_ends_an_answer() {
    // Of a greedy answer, the third token becomes what the template ends a turn with.
    let folder = chatty("{% for m in messages %}{{ m.content }}{% endfor %}");
    let args = ["run", arg(folder.path()), "Hello", "--max-tokens", "12", "--json"];
    let ids = json(&[args.as_slice(), &["--ignore-eos"]].concat())["token_ids"].clone();
    let token = |id: &serde_json::Value| {
        let path = folder.path().join("tokenizer.json");
        let file: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let vocabulary = file["model"]["vocab"].as_object().unwrap().clone();
        vocabulary.into_iter().find(|(_, known)| *known == *id).unwrap().0
    };
    let end = token(&ids[2]);
    let special = serde_json::json!({"id": ids[2], "content": end, "special": true, "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false});
    edit_json(&folder.path().join("tokenizer.json"), |file| {
        let added = file["added_tokens"].as_array_mut().unwrap();
        added.retain(|one| one["id"] != ids[2]);
        added.push(special);
    });
    let template = format!(
        "{{% for m in messages %}}{{{{ m.content }}}}{{% if m.role == 'assistant' %}}{end}{{% endif %}}{{% endfor %}}"
    );
    edit_json(&folder.path().join("tokenizer_config.json"), |config| config["chat_template"] = template.into());
    let stopped = json(&args);
    assert_eq!((&stopped["finish_reason"], stopped["token_ids"].as_array().unwrap().len()), (&"stop".into(), 3));
}

#[test]
fn templates_that_are_wrong_are_refused_with_what_they_say() {
    let run = |template: &str, what: &str| {
        let folder = chatty(template);
        refused(&["run", arg(folder.path()), "Hello"], 1, what);
        // It is not needed for anything else.
        stdout(&["run", arg(folder.path()), "Hello", "--raw", "--max-tokens", "2"]);
    };
    run("{% for %}", "the chat template is no Jinja in line 1");
    run("{{ raise_exception('Only poems.') }}", "the chat template refuses this conversation: \"Only poems.\"");
    run("{% for a in range(99999) %}{% for a in range(99999) %}{% endfor %}{% endfor %}", "works without end");
    refused(&["run", arg(&tiny("llama-tiny")), "Hello", "--system", "x"], 1, "the model has no chat template");
    refused(&["run", arg(&tiny("llama-tiny")), "Hello", "--system", "x", "--raw"], 2, "cannot be used with");
}
