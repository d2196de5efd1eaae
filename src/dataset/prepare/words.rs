//! Lists of words, found in a text: from the left, the longest first, none inside another.

use std::collections::HashMap;

/// Words, each with what it stands for.
pub(super) struct Words<T> {
    /// By their first character, the longest first.
    by_first: HashMap<char, Vec<(&'static str, T)>>,
}

impl<T: Copy> Words<T> {
    /// No word is empty.
    pub(super) fn new(words: impl IntoIterator<Item = (&'static str, T)>) -> Self {
        let mut by_first: HashMap<char, Vec<(&'static str, T)>> = HashMap::new();
        for (word, meaning) in words {
            if let Some(first) = word.chars().next() {
                by_first.entry(first).or_default().push((word, meaning));
            }
        }
        by_first.values_mut().for_each(|words| words.sort_by_key(|(word, _)| std::cmp::Reverse(word.len())));
        Self { by_first }
    }

    /// The longest word that `text` begins with.
    pub(super) fn at_start(&self, text: &str) -> Option<(&'static str, T)> {
        let words = self.by_first.get(&text.chars().next()?)?;
        words.iter().find(|(word, _)| text.starts_with(word)).copied()
    }

    /// `text` in pieces: a word with its meaning, or a character that begins none.
    pub(super) fn pieces<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (&'a str, Option<T>)> {
        let mut rest = text;
        std::iter::from_fn(move || {
            let first = rest.chars().next()?;
            let (len, meaning) = match self.at_start(rest) {
                Some((word, meaning)) => (word.len(), Some(meaning)),
                None => (first.len_utf8(), None),
            };
            let (piece, behind) = rest.split_at(len);
            rest = behind;
            Some((piece, meaning))
        })
    }

    /// The words of `text`.
    pub(super) fn found<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (&'a str, T)> {
        self.pieces(text).filter_map(|(piece, meaning)| Some((piece, meaning?)))
    }
}

/// The lines of a table that hold something; `#` begins a remark.
pub(super) fn lines(table: &'static str) -> impl Iterator<Item = &'static str> {
    table.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_word_counts_and_none_inside_it() {
        let words = Words::new([("山", 1), ("山水", 2), ("水", 3), ("水仙", 4)]);
        for (text, want) in [
            ("青山", vec![("山", 1)]),
            ("山水仙", vec![("山水", 2)]),
            ("山山水", vec![("山", 1), ("山水", 2)]),
            ("水水仙", vec![("水", 3), ("水仙", 4)]),
            ("", vec![]),
            ("风", vec![]),
        ] {
            assert_eq!(words.found(text).collect::<Vec<_>>(), want, "{text}");
            assert_eq!(words.pieces(text).map(|(piece, _)| piece).collect::<String>(), text);
        }
    }

    #[test]
    fn remarks_are_no_words() {
        assert_eq!(lines("# a\nb\n\nc").collect::<Vec<_>>(), ["b", "c"]);
    }
}
