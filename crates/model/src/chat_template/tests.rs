//! Templates against transformers, and against those who write hostile ones.

use std::time::Duration;

use serde_json::Value;

use super::*;

fn parse(source: &str) -> Result<ChatTemplate> {
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let special = tokens.map(|(name, token)| (name.to_owned(), token.to_owned())).into();
    ChatTemplate::parse(source, special, Clock::at(1_763_769_600))
}

fn said(source: &str) -> String {
    let template = match parse(source) {
        Ok(template) => template,
        Err(error) => return error.to_string(),
    };
    template.render(&[Message::new("user", "Hello")], true).unwrap_or_else(|error| error.to_string())
}

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/chat/templates.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn texts_are_those_of_transformers() {
    let golden = golden();
    let mut compared = 0;
    for case in golden["cases"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let template = parse(golden["templates"][name].as_str().unwrap()).unwrap();
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let text = template.render(&messages, case["ask"].as_bool().unwrap());
        match case["error"].as_str() {
            Some(error) => {
                let ours = text.unwrap_err().to_string();
                assert!(ours.contains(&format!("refuses this conversation: {error:?}")), "{ours}");
            }
            None => assert_eq!(text.unwrap(), case["text"], "{name} {messages:?}"),
        }
        if name == "generation" && case["ask"] == false {
            let answers = template.render_answers(&messages).unwrap();
            let ours: Vec<Value> = answers
                .map_or(vec![], |found| found.assistant.into_iter().map(|range| found.text[range].into()).collect());
            assert_eq!(Value::from(ours), case["assistant"]);
        }
        compared += 1;
    }
    assert_eq!(compared, 220);
}

/// What transformers writes for a line, unless it is said here what is written instead, and why.
#[test]
fn lines_of_jinja_and_python_are_those_of_transformers() {
    let golden = golden();
    let messages: Vec<Message> = serde_json::from_value(golden["cases"][4]["messages"].clone()).unwrap();
    let (mut wrong, mut lines) = (Vec::new(), 0);
    for case in golden["lines"].as_array().unwrap() {
        let line = case["line"].as_str().unwrap();
        let ours = parse(line).and_then(|template| template.render(&messages, true));
        match (ours, case["text"].as_str()) {
            (Ok(ours), Some(text)) if ours == text => {}
            (Err(_), None) => {}
            (ours, text) => wrong.push(format!("{line}\n  {text:?}\n  {ours:?}")),
        }
        lines += 1;
    }
    assert_eq!(lines, 76);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn answers_are_what_a_text_gains_by_them() {
    let chatml = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{% if add_generation_prompt %}\
                  <assistant>{% endif %}";
    let turns = [("user", "A"), ("assistant", "B"), ("user", "C"), ("assistant", "D"), ("user", "E")];
    let messages = turns.map(|(role, content)| Message::new(role, content));
    let found = parse(chatml).unwrap().render_answers(&messages).unwrap().unwrap();
    let answers: Vec<&str> = found.assistant.iter().map(|range| &found.text[range.clone()]).collect();
    assert_eq!(answers, ["B</>", "D</>"]);
    // Earlier answers are written in another way than the last one.
    let forgets = "{% for m in messages %}{{ m.role }}: {{ m.content if loop.last else '...' }}\n{% endfor %}\
                   {% if add_generation_prompt %}assistant: {% endif %}";
    assert_eq!(parse(forgets).unwrap().render_answers(&messages).unwrap(), None);
}

#[test]
fn a_date_is_that_of_the_clock() {
    assert_eq!(said("{{ strftime_now('%d %b %Y') }}"), "22 Nov 2025");
    assert_eq!(
        said("{{ strftime_now('%Q') }}"),
        "the chat template fails in line 1: invalid operation: no date has the format \"%Q\""
    );
}

#[test]
fn a_template_that_is_wrong_is_a_sentence() {
    for (source, sentence) in [
        ("{% for m in %}", "the chat template is no Jinja in line 1: unexpected end of block"),
        ("a\n{{ nothing() }}", "the chat template fails in line 2: unknown function: nothing is unknown"),
        ("{{ none.x.y }}", "the chat template fails in line 1: undefined value"),
        ("{{ raise_exception('no \x1b[31msystem') }}", "refuses this conversation: \"no \\u{1b}[31msystem\""),
        (
            "{% if messages[0].role == 'user' %}{{ raise_exception('Users!') }}{% endif %}",
            "refuses this conversation: \"Users!\"",
        ),
        ("{{ unclosed", "the chat template is no Jinja in line 1"),
        ("{# unclosed", "the chat template is no Jinja"),
        ("{{ ((((( }}", "the chat template is no Jinja"),
        ("{% include 'other' %}", "the chat template fails in line 1: template not found"),
        ("{% generation %}x", "the chat template is no Jinja"),
    ] {
        let said = said(source);
        assert!(said.contains(sentence), "{source}: {said}");
    }
    assert!(said(&"x".repeat(source::MAX_BYTES + 1)).contains("more than 262144 are not read"));
}

#[test]
fn a_template_that_does_not_end_is_stopped() {
    let works = "the chat template works without end, and was stopped";
    let writes = "the chat template writes without end, and was stopped";
    for (source, sentence) in [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", works),
        ("{% set n = namespace(x='ab') %}{% for a in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}", writes),
        ("{% set n = namespace(x='ab') %}{% for a in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}", writes),
        (
            "{% set n = namespace(x=['a']) %}{% for a in range(99) %}{% set n.x = n.x+n.x %}{% endfor %}{{ n.x }}",
            writes,
        ),
        ("{% set n = namespace(x='ab') %}{% for a in range(99) %}{% set n.x = [n.x,n.x]|join %}{% endfor %}", writes),
        (
            "{% set n = namespace(x='a') %}{% for a in range(9) %}{% set n.x = n.x|replace('a', 'a'*999) %}{% endfor %}",
            writes,
        ),
        (
            "{% set n = namespace(x='a') %}{% for a in range(9) %}{% set n.x = n.x.replace('a', 'a'*999) %}{% endfor %}",
            writes,
        ),
        (
            "{% set n = namespace(x='a') %}{% for a in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
            writes,
        ),
        (
            "{% set n = namespace(x='a') %}{% for a in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ 'a' ~ n.x }}",
            writes,
        ),
        (
            "{% set n = namespace(x='a') %}{% for a in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x|tojson }}",
            writes,
        ),
        ("{% for a in range(99999) %}{{ 'abcdefghij' * 1000 }}{% endfor %}", writes),
        ("{% set x = 'x' * 99999999 %}{{ x }}", writes),
        ("{{ 'a'|indent(9999999999) }}", writes),
        ("{{ ('a' * 99999).replace('', 'b' * 99999) }}", writes),
        ("{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('a') }}", "recursion"),
        ("{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ range(10**9)|length }}", "range has too many elements"),
        ("{{ 'x' * 10**9 }}", "the chat template fails in line 1"),
        ("{{ '%999999999d'|format(1) }}", "a format asks for too much"),
        ("{{ '%*d'|format(999999999, 1) }}", "a format asks for too much"),
        ("{{ '{:999999999}'.format(1) }}", "a format asks for too much"),
        ("{{ '{:{}}'.format(1, 999999999) }}", "a format asks for too much"),
        ("{{ ('{:999}' * 99999).format('a') }}", writes),
        ("{{ ('{0}' * 9999).format('a' * 99999) }}", writes),
        ("{{ ('%(a)s' * 9999)|format(a='a' * 99999) }}", writes),
        ("{{ '%999999999d' % 1 }}", "a format asks for too much"),
        (
            "{% set n = namespace(x='a') %}{% for a in range(99) %}{% set n.x = '%s%s' % (n.x, n.x) %}{% endfor %}",
            writes,
        ),
        ("{{ 'a'|center(9999999999) }}", writes),
        ("{{ 'a'|truncate(1) }}", "shorter than its end"),
        ("{{ cycler() }}", "something to cycle through"),
        ("{{ 'a'.ljust(9999999999) }}", writes),
        ("{{ 'a'.zfill(9999999999) }}", writes),
        ("{{ ('a' * 99999).center(999999999) }}", writes),
        ("{{ 'a'|indent('b' * 9999999) }}{{ ('a\\n' * 99)|indent('b' * 999999) }}", writes),
        ("{{ [1]|batch(10**9, 'x')|list }}", "a list is not cut into so many places"),
        ("{{ [1]|slice(10**9)|list }}", "a list is not cut into so many places"),
        ("{{ range(99999)|join('x' * 9999) }}", writes),
        ("{% for a in range(99999) %}{{ ('a,' * 999).rsplit(',')|length }}{% endfor %}", writes),
        ("{% for a in range(10**12) %}{% endfor %}", "range has too many elements"),
        (
            "{% macro f(x) %}{% call g(x) %}{{ f(x) }}{% endcall %}{% endmacro %}{% macro g(x) %}{{ caller() }}{% endmacro %}{{ f(1) }}",
            "recursion",
        ),
        ("{%- for item in messages recursive %}{{ loop(messages) }}{% endfor %}", "recursion"),
        (
            "{% set n = namespace(x={}) %}{% for a in range(99) %}{% set n.x = {'a': n.x, 'b': n.x} %}{% endfor %}{{ n.x }}",
            writes,
        ),
        ("{% set x %}{% for a in range(99999) %}{{ 'abcdefghij' * 1000 }}{% endfor %}{% endset %}", writes),
        ("{{ 'a' if messages|tojson(separators=('x' * 99, ':')) }}", "two short separators"),
        ("{{ messages|tojson(indent=99999999) }}", "at most 16"),
    ] {
        let said = said(source);
        assert!(said.contains(sentence), "{source}: {}", &said[..said.len().min(300)]);
    }
    let long = format!("{{% for a in range(99999) %}}{}{{% endfor %}}", "x".repeat(200_000));
    assert_eq!(said(&long), works);
}

#[test]
fn brackets_within_brackets_are_refused() {
    for bracket in ["(", "[", "{{", "{% if x %}", "{% for a in b %}"] {
        assert!(parse(&format!("{{{{ {} }}}}", bracket.repeat(20_000))).is_err() || bracket.starts_with("{%"));
        let _ = parse(&bracket.repeat(20_000));
    }
}

#[test]
fn values_are_not_within_each_other_without_end() {
    let writes = "the chat template writes without end, and was stopped";
    let holds = "a namespace holds no namespaces, loops and macros";
    let again = |body: &str| {
        format!("{{% set n = namespace(x=[1]) %}}{{% for a in range(99999) %}}{body}{{% endfor %}}{{{{ n.x|length }}}}")
    };
    for (body, sentence) in [
        ("{% set n.x = [n.x] %}", writes),
        ("{% set n.x = (n.x, 1) %}", writes),
        ("{% set n.x = {'a': n.x} %}", writes),
        ("{% set n.x = dict(a=n.x) %}", writes),
        ("{% set n.x = n.x|batch(1) %}", writes),
        ("{% set n.x = namespace(a=n.x) %}", holds),
        ("{% for b in [n.x] %}{% set n.x = loop %}{% endfor %}", holds),
        ("{% set g = n.x %}{% macro f() %}{{ g }}{% endmacro %}{% set n.x = [f] %}", holds),
        ("{% set n.x = cycler(n.x) %}", "cyclers and joiners take texts and numbers"),
        // What is computed when it is looked at, and would hold on to what it is made of.
        ("{% set n.x = n.x|reverse %}", "1"),
        ("{% set n.x = n.x * 1 %}", "1"),
    ] {
        let said = said(&again(body));
        assert!(said.contains(sentence), "{body}: {said}");
    }
    let within_itself =
        "{% set n = namespace(x=1) %}{% set n.x = [n] %}{% set m = namespace(x=1) %}{% set m.x = [m] %}{{ m == n }}";
    assert!(said(within_itself).contains(holds));
    assert!(said(&format!("{{% set x = 1 %}}{}", "{% set x = [x] %}".repeat(9999))).contains(writes));
    // Each of these compares two of a billion values, or looks for one.
    for (made, then) in
        [("[a, a]", "a == b"), ("dict(p=a, q=a)", "a == b"), ("(a, a)", "a in [b]"), ("[a, a]", "{a: 1}")]
    {
        let other = made.replace('a', "b").replace("dibt", "dict");
        let twice = format!(
            "{{% macro f(a, b, n) %}}{{% if n %}}{{{{ f({made}, {other}, n - 1) }}}}{{% else %}}{{{{ {then} }}}}{{% endif %}}\
             {{% endmacro %}}{{{{ f(1, 1, 30) }}}}"
        );
        let said = said(&twice);
        assert!(said.contains("recursion") || said.contains(writes), "{made}: {said}");
    }
}

#[test]
fn operators_in_a_row_do_not_take_the_stack() {
    let long = "more than 16384 bytes between two brackets";
    let chains = [
        ("1", "+1"),
        ("1", "**1"),
        ("'a'", "|e"),
        ("a", ".b"),
        ("a", "[0]"),
        ("a", "()"),
        ("1", " and 1"),
        ("'%s'", "%'%s'"),
    ];
    for (first, more) in chains {
        let chain = |bytes: usize| format!("{{{{ {first}{} }}}}", more.repeat(bytes / more.len()));
        assert!(said(&chain(100_000)).contains(long), "{more}");
        assert!(!said(&chain(16_000)).contains(long), "{more}");
    }
    for before in ["not ", "-"] {
        assert!(said(&format!("{{{{ {}1 }}}}", before.repeat(30_000))).contains(long), "{before}");
        said(&format!("{{{{ {}1 }}}}", before.repeat(16_000 / before.len())));
    }
    assert_eq!(said(&format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(20_000))), "");
    // Text is not counted.
    assert_eq!(said(&format!("{{{{ '{}'|length }}}}", "x".repeat(100_000))), "100000");
}

#[test]
fn a_template_that_takes_too_long_is_given_up() {
    let (end, wait) = std::sync::mpsc::channel::<()>();
    let given_up = engine::apart(Duration::from_millis(1), move || Ok(wait.recv().is_ok()));
    assert_eq!(given_up.unwrap_err().to_string(), "the chat template works for more than 1ms, and was given up");
    drop(end);
}

/// Arithmetic of the engine overflows in builds with checks.
#[test]
fn numbers_near_the_limits_end_no_program() {
    for source in ["{{ range(2**63 - 1, -(2**63), -1)|list }}", "{{ 'abc'[::-(2**63)] }}", "{{ [1][::2**63 - 1] }}"] {
        said(source);
    }
}

#[test]
fn what_a_folder_has_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let text = || {
        let template = ChatTemplate::load(folder.path(), Clock::at(0))?;
        template.map(|template| template.render(&[Message::new("user", "Hi")], false)).transpose()
    };
    assert_eq!(text().unwrap(), None);
    write("tokenizer_config.json", r#"{"eos_token": {"content": "<e>", "special": true}}"#);
    write("special_tokens_map.json", r#"{"eos_token": "<old>", "bos_token": "<b>"}"#);
    assert_eq!(text().unwrap(), None);
    let config = |template: &str| format!(r#"{{"eos_token": {{"content": "<e>"}}, "chat_template": {template}}}"#);
    write("tokenizer_config.json", &config(r#""{{ bos_token ~ eos_token ~ pad_token }}""#));
    assert_eq!(text().unwrap().unwrap(), "<b><e>");
    write(
        "tokenizer_config.json",
        &config(r#"[{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]"#),
    );
    assert_eq!(text().unwrap().unwrap(), "d");
    write("tokenizer_config.json", &config(r#"[{"name": "tool", "template": "t"}]"#));
    assert!(text().unwrap_err().to_string().contains("none of them is named \"default\""));
    write("tokenizer_config.json", &config("7"));
    assert!(text().unwrap_err().to_string().contains("neither a text nor a list"));
    write("chat_template.jinja", "{{ messages[0].content }}\n");
    assert_eq!(text().unwrap().unwrap(), "Hi");
    write("tokenizer_config.json", "{");
    assert!(text().unwrap_err().to_string().contains("it is not JSON"));
}
