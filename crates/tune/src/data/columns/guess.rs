//! Guesses of what columns are, from their names, or from their number where a file has no names.

use super::{Columns, Mapping, Shape};
use crate::data::RecordKind;

/// Names of two texts that belong together, the first of which asks for the second.
const ORDERED_PAIRS: [(&str, &str); 12] = [
    ("anchor", "positive"),
    ("query", "positive"),
    ("query", "passage"),
    ("query", "document"),
    ("query", "answer"),
    ("query", "response"),
    ("question", "answer"),
    ("question", "passage"),
    ("question", "context"),
    ("title", "abstract"),
    ("title", "body"),
    ("source", "target"),
];

/// Names of two texts beside each other: a pair, or, where there is a score, a pair with a score.
const EVEN_PAIRS: [(&str, &str); 8] = [
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_a", "sentence_b"),
    ("text1", "text2"),
    ("text_1", "text_2"),
    ("first", "second"),
    ("premise", "hypothesis"),
    ("a", "b"),
];

/// Names of how alike two texts are.
const SCORES: [&str; 6] = ["score", "similarity_score", "similarity", "relatedness_score", "label", "gold_label"];

/// Names of a text alone.
const TEXTS: [&str; 5] = ["text", "sentence", "content", "document", "passage"];

/// Names of a text that is given, and of one that follows.
const COMPLETIONS: [(&str, &str); 5] = [
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("input", "output"),
];

/// Names of a conversation.
const CHATS: [&str; 2] = ["messages", "conversation"];

/// Whether cells are names of which some kind of record can be made.
pub(super) fn are_names(cells: &[String]) -> bool {
    let plain: Vec<String> = cells.iter().map(|cell| plain(cell)).collect();
    let named = Named { plain: &plain, names: cells };
    // What has pairs has texts.
    named.texts().is_ok() || named.continuations().is_ok()
}

/// The columns of a record of `kind`.
///
/// # Errors
/// What is missing, or too much.
pub(super) fn guess(columns: &Columns<'_>, kind: RecordKind) -> Result<Mapping, String> {
    if let Some(first_row) = columns.first_row {
        return by_number(columns.names, first_row, kind);
    }
    let plain: Vec<String> = columns.names.iter().map(|name| plain(name)).collect();
    let named = Named { plain: &plain, names: columns.names };
    match kind {
        RecordKind::Pairs => named.pairs(),
        RecordKind::ScoredPairs => named.scored(),
        RecordKind::Compared => named.scored().or_else(|_| named.pairs()),
        RecordKind::Texts => named.texts(),
        RecordKind::Continuations => named.continuations(),
    }
}

/// A name as it is compared.
fn plain(name: &str) -> String {
    name.trim().to_lowercase()
}

fn is_negative(plain: &str) -> bool {
    let number = plain.strip_prefix("negative_").or_else(|| plain.strip_prefix("negative"));
    number.is_some_and(|rest| rest.is_empty() || rest == "s" || rest.bytes().all(|byte| byte.is_ascii_digit()))
}

struct Named<'a> {
    plain: &'a [String],
    names: &'a [String],
}

impl Named<'_> {
    fn position(&self, name: &str) -> Option<usize> {
        self.plain.iter().position(|plain| plain == name)
    }

    fn both(&self, pairs: &[(&str, &str)]) -> Option<(usize, usize)> {
        pairs.iter().find_map(|(first, second)| Some((self.position(first)?, self.position(second)?)))
    }

    fn any(&self, names: &[&str]) -> Option<usize> {
        names.iter().find_map(|name| self.position(name))
    }

    fn pairs(&self) -> Result<Mapping, String> {
        let (anchor, positive) = match (self.both(&ORDERED_PAIRS), self.both(&EVEN_PAIRS)) {
            (Some(pair), _) => pair,
            (None, Some((first, _))) if let Some(score) = self.any(&SCORES) => {
                return Err(format!(
                    "{:?} says how alike {:?} is, so not all belong together",
                    self.names[score], self.names[first]
                ));
            }
            (None, Some(pair)) => pair,
            (None, None) => return Err("no two columns are known to belong together".to_owned()),
        };
        let negatives = (0..self.plain.len()).filter(|&index| is_negative(&self.plain[index]));
        let mut negatives: Vec<usize> = negatives.collect();
        // negative_2 before negative_10, wherever they stand.
        negatives.sort_by_key(|&index| (self.plain[index].len(), &self.plain[index]));
        let negatives = negatives.into_iter().map(|index| ("negative", index));
        let pair = [("anchor", anchor), ("positive", positive)];
        Ok(Mapping::new(Shape::Pair, self.names, pair.into_iter().chain(negatives)))
    }

    fn scored(&self) -> Result<Mapping, String> {
        let pair = self.both(&EVEN_PAIRS).or_else(|| self.both(&ORDERED_PAIRS));
        let (first, second) = pair.ok_or("no two columns are known to be compared")?;
        let score = self.any(&SCORES).ok_or("no column is known to be a score")?;
        let columns = [("sentence1", first), ("sentence2", second), ("score", score)];
        Ok(Mapping::new(Shape::Scored, self.names, columns))
    }

    fn texts(&self) -> Result<Mapping, String> {
        let pair = self.both(&ORDERED_PAIRS).or_else(|| self.both(&EVEN_PAIRS));
        match (self.any(&TEXTS[..1]), pair, self.any(&TEXTS)) {
            (Some(text), _, _) | (None, None, Some(text)) => {
                Ok(Mapping::new(Shape::Texts, self.names, [("text", text)]))
            }
            (None, Some((first, second)), _) => {
                Ok(Mapping::new(Shape::Texts, self.names, [("text", first), ("text", second)]))
            }
            (None, None, None) => Err("no column is known to be a text".to_owned()),
        }
    }

    fn continuations(&self) -> Result<Mapping, String> {
        if let Some(chat) = self.any(&CHATS) {
            Ok(Mapping::new(Shape::Chat, self.names, [("messages", chat)]))
        } else if let Some((prompt, completion)) = self.both(&COMPLETIONS) {
            Ok(Mapping::new(Shape::Completion, self.names, [("prompt", prompt), ("completion", completion)]))
        } else if let Some(text) = self.any(&TEXTS) {
            Ok(Mapping::new(Shape::Texts, self.names, [("text", text)]))
        } else {
            Err("no column is known to be messages, a prompt with a completion, or a text".to_owned())
        }
    }
}

/// The columns of a record of `kind` in a file without names.
fn by_number(names: &[String], first_row: &[String], kind: RecordKind) -> Result<Mapping, String> {
    let number = |index: usize| first_row.get(index).is_some_and(|cell| cell.trim().parse::<f64>().is_ok());
    let scored = first_row.len() == 3 && number(2);
    let mapping = |shape, roles: &[&'static str]| {
        Ok(Mapping::new(shape, names, roles.iter().enumerate().map(|(index, &role)| (role, index))))
    };
    match (kind, first_row.len()) {
        (RecordKind::Pairs, _) if scored => {
            Err("the third of three columns without names is a number, so that not all belong together".to_owned())
        }
        (RecordKind::ScoredPairs | RecordKind::Compared, 3) if scored => {
            mapping(Shape::Scored, &["sentence1", "sentence2", "score"])
        }
        (RecordKind::Pairs | RecordKind::Compared, 2) => mapping(Shape::Pair, &["anchor", "positive"]),
        (RecordKind::Pairs | RecordKind::Compared, 3) => mapping(Shape::Pair, &["anchor", "positive", "negative"]),
        (RecordKind::Texts, 1) | (RecordKind::Continuations, 1) => mapping(Shape::Texts, &["text"]),
        (RecordKind::Texts, 2) => mapping(Shape::Texts, &["text", "text"]),
        (RecordKind::Texts, 3) if scored => mapping(Shape::Texts, &["text", "text"]),
        (RecordKind::Continuations, 2) => mapping(Shape::Completion, &["prompt", "completion"]),
        (_, 1) => Err("a column alone, without a name, does not say what it is".to_owned()),
        (_, count) => Err(format!("{count} columns without names do not say what they are")),
    }
}
