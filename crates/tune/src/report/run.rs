//! The report of a run of training.

use std::collections::BTreeMap;

use super::axis::shown;
use super::energy::Footprint;
use super::lines::{Line, chart};
use super::page::{Cell, Numbers, Page};
use super::text::{bytes, duration, grouped, number, rough};
use super::thin::{Point, smoothed, width};
use crate::metrics::{Evaluation, Metric, TrainStep};

/// What is known of a run, at its end or on the way.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The heading: which model on which data, say.
    pub title: &'a str,
    /// All settings, by the names that they are typed with.
    pub settings: &'a [(String, String)],
    /// What was measured, in order.
    pub metrics: &'a [Metric],
    /// Processor time that the run took, all threads and all tries together, in seconds.
    pub cpu_seconds: f64,
}

/// The page of a run. It is the same text for the same run.
pub fn run(run: &Run<'_>) -> String {
    let steps: Vec<&TrainStep> = run.metrics.iter().filter_map(Metric::train).collect();
    let evaluations: Vec<&Evaluation> = run.metrics.iter().filter_map(Metric::evaluation).collect();

    let mut page = Page::new(run.title, concat!("A run of bouquet ", env!("CARGO_PKG_VERSION")));
    match steps.is_empty() {
        true => page.paragraph("No step was taken yet."),
        false => training(&mut page, &steps),
    }
    if !evaluations.is_empty() {
        evaluated(&mut page, &evaluations);
    }
    cost(&mut page, &steps, run.cpu_seconds);
    if !run.settings.is_empty() {
        page.heading("Settings");
        page.pairs(run.settings);
    }
    page.finish()
}

/// Loss, learning rate and gradient norm over the steps.
fn training(page: &mut Page, steps: &[&TrainStep]) {
    let points = |of: fn(&TrainStep) -> f64| -> Vec<Point> {
        steps.iter().map(|step| (step.step as f64, of(step))).filter(|point| shown(point.1)).collect()
    };
    let (tokens, seconds) = totals(steps);
    let loss = points(|step| step.loss);
    let smooth = smoothed(&loss, width(loss.len()));
    let ends = match (smooth.first(), smooth.last()) {
        (Some(first), Some(last)) if smooth.len() > 1 => format!("{} → {}", number(first.1), number(last.1)),
        (Some(only), _) => number(only.1),
        _ => number(f64::NAN),
    };
    page.tiles(&[
        ("loss, first to last", ends),
        ("steps", grouped(steps.last().map_or(0, |step| step.step as i64))),
        ("tokens", grouped(tokens as i64)),
        ("in these steps", duration(seconds)),
        ("tokens per second", number(tokens as f64 / seconds)),
        ("most memory", bytes(most_memory(steps))),
    ]);

    curve(page, "Loss", loss);
    page.heading("Learning rate");
    let rates =
        Line { name: "learning rate".into(), points: points(|step| step.learning_rate), color: 1, faint: false };
    figure(page, "Learning rate over the steps", &[rates], "");
    curve(page, "Gradient norm", points(|step| step.grad_norm));
}

/// A curve as it is, pale, and smoothed before it.
fn curve(page: &mut Page, name: &str, points: Vec<Point>) {
    page.heading(name);
    let width = width(points.len());
    let line = |points, faint| Line { name: name.to_lowercase(), points, color: 0, faint };
    let label = format!("{name} over the steps");
    if width < 3 {
        return figure(page, &label, &[line(points, false)], "");
    }
    let caption = format!("Pale: each step. Strong: the mean of the {width} steps around it.");
    let smooth = smoothed(&points, width);
    figure(page, &label, &[line(points, true), line(smooth, false)], &caption);
}

/// A chart for each score, with a line for each evaluation that has it, and their first and last values.
fn evaluated(page: &mut Page, evaluations: &[&Evaluation]) {
    let mut scores: BTreeMap<&str, BTreeMap<&str, Vec<Point>>> = BTreeMap::new();
    for evaluation in evaluations {
        for (score, value) in &evaluation.scores {
            let points = scores.entry(score).or_default().entry(&evaluation.name).or_default();
            points.push((evaluation.step as f64, *value));
        }
    }
    page.heading("Evaluations");
    let mut rows = Vec::new();
    for (score, of_names) in scores {
        for (name, points) in &of_names {
            let value = |point: Option<&Point>| Cell::plain(number(point.map_or(f64::NAN, |point| point.1)));
            let last = Cell::plain(points.last().map_or(String::new(), |point| grouped(point.0 as i64)));
            rows.push((format!("{name}: {score}"), vec![value(points.first()), value(points.last()), last]));
        }
        let legend: Vec<String> = of_names.keys().map(|name| (*name).to_owned()).collect();
        let line = |(color, (name, points)): (usize, (&str, Vec<Point>))| Line {
            name: name.to_owned(),
            points,
            color,
            faint: false,
        };
        let lines: Vec<Line> = of_names.into_iter().enumerate().map(line).collect();
        page.subheading(score);
        match chart(&format!("{score} over the steps"), &lines) {
            Some(picture) => page.figure(&picture, &legend, ""),
            None => page.paragraph("No value can be shown."),
        }
    }
    let columns = ["first", "last", "at step"].map(str::to_owned).to_vec();
    page.numbers(&Numbers { corner: "", columns, rows, foot: None });
}

fn cost(page: &mut Page, steps: &[&TrainStep], cpu_seconds: f64) {
    let Footprint { kilowatt_hours, grams_co2 } = Footprint::of(cpu_seconds);
    page.heading("What it took");
    page.pairs(&[
        ("time in steps".into(), duration(totals(steps).1)),
        ("processor time, all cores".into(), duration(cpu_seconds)),
        ("most memory of the process".into(), bytes(most_memory(steps))),
        ("electricity, estimated".into(), estimate(kilowatt_hours, ["Wh", "kWh"])),
        ("emissions, estimated".into(), estimate(grams_co2.map(|grams| grams / 1000.0), ["g CO₂", "kg CO₂"])),
    ]);
    page.note(&Footprint::method());
}

/// Low, middle and high in a unit, or in thousandths of it where the middle is small.
fn estimate(range: [f64; 3], [thousandth, unit]: [&str; 2]) -> String {
    let (factor, unit) = if range[1] < 1.0 { (1000.0, thousandth) } else { (1.0, unit) };
    let [low, middle, high] = range.map(|amount| rough(amount * factor));
    format!("about {middle} {unit} ({low} to {high})")
}

/// Tokens and seconds of all steps.
fn totals(steps: &[&TrainStep]) -> (u64, f64) {
    let tokens = steps.iter().fold(0u64, |sum, step| sum.saturating_add(step.tokens));
    (tokens, steps.iter().fold(0.0, |sum, step| sum + step.seconds))
}

fn most_memory(steps: &[&TrainStep]) -> u64 {
    steps.iter().map(|step| step.memory_bytes).max().unwrap_or(0)
}

fn figure(page: &mut Page, label: &str, lines: &[Line], caption: &str) {
    match chart(label, lines) {
        Some(picture) => page.figure(&picture, &[], caption),
        None => page.paragraph("No value can be shown."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::report::text::escape;
    use crate::schedule::Schedule;

    /// A run of so many steps, each `every` of them evaluated under all `names`; every third loss is NaN if asked.
    fn metrics(steps: u64, every: u64, names: &[&str], holes: bool) -> Vec<Metric> {
        let mut metrics = Vec::new();
        for step in 1..=steps {
            let noise = (step * 7919 % 1000) as f64 / 1000.0 - 0.5;
            let loss = 0.3 + 20.0 / (step + 9) as f64 + 0.2 * noise;
            metrics.push(Metric::Train(TrainStep {
                step,
                loss: if holes && step % 3 == 0 { f64::NAN } else { loss },
                learning_rate: Schedule::Linear.rate(3e-4, step - 1, steps / 10, steps),
                grad_norm: 1.0 + noise,
                tokens: 2048,
                seconds: 2.5,
                tokens_per_second: 819.2,
                memory_bytes: 5_200_000_000,
            }));
            if step % every == 0 {
                metrics.extend(names.iter().map(|name| {
                    let scores = [("spearman".to_owned(), 60.0 + noise), ("pearson".to_owned(), f64::NAN)].into();
                    Metric::Evaluation(Evaluation { step, name: (*name).to_owned(), scores })
                }));
            }
        }
        metrics
    }

    fn page(metrics: &[Metric]) -> String {
        let settings = [("learning-rate".to_owned(), "3e-4".to_owned()), ("<b>".to_owned(), "\"&'".to_owned())];
        run(&Run { title: "bloom on <nli>", settings: &settings, metrics, cpu_seconds: 7200.0 })
    }

    #[test]
    fn a_page_needs_nothing_else_and_runs_nothing() {
        let page = page(&metrics(50, 10, &["sts-en", "<script>alert(1)</script>"], true));
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        for absent in ["<script", "http:", "https:", "src=", "href=", "url(", "@import", "NaN", "<b>\""] {
            assert!(!page.contains(absent), "{absent}");
        }
        for present in
            ["bloom on &lt;nli&gt;", "&lt;script&gt;", "<td>&quot;&amp;&#39;</td>", "prefers-color-scheme:dark"]
        {
            assert!(page.contains(present), "{present}");
        }
    }

    #[test]
    fn a_page_has_what_was_measured() {
        let page = page(&metrics(100, 50, &["sts-en", "sts-fr"], false));
        // Loss and gradient norm, pale and strong; the learning rate; two evaluations by one score, since the other has no
        // values.
        assert_eq!(page.matches("<path class=\"line").count(), 2 * 2 + 1 + 2);
        assert!(page.contains("Pale: each step. Strong: the mean of the 5 steps around it."));
        assert!(page.contains("No value can be shown."));
        assert!(page.contains("<b>204\u{202f}800</b><span>tokens</span>"));
        assert!(page.contains("<b>4 min 10 s</b>") && page.contains("<b>819.2</b>") && page.contains("<b>5.2 GB</b>"));
        assert!(page.contains("about 16 Wh (8 to 30)") && page.contains("about 7.7 g CO₂ (0.24 to 24)"));
        assert!(page.contains("This is an estimate; nothing was measured."));
    }

    #[test]
    fn short_runs_have_pages_too() {
        let one = page(&metrics(1, 1, &["sts-en"], false));
        // Loss, rate, norm and one score: a dot each.
        assert_eq!(one.matches("<circle").count(), 4);
        let none = page(&[]);
        assert!(none.contains("<td>0 s</td>"), "{none}");
        assert!(none.contains("No step was taken yet.") && none.contains("learning-rate") && !none.contains("<svg"));
    }

    #[test]
    fn long_runs_have_pages_of_bounded_size() {
        let names: Vec<String> = (0..20).map(|name| format!("language {name} {}", "x".repeat(100))).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let page = page(&metrics(10_000, 1000, &names, true));
        assert!(page.len() < 250_000, "{} bytes", page.len());
        assert!(page.contains(&escape(names[19])) && page.contains("class=\"line c3 dashed\""));
    }
}
