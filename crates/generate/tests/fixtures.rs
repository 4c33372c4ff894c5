//! Whole texts from the models of `tests/fixtures`: what transformers gives, stop rules, sessions that are kept,
//! cancelling, and perplexity.

use std::path::{Path, PathBuf};

use bouquet_generate::{
    Detokenizer, FinishReason, GenerateError, GenerateOptions, Generation, Generator, PerplexityOptions,
    SamplingOptions, StopRules, generate, perplexity,
};
use bouquet_kernels::Cpu;
use bouquet_model::{Encoding, Model, OpenOptions};
use bouquet_span::CancelToken;
use safetensors::SafeTensors;

const CACHE_BYTES: u64 = 1 << 30;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn tiny(name: &str) -> Model {
    Model::open(
        &root().join("tests/fixtures/models").join(name),
        &OpenOptions::new(Cpu::new(2), CACHE_BYTES, Encoding::F32),
    )
    .unwrap()
}

fn small(threads: usize) -> Model {
    Model::open(
        &root().join("models/bloom-small-trained"),
        &OpenOptions::new(Cpu::new(threads), CACHE_BYTES, Encoding::F32),
    )
    .unwrap()
}

/// Prompt and 32 greedy tokens.
fn golden(name: &str) -> (Vec<u32>, Vec<u32>) {
    let bytes = std::fs::read(root().join(format!("tests/fixtures/goldens/{name}.safetensors"))).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids: Vec<u32> = file.tensor("greedy.single").unwrap().data().chunks_exact(8).map(id).collect();
    let (prompt, generated) = ids.split_at(ids.len() - 32);
    (prompt.to_vec(), generated.to_vec())
}

fn id(bytes: &[u8]) -> u32 {
    u32::try_from(i64::from_le_bytes(bytes.try_into().unwrap())).unwrap()
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        sampling: SamplingOptions::default(),
        stop: StopRules { eos_token_ids: vec![], strings: vec![], max_tokens },
        cancel: CancelToken::default(),
    }
}

/// Generates, and holds the pieces against the whole.
fn run(model: &Model, prompt: &[u32], options: &GenerateOptions) -> Generation {
    let mut pieces = String::new();
    let generation = generate(model, prompt, 1024, options, &mut |piece| pieces.push_str(piece)).unwrap();
    assert_eq!(pieces, generation.text);
    generation
}

#[test]
fn greedy_texts_are_those_of_transformers() {
    let same_weights = |name: &str| name.starts_with("bloom-tiny-sharded") || name.starts_with("bloom-tiny-unprefixed");
    for name in [
        "bloom-tiny",
        "bloom-tiny-unprefixed",
        "bloom-tiny-sharded",
        "bloom-tiny-fp16",
        "bloom-tiny-bf16",
        "bloom-tiny-h6-postres",
        "llama-tiny",
        "llama-tiny-tied",
        "mixtral-tiny",
    ] {
        let model = tiny(name);
        let (prompt, expected) = golden(if same_weights(name) { "bloom-tiny" } else { name });
        let generation = run(&model, &prompt, &greedy(32));
        assert_eq!(generation.token_ids, expected, "{name}");
        assert_eq!(generation.finish_reason, FinishReason::Length);
        assert_eq!((generation.timings.prompt_tokens, generation.timings.generated_tokens), (prompt.len(), 32));
        if name.starts_with("bloom") {
            let text = |ids: &[u32]| model.tokenizer.decode(ids, true).unwrap();
            assert_eq!(text(&prompt) + &generation.text, text(&[prompt, expected].concat()), "{name}");
        }
    }
}

#[test]
fn pieces_of_real_tokenizers_are_the_whole() {
    let texts = [
        "",
        " ",
        "  a  b ",
        "né, 你好 世界! 👩‍👩‍👧",
        "a\nb\n\n\tc",
        "<s> x </s>",
        "ß\u{301}\u{FFFD}",
        "日本語のテキスト、그리고 한국어",
    ];
    for model in [tiny("bloom-tiny"), small(1), tiny("llama-tiny")] {
        for text in texts.iter().chain([&texts.concat().as_str()]) {
            let ids = model.tokenizer.encode(text, true).unwrap().ids;
            for context in [0, ids.len() / 2] {
                // A prompt ends with a whole character.
                let whole = |ids: &[u32]| model.tokenizer.decode(ids, true).unwrap();
                let before = whole(&ids[..context]);
                if before.ends_with('\u{FFFD}') {
                    continue;
                }
                let mut detokenizer = Detokenizer::open(&model.tokenizer, &ids[..context]).unwrap();
                let mut pieces: String = ids[context..].iter().map(|&id| detokenizer.push(id).unwrap()).collect();
                pieces += &detokenizer.finish().unwrap();
                assert_eq!(before + &pieces, whole(&ids), "{text:?}");
            }
        }
    }
}

#[test]
fn a_prompt_of_several_chunks_goes_on_as_one_of_one() {
    let model = tiny("bloom-tiny");
    let prompt: Vec<u32> = (0..1300).map(|i| 4 + i * i % 500).collect();
    let options = greedy(8);
    let whole = generate(&model, &prompt, 2000, &options, &mut |_| {}).unwrap();
    assert_eq!(whole.timings.prompt_tokens, 1300);
    // The same by another cut: most of the prompt as a text of its own first.
    let mut generator = Generator::open(&model, 2000).unwrap();
    generator.generate(&prompt[..701], &greedy(0), &mut |_| {}).unwrap();
    let cut = generator.generate(&prompt, &options, &mut |_| {}).unwrap();
    assert_eq!(cut.token_ids, whole.token_ids);
    // All of 701 is cached.
    assert_eq!(cut.timings.prompt_tokens, 1300 - 701);
}

#[test]
fn a_kept_session_gives_what_a_fresh_one_gives() {
    let model = small(2);
    let ids = |text: &str| model.tokenizer.encode(text, true).unwrap().ids;
    let mut generator = Generator::open(&model, 256).unwrap();
    let first = generator.generate(&ids("The committee approved"), &greedy(12), &mut |_| {}).unwrap();
    let longer = [ids("The committee approved"), first.token_ids, ids(" and then")].concat();
    // On from there, the same again (nothing new to compute but the last token), and another text altogether.
    for prompt in [longer.clone(), longer, ids("The committee of"), ids("Eine Frau")] {
        let kept = generator.generate(&prompt, &greedy(9), &mut |_| {}).unwrap();
        assert_eq!(kept.token_ids, run(&model, &prompt, &greedy(9)).token_ids);
        assert!(kept.timings.prompt_tokens < prompt.len() || !prompt.starts_with(&ids("The")));
    }
}

#[test]
fn a_seed_gives_the_same_text_on_any_number_of_threads() {
    let mut options = greedy(24);
    options.sampling =
        SamplingOptions { temperature: 0.9, top_k: 50, top_p: 0.95, seed: 3, ..SamplingOptions::default() };
    let texts: Vec<String> = [1, 2, 3]
        .into_iter()
        .map(|threads| {
            let model = small(threads);
            let prompt = model.tokenizer.encode("In the year", true).unwrap().ids;
            run(&model, &prompt, &options).text
        })
        .collect();
    assert_eq!(texts[0], texts[1]);
    assert_eq!(texts[0], texts[2]);
    options.sampling.seed = 4;
    let model = small(2);
    let prompt = model.tokenizer.encode("In the year", true).unwrap().ids;
    assert_ne!(run(&model, &prompt, &options).text, texts[0]);
}

#[test]
fn stop_strings_and_end_of_text_end_a_text() {
    let model = small(2);
    let (prompt, expected) = golden("bloom-small-trained");
    let whole = run(&model, &prompt, &greedy(32));
    assert_eq!(whole.token_ids, expected);

    // A stop string in the middle of the text, and of tokens.
    let mut options = greedy(32);
    options.stop.strings = vec!["never there".into(), "abian Cou".into()];
    let stopped = run(&model, &prompt, &options);
    assert_eq!(stopped.text, whole.text[..whole.text.find("abian Cou").unwrap()]);
    assert_eq!(stopped.finish_reason, FinishReason::Stop);
    assert!(expected.starts_with(&stopped.token_ids) && stopped.token_ids.len() < 32);

    // The fifth token as end of text: it is generated, but has no text.
    let mut options = greedy(32);
    let end = expected[4];
    options.stop.eos_token_ids = vec![end];
    let ended = run(&model, &prompt, &options);
    let first = expected.iter().position(|&id| id == end).unwrap();
    assert_eq!(ended.token_ids, expected[..=first]);
    assert_eq!(ended.finish_reason, FinishReason::Stop);
    assert_eq!(ended.text, model.tokenizer.decode(&expected[..first], true).unwrap());
}

#[test]
fn a_cancelled_text_is_what_there_is() {
    let model = small(2);
    let (prompt, expected) = golden("bloom-small-trained");
    let options = greedy(32);
    let mut pieces = 0;
    let generation = generate(&model, &prompt, 128, &options, &mut |_| {
        pieces += 1;
        if pieces == 3 {
            options.cancel.cancel();
        }
    });
    let generation = generation.unwrap();
    assert_eq!(generation.finish_reason, FinishReason::Cancelled);
    assert!(expected.starts_with(&generation.token_ids) && generation.token_ids.len() < 32);
    assert!(!generation.text.is_empty());

    // Cancelled before it began, and usable afterwards.
    let mut generator = Generator::open(&model, 128).unwrap();
    let nothing = generator.generate(&prompt, &options, &mut |_| {}).unwrap();
    assert_eq!((nothing.finish_reason, nothing.token_ids.len()), (FinishReason::Cancelled, 0));
    assert_eq!(generator.generate(&prompt, &greedy(32), &mut |_| {}).unwrap().token_ids, expected);
}

#[test]
fn a_context_is_for_prompt_and_answer() {
    let model = tiny("bloom-tiny");
    let (prompt, expected) = golden("bloom-tiny");
    let generation = generate(&model, &prompt, prompt.len() + 5, &greedy(32), &mut |_| {}).unwrap();
    assert_eq!(generation.token_ids, expected[..5]);
    assert_eq!(generation.finish_reason, FinishReason::Length);
    for context in [0, prompt.len() - 1, prompt.len()] {
        match generate(&model, &prompt, context, &greedy(32), &mut |_| {}) {
            Err(GenerateError::PromptTooLong { prompt_tokens, context: room, limit }) => {
                assert_eq!((prompt_tokens, room, limit), (prompt.len(), context, None));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(generate(&model, &[], 9, &greedy(1), &mut |_| {}), Err(GenerateError::EmptyPrompt)));
    let beyond = generate(&tiny("llama-tiny"), &[5; 10], 1 << 40, &greedy(usize::MAX), &mut |_| {});
    assert!(matches!(beyond, Err(GenerateError::BeyondPositions { .. })), "{beyond:?}");
}

fn head_of_wikitext() -> String {
    std::fs::read_to_string(root().join("tests/fixtures/data/wikitext-2.test.head.txt")).unwrap()
}

fn windows(window: usize, max_windows: Option<usize>) -> PerplexityOptions {
    PerplexityOptions { window, max_windows, cancel: CancelToken::default() }
}

#[test]
fn perplexity_does_not_depend_on_windows_that_go_together() {
    let (model, text) = (small(2), head_of_wikitext());
    let mut seen = Vec::new();
    let all = perplexity(&model, &text, &windows(64, Some(40)), &mut |done, all, _| seen.push((done, all))).unwrap();
    assert_eq!((all.windows, all.tokens, all.window), (40, 40 * 63, 64));
    assert_eq!(seen, [(32, 40), (40, 40)]);

    // Window by window, the logits of each through the same sums.
    let ids = model.tokenizer.encode(&text, false).unwrap().ids;
    let mut sum = 0.0;
    for window in ids.chunks_exact(64).take(40) {
        let hidden = model.embedding.embed(&model.cpu, &[window]).unwrap();
        let (hidden, _) = model.blocks.forward(hidden, &Default::default()).unwrap();
        let logits = model.head.logits(&model.cpu, hidden.values().view());
        let targets = window[1..].to_vec();
        let losses =
            bouquet_kernels::ops::cross_entropy::cross_entropy(&model.cpu, logits.slice(0..targets.len()), &targets);
        for loss in losses {
            sum += loss;
        }
    }
    assert_eq!(all.mean_nll, sum / all.tokens as f64);
    assert_eq!(all.perplexity, all.mean_nll.exp());
    // The model's perplexity on the whole test set is 61.6 in windows of 256.
    assert!((30.0..150.0).contains(&all.perplexity), "{all:?}");
}

#[test]
fn a_text_shorter_than_a_window_is_a_window() {
    let model = small(2);
    let tokens = model.tokenizer.encode("The committee approved the plan.", false).unwrap().ids.len();
    let short = perplexity(&model, "The committee approved the plan.", &windows(512, None), &mut |_, _, _| {}).unwrap();
    assert_eq!((short.window, short.windows, short.tokens), (tokens, 1, tokens - 1));
    for text in ["", "."] {
        let error = perplexity(&model, text, &windows(512, None), &mut |_, _, _| {}).unwrap_err();
        assert!(matches!(error, GenerateError::TooShort { .. }), "{error}");
    }
    let error = perplexity(&model, "One two three.", &windows(1, None), &mut |_, _, _| {}).unwrap_err();
    assert!(matches!(error, GenerateError::Option { .. }), "{error}");
    let options = windows(8, None);
    options.cancel.cancel();
    assert!(perplexity(&model, &head_of_wikitext(), &options, &mut |_, _, _| {}).unwrap_err().is_cancelled());
}
