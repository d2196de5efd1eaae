//! What a couplet is about, as far as a list of words can tell: 写景, 抒情, 节庆 …
//!
//! A couplet has a theme only where both lines hold words of it. Of several the one with most weight counts: a word of one
//! character weighs 1, of two 3, of three or more 5; among equals the special one, which stands first in the table.

use super::words::{self, Words};
use std::{collections::HashMap, sync::LazyLock};

/// Index into [`names`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Theme(pub usize);

impl Theme {
    /// What it is called.
    pub(super) fn name(self) -> &'static str {
        TABLE.names[self.0]
    }
}

/// Names of themes and the themes of each word, a bit for each.
struct Table {
    names: Vec<&'static str>,
    words: Words<u32>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let themes: Vec<(&str, &str)> = words::lines(include_str!("tables/themes.txt"))
        .map(|line| line.split_once('\t').expect("each line of the table has a tab"))
        .collect();
    let mut bits: HashMap<&'static str, u32> = HashMap::new();
    for (theme, (_, words)) in themes.iter().enumerate() {
        words.split(' ').for_each(|word| *bits.entry(word).or_default() |= 1 << theme);
    }
    Table { names: themes.iter().map(|(name, _)| *name).collect(), words: Words::new(bits) }
});

/// The theme both lines share, if they share one.
pub(super) fn theme(upper: &str, lower: &str) -> Option<Theme> {
    let [upper, lower] = [upper, lower].map(weights);
    let shared = (0..TABLE.names.len()).filter(|theme| upper[*theme] > 0 && lower[*theme] > 0);
    // The first of equals.
    shared.rev().max_by_key(|theme| upper[*theme] + lower[*theme]).map(Theme)
}

/// The weight of every theme in a line.
fn weights(line: &str) -> Vec<u32> {
    let mut weights = vec![0; TABLE.names.len()];
    for (word, themes) in TABLE.words.found(line) {
        let weight = match word.chars().count() {
            1 => 1,
            2 => 3,
            _ => 5,
        };
        for (theme, sum) in weights.iter_mut().enumerate() {
            *sum += weight * (themes >> theme & 1);
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn themes_are_told_by_their_words() {
        for (upper, lower, want, why) in [
            ("爆竹声中辞旧岁", "梅花香里报新春", Some("节庆"), "爆竹 and 新春 outweigh 梅 and 花"),
            ("爆竹一声除旧岁", "桃符万户换新春", Some("节庆"), "three words"),
            ("福如东海长流水", "寿比南山不老松", Some("祝寿"), "the special one"),
            ("洞房花烛良宵夜", "琴瑟和鸣百岁缘", Some("婚庆"), ""),
            ("书山有路勤为径", "学海无涯苦作舟", Some("治学"), ""),
            ("两个黄鹂鸣翠柳", "一行白鹭上青天", Some("写景"), ""),
            ("烽火三边急", "将军百战归", Some("边塞"), ""),
            ("海内存知己", "天涯若比邻", Some("送别"), ""),
            ("一二三", "四五六", None, "nothing"),
            ("春风", "四五", None, "one line alone"),
        ] {
            assert_eq!(theme(upper, lower).map(Theme::name), want, "{upper} {lower}: {why}");
        }
    }

    #[test]
    fn no_word_stands_twice_in_a_theme() {
        for line in words::lines(include_str!("tables/themes.txt")) {
            let (name, words) = line.split_once('\t').unwrap();
            let mut all: Vec<&str> = words.split(' ').collect();
            let count = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), count, "{name}");
            assert!(count < 200 && all.iter().all(|word| !word.is_empty()), "{name}");
        }
        assert!(TABLE.names.len() <= 32, "a bit for each");
    }
}
