//! A conversation with a small model: what is computed, kept, saved and dropped.

use std::path::Path;

use bouquet_generate::StopRules;
use bouquet_kernels::Cpu;
use bouquet_model::chat_template::{Clock, SpecialTokens};
use bouquet_model::{Encoding, Model, OpenOptions};

use super::*;

/// Refuses two turns of the same speaker, and knows a system prompt.
const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n\
    {% if 'no!' in m.content %}{{ raise_exception('Not that.') }}{% endif %}{% endfor %}\
    {% if add_generation_prompt %}assistant: {% endif %}";

fn with_session(context: usize, test: impl FnOnce(&mut Session<'_>)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/llama-tiny");
    let model = Model::open(&folder, &OpenOptions::new(Cpu::new(1), 1 << 26, Encoding::F32)).unwrap();
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let tokens: SpecialTokens = tokens.map(|(name, token)| (name.to_owned(), token.to_owned())).into();
    let template = ChatTemplate::parse(TEMPLATE, tokens, Clock::at(0)).unwrap();
    let stop = StopRules { eos_token_ids: vec![2], strings: vec![], max_tokens: 6 };
    let plan = Plan { sampling: SamplingOptions::default(), stop, context };
    let settings = Settings { plan, system: Some("Be brief.".to_owned()), verbose: false };
    test(&mut Session::open(Adapted::from(&model), &template, settings).unwrap());
}

fn answer(session: &mut Session<'_>, text: &str) -> Result<Answered> {
    session.answer(text, &CancelToken::default(), &mut |_| {})
}

fn contents(session: &Session<'_>) -> Vec<(String, String)> {
    session.messages(0).into_iter().map(|message| (message.role, message.content)).collect()
}

#[test]
fn only_what_is_new_is_computed() {
    with_session(400, |session| {
        let first = answer(session, "A question that is long enough to be seen in numbers.").unwrap();
        let second = answer(session, "Hm?").unwrap();
        assert!(second.timings.prompt_tokens < first.timings.prompt_tokens, "{first:?} {second:?}");
        let roles: Vec<String> = contents(session).into_iter().map(|(role, _)| role).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
        // From the beginning: the same question has the same answer.
        let said = contents(session)[2].clone();
        session.obey(Command::Reset).unwrap();
        answer(session, "A question that is long enough to be seen in numbers.").unwrap();
        assert_eq!(contents(session)[2], said);
    });
}

#[test]
fn a_full_context_forgets_the_oldest_turns_and_says_so() {
    with_session(150, |session| {
        let mut forgotten = 0;
        for turn in 0..12 {
            let answered = answer(session, &format!("Question {turn}?")).unwrap();
            forgotten += answered.forgotten;
            assert_eq!(session.forgotten, forgotten);
        }
        assert!(forgotten > 0 && forgotten.is_multiple_of(2), "{forgotten}");
        // What is saved is all of it.
        assert_eq!(session.messages(0).len(), 1 + 2 * 12);
        // A question that can never fit is an error, and not part of the conversation.
        let error = answer(session, &"too long ".repeat(200)).unwrap_err();
        assert!(error.to_string().contains("the context has room for 150"), "{error}");
        assert_eq!(session.messages(0).len(), 1 + 2 * 12);
        answer(session, "And on?").unwrap();
    });
}

#[test]
fn what_the_template_refuses_is_not_said() {
    with_session(200, |session| {
        let error = answer(session, "no!").unwrap_err();
        assert_eq!(error.to_string(), "the chat template refuses this conversation: \"Not that.\"");
        assert_eq!(contents(session).len(), 1);
        // Nor what is stopped before it has begun.
        let cancel = CancelToken::default();
        cancel.cancel();
        session.answer("Hello?", &cancel, &mut |_| {}).unwrap();
        assert_eq!(contents(session).len(), 1);
    });
}

#[test]
fn an_answer_that_is_stopped_is_one_as_far_as_it_went() {
    with_session(400, |session| {
        session.set("max_tokens", "300").unwrap();
        session.settings.plan.stop.eos_token_ids.clear();
        let cancel = CancelToken::default();
        let mut shown = String::new();
        session
            .answer("Hello?", &cancel, &mut |piece| {
                shown.push_str(piece);
                if shown.len() > 10 {
                    cancel.cancel();
                }
            })
            .unwrap();
        assert_eq!(contents(session)[2], ("assistant".to_owned(), shown.clone()));
        assert!(shown.len() < 100, "{shown}");
        answer(session, "Go on?").unwrap();
    });
}

#[test]
fn settings_are_checked_and_shown() {
    with_session(100, |session| {
        let set = |session: &mut Session<'_>, name: &str, value: &str| {
            session.obey(Command::Set(name.to_owned(), value.to_owned())).map_err(|error| error.to_string())
        };
        let shown = set(session, "temperature", "0.7").unwrap();
        // What draws keeps 50, as with the flag.
        assert!(shown.starts_with("temperature 0.7  top_k 50  top_p 1 "), "{shown}");
        set(session, "max_tokens", "9").unwrap();
        set(session, "verbose", "on").unwrap();
        assert!(session.verbose());
        let shown = set(session, "temperature", "0").unwrap();
        assert!(shown.starts_with("temperature 0  top_k 0") && shown.contains("max_tokens 9"), "{shown}");
        for (name, value) in [
            ("temperature", "-1"),
            ("top_p", "2"),
            ("top_p", "x"),
            ("top_k", "1.5"),
            ("mood", "good"),
            ("verbose", "?"),
        ] {
            assert!(set(session, name, value).is_err(), "{name} {value}");
        }
        assert_eq!(set(session, "temperature", "0").unwrap(), shown);
    });
}

#[test]
fn a_conversation_is_saved_and_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("talk.json").to_str().unwrap().to_owned();
    with_session(400, |session| {
        answer(session, "Hello?").unwrap();
        let said = contents(session);
        session.obey(Command::Save(file.clone())).unwrap();
        session.obey(Command::Reset).unwrap();
        session.obey(Command::System(Some(String::new()))).unwrap();
        assert_eq!(contents(session), []);
        assert!(session.obey(Command::Load(file.clone())).unwrap().starts_with("3 messages from "));
        assert_eq!(contents(session), said);
        for broken in ["", "{}", "[1]", r#"[{"role": "user"}]"#, r#"[{"role": "user", "content": 7}]"#] {
            std::fs::write(&file, broken).unwrap();
            let error = session.obey(Command::Load(file.clone())).unwrap_err().to_string();
            assert!(error.contains("is no conversation"), "{error}");
            assert_eq!(contents(session), said);
        }
        assert!(session.obey(Command::Load(file.clone() + "x")).is_err());
    });
}
