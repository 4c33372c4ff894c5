//! Records as token ids for the causal objective: to tell each token from those before it.
//!
//! | record | sequence | learned |
//! |---|---|---|
//! | [`Record::Text`] | all texts one after another, an end-of-text token behind each, in blocks of `max_tokens` | every token |
//! | [`Record::Completion`] | the prompt, the completion, an end-of-text token | what is behind the prompt |
//! | [`Record::Chat`] | the turns as the model's chat template writes them | the assistant's turns, with what the template ends a turn with |
//! | [`Record::Chat`], no template | the turns as [`exchanges`] writes them | the assistant's turns and the end-of-text token behind each |
//!
//! A sequence, but for one that a template wrote, begins with what the tokenizer puts before a text (begin-of-text, if it has one). A block of texts goes on
//! where the one before ended, maybe in the middle of a text, and attention sees the texts before in the block.

use std::thread;

use bouquet_model::Tokenizer;
use bouquet_model::chat_template::{ChatTemplate, Rendered};

use super::{Message, Record, Result};

/// Records that are cut into tokens on a thread at least: fewer are not worth one.
const RECORDS_PER_THREAD: usize = 64;

/// A sequence to learn from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Continuation {
    /// Token ids, at least two.
    pub ids: Vec<u32>,
    /// For each of them, whether the loss counts how well it is told from the tokens before it. Never the first one, at
    /// least one.
    pub learned: Vec<bool>,
}

/// Sequences to learn from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Continuations {
    /// In the order of the records.
    pub sequences: Vec<Continuation>,
    /// How many records had more tokens than a sequence may have. (Texts in blocks never have.)
    pub cut: usize,
    /// How many records are in no sequence, because nothing of them could be learned.
    pub left_out: usize,
}

/// How records become tokens.
#[derive(Clone, Copy, Debug)]
pub struct ContinuationOptions<'a> {
    /// Cuts texts into tokens.
    pub tokenizer: &'a Tokenizer,
    /// How the model writes conversations, where it says so.
    pub template: Option<&'a ChatTemplate>,
    /// Ends a text, a completion, a turn of the assistant that no template writes.
    pub end_of_text: u32,
    /// The most tokens of a sequence; at least 2.
    pub max_tokens: usize,
    /// Threads that cut texts into tokens. What comes out does not depend on it.
    pub threads: usize,
}

/// The sequences of records, which are texts, completions or conversations; panics for others, and where a sequence is to
/// have less than 2 tokens.
///
/// A completion that does not fit keeps its beginning, and the prompt its end: the half of `max_tokens` nearest to where
/// they meet, and more where the other needs less. Of a conversation, the first exchange is cut like that if it has to be,
/// and what does not fit behind it is dropped.
///
/// # Errors
/// A text that the tokenizer cannot cut; a conversation that the template refuses.
pub fn continuations(records: &[Record], options: &ContinuationOptions<'_>) -> Result<Continuations> {
    assert!(options.max_tokens >= 2, "a token is told from those before it, so that a sequence has at least 2");
    let tokens = Tokens::new(options)?;
    let mut found = Continuations::default();
    let mut blocks = Blocks { max_tokens: options.max_tokens, block: Vec::new() };
    for tokenized in tokens.of_all(records, options.threads)? {
        let conversations = match tokenized {
            Tokenized::Text(ids) => {
                blocks.push(&ids, &mut found.sequences);
                continue;
            }
            Tokenized::Exchanges(exchanges) => vec![tokens.together(&tokens.begin, exchanges)],
            // The template writes begin-of-text itself.
            Tokenized::Rendered(all) => all.into_iter().map(|exchanges| tokens.together(&[], exchanges)).collect(),
        };
        let (mut cut, mut learned) = (false, false);
        for (sequence, was_cut) in conversations {
            cut |= was_cut;
            if sequence.learned.contains(&true) {
                learned = true;
                found.sequences.push(sequence);
            }
        }
        found.cut += usize::from(cut);
        found.left_out += usize::from(!learned);
    }
    blocks.end(&mut found.sequences);
    Ok(found)
}

/// What is given and what the assistant answers, again and again: a plain form for models without a template of their own.
///
/// ```text
/// system: Be brief.
/// user: Hello?
/// assistant: Hi.<end of text>user: How are you?
/// assistant: Well.<end of text>
/// ```
///
/// Each turn begins with its role and a colon; all but the assistant's end in a newline. What is behind the assistant's
/// last turn is left out: nothing is learned from it.
fn exchanges(messages: &[Message]) -> Vec<(String, String)> {
    let mut exchanges = Vec::new();
    let mut given = String::new();
    for Message { role, content } in messages {
        given.push_str(role);
        given.push(':');
        if role == "assistant" {
            exchanges.push((std::mem::take(&mut given), format!(" {content}")));
        } else {
            given.push_str(&format!(" {content}\n"));
        }
    }
    exchanges
}

/// Tokens of a record, before anything is cut off.
enum Tokenized {
    Text(Vec<u32>),
    Exchanges(Vec<Exchange>),
    /// Of a conversation that a template wrote: mostly one sequence.
    Rendered(Vec<Vec<Exchange>>),
}

/// Tokens that are given, and tokens that are learned, with an end-of-text token.
struct Exchange {
    given: Vec<u32>,
    learned: Vec<u32>,
}

struct Tokens<'a> {
    options: &'a ContinuationOptions<'a>,
    /// What the tokenizer puts before a text.
    begin: Vec<u32>,
}

impl<'a> Tokens<'a> {
    fn new(options: &'a ContinuationOptions<'a>) -> Result<Self> {
        let mut begin = options.tokenizer.encode("", true)?.ids;
        // Some tokenizers put an end of text behind it as well.
        if begin.last() == Some(&options.end_of_text) && begin.len() > 1 {
            begin.pop();
        }
        // There has to be room for a prompt and for what is learned.
        begin.truncate(options.max_tokens / 2);
        Ok(Tokens { options, begin })
    }

    fn of_all(&self, records: &[Record], threads: usize) -> Result<Vec<Tokenized>> {
        let chunk = records.len().div_ceil(threads.max(1)).max(RECORDS_PER_THREAD);
        let of_chunk = |records: &[Record]| records.iter().map(|record| self.of(record)).collect::<Result<Vec<_>>>();
        if records.len() <= chunk {
            return of_chunk(records);
        }
        let parts: Vec<_> = thread::scope(|scope| {
            let of_chunk = &of_chunk;
            let threads: Vec<_> = records.chunks(chunk).map(|part| scope.spawn(move || of_chunk(part))).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined.map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let mut all = Vec::with_capacity(records.len());
        for part in parts {
            all.extend(part?);
        }
        Ok(all)
    }

    fn of(&self, record: &Record) -> Result<Tokenized> {
        Ok(match record {
            Record::Text(text) => Tokenized::Text([self.begin.clone(), self.encode(text)?, self.end()].concat()),
            Record::Completion { prompt, completion } => Tokenized::Exchanges(vec![self.exchange(prompt, completion)?]),
            Record::Chat(messages) if self.options.template.is_some() => Tokenized::Rendered(self.rendered(messages)?),
            Record::Chat(messages) => {
                let exchanges = exchanges(messages);
                let exchanges = exchanges.iter().map(|(given, learned)| self.exchange(given, learned));
                Tokenized::Exchanges(exchanges.collect::<Result<_>>()?)
            }
            Record::Pair { .. } | Record::Scored { .. } => panic!("nothing is continued in {record:?}"),
        })
    }

    /// The sequences of a conversation that the template writes. Where it writes an earlier answer in another way than the
    /// last one, there is a sequence for each answer, as the model is asked for it: with what was said before.
    fn rendered(&self, messages: &[Message]) -> Result<Vec<Vec<Exchange>>> {
        let template = self.options.template.expect("the caller looked");
        if let Some(rendered) = template.render_answers(messages)? {
            return Ok(vec![self.cut_rendered(&rendered)?]);
        }
        let mut all = Vec::new();
        for (index, _) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
            let asked = template.render(&messages[..index], true)?;
            let text = template.render(&messages[..=index], false)?;
            // Nothing tells what of the text is the answer if it does not begin with the question.
            if text.starts_with(&asked) {
                let answer = asked.len()..text.len();
                all.push(self.cut_rendered(&Rendered { text, assistant: Vec::from([answer]) })?);
            }
        }
        Ok(all)
    }

    /// The tokens of a text, each where it begins: of what is given, or of an answer.
    fn cut_rendered(&self, rendered: &Rendered) -> Result<Vec<Exchange>> {
        let encoding = self.options.tokenizer.encode_chat(&rendered.text)?;
        let chars_before = |byte: usize| rendered.text[..byte].chars().count();
        let answers: Vec<_> =
            rendered.assistant.iter().map(|bytes| chars_before(bytes.start)..chars_before(bytes.end)).collect();
        let mut exchanges: Vec<Exchange> = Vec::new();
        let mut answering = None;
        for (&id, &(start, _)) in encoding.ids.iter().zip(&encoding.offsets) {
            let answer = answers.iter().position(|answer| answer.contains(&start));
            if exchanges.is_empty() || (answer.is_none() && answering.is_some()) {
                exchanges.push(Exchange { given: Vec::new(), learned: Vec::new() });
            }
            let exchange = exchanges.last_mut().expect("one was pushed");
            if answer.is_some() {
                exchange.learned.push(id)
            } else {
                exchange.given.push(id)
            }
            answering = answer;
        }
        Ok(exchanges)
    }

    /// What is given is cut into the tokens that it has alone, since alone it stands before a model that is asked.
    fn exchange(&self, given: &str, learned: &str) -> Result<Exchange> {
        let given_ids = self.encode(given)?;
        // Alone, a text may have other tokens than behind another: some tokenizers put a space before it.
        let both = self.encode(&format!("{given}{learned}"))?;
        let mut learned = match both.strip_prefix(given_ids.as_slice()) {
            Some(learned) => learned.to_vec(),
            None => self.encode(learned)?,
        };
        learned.push(self.options.end_of_text);
        Ok(Exchange { given: given_ids, learned })
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.options.tokenizer.encode(text, false)?.ids)
    }

    fn end(&self) -> Vec<u32> {
        vec![self.options.end_of_text]
    }

    /// A sequence of exchanges, and whether something was cut off.
    fn together(&self, begin: &[u32], exchanges: Vec<Exchange>) -> (Continuation, bool) {
        let max_tokens = self.options.max_tokens;
        let mut sequence = Continuation::default();
        sequence.extend(begin, false);
        let mut cut = false;
        for (index, Exchange { given, learned }) in exchanges.iter().enumerate() {
            let room = max_tokens - sequence.ids.len();
            if index == 0 {
                let of_given = given.len().min((room / 2).max(room.saturating_sub(learned.len())));
                let of_learned = learned.len().min(room - of_given);
                sequence.extend(&given[given.len() - of_given..], false);
                sequence.extend(&learned[..of_learned], true);
                cut |= of_given < given.len() || of_learned < learned.len();
            } else {
                let of_given = given.len().min(room);
                let of_learned = learned.len().min(room - of_given);
                cut |= of_learned < learned.len();
                if of_learned == 0 {
                    // Nothing would be learned from what is given.
                    break;
                }
                sequence.extend(given, false);
                sequence.extend(&learned[..of_learned], true);
            }
        }
        // Nothing is before the first token.
        if let Some(first) = sequence.learned.first_mut() {
            *first = false;
        }
        (sequence, cut)
    }
}

impl Continuation {
    fn extend(&mut self, ids: &[u32], learned: bool) {
        self.ids.extend(ids);
        self.learned.resize(self.ids.len(), learned);
    }
}

/// Texts one after another, cut where a block is full.
struct Blocks {
    max_tokens: usize,
    block: Vec<u32>,
}

impl Blocks {
    fn push(&mut self, mut ids: &[u32], sequences: &mut Vec<Continuation>) {
        while !ids.is_empty() {
            let (now, later) = ids.split_at(ids.len().min(self.max_tokens - self.block.len()));
            self.block.extend(now);
            ids = later;
            if self.block.len() == self.max_tokens {
                self.end(sequences);
            }
        }
    }

    /// Ends a block; a token alone is told from nothing.
    fn end(&mut self, sequences: &mut Vec<Continuation>) {
        let ids = std::mem::take(&mut self.block);
        if ids.len() >= 2 {
            let learned = (0..ids.len()).map(|position| position > 0).collect();
            sequences.push(Continuation { ids, learned });
        }
    }
}

#[cfg(test)]
mod tests;
