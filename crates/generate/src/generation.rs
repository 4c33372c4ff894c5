//! The loop: prompt in, tokens out. A [`Generator`] keeps its session, so that a text that goes on from one that is
//! cached is not computed again.

use std::time::{Duration, Instant};

use bouquet_span::{CancelToken, HiddenStates, Limits, Pass, Returned, Session, SessionShape, SpanError, Step};

use crate::detokenizer::Detokenizer;
use crate::sampler::{Sampler, SamplingOptions};
use crate::stop::{FinishReason, StopRules, StopScanner};
use crate::{Adapted, GenerateError, Result};

/// How to go on from a prompt.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// How tokens are picked.
    pub sampling: SamplingOptions,
    /// When to stop.
    pub stop: StopRules,
    /// To stop from another thread. What is there by then is returned.
    pub cancel: CancelToken,
}

/// What came out.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The text after the prompt, up to a stop string.
    pub text: String,
    /// The generated tokens, with those of a stop string and an end-of-text token at their end.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// How long it took.
    pub timings: Timings,
}

/// How long the two parts took. A prompt is bound by arithmetic, generation by memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Tokens of the prompt and the soft prompt that had to be computed, those that were cached left out.
    pub prompt_tokens: usize,
    /// Until the first token was picked.
    pub prompt: Duration,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// From the first token to the last.
    pub generation: Duration,
}

/// A session of one text, and what is in its cache.
pub struct Generator<'a> {
    adapted: Adapted<'a>,
    session: Session,
    /// The tokens in the cache; as many as the session's position says, but for those of a soft prompt before them.
    cached: Vec<u32>,
}

/// Goes on from a prompt, once. `on_text` is called with whole characters, as soon as they are sure. `context` is how
/// many tokens the text may have, the prompt and the soft prompt of an adapter included.
///
/// # Errors
/// Before anything is computed: options that make no sense, a prompt that is empty or too long. Later, what the blocks
/// refuse.
pub fn generate<'a>(
    model: impl Into<Adapted<'a>>,
    prompt_ids: &[u32],
    context: usize,
    options: &GenerateOptions,
    on_text: &mut dyn FnMut(&str),
) -> Result<Generation> {
    let adapted = model.into();
    check_prompt(&adapted, prompt_ids, context, options)?;
    let needed = (adapted.prompt_tokens() + prompt_ids.len()).saturating_add(options.stop.max_tokens);
    Generator::with_rewind(adapted, context.min(needed), 0)?.generate(prompt_ids, options, on_text)
}

impl<'a> Generator<'a> {
    /// A generator of texts of up to `context` tokens, those of a soft prompt included, which are reserved in the cache.
    ///
    /// # Errors
    /// [`GenerateError::BeyondPositions`]; a cache that does not fit into memory.
    pub fn open(model: impl Into<Adapted<'a>>, context: usize) -> Result<Self> {
        Self::with_rewind(model.into(), context, context)
    }

    fn with_rewind(adapted: Adapted<'a>, context: usize, max_rewind: usize) -> Result<Self> {
        check_context(&adapted, context)?;
        let shape = SessionShape { sequences: 1, max_tokens: context, max_rewind };
        let session = adapted.model.blocks.open(shape, &adapted.pass(Pass::default()))?;
        Ok(Generator { adapted, session, cached: Vec::new() })
    }

    /// How many tokens a text may have, prompt and soft prompt included.
    pub fn context(&self) -> usize {
        self.session.shape().max_tokens
    }

    /// Goes on from a prompt. What it has in common with the text before is not computed again.
    ///
    /// # Errors
    /// As [`generate`]; afterwards the generator can be used again.
    pub fn generate(
        &mut self,
        prompt_ids: &[u32],
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Generation> {
        check_prompt(&self.adapted, prompt_ids, self.context(), options)?;
        let model = self.adapted.model;
        let mut sampler = Sampler::open(options.sampling.clone())?;
        let mut output = Output {
            detokenizer: Detokenizer::open(&model.tokenizer, prompt_ids)?,
            scanner: StopScanner::new(&options.stop.strings),
            text: String::new(),
            stopped: false,
            on_text,
        };
        let limits = Limits { deadline: None, cancel: options.cancel.clone() };
        let mut timings = Timings::default();
        let start = Instant::now();

        let mut token_ids = prompt_ids.to_vec();
        let mut hidden = self.prompt(prompt_ids, &limits, &mut timings.prompt_tokens);
        timings.prompt = start.elapsed();
        let mut first_token = Instant::now();
        let room = options.stop.max_tokens.min(self.context() - self.adapted.prompt_tokens() - prompt_ids.len());
        let finish_reason = loop {
            let generated = token_ids.len() - prompt_ids.len();
            let last = match hidden {
                Ok(last) => last,
                Err(error) if error.is_cancelled() => break FinishReason::Cancelled,
                Err(error) => return Err(error),
            };
            if generated == room {
                break FinishReason::Length;
            }
            let logits = model.head.logits(&model.cpu, last.values().view());
            let token_id = sampler.sample(logits.row(0), &token_ids)?;
            token_ids.push(token_id);
            if generated == 0 {
                timings.prompt = start.elapsed();
                first_token = Instant::now();
            }
            if options.stop.eos_token_ids.contains(&token_id) || output.push(token_id)? {
                break FinishReason::Stop;
            }
            if generated + 1 == room {
                break FinishReason::Length;
            }
            hidden = self.step(&[token_id], Returned::Last, &limits, &mut 0);
        };
        timings.generation = first_token.elapsed();
        timings.generated_tokens = token_ids.len() - prompt_ids.len();
        output.finish()?;
        Ok(Generation { text: output.text, token_ids: token_ids.split_off(prompt_ids.len()), finish_reason, timings })
    }

    /// Takes in a prompt, except for what is cached, and returns the hidden states of its last token.
    fn prompt(&mut self, prompt_ids: &[u32], limits: &Limits, computed: &mut usize) -> Result<HiddenStates> {
        let common = self.cached.iter().zip(prompt_ids).take_while(|(cached, id)| cached == id).count();
        // The last token is computed even if it is cached: its hidden states are not.
        let start = common.min(prompt_ids.len() - 1);
        // To the beginning, or behind a soft prompt.
        let position = if start == 0 { 0 } else { self.adapted.prompt_tokens() + start };
        self.session.rewind(0, position)?;
        self.cached.truncate(start);
        let rest = &prompt_ids[start..];
        let tokens = self.adapted.model.blocks.prompt_chunk();
        let last_chunk = (rest.len() - 1) / tokens;
        for chunk in rest.chunks(tokens).take(last_chunk) {
            self.step(chunk, Returned::None, limits, computed)?;
        }
        let chunk = &rest[last_chunk * tokens..];
        self.step(chunk, Returned::Last, limits, computed)
    }

    /// Appends tokens to the text in the cache, at its beginning behind the soft prompt, and counts what was computed. A
    /// step that fails leaves the cache as it was.
    fn step(
        &mut self,
        token_ids: &[u32],
        returned: Returned,
        limits: &Limits,
        computed: &mut usize,
    ) -> Result<HiddenStates> {
        limits.check()?;
        let Adapted { model, .. } = self.adapted;
        let hidden = match self.session.positions()[0] {
            0 => self.adapted.embed(&[token_ids])?,
            _ => model.embedding.embed_at(&model.cpu, self.session.positions(), &[token_ids])?,
        };
        let tokens = hidden.tokens();
        let step = Step { session: &mut self.session, hidden, returned, limits: limits.clone() };
        let output = model.blocks.step(&mut [step]).pop();
        let output = output.unwrap_or_else(|| Err(SpanError::Failed("the blocks returned nothing".into())))?;
        self.cached.extend_from_slice(token_ids);
        *computed += tokens;
        Ok(output)
    }
}

/// Where generated tokens become text and are handed on.
struct Output<'a> {
    detokenizer: Detokenizer<'a>,
    scanner: StopScanner,
    text: String,
    /// Whether a stop string came; nothing after it is part of the text.
    stopped: bool,
    on_text: &'a mut dyn FnMut(&str),
}

impl Output<'_> {
    /// Takes the next token; whether a stop string ended the text.
    fn push(&mut self, token_id: u32) -> Result<bool> {
        let piece = self.detokenizer.push(token_id)?;
        let scanned = self.scanner.push(&piece);
        self.show(&scanned.text);
        self.stopped = scanned.stopped;
        Ok(self.stopped)
    }

    /// Hands on what was held back.
    fn finish(&mut self) -> Result<()> {
        if self.stopped {
            return Ok(());
        }
        let rest = self.detokenizer.finish()?;
        let text = self.scanner.push(&rest).text + &self.scanner.finish();
        self.show(&text);
        Ok(())
    }

    fn show(&mut self, text: &str) {
        if !text.is_empty() {
            self.text.push_str(text);
            (self.on_text)(text);
        }
    }
}

impl Timings {
    /// Tokens of the prompt in a second; `None` where none was computed.
    pub fn prompt_tokens_per_sec(&self) -> Option<f64> {
        per_second(self.prompt_tokens, self.prompt)
    }

    /// Tokens in a second after the first one, whose time belongs to the prompt; `None` where there was no other.
    pub fn generation_tokens_per_sec(&self) -> Option<f64> {
        per_second(self.generated_tokens.saturating_sub(1), self.generation)
    }
}

fn per_second(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}

/// What can be refused before anything is computed.
fn check_prompt(adapted: &Adapted<'_>, prompt_ids: &[u32], context: usize, options: &GenerateOptions) -> Result<()> {
    options.sampling.validate()?;
    if prompt_ids.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    let prompt_tokens = adapted.prompt_tokens() + prompt_ids.len();
    let needed = prompt_tokens.saturating_add(options.stop.max_tokens.min(1));
    if needed > context {
        let limit = adapted.model.spec.max_positions;
        return Err(GenerateError::PromptTooLong { prompt_tokens, context, limit });
    }
    Ok(())
}

/// Whether the model's positions go that far.
fn check_context(adapted: &Adapted<'_>, tokens: usize) -> Result<()> {
    match adapted.model.spec.max_positions {
        Some(limit) if tokens > limit => Err(GenerateError::BeyondPositions { asked: tokens, limit }),
        _ => Ok(()),
    }
}

/// The same for a text of so many tokens, behind the soft prompt.
pub(crate) fn check_positions(adapted: &Adapted<'_>, tokens: usize) -> Result<()> {
    check_context(adapted, adapted.prompt_tokens().saturating_add(tokens))
}
