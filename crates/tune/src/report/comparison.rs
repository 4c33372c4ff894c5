//! Models beside each other on the same tasks.

use super::bars::Bars;
use super::page::{Cell, Numbers, Page};
use super::text::number;

/// Some models on some tasks, by one score.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The heading.
    pub title: String,
    /// What the numbers are: `Spearman × 100`.
    pub score: String,
    /// Whether larger numbers are better.
    pub higher_is_better: bool,
    /// The columns.
    pub models: Vec<String>,
    /// The rows.
    pub tasks: Vec<Task>,
    /// What else a reader has to know, by keys.
    pub notes: Vec<(String, String)>,
}

/// A row of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// The score of each model that was tried on it.
    pub scores: Vec<Option<f64>>,
}

impl Comparison {
    /// The mean of each model over the tasks that all models have a score of; `None` where there is no such task.
    pub fn means(&self) -> Option<Vec<f64>> {
        let complete = self.complete();
        let mean = |model: usize| complete.iter().map(|scores| scores[model]).sum::<f64>() / complete.len() as f64;
        (!complete.is_empty()).then(|| (0..self.models.len()).map(mean).collect())
    }

    /// The name of the row below the others and [`means`](Self::means); `None` where they would say nothing new.
    pub fn foot(&self) -> Option<(String, Vec<f64>)> {
        let means = self.means().filter(|_| self.tasks.len() > 1)?;
        let count = self.complete().len();
        let name = match count == self.tasks.len() {
            true => "mean".to_owned(),
            false => format!("mean of the {count} tasks that all have"),
        };
        Some((name, means))
    }

    /// The best score of a row, where there is a choice.
    pub fn best(&self, scores: &[Option<f64>]) -> Option<f64> {
        let better = |a: f64, b: f64| if self.higher_is_better { a.max(b) } else { a.min(b) };
        let found = || scores.iter().flatten().copied().filter(|score| score.is_finite());
        found().reduce(better).filter(|_| found().count() > 1)
    }

    /// The scores of the tasks that all models have one of.
    fn complete(&self) -> Vec<Vec<f64>> {
        let finite = |score: &Option<f64>| score.filter(|score| score.is_finite());
        self.tasks.iter().filter_map(|task| task.scores.iter().map(finite).collect()).collect()
    }

    /// Numbers of a row, the best of them marked.
    fn cells(&self, scores: &[Option<f64>]) -> Vec<Cell> {
        let best = self.best(scores);
        let cell = |score: &Option<f64>| Cell {
            text: number(score.unwrap_or(f64::NAN)),
            best: score.is_some() && *score == best,
        };
        scores.iter().map(cell).collect()
    }
}

/// The page of a comparison. Panics on a task that has not a score, or the lack of one, for each model.
pub fn comparison(comparison: &Comparison) -> String {
    let direction = if comparison.higher_is_better { "higher is better" } else { "lower is better" };
    let mut page = Page::new(&comparison.title, &format!("{}; {direction}", comparison.score));
    let rows = comparison.tasks.iter().map(|task| {
        assert_eq!(task.scores.len(), comparison.models.len(), "scores of {} and models", task.name);
        (task.name.clone(), comparison.cells(&task.scores))
    });
    page.heading("Scores");
    page.numbers(&Numbers {
        corner: "task",
        columns: comparison.models.clone(),
        rows: rows.collect(),
        foot: comparison.foot().map(|(name, means)| {
            let means: Vec<Option<f64>> = means.into_iter().map(Some).collect();
            (name, comparison.cells(&means))
        }),
    });
    let bars = Bars {
        label: comparison.title.clone(),
        columns: comparison.models.clone(),
        rows: comparison.tasks.iter().map(|task| (task.name.clone(), task.scores.clone())).collect(),
    };
    if let Some(picture) = bars.picture() {
        page.heading(&comparison.score);
        page.figure(&picture, &comparison.models, "");
    }
    if !comparison.notes.is_empty() {
        page.heading("Notes");
        page.pairs(&comparison.notes);
    }
    page.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Comparison {
        Comparison {
            title: "Embeddings <of> two models".into(),
            score: "Spearman × 100".into(),
            higher_is_better: true,
            models: vec!["bloom-560m".into(), "bloom-560m & adapter".into()],
            tasks: vec![
                Task { name: "STS12".into(), scores: vec![Some(40.0), Some(70.5)] },
                Task { name: "STS13".into(), scores: vec![Some(50.0), None] },
                Task { name: "SICK-R".into(), scores: vec![Some(60.0), Some(60.0)] },
                Task { name: "<script>".into(), scores: vec![Some(f64::NAN), Some(-3.25)] },
            ],
            notes: vec![("machine".into(), "2 cores".into())],
        }
    }

    #[test]
    fn means_are_of_the_tasks_that_all_models_have() {
        assert_eq!(sample().means(), Some(vec![50.0, 65.25]));
        assert_eq!(Comparison { tasks: vec![], ..sample() }.means(), None);
    }

    #[test]
    fn the_best_of_a_row_is_marked_and_names_are_escaped() {
        let page = comparison(&sample());
        assert!(page.contains("<td>40</td><td class=\"best\">70.5</td>"), "{page}");
        assert!(page.contains("<td>50</td><td>–</td>"));
        assert!(page.contains("<td class=\"best\">60</td><td class=\"best\">60</td>"));
        assert!(page.contains("mean of the 2 tasks that all have"));
        assert!(page.contains("bloom-560m &amp; adapter") && !page.contains("<script"));
        let lower = comparison(&Comparison { higher_is_better: false, ..sample() });
        assert!(lower.contains("<td class=\"best\">40</td><td>70.5</td>"));
    }

    #[test]
    fn nothing_to_compare_is_still_a_page() {
        let page = comparison(&Comparison { tasks: vec![], models: vec![], ..sample() });
        assert!(page.ends_with("</html>\n") && !page.contains("<svg"));
    }
}
