//! Any text as a chat template: a text or an error, soon, and no more than a template may write.
#![no_main]

use bouquet_model::Message;
use bouquet_model::chat_template::{ChatTemplate, Clock};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    let special = [("bos_token".to_owned(), "<s>".to_owned())].into();
    let Ok(template) = ChatTemplate::parse(source, special, Clock::at(0)) else { return };
    let turns = [("system", "Be brief."), ("user", "Hello?"), ("assistant", "Hi."), ("user", "好 <b>?")];
    let messages = turns.map(|(role, content)| Message::new(role, content));
    let _ = template.render(&messages, true);
    let _ = template.render_answers(&messages);
});
