//! Why a row is not worth training on.

use super::{
    text::is_han,
    words::{self, Words},
};
use crate::prosody::{self, System, Tones, bare, bare_shape, is_mark};
use std::sync::LazyLock;

/// Tones are right where the lines end as they should and so many of their nodes oppose each other.
const OPPOSED: f64 = 0.75;

/// Why a row is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// There are no two sides.
    Sides,
    /// A character that is not Chinese.
    Characters,
    /// Other clauses, or clauses of another length.
    Shape,
    /// Half of the places or more hold the same character on both sides.
    Copied,
    /// Network slang or abuse, by a list of words.
    Register,
    /// 仄起平收 or more than a quarter of the nodes are wrong in both systems. Counted; dropped only when asked.
    Tones,
    /// A row before it has the same lines.
    Duplicate,
    /// A row before it has the same lines the other way round.
    Mirrored,
}

impl Reason {
    /// Every reason, in the order in which rows are examined.
    pub const ALL: [Self; 8] = [
        Self::Sides,
        Self::Characters,
        Self::Shape,
        Self::Copied,
        Self::Register,
        Self::Tones,
        Self::Duplicate,
        Self::Mirrored,
    ];

    /// Its name on the command line and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sides => "sides",
            Self::Characters => "characters",
            Self::Shape => "shape",
            Self::Copied => "copied",
            Self::Register => "register",
            Self::Tones => "tones",
            Self::Duplicate => "duplicate",
            Self::Mirrored => "mirrored",
        }
    }

    /// What it means, in a few words.
    pub fn text(self, chinese: bool) -> &'static str {
        match (self, chinese) {
            (Self::Sides, true) => "不是上下两联",
            (Self::Sides, false) => "not two sides",
            (Self::Characters, true) => "含非汉字",
            (Self::Characters, false) => "characters that are not Chinese",
            (Self::Shape, true) => "分句或字数不等",
            (Self::Shape, false) => "unequal clauses or lengths",
            (Self::Copied, true) => "下联照抄上联",
            (Self::Copied, false) => "the same line, or half of it",
            (Self::Register, true) => "网络用语、粗话",
            (Self::Register, false) => "network slang or abuse",
            (Self::Tones, true) => "平仄不合",
            (Self::Tones, false) => "wrong tones",
            (Self::Duplicate, true) => "重复",
            (Self::Duplicate, false) => "a repeat",
            (Self::Mirrored, true) => "上下联互换的重复",
            (Self::Mirrored, false) => "a repeat with the sides exchanged",
        }
    }
}

/// What is wrong with a pair by itself: the first of the reasons in their order that `counts`, and what was found.
pub(super) fn fault(upper: &str, lower: &str, counts: impl Fn(Reason) -> bool) -> Option<(Reason, String)> {
    let mut faults = FAULTS.into_iter().filter(|(reason, _)| counts(*reason));
    faults.find_map(|(reason, of)| Some((reason, of(upper, lower)?)))
}

/// What is wrong with a pair, if it is that.
type Fault = fn(&str, &str) -> Option<String>;

/// What can be seen of a pair alone, in this order.
const FAULTS: [(Reason, Fault); 6] = [
    (Reason::Sides, empty_side),
    (Reason::Characters, other_characters),
    (Reason::Shape, other_shape),
    (Reason::Copied, copied),
    (Reason::Register, register),
    (Reason::Tones, wrong_tones),
];

fn empty_side(upper: &str, lower: &str) -> Option<String> {
    let empty = |line: &str| bare(line).next().is_none();
    match (empty(upper), empty(lower)) {
        (true, _) => Some("no 上联".into()),
        (_, true) => Some("no 下联".into()),
        _ => None,
    }
}

fn other_characters(upper: &str, lower: &str) -> Option<String> {
    let first = |line: &str| line.chars().zip(1..).find(|(c, _)| !is_han(*c) && !is_mark(*c));
    let (side, (c, at)) = match (first(upper), first(lower)) {
        (Some(found), _) => ("上联", found),
        (_, Some(found)) => ("下联", found),
        _ => return None,
    };
    Some(format!(
        "{side}, character {at}: {}",
        if c.is_control() { c.escape_unicode().to_string() } else { c.to_string() }
    ))
}

fn other_shape(upper: &str, lower: &str) -> Option<String> {
    let [upper, lower] = [upper, lower].map(bare_shape);
    let text = |shape: &[usize]| shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
    (upper != lower).then(|| format!("{} and {} characters", text(&upper), text(&lower)))
}

fn copied(upper: &str, lower: &str) -> Option<String> {
    let places = bare(upper).count().max(1);
    let same = bare(upper).zip(bare(lower)).filter(|(a, b)| a == b).count();
    (2 * same >= places).then(|| format!("{same} of {places} places hold the same character"))
}

fn register(upper: &str, lower: &str) -> Option<String> {
    static SLANG: LazyLock<Words<()>> = LazyLock::new(|| {
        let words = words::lines(include_str!("tables/register.txt")).flat_map(|line| line.split(' '));
        Words::new(words.map(|word| (word, ())))
    });
    [upper, lower].into_iter().find_map(|line| SLANG.found(line).next()).map(|(word, ())| word.to_owned())
}

fn wrong_tones(upper: &str, lower: &str) -> Option<String> {
    are_wrong(tones(upper, lower))
}

/// What is wrong with the tones of a couplet.
pub(super) fn are_wrong(tones: Tones) -> Option<String> {
    match (tones.end, tones.opp >= OPPOSED) {
        (true, true) => None,
        (false, _) => Some("上联 does not end in 仄, or 下联 not in 平".into()),
        (true, false) => Some(format!("{:.0} % of the nodes oppose each other", 100.0 * tones.opp)),
    }
}

/// The couplet follows the system in which it does better.
pub(super) fn tones(upper: &str, lower: &str) -> Tones {
    let [pingshui, modern] = System::ALL.map(|system| prosody::tones(upper, lower, system));
    if modern > pingshui { modern } else { pingshui }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_of_the_register_stands_twice() {
        let mut all: Vec<&str> =
            words::lines(include_str!("tables/register.txt")).flat_map(|line| line.split(' ')).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(count > 100 && all.iter().all(|word| word.chars().all(is_han)), "{all:?}");
    }
}
