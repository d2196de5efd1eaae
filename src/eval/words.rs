//! Chinese words: jieba's dictionary, loaded at the first question and kept.

use jieba_rs::Jieba;
use std::sync::LazyLock;

static JIEBA: LazyLock<Jieba> = LazyLock::new(Jieba::new);

/// Cuts a text into words; every character of it is in one of them, spaces and punctuation too.
pub(super) fn cut(text: &str) -> Vec<&str> {
    JIEBA.cut(text, true).into_iter().map(|token| token.word).collect()
}

/// A character's place in the language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Role {
    /// First letter of the word's tag: `n` noun, `v` verb, `a` adjective, `m` number, …
    pub class: u8,
    /// Whether a word begins here.
    pub begins: bool,
}

/// The role of each character of a text without breaks. `guess`: whether jieba may make words that are not in its
/// dictionary.
pub(super) fn roles(text: &str, guess: bool) -> Vec<Role> {
    let words = JIEBA.tag(text, guess);
    let role =
        |(tag, at): (&str, usize)| Role { class: tag.as_bytes().first().copied().unwrap_or(b'x'), begins: at == 0 };
    words.iter().flat_map(|w| (0..w.word.chars().count()).map(|at| role((w.tag, at)))).collect()
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
}
