//! Two lines side by side: the same clauses, and tones that oppose each other (平仄).

use super::{
    line::{characters, clauses, nodes},
    tones::{System, Tone, tone},
};
use serde::Serialize;

/// How the tones of a couplet stand in one system.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
pub struct Tones {
    /// 仄起平收: 上联 may end in 仄, 下联 may end in 平.
    pub end: bool,
    /// Share of nodes where the lines oppose each other; those with an unknown tone are left out. 0 for lines of another shape.
    pub opp: f64,
}

impl Tones {
    /// Both ends right and every node opposed.
    pub fn all(self) -> bool {
        self.end && self.opp == 1.0
    }
}

/// Whether two lines have the same clauses, each with the same number of characters, and any at all.
pub fn same_shape(upper: &str, lower: &str) -> bool {
    let lengths = |line| clauses(line).map(|clause: &str| clause.chars().count());
    lengths(upper).next().is_some() && lengths(upper).eq(lengths(lower))
}

/// The tones of both lines in one system.
pub fn tones(upper: &str, lower: &str, system: System) -> Tones {
    let last = |line| characters(line).last().map_or(Tone::Unknown, |c| tone(c, system));
    let end = last(upper).may_be(Tone::Oblique) && last(lower).may_be(Tone::Level);
    let (mut compared, mut opposed) = (0, 0);
    for opposes in node_pairs(upper, lower).filter_map(|pair| pair.opposed(system)) {
        compared += 1;
        opposed += usize::from(opposes);
    }
    let opp = match compared {
        _ if !same_shape(upper, lower) => 0.0,
        0 => 1.0,
        n => opposed as f64 / f64::from(n),
    };
    Tones { end, opp }
}

/// A node, and what stands on it in both lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodePair {
    /// The clause, from 0.
    pub clause: usize,
    /// The character in its clause, from 0.
    pub at: usize,
    /// What 上联 has there.
    pub upper: char,
    /// What 下联 has there.
    pub lower: char,
}

impl NodePair {
    /// Whether the two may face each other; `None` where a tone is unknown.
    pub fn opposed(self, system: System) -> Option<bool> {
        tone(self.upper, system).opposes(tone(self.lower, system))
    }
}

/// The nodes of two lines of the same shape; of others, those of the clauses that have a partner of equal length.
pub fn node_pairs(upper: &str, lower: &str) -> impl Iterator<Item = NodePair> {
    let pairs = clauses(upper).zip(clauses(lower)).enumerate();
    pairs.flat_map(|(clause, (a, b))| {
        let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
        let len = if a.len() == b.len() { a.len() } else { 0 };
        nodes(len).map(move |at| NodePair { clause, at, upper: a[at], lower: b[at] })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_one_shape_or_not() {
        for (upper, lower, want, why) in [
            ("白日依山尽", "黄河入海流", true, "five and five"),
            ("白日，依山尽", "黄河、入海流", true, "the mark may be another"),
            ("白日依山尽", "黄河入海", false, "a character less"),
            ("白日，依山尽", "黄河入，海流", false, "other clauses"),
            ("白日依山尽", "黄河入海流，", true, "no clause behind a mark"),
            ("", "", false, "nothing"),
        ] {
            assert_eq!(same_shape(upper, lower), want, "{why}");
        }
    }

    #[test]
    fn nodes_are_compared_where_clauses_are_equally_long() {
        let places = |upper, lower| node_pairs(upper, lower).map(|pair| (pair.clause, pair.at)).collect::<Vec<_>>();
        assert_eq!(places("白日，依山尽", "黄河，入海流"), [(0, 1), (1, 1), (1, 2)]);
        assert_eq!(places("白日，依山尽", "黄河，入海"), [(0, 1)]);
        let tones = tones("白日依山尽", "黄河入海流", System::Pingshui);
        assert!(tones.all(), "{tones:?}");
        assert_eq!(super::tones("白日依山尽", "黄河入海", System::Pingshui), Tones { end: false, opp: 0.0 });
    }
}
