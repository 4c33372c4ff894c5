//! With a tokenizer of words, so that tokens can be read.

use proptest::prelude::*;

use super::*;

/// Words of the tests. `<s>` and `</s>` are begin- and end-of-text.
const WORDS: [&str; 16] =
    ["<s>", "</s>", "a", "b", "c", "d", "e", "f", "user", "assistant", "system", ":", "Ġa", "Ġb", "?", "ab"];

const END: u32 = 1;

/// Cuts at spaces and colons; `begin` says whether it puts `<s>` before a text.
fn tokenizer(begin: bool) -> Tokenizer {
    let vocabulary: Vec<String> = WORDS.iter().enumerate().map(|(id, word)| format!("{word:?}: {id}")).collect();
    let special = r#"{"Sequence": {"id": "A", "type_id": 0}}"#;
    let single = if begin {
        format!(r#"{{"SpecialToken": {{"id": "<s>", "type_id": 0}}}}, {special}"#)
    } else {
        special.to_owned()
    };
    let json = format!(
        r#"{{
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "decoder": null,
            "pre_tokenizer": {{"type": "Whitespace"}},
            "post_processor": {{
                "type": "TemplateProcessing", "single": [{single}], "pair": [{single}],
                "special_tokens": {{"<s>": {{"id": "<s>", "ids": [0], "tokens": ["<s>"]}}}}
            }},
            "model": {{"type": "WordLevel", "vocab": {{{}}}, "unk_token": "?"}}
        }}"#,
        vocabulary.join(", ")
    );
    Tokenizer::parse(json.as_bytes(), WORDS.len()).expect("a tokenizer")
}

/// The sequences, learned words in brackets.
fn written(found: &Continuations) -> Vec<String> {
    let word = |(&id, &learned): (&u32, &bool)| {
        let word = WORDS[id as usize];
        if learned { format!("[{word}]") } else { word.to_owned() }
    };
    let sequence = |sequence: &Continuation| {
        assert_eq!(sequence.ids.len(), sequence.learned.len());
        sequence.ids.iter().zip(&sequence.learned).map(word).collect::<Vec<_>>().join(" ")
    };
    found.sequences.iter().map(sequence).collect()
}

fn made(records: &[Record], begin: bool, max_tokens: usize) -> Continuations {
    let tokenizer = tokenizer(begin);
    let options =
        ContinuationOptions { tokenizer: &tokenizer, template: None, end_of_text: END, max_tokens, threads: 2 };
    continuations(records, &options).expect("words")
}

fn completion(prompt: &str, completion: &str) -> Record {
    Record::Completion { prompt: prompt.to_owned(), completion: completion.to_owned() }
}

fn chat(turns: &[(&str, &str)]) -> Record {
    let message = |&(role, content): &(&str, &str)| Message { role: role.to_owned(), content: content.to_owned() };
    Record::Chat(turns.iter().map(message).collect())
}

#[test]
fn only_what_follows_the_prompt_is_learned() {
    let found = made(&[completion("a b", " c d"), completion("e", " f")], true, 9);
    assert_eq!(written(&found), ["<s> a b [c] [d] [</s>]", "<s> e [f] [</s>]"]);
    assert_eq!((found.cut, found.left_out), (0, 0));
    assert_eq!(written(&made(&[completion("a", " b")], false, 9)), ["a [b] [</s>]"]);
}

#[test]
fn a_completion_that_melts_into_its_prompt_has_tokens_of_its_own() {
    // Together they are the word "ab", which a model that is given "a" cannot begin.
    assert_eq!(written(&made(&[completion("a", "b")], false, 9)), ["a [b] [</s>]"]);
}

#[test]
fn a_long_prompt_keeps_its_end_and_a_long_completion_its_beginning() {
    let cut = |prompt: &str, learned: &str| {
        let found = made(&[completion(prompt, learned)], true, 7);
        assert_eq!(found.cut, 1);
        written(&found).remove(0)
    };
    // Six are left behind <s>.
    assert_eq!(cut("a b c d e f", " a"), "<s> c d e f [a] [</s>]");
    assert_eq!(cut("a", " a b c d e f"), "<s> a [a] [b] [c] [d] [e]");
    assert_eq!(cut("a b c d e f", " a b c d e f"), "<s> d e f [a] [b] [c]");
}

#[test]
fn of_a_conversation_the_turns_of_the_assistant_are_learned() {
    let turns =
        [("system", "a"), ("user", "b"), ("assistant", "c"), ("user", "d"), ("assistant", "e f"), ("user", "a")];
    let expected = "<s> system : a user : b assistant : [c] [</s>] user : d assistant : [e] [f] [</s>]";
    let found = made(&[chat(&turns)], true, 30);
    assert_eq!(written(&found), [expected]);
    assert_eq!(found.cut, 0);
    // A second exchange of which one token still fits, and of which none does.
    let found = made(&[chat(&turns)], true, 17);
    assert_eq!(written(&found), ["<s> system : a user : b assistant : [c] [</s>] user : d assistant : [e]"]);
    assert_eq!(found.cut, 1);
    let found = made(&[chat(&turns)], true, 16);
    assert_eq!(written(&found), ["<s> system : a user : b assistant : [c] [</s>]"]);
    assert_eq!(found.cut, 1);
}

#[test]
fn exchanges_are_written_with_roles_and_newlines() {
    let Record::Chat(messages) = chat(&[("system", "Be brief."), ("user", "Hello?"), ("assistant", "Hi.")]) else {
        unreachable!("a conversation was made");
    };
    let expected = ("system: Be brief.\nuser: Hello?\nassistant:".to_owned(), " Hi.".to_owned());
    assert_eq!(exchanges(&messages), [expected]);
}

#[test]
fn texts_fill_blocks_with_an_end_of_text_between_them() {
    let text = |text: &str| Record::Text(text.to_owned());
    let found = made(&[text("a b c"), text("d"), text("e f")], true, 4);
    assert_eq!(written(&found), ["<s> [a] [b] [c]", "</s> [<s>] [d] [</s>]", "<s> [e] [f] [</s>]"]);
    // What is left makes a short block, unless it is one token alone.
    assert_eq!(written(&made(&[text("a b c"), text("d")], true, 5)), ["<s> [a] [b] [c] [</s>]", "<s> [d] [</s>]"]);
    assert_eq!(written(&made(&[text("a b c")], true, 4)), ["<s> [a] [b] [c]"]);
}

#[test]
fn a_completion_that_nothing_is_before_is_learned_from_its_second_token_on() {
    // Unknown to a tokenizer of words alone would be nothing: here a prompt of spaces.
    assert_eq!(written(&made(&[completion(" ", "a b")], false, 9)), ["a [b] [</s>]"]);
    let found = made(&[completion(" ", " ")], false, 9);
    assert_eq!((found.sequences.len(), found.left_out), (0, 1));
}

proptest! {
    #[test]
    fn sequences_fit_and_have_something_to_learn(
        records in prop::collection::vec((prop::collection::vec(2..8usize, 0..12), prop::collection::vec(2..8usize, 0..12)), 1..200),
        texts in any::<bool>(), begin in any::<bool>(), max_tokens in 2..20usize, threads in 1..5usize,
    ) {
        let words = |ids: &[usize]| ids.iter().map(|&id| WORDS[id]).collect::<Vec<_>>().join(" ");
        let record = |(prompt, learned): &(Vec<usize>, Vec<usize>)| {
            if texts { Record::Text(words(prompt)) } else { completion(&words(prompt), &format!(" {}", words(learned))) }
        };
        let records: Vec<Record> = records.iter().map(record).collect();
        let tokenizer = tokenizer(begin);
        let options = ContinuationOptions { tokenizer: &tokenizer, template: None, end_of_text: END, max_tokens, threads };
        let found = continuations(&records, &options).expect("words");
        for sequence in &found.sequences {
            prop_assert!((2..=max_tokens).contains(&sequence.ids.len()));
            prop_assert_eq!(sequence.ids.len(), sequence.learned.len());
            prop_assert!(!sequence.learned[0] && sequence.learned.contains(&true));
        }
        if !texts {
            prop_assert_eq!(found.sequences.len() + found.left_out, records.len());
        }
        let one_thread = ContinuationOptions { threads: 1, ..options };
        prop_assert_eq!(found, continuations(&records, &one_thread).expect("words"));
    }
}

/// The words of [`tokenizer`], cut by a template.
fn templated(source: &str, turns: &[(&str, &str)], max_tokens: usize) -> Result<Continuations> {
    use bouquet_model::chat_template::Clock;
    let tokenizer = tokenizer(true);
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let tokens = tokens.map(|(name, token)| (name.to_owned(), token.to_owned())).into();
    let template = ChatTemplate::parse(source, tokens, Clock::at(0)).expect("a template");
    let template = Some(&template);
    continuations(
        &[chat(turns)],
        &ContinuationOptions { tokenizer: &tokenizer, template, end_of_text: END, max_tokens, threads: 1 },
    )
}

const TURNS: [(&str, &str); 4] = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d e")];

#[test]
fn a_template_writes_conversations_and_answers_are_learned() {
    let source = "system {% for m in messages %}{{ m.role }}: {{ m.content }} ab\n{% endfor %}\
                  {% if add_generation_prompt %}assistant: {% endif %}";
    let found = templated(source, &TURNS, 30).unwrap();
    // No begin-of-text but the template's, and no end but its own.
    assert_eq!(written(&found), ["system user : a ab assistant : [b] [ab] user : c ab assistant : [d] [e] [ab]"]);
    assert_eq!((found.cut, found.left_out), (0, 0));
    let found = templated(source, &TURNS, 12).unwrap();
    assert_eq!((written(&found), found.cut), (vec!["system user : a ab assistant : [b] [ab]".to_owned()], 1));
}

#[test]
fn a_template_says_what_is_generated() {
    let source = "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }}\
                  {% endgeneration %} ab {% else %}{{ m.content }} {% endif %}{% endfor %}";
    let found = templated(source, &TURNS, 30).unwrap();
    // Nothing is learned from what is behind the last answer.
    assert_eq!(written(&found), ["user : a assistant : [b] ab user : c assistant : [d] [e]"]);
}

#[test]
fn where_earlier_answers_are_written_in_another_way_each_is_asked_for() {
    let source = "{% for m in messages %}{{ m.role }}: {{ m.content if loop.last or m.role == 'user' else '?' }} {% endfor %}\
                  {% if add_generation_prompt %}assistant: {% endif %}";
    let found = templated(source, &TURNS, 30).unwrap();
    assert_eq!(written(&found), ["user : a assistant : [b]", "user : a assistant : ? user : c assistant : [d] [e]"]);
    assert_eq!((found.cut, found.left_out), (0, 0));
}

#[test]
fn a_conversation_that_a_template_refuses_is_an_error() {
    let error = templated("{{ raise_exception('No.') }}", &TURNS, 30).unwrap_err().to_string();
    assert_eq!(error, "the chat template refuses this conversation: \"No.\"");
}
