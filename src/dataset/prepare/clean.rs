//! Which pairs are worth training on, and why the others are not.

use super::{
    Options,
    read::{Broken, Pair, Place},
    reason::{self, Reason},
    text::Tidy,
    themes::{self, Theme},
};
use crate::{
    prosody::{self, bare},
    rng::Key,
};
use rayon::prelude::*;
use std::collections::HashMap;

/// A couplet that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub place: Place,
    pub upper: String,
    pub lower: String,
    /// Random, by the characters and the seed alone: where the row stands in a drawing, wherever it stands in its file.
    pub draw: u64,
    pub theme: Option<Theme>,
}

/// A row that is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dropped {
    pub place: Place,
    pub reason: Reason,
    /// What was found.
    pub fact: String,
    pub text: String,
}

/// What came of all rows.
#[derive(Debug, Default)]
pub(super) struct Cleaned {
    /// In the order read.
    pub rows: Vec<Row>,
    /// In the order read.
    pub dropped: Vec<Dropped>,
    /// Rows before whose side stood `上联：`.
    pub with_heading: usize,
    /// Rows written with blanks between the characters.
    pub spaced: usize,
    /// Kept rows whose tones are wrong.
    pub wrong_tones: usize,
    /// Of each file.
    pub ends: Vec<Ends>,
    /// Kept rows with characters of traditional script.
    pub traditional: usize,
    /// Kept rows that end with a mark on either side.
    pub ending_in_mark: usize,
}

/// How the rows of a file end that are well but for their tones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ends {
    pub rows: usize,
    /// 上联 does not end in 仄, or 下联 not in 平.
    pub wrong: usize,
}

/// Tidies and examines every pair.
pub(super) fn clean(pairs: Vec<Pair>, broken: Vec<Broken>, options: &Options) -> Cleaned {
    let examined: Vec<Examined> = pairs.into_par_iter().map(|pair| examine(pair, options)).collect();
    let mut cleaned = Cleaned::default();
    let mut seen = Seen::default();
    for Examined { row, fault, with_heading, spaced, wrong_tones, wrong_ends } in examined {
        cleaned.with_heading += usize::from(with_heading);
        cleaned.spaced += usize::from(spaced);
        let fault = fault.or_else(|| seen.before(&row, cleaned.rows.len(), &cleaned.rows, options));
        if fault.as_ref().is_none_or(|(reason, _)| *reason == Reason::Tones) {
            cleaned.note_ends(row.place.file as usize, wrong_ends);
        }
        match fault {
            Some((reason, fact)) => {
                let text = format!("{} / {}", row.upper, row.lower);
                cleaned.dropped.push(Dropped { place: row.place, reason, fact, text });
            }
            None => {
                cleaned.wrong_tones += usize::from(wrong_tones);
                cleaned.note(&row);
                cleaned.rows.push(row);
            }
        }
    }
    let broken =
        broken.into_iter().map(|Broken { place, fact, text }| Dropped { place, reason: Reason::Sides, fact, text });
    cleaned.dropped.extend(broken);
    cleaned.dropped.sort_by_key(|dropped| dropped.place);
    cleaned
}

impl Cleaned {
    fn note_ends(&mut self, file: usize, wrong: bool) {
        self.ends.resize(self.ends.len().max(file + 1), Ends::default());
        self.ends[file].rows += 1;
        self.ends[file].wrong += usize::from(wrong);
    }

    fn note(&mut self, row: &Row) {
        let sides = [&row.upper, &row.lower];
        self.traditional += usize::from(sides.iter().any(|side| side.chars().any(prosody::is_traditional)));
        self.ending_in_mark += usize::from(sides.iter().any(|side| side.ends_with(prosody::is_break)));
    }
}

/// A pair that was looked at by itself.
struct Examined {
    row: Row,
    fault: Option<(Reason, String)>,
    with_heading: bool,
    spaced: bool,
    wrong_tones: bool,
    wrong_ends: bool,
}

fn examine(pair: Pair, options: &Options) -> Examined {
    let tidy = Tidy { simplify: options.simplify, full_width: options.full_width };
    let [upper, lower] = [&pair.upper, &pair.lower].map(|side| tidy.apply(side));
    let with_heading = upper.had_heading || lower.had_heading;
    let spaced = upper.was_spaced || lower.was_spaced;
    let (upper, lower) = (upper.text, lower.text);
    let tones = reason::tones(&upper, &lower);
    let (wrong_tones, wrong_ends) = (reason::are_wrong(tones).is_some(), !tones.end);
    let fault = reason::fault(&upper, &lower, |reason| options.drops(reason));
    let theme = if options.tag { themes::theme(&upper, &lower) } else { None };
    let draw = draw(options.seed, [&upper, &lower].map(|line| digest(line)));
    let row = Row { place: pair.place, upper, lower, draw, theme };
    Examined { row, fault, with_heading, spaced, wrong_tones, wrong_ends }
}

/// The same for all rows that repeat each other, with other marks or with the sides exchanged: only the first of them is kept, and
/// which one that is must not decide whether it is drawn.
fn draw(seed: u64, sides: [Key; 2]) -> u64 {
    let [a, b] = sides.map(Key::bits);
    Key::new(seed, "couplet").with(a.min(b)).with(a.max(b)).bits()
}

/// The lines that came so far: digest of both → index of the row.
#[derive(Default)]
struct Seen(HashMap<u64, usize>);

impl Seen {
    /// Whether `row` came before, either way round; it is remembered as number `index` if it did not.
    fn before(&mut self, row: &Row, index: usize, rows: &[Row], options: &Options) -> Option<(Reason, String)> {
        let is = |first: usize, upper: &str, lower: &str| {
            let first = &rows[first];
            bare(&first.upper).eq(bare(upper)) && bare(&first.lower).eq(bare(lower))
        };
        let (upper, lower) = (digest(&row.upper), digest(&row.lower));
        for (reason, key, a, b) in [
            (Reason::Duplicate, both(upper, lower), &row.upper, &row.lower),
            (Reason::Mirrored, both(lower, upper), &row.lower, &row.upper),
        ] {
            let first = self.0.get(&key).copied().filter(|first| options.drops(reason) && is(*first, a, b));
            if let Some(first) = first {
                let Place { file, line } = rows[first].place;
                return Some((reason, format!("as {}", options.place(file, line))));
            }
        }
        self.0.entry(both(upper, lower)).or_insert(index);
        None
    }
}

fn digest(line: &str) -> Key {
    bare(line).fold(Key::new(0, "line"), |key, c| key.with(u64::from(c)))
}

fn both(upper: Key, lower: Key) -> u64 {
    upper.with(lower.bits()).bits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn options() -> Options {
        Options::new(PathBuf::from("a.txt"), PathBuf::from("out"), "a")
    }

    fn cleaned(pairs: &[(&str, &str)], options: &Options) -> Cleaned {
        let pair = |(line, (upper, lower)): (u32, &(&str, &str))| Pair {
            place: Place { file: 0, line },
            upper: (*upper).into(),
            lower: (*lower).into(),
        };
        clean((1..).zip(pairs).map(pair).collect(), vec![], options)
    }

    fn reasons(pairs: &[(&str, &str)], options: &Options) -> Vec<(u32, Reason, String)> {
        cleaned(pairs, options).dropped.into_iter().map(|row| (row.place.line, row.reason, row.fact)).collect()
    }

    #[test]
    fn each_fault_has_its_reason() {
        use Reason::*;
        for (upper, lower, want, fact) in [
            ("，", "天涯若比邻", Sides, "no 上联"),
            ("海内存知己", "下联：", Sides, "no 下联"),
            ("海内存知己", "天涯A比邻", Characters, "下联, character 3: A"),
            ("海内□知己", "天涯若比邻", Characters, "上联, character 3: □"),
            ("海内\u{7}知己", "天涯若比邻", Characters, "上联, character 3: \\u{7}"),
            ("海内存知己", "天涯若比", Shape, "5 and 4 characters"),
            ("海内，存知己", "天涯若，比邻", Shape, "2+3 and 3+2 characters"),
            ("海内存知己", "海内存知己", Copied, "5 of 5 places hold the same character"),
            ("海内存知己", "海内存山川", Copied, "3 of 5 places hold the same character"),
            ("年年卖萌处", "岁岁读书人", Register, "卖萌"),
        ] {
            let got = reasons(&[(upper, lower)], &options());
            assert_eq!(got, [(1, want, fact.to_owned())], "{upper} {lower}");
            let mut keep = options();
            keep.keep = vec![want];
            let got = reasons(&[(upper, lower)], &keep);
            assert!(got.iter().all(|(_, reason, _)| *reason != want), "kept: {got:?}");
        }
    }

    #[test]
    fn good_rows_stay() {
        for (upper, lower, why) in [
            ("海内存知己", "天涯若比邻", "plain"),
            ("读《离骚》", "饮浊酒", "a title is no character more"),
            ("海内存知己。", "天涯若比邻", "a full stop"),
            ("去一个来一个不多不少", "嫁一个娶一个有哭有笑", "four of ten places are the same"),
            ("天", "地", "one character"),
            ("书山有路勤为径，学海无涯苦作舟", "心路无涯勤作马，春山有路志为舟", "clauses"),
            ("堂内卷帘迎紫燕", "庭前扫叶待黄花", "堂内|卷帘"),
            ("窗外闲听千叶雨", "檐前偶滴三更雨", "偶|滴"),
            ("红颜值千古", "碧血照丹心", "红颜|值"),
            ("靠水水生财有道", "靠山我靠岸无忧", "我|靠"),
            ("奠基友谊千秋业", "携手和平万代功", "奠基|友谊"),
            ("踏破防川千里路", "栽成护岸万行林", "踏破|防"),
            ("绿柳萌萌新芽嫩", "红桃灼灼旧枝香", "buds"),
            ("画楼主客吟明月", "文坛主将写春秋", "画楼|主客, 文坛|主将"),
            ("节操你我同冰雪", "肝胆他人共日星", "节操|你"),
            ("武装逼近千军勇", "号令传来万马腾", "武装|逼近"),
            ("枥马卧槽思远道", "林鸦绕树噪寒烟", "a horse at its manger"),
        ] {
            assert_eq!(reasons(&[(upper, lower)], &options()), [], "{why}");
        }
    }

    #[test]
    fn tones_are_counted_and_dropped_when_asked() {
        let wrong = [("天涯若比邻", "海内存知己"), ("白日依山尽", "绿树绕海流")];
        let got = cleaned(&[&wrong[..], &[("两个黄鹂鸣翠柳", "一行白鹭上青天")]].concat(), &options());
        assert_eq!((got.rows.len(), got.wrong_tones), (2 + 1, 2), "{:?}", got.dropped);
        let strict = Options { strict: true, ..options() };
        let got = reasons(&wrong, &strict);
        let facts: Vec<&str> = got.iter().map(|(_, _, fact)| fact.as_str()).collect();
        assert_eq!(facts, ["上联 does not end in 仄, or 下联 not in 平", "67 % of the nodes oppose each other"]);
        let kept = Options { keep: vec![Reason::Tones], ..strict };
        assert_eq!(reasons(&wrong, &kept), []);
    }

    #[test]
    fn repeats_name_the_row_they_repeat() {
        use Reason::{Duplicate, Mirrored};
        let pairs = [
            ("海内存知己", "天涯若比邻"),
            ("海内存知己", "山外有青天"),
            ("海内存知己，", "天涯若比邻"),
            ("天涯若比邻", "海内存知己"),
            ("海 内 存 知 己", "天 涯 若 比 邻"),
        ];
        let want = [(3, Duplicate), (4, Mirrored), (5, Duplicate)];
        let want: Vec<_> = want.into_iter().map(|(line, reason)| (line, reason, "as a.txt:1".to_owned())).collect();
        assert_eq!(reasons(&pairs, &options()), want);
        let keep = Options { keep: vec![Duplicate, Mirrored], ..options() };
        assert_eq!(reasons(&pairs, &keep), []);
        assert_eq!(cleaned(&pairs, &options()).spaced, 1);
    }

    #[test]
    fn a_draw_depends_on_text_and_seed_alone() {
        let draw = |pairs: &[(&str, &str)], seed| {
            cleaned(pairs, &Options { seed, ..options() }).rows.pop().map(|row| row.draw)
        };
        let pair = ("海内存知己", "天涯若比邻");
        assert_eq!(draw(&[pair], 1), draw(&[("白日依山尽", "黄河入海流"), pair], 1));
        assert_ne!(draw(&[pair], 1), draw(&[pair], 2));
        for (repeat, why) in [(("天涯若比邻", "海内存知己"), "mirrored"), (("海内，存知己", "天涯，若比邻。"), "marks")]
        {
            assert_eq!(draw(&[pair], 1), draw(&[repeat], 1), "{why}");
        }
    }
}
