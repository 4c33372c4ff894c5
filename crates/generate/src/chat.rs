//! Conversations: from turns to the token ids of a prompt, in the room that a context has.

use bouquet_model::chat_template::{ChatTemplate, Message};
use bouquet_model::{Model, Tokenizer};

use crate::{Adapted, Result};

/// The prompt of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatPrompt {
    /// Token ids, up to where the assistant's answer begins.
    pub token_ids: Vec<u32>,
    /// Turns that had to be left out for it to fit: the oldest ones behind the system prompt.
    pub dropped: usize,
}

/// The prompt that asks for the next answer, in a context that leaves room for `answer` tokens, or a quarter of the
/// context where that is less. Of a conversation that is too long the oldest turns are left out, each question with its
/// answer, until half of that room is left: so that the next ones fit as well, and what is cached of them is of use.
///
/// # Errors
/// What the template or the tokenizer refuses. A last turn that is too long by itself is not refused here.
pub fn chat_prompt(
    adapted: Adapted<'_>,
    template: &ChatTemplate,
    messages: &[Message],
    context: usize,
    answer: usize,
) -> Result<ChatPrompt> {
    let room = (context - answer.min(context / 4)).saturating_sub(adapted.prompt_tokens());
    chat_prompt_in(&adapted.model.tokenizer, template, messages, room)
}

/// The same in a room of so many tokens.
///
/// # Errors
/// As [`chat_prompt`].
pub fn chat_prompt_in(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    messages: &[Message],
    room: usize,
) -> Result<ChatPrompt> {
    let system = messages.iter().take_while(|message| message.role == "system").count();
    let mut limit = room;
    let mut first = system;
    loop {
        let kept = [&messages[..system], &messages[first..]].concat();
        let next = next_question(messages, first);
        // What is certainly too long is not cut into tokens, as long as something can be left out.
        let least: usize = kept.iter().map(|message| tokenizer.at_least_tokens(&message.content)).sum();
        if least <= limit || next.is_none() {
            let text = template.render(&kept, true)?;
            let token_ids = tokenizer.encode_chat(&text)?.ids;
            if token_ids.len() <= limit || next.is_none() {
                return Ok(ChatPrompt { token_ids, dropped: first - system });
            }
        }
        first = next.expect("else it is returned");
        limit = room / 2;
    }
}

/// Where a conversation can begin instead of at `first`: with the user's next turn.
fn next_question(messages: &[Message], first: usize) -> Option<usize> {
    let later = messages.iter().enumerate().skip(first + 1);
    later.filter(|(_, message)| message.role == "user").map(|(index, _)| index).next()
}

/// The token that ends the assistant's turn, as the template writes it; `None` where it writes no special token there.
pub fn end_of_turn(model: &Model, template: &ChatTemplate) -> Option<u32> {
    const ANSWER: &str = "bouquet";
    let messages = [Message::new("user", "flowers"), Message::new("assistant", ANSWER)];
    let text = template.render(&messages, false).ok()?;
    let behind = &text[text.rfind(ANSWER)? + ANSWER.len()..];
    let ids = model.tokenizer.encode_chat(behind).ok()?.ids;
    ids.into_iter().find(|&id| model.tokenizer.is_special(id))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bouquet_model::chat_template::{Clock, SpecialTokens};

    use super::*;

    const CHATML: &str = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}\
                          {% if add_generation_prompt %}assistant: {% endif %}";

    fn parts() -> (Tokenizer, ChatTemplate) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/llama-tiny");
        let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
        let tokens: SpecialTokens = tokens.map(|(name, token)| (name.to_owned(), token.to_owned())).into();
        (Tokenizer::load(&folder, 512).unwrap(), ChatTemplate::parse(CHATML, tokens, Clock::at(0)).unwrap())
    }

    fn turns(number: usize) -> Vec<Message> {
        let mut messages = vec![Message::new("system", "Be brief.")];
        for turn in 0..number {
            messages.push(Message::new("user", format!("Question {turn}?")));
            messages.push(Message::new("assistant", format!("Answer {turn}.")));
        }
        messages.pop();
        messages
    }

    #[test]
    fn begin_of_text_is_there_once_and_special_tokens_are_ids() {
        let (tokenizer, template) = parts();
        let ids = chat_prompt_in(&tokenizer, &template, &turns(2), 1000).unwrap().token_ids;
        assert_eq!((ids[0], ids.iter().filter(|&&id| id == 1).count()), (1, 1));
        // The system prompt, two questions and an answer, each with its end.
        assert_eq!(ids.iter().filter(|&&id| id == 2).count(), 4);
        assert!(tokenizer.is_special(1) && !tokenizer.is_special(100) && !tokenizer.is_special(u32::MAX));
    }

    #[test]
    fn a_long_conversation_loses_its_oldest_turns_and_keeps_the_system_prompt() {
        let (tokenizer, template) = parts();
        let messages = turns(40);
        let all = chat_prompt_in(&tokenizer, &template, &messages, 100_000).unwrap();
        assert_eq!(all.dropped, 0);
        for room in [all.token_ids.len() - 1, 400, 100] {
            let prompt = chat_prompt_in(&tokenizer, &template, &messages, room).unwrap();
            assert!(
                prompt.dropped > 0 && prompt.dropped.is_multiple_of(2) && prompt.token_ids.len() <= room / 2,
                "{room}"
            );
            let text = tokenizer.decode(&prompt.token_ids, true).unwrap();
            assert!(text.contains("Be brief.") && text.contains("Question 39?"), "{text}");
        }
        // The last question stays, however long it is.
        let prompt = chat_prompt_in(&tokenizer, &template, &messages, 1).unwrap();
        assert_eq!(prompt.dropped, 78);
    }
}
