//! Closed classes: characters that ask for one of their own kind at the same place.

use serde::Serialize;

/// A class whose members can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// 数目.
    Number,
    /// 颜色.
    Colour,
    /// 方位.
    Direction,
    /// 叠字: a character and the same one after it.
    Doubled,
    /// 虚字.
    Function,
}

impl Kind {
    /// All of them, in the order of [`super::Verdict::kinds`].
    pub const ALL: [Self; 5] = [Self::Number, Self::Colour, Self::Direction, Self::Doubled, Self::Function];

    /// The class in Chinese or English.
    pub fn name(self, chinese: bool) -> &'static str {
        match (self, chinese) {
            (Self::Number, true) => "数目",
            (Self::Number, false) => "a number",
            (Self::Colour, true) => "颜色",
            (Self::Colour, false) => "a colour",
            (Self::Direction, true) => "方位",
            (Self::Direction, false) => "a direction",
            (Self::Doubled, true) => "叠字",
            (Self::Doubled, false) => "a doubled character",
            (Self::Function, true) => "虚字",
            (Self::Function, false) => "a function word",
        }
    }

    fn members(self) -> &'static str {
        match self {
            Self::Number => "一二三四五六七八九十百千万亿零〇两双半孤独几数",
            Self::Colour => "红黄蓝白黑青绿紫赤朱丹翠碧苍素玄皓黛绛绯金银",
            Self::Direction => "东南西北中上下左右前后内外里间边旁",
            Self::Doubled => "",
            Self::Function => "之乎者也矣焉哉兮而且以于与其所则乃虽若因即亦又更还犹尚仍已曾将未不莫勿非岂何的了着和",
        }
    }

    /// Whether the character at `at` of a line (without breaks) is of this kind.
    fn has(self, line: &[char], at: usize) -> bool {
        match self {
            Self::Doubled => at + 1 < line.len() && line[at] == line[at + 1],
            _ => self.members().contains(line[at]),
        }
    }
}

/// How often a kind is asked for, and answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Characters of 上联 that are of the kind.
    pub asked: usize,
    /// Those that 下联 answers with one of the same kind.
    pub answered: usize,
}

/// The tallies of two lines without breaks, in the order of [`Kind::ALL`].
pub(super) fn tallies(upper: &[char], lower: &[char]) -> [Tally; Kind::ALL.len()] {
    Kind::ALL.map(|kind| {
        let asked = (0..upper.len()).filter(|at| kind.has(upper, *at));
        asked.fold(Tally::default(), |tally, at| Tally {
            asked: tally.asked + 1,
            answered: tally.answered + usize::from(at < lower.len() && kind.has(lower, at)),
        })
    })
}

/// The places of 上联 whose kind is not answered. Lines of equal length, without breaks.
pub(super) fn unanswered(upper: &[char], lower: &[char]) -> impl Iterator<Item = (usize, Kind)> {
    let pairs = Kind::ALL.into_iter().flat_map(|kind| (0..upper.len()).map(move |at| (at, kind)));
    pairs.filter(|(at, kind)| kind.has(upper, *at) && !kind.has(lower, *at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_answered_in_kind() {
        for (upper, lower, kind, asked, answered, why) in [
            ("两个黄鹂", "一行白鹭", Kind::Number, 1, 1, "两 and 一"),
            ("两个黄鹂", "一行白鹭", Kind::Colour, 1, 1, "黄 and 白"),
            ("两个黄鹂", "春行水鹭", Kind::Number, 1, 0, "春 is no number"),
            ("东风", "北", Kind::Direction, 1, 1, "a short answer is no panic"),
            ("风东", "北", Kind::Direction, 1, 0, "nothing at that place"),
            ("萧萧下", "滚滚来", Kind::Doubled, 1, 1, "the pair counts once"),
            ("山水", "花草", Kind::Function, 0, 0, "nothing asked"),
        ] {
            let lines = [upper, lower].map(|line| line.chars().collect::<Vec<_>>());
            let got = tallies(&lines[0], &lines[1])[kind as usize];
            assert_eq!(got, Tally { asked, answered }, "{upper} {lower}: {why}");
        }
    }

    #[test]
    fn no_character_is_of_two_kinds() {
        let all: Vec<char> = Kind::ALL.into_iter().flat_map(|kind| kind.members().chars()).collect();
        for (at, c) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(c), "{c}");
        }
    }
}
