//! Token ids to text, as they come, in whole characters.
//!
//! A decoder wants all ids at once: a character may be spread over several tokens, and some decoders drop the space
//! at the beginning of a text. So a window of recent ids is decoded, whose text so far is known, and what it has grown
//! by is new. A character that is not whole yet decodes to U+FFFD at the end, which is held back. The window begins
//! where the text was whole, with at least one token that has a text, so that a dropped space is one that was known
//! to be there.
//!
//! The pieces together are the decoding of all ids, with two exceptions. SentencePiece vocabularies with byte tokens
//! decode a whole run of bytes to U+FFFD when one of them is wrong; characters of the run that have been shown stay.
//! And after `PENDING` ids without a whole character, what there is counts as whole.

use bouquet_model::{Result, Tokenizer};

/// Ids after which a window is cut at the next chance.
const WINDOW: usize = 16;

/// Ids without a whole character after which the text counts as whole.
const PENDING: usize = 256;

/// What stands for bytes that are not a character.
const REPLACEMENT: char = '\u{FFFD}';

/// All ids to their text.
type Decode<'a> = dyn Fn(&[u32]) -> Result<String> + 'a;

/// Turns ids into text, piece by piece.
pub struct Detokenizer<'a> {
    decode: Box<Decode<'a>>,
    /// Recent ids.
    window: Vec<u32>,
    /// The text of `window` as far as it is known.
    known: String,
    /// How many ids of `window` there were when the text was whole last.
    whole: usize,
}

impl<'a> Detokenizer<'a> {
    /// For what follows `context`, the end of the prompt or all of it. Special tokens have no text.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn open(tokenizer: &'a Tokenizer, context: &[u32]) -> Result<Self> {
        Self::with_decoder(context, |ids| tokenizer.decode(ids, true))
    }

    /// The same with any decoder.
    ///
    /// # Errors
    /// What it refuses.
    pub fn with_decoder(context: &[u32], decode: impl Fn(&[u32]) -> Result<String> + 'a) -> Result<Self> {
        // Enough of it to have a text in it, whatever special tokens it ends with.
        let mut window = Vec::new();
        let mut known = String::new();
        let mut length = WINDOW;
        while window.len() < context.len() && known.is_empty() {
            window = context[context.len().saturating_sub(length)..].to_vec();
            known = decode(&window)?;
            length *= 2;
        }
        Ok(Detokenizer { decode: Box::new(decode), whole: window.len(), window, known })
    }

    /// The text that one more id makes known; often empty.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.window.push(id);
        let text = (self.decode)(&self.window)?;
        let whole = !text.ends_with(REPLACEMENT) || self.window.len() - self.whole >= PENDING;
        let sure = if whole { &text } else { text.trim_end_matches(REPLACEMENT) };
        let Some(piece) = sure.strip_prefix(self.known.as_str()).map(str::to_owned) else {
            return if whole { self.start_again() } else { Ok(String::new()) };
        };
        self.known.push_str(&piece);
        if whole {
            self.cut()?;
        }
        Ok(piece)
    }

    /// The rest, at the end: characters that have not become whole, as U+FFFD.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn finish(&mut self) -> Result<String> {
        let text = (self.decode)(&self.window)?;
        match text.strip_prefix(self.known.as_str()).map(str::to_owned) {
            Some(piece) => {
                self.known = text;
                self.whole = self.window.len();
                Ok(piece)
            }
            None if self.known.starts_with(text.as_str()) => Ok(String::new()),
            None => self.start_again(),
        }
    }

    /// Forgets the ids before the last time that the text was whole, once there are enough of them.
    fn cut(&mut self) -> Result<()> {
        let before = std::mem::replace(&mut self.whole, self.window.len());
        if self.window.len() < WINDOW {
            return Ok(());
        }
        let known = (self.decode)(&self.window[before..])?;
        if !known.is_empty() {
            self.window.drain(..before);
            self.whole = self.window.len();
            self.known = known;
        }
        Ok(())
    }

    /// What was known is not the beginning of the text any more: goes on behind it.
    fn start_again(&mut self) -> Result<String> {
        self.window.drain(..self.whole);
        self.known = (self.decode)(&self.window)?;
        self.whole = self.window.len();
        Ok(self.known.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Byte-level BPE: an id below 256 is a byte; above are tokens of several bytes, cut without regard to characters.
    fn byte_level(ids: &[u32]) -> Result<String> {
        let long: [&[u8]; 4] = [b" the", "好".as_bytes(), &[b' ', 0xE5], &[0xA5, 0xBD, 0xE5]];
        let bytes: Vec<u8> = ids
            .iter()
            .flat_map(|&id| if id < 256 { vec![id as u8] } else { long[id as usize - 256].to_vec() })
            .collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// SentencePiece: `▁` is a space, the first of which is dropped; ids below 256 are bytes that decode together;
    /// 999 is special and has no text.
    fn sentence_piece(ids: &[u32]) -> Result<String> {
        let words = [" a", " b", "c", " ", "  ", "é", ""];
        let (mut text, mut bytes) = (String::new(), Vec::new());
        let flush = |text: &mut String, bytes: &mut Vec<u8>| match String::from_utf8(std::mem::take(bytes)) {
            Ok(run) => text.push_str(&run),
            Err(error) => text.extend(error.as_bytes().iter().map(|_| REPLACEMENT)),
        };
        for &id in ids {
            match id {
                0..256 => bytes.push(id as u8),
                _ => {
                    flush(&mut text, &mut bytes);
                    text.push_str(words.get(id as usize - 256).unwrap_or(&""));
                }
            }
        }
        flush(&mut text, &mut bytes);
        Ok(text.strip_prefix(' ').map(str::to_owned).unwrap_or(text))
    }

    fn stream(decode: fn(&[u32]) -> Result<String>, context: &[u32], ids: &[u32]) -> Vec<String> {
        let mut detokenizer = Detokenizer::with_decoder(context, decode).unwrap();
        let mut pieces: Vec<String> = ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect();
        pieces.push(detokenizer.finish().unwrap());
        pieces
    }

    #[test]
    fn characters_come_whole() {
        let ids: Vec<u32> = "né 好!".bytes().map(u32::from).collect();
        assert_eq!(stream(byte_level, &[], &ids), ["n", "", "é", " ", "", "", "好", "!", ""]);
    }

    #[test]
    fn text_before_a_character_that_is_not_whole_is_shown() {
        assert_eq!(stream(byte_level, &[], &[258, 259, 259, 0xA5, 0xBD]), [" ", "好", "好", "", "好", ""]);
    }

    #[test]
    fn bytes_that_are_never_a_character_become_replacements() {
        assert_eq!(stream(byte_level, &[], &[0xFF, 97, 0xE2]), ["", "\u{FFFD}a", "", "\u{FFFD}"]);
        let endless = vec![0xFF; 3 * PENDING];
        assert_eq!(stream(byte_level, &[], &endless).concat(), byte_level(&endless).unwrap());
    }

    #[test]
    fn a_space_is_dropped_at_the_beginning_only() {
        assert_eq!(stream(sentence_piece, &[], &[256, 257, 258]), ["a", " b", "c", ""]);
        // The prompt is the beginning, so the answer keeps its space.
        assert_eq!(stream(sentence_piece, &[256], &[257]), [" b", ""]);
        assert_eq!(stream(sentence_piece, &[999], &[257]), ["b", ""]);
        let many = vec![999; 2 * WINDOW];
        assert_eq!(stream(sentence_piece, &[vec![256], many.clone()].concat(), &[257]), [" b", ""]);
        assert_eq!(stream(sentence_piece, &[], &[many, vec![256, 257]].concat()).concat(), "a b");
    }

    #[test]
    fn a_run_of_bytes_that_goes_wrong_keeps_what_was_shown() {
        let pieces = stream(sentence_piece, &[], &[256, 0xC3, 0xA9, 0xFF, 258]);
        assert_eq!(pieces, ["a", "", "é", "", "\u{FFFD}c", ""]);
        let pieces = stream(sentence_piece, &[], &[256, 0xC3, 0xA9, 0xFF]);
        assert_eq!(pieces, ["a", "", "é", "", "\u{FFFD}"]);
    }

    #[test]
    fn the_window_stays_small() {
        let longest = std::cell::Cell::new(0);
        let decode = |ids: &[u32]| {
            longest.set(longest.get().max(ids.len()));
            byte_level(ids)
        };
        let mut detokenizer = Detokenizer::with_decoder(&[], decode).unwrap();
        (0..1000).for_each(|id| drop(detokenizer.push(97 + id % 26).unwrap()));
        drop(detokenizer);
        assert!(longest.get() <= WINDOW, "{}", longest.get());
    }

    proptest! {
        #[test]
        fn pieces_of_bytes_are_the_whole(
            context in proptest::collection::vec(32u32..127, 0..40),
            ids in proptest::collection::vec(prop_oneof![0u32..256, 32u32..127, 256u32..260], 0..60),
        ) {
            let text = stream(byte_level, &context, &ids).concat();
            let all = byte_level(&[context.clone(), ids].concat()).unwrap();
            prop_assert_eq!(byte_level(&context).unwrap() + &text, all);
        }

        #[test]
        fn pieces_of_words_are_the_whole(
            context in proptest::collection::vec(256u32..263, 0..40),
            ids in proptest::collection::vec(prop_oneof![Just(999u32), 256u32..263], 0..60),
        ) {
            let text = stream(sentence_piece, &context, &ids).concat();
            let all = sentence_piece(&[context.clone(), ids].concat()).unwrap();
            prop_assert_eq!(sentence_piece(&context).unwrap() + &text, all);
        }
    }
}
