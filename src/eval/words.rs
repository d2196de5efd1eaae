//! Chinese words: jieba's dictionary, loaded at the first question and kept.
//!
//! [`cut`] does what Python's `jieba.cut` does; [`roles`] what Python's `jieba.posseg.cut` does, which guesses other
//! words where the dictionary has none.

mod hmm;
mod posseg;

use jieba_rs::Jieba;
use std::sync::LazyLock;

static JIEBA: LazyLock<Jieba> = LazyLock::new(Jieba::new);

/// Loads the dictionary, if that is still to be done.
pub fn load() {
    LazyLock::force(&JIEBA);
}

/// Cuts a text into words; every character of it is in one of them, spaces and punctuation too.
pub(super) fn cut(text: &str) -> Vec<&str> {
    JIEBA.cut(text, true).into_iter().map(|token| token.word).collect()
}

/// A word and its tag: `n` noun, `v` verb, `a` adjective, `m` number, `nr` name of a person, …
type Tagged<'a> = (&'a str, &'a str);

/// A character's place in the language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Role {
    /// First letter of the word's tag.
    pub class: u8,
    /// Whether a word begins here.
    pub begins: bool,
}

/// The role of each character of a text without breaks. `guess`: whether there may be words that are not in the
/// dictionary.
pub(super) fn roles(text: &str, guess: bool) -> Vec<Role> {
    let role = |tag: &str, at| Role { class: tag.as_bytes().first().copied().unwrap_or(b'x'), begins: at == 0 };
    let of_word = |(word, tag): Tagged| -> Vec<Role> { (0..word.chars().count()).map(|at| role(tag, at)).collect() };
    match guess {
        true => posseg::tag(text).into_iter().flat_map(of_word).collect(),
        false => JIEBA.tag(text, false).iter().flat_map(|w| of_word((w.word, w.tag))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_boundaries_and_classes() {
        assert_eq!(cut("北京，大学生"), ["北京", "，", "大学生"]);
        let roles = roles("北京大学", true);
        let begins: Vec<bool> = roles.iter().map(|r| r.begins).collect();
        assert_eq!(begins, [true, false, false, false], "one word");
        assert!(roles.iter().all(|r| r.class == b'n'), "a noun");
    }

    /// The words and tags in the fixture come from Python's jieba.posseg.
    #[test]
    fn words_and_tags_are_those_of_jieba_posseg() {
        let fixture = include_str!("../../tests/fixtures/words/cases.txt");
        assert_eq!(fixture.lines().count(), 1615);
        let mut guessed = 0;
        for line in fixture.lines() {
            let want: Vec<Tagged> = line.split(' ').map(|word| word.split_once('/').unwrap()).collect();
            let text: String = want.iter().map(|(word, _)| *word).collect();
            assert_eq!(posseg::tag(&text), want);
            guessed += want.iter().filter(|(word, _)| word.chars().count() > 1 && !JIEBA.has_word(word)).count();
        }
        assert!(guessed > 800, "{guessed} words that are not in the dictionary");
    }
}
