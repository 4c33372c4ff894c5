//! When a text ends: an end-of-text token, a stop string, enough tokens, or somebody asked.

use std::fmt;

/// When to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopRules {
    /// Tokens that end the text and are not part of it; none to go on for ever.
    pub eos_token_ids: Vec<u32>,
    /// Texts that end the text and are not part of it. Empty ones have no meaning and are ignored.
    pub strings: Vec<String>,
    /// The most tokens to generate.
    pub max_tokens: usize,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-text token or a stop string.
    Stop,
    /// As many tokens as were asked for, or as fit into the context.
    Length,
    /// Somebody asked.
    Cancelled,
}

/// Looks for stop strings in a text that comes in pieces; they may straddle pieces. Text is held back while it could be
/// the beginning of a stop string. Of several that are there, the one that ends first counts, so that the text is cut
/// at the same place however it comes in pieces.
#[derive(Clone, Debug)]
pub struct StopScanner {
    strings: Vec<String>,
    held: String,
}

/// What a piece of text came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// What can be shown now.
    pub text: String,
    /// Whether a stop string came; it and all after it are dropped.
    pub stopped: bool,
}

impl FinishReason {
    /// The name in APIs: `stop`, `length` or `cancelled`.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl StopScanner {
    /// A scanner at the beginning of a text.
    pub fn new(strings: &[String]) -> Self {
        let strings = strings.iter().filter(|string| !string.is_empty()).cloned().collect();
        StopScanner { strings, held: String::new() }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &str) -> Scanned {
        self.held.push_str(piece);
        // Of several, the one that ends first, and of those the one that begins first: that is known when it ends,
        // whatever comes in the same piece behind it.
        let found = self.strings.iter().filter_map(|string| Some((self.held.find(string)?, string.len())));
        if let Some((start, _)) = found.min_by_key(|&(start, length)| (start + length, start)) {
            self.held.truncate(start);
            return Scanned { text: std::mem::take(&mut self.held), stopped: true };
        }
        let keep = self.held.char_indices().map(|(start, _)| start).find(|&start| self.may_begin(&self.held[start..]));
        let held = self.held.split_off(keep.unwrap_or(self.held.len()));
        Scanned { text: std::mem::replace(&mut self.held, held), stopped: false }
    }

    /// What is still held back, at the end of the text.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    fn may_begin(&self, end: &str) -> bool {
        self.strings.iter().any(|string| string.starts_with(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(strings: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut scanner = StopScanner::new(&strings.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let mut shown = Vec::new();
        for piece in pieces {
            let scanned = scanner.push(piece);
            shown.push(scanned.text);
            if scanned.stopped {
                return (shown, true);
            }
        }
        shown.push(scanner.finish());
        (shown, false)
    }

    #[test]
    fn a_stop_string_may_straddle_pieces() {
        assert_eq!(
            scan(&["\nUser:"], &["Hi.\n", "Us", "er", ": no"]),
            (vec!["Hi.".into(), "".into(), "".into(), "".into()], true)
        );
    }

    #[test]
    fn a_beginning_that_does_not_go_on_is_shown() {
        let (shown, stopped) = scan(&["STOP"], &["a S", "T", "A", "ST"]);
        assert_eq!((shown.concat().as_str(), stopped), ("a STAST", false));
        assert_eq!(shown, ["a ", "", "STA", "", "ST"]);
    }

    #[test]
    fn an_overlapping_beginning_is_kept() {
        let (shown, stopped) = scan(&["aab"], &["aa", "ab", "x"]);
        assert_eq!((shown.concat().as_str(), stopped), ("a", true));
    }

    #[test]
    fn the_first_of_several_counts() {
        assert_eq!(scan(&["cde", "bcd", ""], &["abcdef"]), (vec!["a".into()], true));
        assert_eq!(scan(&[], &["abc", ""]), (vec!["abc".into(), "".into(), "".into()], false));
    }

    #[test]
    fn of_several_the_one_that_ends_first_counts_however_the_text_is_cut() {
        for pieces in [&["abcdef"][..], &["abcd", "ef"], &["a", "b", "c", "d", "e", "f"]] {
            let (shown, stopped) = scan(&["bcde", "cd"], pieces);
            assert_eq!((shown.concat().as_str(), stopped), ("ab", true), "{pieces:?}");
        }
        // Where both end at once, the one that begins first.
        assert_eq!(scan(&["cd", "bcd"], &["abcd"]), (vec!["a".into()], true));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter_to_several(
            pieces in proptest::collection::vec("[abé]{0,3}", 0..10),
            strings in proptest::collection::vec("[abé]{1,4}", 1..4),
        ) {
            let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
            let whole = pieces.concat();
            let (shown, stopped) = scan(&strings, &pieces.iter().map(String::as_str).collect::<Vec<_>>());
            let at_once = scan(&strings, &[&whole]);
            prop_assert_eq!((shown.concat(), stopped), (at_once.0.concat(), at_once.1));
            // By definition: the shortest beginning of the text that ends with one of them.
            let ends = (0..=whole.len()).filter(|&end| whole.is_char_boundary(end));
            let cut = ends.map(|end| &whole[..end]).find_map(|text| {
                strings.iter().filter_map(|string| text.strip_suffix(string)).map(str::len).min()
            });
            prop_assert_eq!(shown.concat(), &whole[..cut.unwrap_or(whole.len())]);
        }

        #[test]
        fn pieces_do_not_matter(pieces in proptest::collection::vec("[abé]{0,4}", 0..8), stop in "[abé]{1,4}") {
            let whole = pieces.concat();
            let (shown, stopped) = scan(&[&stop], &pieces.iter().map(String::as_str).collect::<Vec<_>>());
            let expected = whole.find(&stop).map_or(whole.as_str(), |start| &whole[..start]);
            prop_assert_eq!(shown.concat(), expected);
            prop_assert_eq!(stopped, whole.contains(&stop));
        }
    }
}
