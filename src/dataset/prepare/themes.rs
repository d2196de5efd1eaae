//! What a couplet is about, as far as a list of words can tell: 写景, 抒情, 节庆 …
//!
//! A word of one character weighs 1, of two 3, of three or more 5, and 2 more are given where both lines hold words of the theme.
//! A special theme needs a weight of 3; the general ones (抒情, 写景), whose words are everywhere, count only where no special
//! one does, and need words in both lines. The heaviest wins; among equals the one that stands first in the table.

use super::words::{self, Words};
use std::{cmp::Reverse, collections::HashMap, sync::LazyLock};

/// The least weight of a special theme.
const LEAST: u32 = 3;
/// What it is worth that both lines speak of it.
const SHARED: u32 = 2;

/// What a couplet is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Theme {
    /// Index into the table.
    pub index: usize,
    /// Both lines speak of it.
    pub shared: bool,
}

impl Theme {
    /// What it is called.
    pub(super) fn name(self) -> &'static str {
        TABLE.themes[self.index].0
    }
}

struct Table {
    /// Name, and whether it is general.
    themes: Vec<(&'static str, bool)>,
    /// The themes of each word, a bit for each.
    words: Words<u32>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let lines: Vec<(&str, &str)> = words::lines(include_str!("tables/themes.txt"))
        .map(|line| line.split_once('\t').expect("each line of the table has a tab"))
        .collect();
    let mut bits: HashMap<&'static str, u32> = HashMap::new();
    for (theme, (_, words)) in lines.iter().enumerate() {
        words.split(' ').for_each(|word| *bits.entry(word).or_default() |= 1 << theme);
    }
    let theme = |(name, _): &(&'static str, &str)| (name.trim_start_matches('~'), name.starts_with('~'));
    Table { themes: lines.iter().map(theme).collect(), words: Words::new(bits) }
});

/// The theme of a couplet, if its words tell one.
pub(super) fn theme(upper: &str, lower: &str) -> Option<Theme> {
    let [upper, lower] = [upper, lower].map(weights);
    let of = |(index, (_, general)): (usize, &(&str, bool))| {
        let shared = upper[index] > 0 && lower[index] > 0;
        let weight = upper[index] + lower[index] + if shared { SHARED } else { 0 };
        let counts = if *general { shared } else { weight >= LEAST };
        counts.then_some((*general, Reverse(weight), Theme { index, shared }))
    };
    TABLE.themes.iter().enumerate().filter_map(of).min().map(|(_, _, theme)| theme)
}

/// The weight of every theme in a line.
fn weights(line: &str) -> Vec<u32> {
    let mut weights = vec![0; TABLE.themes.len()];
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
        for (upper, lower, want, shared, why) in [
            ("爆竹一声除旧岁", "桃符万户换新春", Some("节庆"), true, "both lines"),
            (
                "爆竹声暖两千岁",
                "红杏花香一片春",
                Some("节庆"),
                false,
                "one line, and 红 杏 花 春 say nothing against it",
            ),
            ("福如东海长流水", "寿比南山不老松", Some("祝寿"), true, "the special one"),
            ("洞房花烛良宵夜", "琴瑟和鸣百岁缘", Some("婚庆"), true, ""),
            ("书山有路勤为径", "学海无涯苦作舟", Some("治学"), true, ""),
            ("烽火三边急", "铁骑一夜归", Some("边塞"), true, ""),
            ("两个黄鹂鸣翠柳", "一行白鹭上青天", Some("写景"), true, "a general one, where there is no other"),
            ("枕上思亲泪", "灯前感旧情", Some("抒情"), true, ""),
            ("春风", "四五", None, false, "a general one in one line alone"),
            ("一二三", "四五六", None, false, "nothing"),
        ] {
            let got = theme(upper, lower);
            assert_eq!(got.map(Theme::name), want, "{upper} {lower}: {why}");
            assert_eq!(got.is_some_and(|theme| theme.shared), shared, "{upper} {lower}: {why}");
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
        assert!(TABLE.themes.len() <= 32, "a bit for each");
    }
}
