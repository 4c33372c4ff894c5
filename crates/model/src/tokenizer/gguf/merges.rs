//! Merges: pairs of tokens that become one, in the order in which they are tried.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::{TokenType, wrong};
use crate::Result;
use crate::files::shown;

/// Bytes that a token of SentencePiece may have: four times those of its longest, so that its parts can be tried in time.
const MAX_PIECE_BYTES: usize = 256;

/// Two tokens that become one.
pub(super) type Merge<'a> = (&'a str, &'a str);

/// Merges as the metadata has them: the two tokens with a space between.
pub(super) fn written(merges: &[String]) -> Result<Vec<Merge<'_>>> {
    fn split(merge: &str) -> Option<Merge<'_>> {
        // A first token may be a space.
        let (at, _) = merge.char_indices().skip(1).find(|(_, c)| *c == ' ')?;
        Some((&merge[..at], &merge[at + 1..])).filter(|(_, second)| !second.is_empty())
    }
    let mut pairs = Vec::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        let no_pair = || wrong(format!("merge {rank} is {}, no two tokens with a space between", shown(merge)));
        pairs.push(split(merge).ok_or_else(no_pair)?);
    }
    Ok(pairs)
}

/// The merges of SentencePiece, which has none: it puts together whatever makes a token, the one of the highest score
/// first. So each token is the merge of every two tokens that spell it, in the order that the tokenizers of transformers
/// have when they are made from the same scores: by score, then longer first parts before shorter ones.
pub(super) fn of_scores<'a>(tokens: &'a [String], types: &[TokenType], scores: &[f64]) -> Result<Vec<Merge<'a>>> {
    let normal = || tokens.iter().zip(types).enumerate().filter(|(_, (_, kind))| **kind == TokenType::Normal);
    let ids: HashMap<&str, usize> = normal().map(|(id, (token, _))| (token.as_str(), id)).collect();
    let mut merges: Vec<(Merge, f64)> = Vec::new();
    for (id, (token, _)) in normal() {
        if token.len() > MAX_PIECE_BYTES {
            return Err(wrong(format!("token {id} has {} bytes, more than {MAX_PIECE_BYTES}", token.len())));
        }
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let mut parts: Vec<Merge> = cuts.filter(|(a, b)| ids.contains_key(a) && ids.contains_key(b)).collect();
        parts.sort_by_key(|(first, second)| (ids[first], ids[second]));
        merges.extend(parts.into_iter().map(|merge| (merge, scores[id])));
    }
    let chars = |(first, second): Merge| (first.chars().count(), second.chars().count());
    merges.sort_by(|(merge, score), (other, other_score)| {
        let by_score = other_score.partial_cmp(score).unwrap_or(Ordering::Equal);
        by_score.then_with(|| chars(*other).cmp(&chars(*merge)))
    });
    Ok(merges.into_iter().map(|(merge, _)| merge).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_are_two_tokens_with_a_space_between() {
        let merges = ["a b", "  b", "é é"].map(str::to_owned);
        assert_eq!(written(&merges).unwrap(), [("a", "b"), (" ", "b"), ("é", "é")]);
        for broken in ["", " ", "a", "a ", "  "] {
            let error = written(&["a b".to_owned(), broken.to_owned()]).unwrap_err().to_string();
            assert!(error.contains(&format!("merge 1 is {broken:?}, no two tokens")), "{error}");
        }
    }

    #[test]
    fn scores_tell_which_merges_come_first() {
        let tokens = ["a", "b", "ab", "ba", "aba", "<s>"].map(str::to_owned);
        let mut types = [TokenType::Normal; 6];
        types[5] = TokenType::Control;
        let merges = of_scores(&tokens, &types, &[-9.0, -9.0, -2.0, -1.0, -3.0, 0.0]).unwrap();
        assert_eq!(merges, [("b", "a"), ("a", "b"), ("ab", "a"), ("a", "ba")]);
    }
}
