//! Rows that must not be parted: a line of the one is a line of the other, but for one character at most.
//!
//! A line of `n` characters has `n + 1` keys: itself, and itself with each character blanked out. Two lines differ in one
//! place at most exactly where they share a key (but for collisions of 64 bits), so nothing is compared in pairs and the time
//! is that of sorting the keys.

use super::text::characters;
use crate::rng::Key;
use rayon::prelude::*;

/// Lines from so many characters on are near when one of them differs; of shorter ones too much else would be near.
pub(super) const NEAR: usize = 4;

/// For every row the first row of its group, given both lines of each. Marks are no characters here.
pub(super) fn groups<'a>(rows: impl IndexedParallelIterator<Item = [&'a str; 2]>) -> Vec<usize> {
    let count = rows.len();
    let of = |(row, lines): (usize, [&str; 2])| {
        lines.map(keys).into_iter().flatten().map(|key| (key, row as u32)).collect::<Vec<_>>()
    };
    let mut keys: Vec<(u64, u32)> = rows.enumerate().flat_map_iter(of).collect();
    keys.par_sort_unstable();
    let mut first: Vec<usize> = (0..count).collect();
    for same in keys.chunk_by(|a, b| a.0 == b.0) {
        for row in &same[1..] {
            let (a, b) = (root(&mut first, same[0].1 as usize), root(&mut first, row.1 as usize));
            first[a.max(b)] = a.min(b);
        }
    }
    (0..count).map(|row| root(&mut first, row)).collect()
}

/// The first row of the group of `row`; the way there is halved for the next one who asks.
fn root(first: &mut [usize], mut row: usize) -> usize {
    while first[row] != row {
        first[row] = first[first[row]];
        row = first[row];
    }
    row
}

/// The line as a sum over its characters, so that one of them is exchanged by a subtraction; then with each of them blanked out.
fn keys(line: &str) -> Vec<u64> {
    let at = |place: usize, sign: u64| Key::new(0, "").with(place as u64).with(sign).bits();
    let signs: Vec<u64> = characters(line).map(u64::from).collect();
    let whole = signs.iter().enumerate().fold(0u64, |sum, (place, sign)| sum.wrapping_add(at(place, *sign)));
    let near = if signs.len() >= NEAR { signs.as_slice() } else { &[] };
    // No character is u32::MAX.
    let blanked = |(place, sign): (usize, &u64)| {
        whole.wrapping_sub(at(place, *sign)).wrapping_add(at(place, u64::from(u32::MAX)))
    };
    std::iter::once(whole).chain(near.iter().enumerate().map(blanked)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows: &[[&str; 2]]) -> Vec<usize> {
        groups(rows.par_iter().copied())
    }

    #[test]
    fn rows_hang_together_by_a_line() {
        let row = ["海内存知己", "天涯若比邻"];
        for (other, together, why) in [
            (["海内存知己", "山外有青天"], true, "the same 上联"),
            (["山外有青天", "天涯若比邻"], true, "the same 下联"),
            (["天涯若比邻", "山外有青天"], true, "on the other side"),
            (["海内有知己", "山外有青天"], true, "one character"),
            (["海内，存知己。", "山外有青天"], true, "marks are none"),
            (["海内有知音", "天涯如芳邻"], false, "two characters"),
            (["海内存知", "天涯若比"], false, "a character less"),
            (["内海存知己", "涯天若比邻"], false, "another order"),
        ] {
            assert_eq!(of(&[row, other]), if together { [0, 0] } else { [0, 1] }, "{why}");
        }
        assert_eq!(of(&[["云对雨", "雪对风"], ["云对雨", "花对树"]]), [0, 0], "a short line, the same");
        assert_eq!(of(&[["云对雨", "雪对风"], ["云对雪", "花对树"]]), [0, 1], "a short line, another");
        assert_eq!(of(&[]), [0; 0]);
    }

    #[test]
    fn keys_find_what_comparing_every_pair_finds() {
        let key = Key::new(3, "lines");
        let line = |seed: u64| -> String {
            (0..5).map(|i| ['甲', '乙', '丙', '丁'][(key.uniform(seed * 8 + i) * 4.0) as usize % 4]).collect()
        };
        let rows: Vec<[String; 2]> = (0..120).map(|row| [line(2 * row), line(2 * row + 1) + "末尾"]).collect();
        let near = |a: &str, b: &str| {
            a.chars().count() == b.chars().count() && a.chars().zip(b.chars()).filter(|(a, b)| a != b).count() <= 1
        };
        let mut want: Vec<usize> = (0..rows.len()).collect();
        let mut changed = true;
        while changed {
            changed = false;
            for (a, b) in (0..rows.len()).flat_map(|a| (0..a).map(move |b| (a, b))) {
                let together = rows[a].iter().any(|x| rows[b].iter().any(|y| near(x, y)));
                if together && want[a] != want[b] {
                    let least = want[a].min(want[b]);
                    (want[a], want[b], changed) = (least, least, true);
                }
            }
        }
        let lines: Vec<[&str; 2]> = rows.iter().map(|[a, b]| [a.as_str(), b.as_str()]).collect();
        assert_eq!(of(&lines), want);
        assert!(want.iter().any(|first| *first > 0) && want.iter().filter(|first| **first == 0).count() > 1);
    }
}
