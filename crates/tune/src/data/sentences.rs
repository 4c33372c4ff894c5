//! Records as token ids for the objectives that learn from whole sentences.

use super::{Record, RowInfo};

/// The texts of a record, in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentenceRow {
    /// Which record.
    pub record: usize,
    /// Its texts in their order: anchor, positive, negatives; first, second; the text. None is empty.
    pub sequences: Vec<Vec<u32>>,
}

/// The texts of records, in tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sentences {
    /// In the order of the records.
    pub rows: Vec<SentenceRow>,
    /// How many texts had more tokens than they may have.
    pub cut: usize,
    /// How many records are left out, because one of their texts has no tokens.
    pub left_out: usize,
}

/// Cuts the texts of records into tokens. `tokens` gives the token ids of texts in their order, none with more than it may
/// have, and how many had more; as the embedder's do, so that what is learned is what is embedded.
///
/// # Errors
/// Those of `tokens`. Panics where it gives another number of sequences than of texts, and for completions and
/// conversations.
pub fn sentences<E>(
    records: &[Record],
    tokens: impl FnOnce(&[&str]) -> Result<(Vec<Vec<u32>>, usize), E>,
) -> Result<Sentences, E> {
    let all: Vec<&str> = records.iter().flat_map(texts).collect();
    let (sequences, cut) = tokens(&all)?;
    assert_eq!(sequences.len(), all.len(), "a sequence for each text");
    let mut sequences = sequences.into_iter();
    let mut found = Sentences { cut, ..Sentences::default() };
    for (record, texts_of) in records.iter().map(texts).enumerate() {
        let sequences: Vec<Vec<u32>> = sequences.by_ref().take(texts_of.count()).collect();
        if sequences.iter().any(Vec::is_empty) {
            found.left_out += 1;
        } else {
            found.rows.push(SentenceRow { record, sequences });
        }
    }
    Ok(found)
}

impl Sentences {
    /// What batches have to know of each row; its length is that of all its texts.
    pub fn infos(&self, records: &[Record]) -> Vec<RowInfo> {
        let info = |row: &SentenceRow| RowInfo::new(&records[row.record], row.sequences.iter().map(Vec::len).sum());
        self.rows.iter().map(info).collect()
    }
}

/// The texts of a record, those that are compared.
fn texts(record: &Record) -> impl Iterator<Item = &str> {
    assert!(
        matches!(record, Record::Pair { .. } | Record::Scored { .. } | Record::Text(_)),
        "there are no sentences in {record:?}"
    );
    super::collect::texts(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_texts_of_records_and_one_without_tokens_is_left_out() {
        let pair = |anchor: &str, positive: &str| Record::Pair {
            anchor: anchor.to_owned(),
            positive: positive.to_owned(),
            negatives: vec!["n".to_owned()],
        };
        let records = [pair("ab", "c"), pair("x", ""), pair("de", "fgh")];
        // A token for each byte, at most two.
        let tokens = |texts: &[&str]| {
            let ids = |text: &&str| text.bytes().map(u32::from).take(2).collect::<Vec<_>>();
            let cut = texts.iter().filter(|text| text.len() > 2).count();
            Ok::<_, ()>((texts.iter().map(ids).collect(), cut))
        };
        let found = sentences(&records, tokens).expect("tokens");
        assert_eq!((found.cut, found.left_out), (1, 1));
        let row = |record, texts: [&str; 3]| {
            let ids = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
            SentenceRow { record, sequences: texts.map(ids).to_vec() }
        };
        assert_eq!(found.rows, [row(0, ["ab", "c", "n"]), row(2, ["de", "fg", "n"])]);
        let infos = found.infos(&records);
        assert_eq!(infos.iter().map(|info| info.length).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(infos[0].keys[2], infos[1].keys[2]);
    }

    #[test]
    fn what_the_tokenizer_refuses_is_refused() {
        assert_eq!(sentences(&[Record::Text("x".to_owned())], |_| Err("no")), Err("no"));
    }
}
