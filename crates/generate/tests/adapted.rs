//! Texts and perplexities with all that can be learned on top of a model: the session's against one pass over the whole.

use std::path::Path;
use std::sync::Arc;

use bouquet_generate::{
    Adapted, GenerateError, GenerateOptions, Generator, PerplexityOptions, SamplingOptions, StopRules, generate,
    perplexity,
};
use bouquet_kernels::{Cpu, Matrix};
use bouquet_model::adapter::{Learned, Settings, Task, initial, targets};
use bouquet_model::{Encoding, Model, OpenOptions};
use bouquet_span::{CancelToken, Pass, Prompts};

/// Tokens of the soft prompt.
const PROMPT: usize = 3;

fn tiny(name: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models").join(name);
    Model::open(&folder, &OpenOptions::new(Cpu::new(2), 1 << 30, Encoding::F32)).unwrap()
}

/// Pairs on every linear that change what they are added to, a soft prompt, and prompts of a block.
fn learned(model: &Model) -> Learned {
    let spec = &model.spec;
    let targets = targets::parse(spec, &["all"]).unwrap();
    let (task, base_model) = (Task::Causal, String::new());
    let settings = Settings { rank: 2, alpha: 4.0, rank_stabilized: false, dropout: 0.0, targets, task, base_model };
    let mut learned = Learned::initial(&settings, spec, 5).unwrap();
    for pair in Arc::make_mut(&mut learned.low_rank).pairs.values_mut() {
        pair.b.data_mut().iter_mut().enumerate().for_each(|(index, value)| *value = (index % 5) as f32 / 20.0 - 0.1);
    }
    let mut soft_prompt = initial::soft_prompt(PROMPT, spec, 1);
    soft_prompt.data_mut().iter_mut().for_each(|value| *value *= 30.0);
    learned.soft_prompt = Some(soft_prompt);
    let deep = Matrix::from_vec(2, 64, (0..128).map(|index| (index % 7) as f32 / 10.0).collect());
    learned.deep_prompts = Arc::new(Prompts { blocks: [(1, deep)].into() });
    learned
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        sampling: SamplingOptions::default(),
        stop: StopRules { eos_token_ids: vec![], strings: vec![], max_tokens },
        cancel: CancelToken::default(),
    }
}

/// The logits of every position of a text behind the soft prompt, in one pass.
fn logits(adapted: Adapted<'_>, token_ids: &[u32]) -> Matrix {
    let model = adapted.model;
    let (hidden, _) =
        model.blocks.forward(adapted.embed(&[token_ids]).unwrap(), &adapted.pass(Pass::default())).unwrap();
    assert_eq!(hidden.tokens(), PROMPT + token_ids.len());
    model.head.logits(&model.cpu, hidden.values().slice(PROMPT..hidden.tokens()))
}

fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).fold(0, |best, id| if logits[id] > logits[best] { id } else { best }) as u32
}

#[test]
fn a_session_carries_the_adapter_and_its_soft_prompt() {
    for name in ["bloom-tiny", "llama-tiny"] {
        let model = tiny(name);
        let learned = learned(&model);
        let adapted = Adapted { model: &model, learned: Some(&learned) };
        let prompt = [7, 8, 9, 10];
        let generation = generate(adapted, &prompt, 64, &greedy(12), &mut |_| {}).unwrap();
        assert_eq!(generation.timings.prompt_tokens, PROMPT + prompt.len(), "{name}");
        let whole = [prompt.as_slice(), &generation.token_ids].concat();
        let logits = logits(adapted, &whole);
        let predicted: Vec<u32> = (prompt.len() - 1..whole.len() - 1).map(|row| best(logits.row(row))).collect();
        assert_eq!(generation.token_ids, predicted, "{name}");
        let plain = generate(&model, &prompt, 64, &greedy(12), &mut |_| {}).unwrap();
        assert_ne!(plain.token_ids, generation.token_ids, "{name}: the adapter changes nothing");

        // What is kept is the same as what is computed anew, from the beginning and from further on.
        let mut generator = Generator::open(adapted, 64).unwrap();
        for prompt in [&whole[..6], &whole[..5], &[3], &prompt] {
            let kept = generator.generate(prompt, &greedy(5), &mut |_| {}).unwrap();
            let anew = generate(adapted, prompt, 64, &greedy(5), &mut |_| {}).unwrap();
            assert_eq!(kept.token_ids, anew.token_ids, "{name}");
        }
    }
}

#[test]
fn the_tokens_of_a_soft_prompt_are_counted() {
    let model = tiny("llama-tiny");
    let learned = learned(&model);
    let adapted = Adapted { model: &model, learned: Some(&learned) };
    let text = |context| generate(adapted, &[7, 8, 9, 10], context, &greedy(9), &mut |_| {});
    match text(PROMPT + 4) {
        Err(GenerateError::PromptTooLong { prompt_tokens: 7, context: 7, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(text(PROMPT + 6).unwrap().token_ids.len(), 2);
    let limit = model.spec.max_positions.unwrap();
    assert!(matches!(Generator::open(adapted, limit + 1), Err(GenerateError::BeyondPositions { .. })));

    let options = PerplexityOptions { window: 8, max_windows: Some(3), cancel: CancelToken::default() };
    let score = |window| {
        perplexity(
            adapted,
            "A committee approved the plan. ".repeat(200).as_str(),
            &PerplexityOptions { window, ..options.clone() },
            &mut |_, _, _| {},
        )
    };
    assert!(matches!(score(limit - 2), Err(GenerateError::BeyondPositions { .. })));
    assert_eq!(score(limit - 3).map(|found| found.window).ok(), Some(limit - 3));
}

#[test]
fn a_window_stands_behind_the_soft_prompt() {
    let model = tiny("bloom-tiny");
    let learned = learned(&model);
    let adapted = Adapted { model: &model, learned: Some(&learned) };
    let text = "The committee approved the plan on Tuesday.";
    let token_ids = model.tokenizer.encode(text, false).unwrap().ids;
    let logits = logits(adapted, &token_ids);
    let nll = |row: usize| {
        let row_logits: Vec<f64> = logits.row(row).iter().map(|&logit| logit.into()).collect();
        row_logits.iter().map(|logit| logit.exp()).sum::<f64>().ln() - row_logits[token_ids[row + 1] as usize]
    };
    let mean = (0..token_ids.len() - 1).map(nll).sum::<f64>() / (token_ids.len() - 1) as f64;
    let options = PerplexityOptions { window: 512, max_windows: None, cancel: CancelToken::default() };
    let found = perplexity(adapted, text, &options, &mut |_, _, _| {}).unwrap();
    assert!((found.mean_nll - mean).abs() < 1e-5, "{} instead of {mean}", found.mean_nll);
    assert_ne!(found.mean_nll, perplexity(&model, text, &options, &mut |_, _, _| {}).unwrap().mean_nll);
}
