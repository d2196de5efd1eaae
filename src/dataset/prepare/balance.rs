//! Equal shares of lengths: 五言, 七言 and the rest as often as each other.

use super::clean::Row;
use crate::prosody::bare;

/// No row stands in the training data more often than this.
pub(super) const MOST: usize = 4;

/// Classes of lengths: a name in English and in Chinese, and the most characters of a line in it.
const CLASSES: [(&str, &str, usize); 7] = [
    ("up to 4", "四言以下", 4),
    ("5", "五言", 5),
    ("6", "六言", 6),
    ("7", "七言", 7),
    ("8", "八言", 8),
    ("9 to 12", "九至十二言", 12),
    ("13 and more", "十三言以上", usize::MAX),
];

/// What happened to one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balanced {
    /// Its name in English.
    pub en: &'static str,
    /// Its name in Chinese.
    pub zh: &'static str,
    /// Rows before.
    pub before: usize,
    /// Rows after, copies among them.
    pub after: usize,
}

/// How often each row is to stand: rows of frequent lengths are drawn, rows of rare ones repeated, up to [`MOST`] times.
///
/// The aim is the same number of rows for every class that occurs, and about as many rows in all as there were.
pub(super) fn copies(rows: &[&Row]) -> (Vec<usize>, Vec<Balanced>) {
    let mut classes: Vec<Vec<usize>> = vec![vec![]; CLASSES.len()];
    for (index, row) in rows.iter().enumerate() {
        let len = bare(&row.upper).count();
        classes[CLASSES.iter().position(|(_, _, most)| len <= *most).unwrap_or(CLASSES.len() - 1)].push(index);
    }
    let aim = rows.len() / classes.iter().filter(|class| !class.is_empty()).count().max(1);
    let mut copies = vec![0; rows.len()];
    let mut balanced = vec![];
    for (mut class, (en, zh, _)) in classes.into_iter().zip(CLASSES).filter(|(class, _)| !class.is_empty()) {
        let before = class.len();
        let after = aim.min(MOST * before);
        class.sort_by_key(|&row| (rows[row].draw, row));
        for (rank, row) in class.into_iter().enumerate() {
            copies[row] = after / before + usize::from(rank < after % before);
        }
        balanced.push(Balanced { en, zh, before, after });
    }
    (copies, balanced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dataset::prepare::read::Place, rng::Key};

    #[test]
    fn lengths_come_to_equal_shares() {
        let row = |index: usize, len: usize| Row {
            place: Place { file: 0, line: index as u32 },
            upper: "天".repeat(len) + "，",
            lower: String::new(),
            draw: Key::new(1, "rows").with(index as u64).bits(),
            theme: None,
        };
        // 100 of five, 40 of seven, 10 of ten characters: 50 each, and ten can be 40 at most.
        let lengths = [(5, 100), (7, 40), (10, 10)].into_iter().flat_map(|(len, count)| vec![len; count]);
        let rows: Vec<Row> = lengths.enumerate().map(|(index, len)| row(index, len)).collect();
        let (copies, balanced) = copies(&rows.iter().collect::<Vec<_>>());
        let counts: Vec<_> = balanced.iter().map(|class| (class.en, class.before, class.after)).collect();
        assert_eq!(counts, [("5", 100, 50), ("7", 40, 50), ("9 to 12", 10, 40)]);
        for (range, after, least, most) in [(0..100, 50, 0, 1), (100..140, 50, 1, 2), (140..150, 40, 4, 4)] {
            let part = &copies[range.clone()];
            assert_eq!(part.iter().sum::<usize>(), after, "{range:?}");
            assert_eq!((part.iter().min(), part.iter().max()), (Some(&least), Some(&most)), "{range:?}");
        }
        assert!(copies[..50].contains(&0), "drawn, not the first ones");
        assert_eq!(super::copies(&[]).1, []);
    }
}
