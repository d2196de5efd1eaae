//! Which rows are taken, and which of them are trained on, validated with and tested with.

use super::clean::Row;
use crate::error::{Error, Result};
use std::{fmt, str::FromStr};

/// Groups larger than this are drawn last, so that they are trained on unless nothing else fills the held-out parts: many rows of
/// one kind would make a poor judge.
const LARGE: usize = 6;
/// Without a wish: one in twenty for validation, as many for the test, and no more than this.
const HELD_OUT: usize = 1000;

/// A part of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// To train on.
    Train,
    /// To watch while training.
    Valid,
    /// To judge the result.
    Test,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Train, Self::Valid, Self::Test];

    /// The name of this part of a data set.
    pub fn of(self, name: &str) -> String {
        match self {
            Self::Train => name.to_owned(),
            Self::Valid => format!("{name}_valid"),
            Self::Test => format!("{name}_test"),
        }
    }
}

/// How large a part is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// A share of all rows, 0 to 1.
    Share(f64),
    /// So many rows.
    Count(usize),
    /// What is left.
    Rest,
}

/// How large the parts are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Split {
    /// One row in twenty each for validation and test, at most 1,000 each; none of fewer than 20.
    Auto,
    /// Training, validation, test.
    Parts([Amount; 3]),
}

impl FromStr for Split {
    type Err = String;

    /// `90/5/5` and `90%/5%/5%`, `0.9/0.05/0.05`, `50000/2000/2000`, `rest/2000/2000`, `rest/5%/5%`, `90/10`, `none`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no split: write train/valid/test as shares (90/5/5, 90%/5%/5%), counts (50000/2000/2000, rest/1000/1000), or none"
            )
        };
        match text {
            "auto" => return Ok(Self::Auto),
            "none" => return Ok(Self::Parts([Amount::Rest, Amount::Count(0), Amount::Count(0)])),
            _ => {}
        }
        let numbers = numbers(text).ok_or_else(wrong)?;
        let (sum, has_rest) = (numbers.iter().flatten().sum::<f64>(), numbers.contains(&None));
        let is_all = |whole: f64| (sum - whole).abs() < 1e-9;
        let whole = match text.contains('%') {
            true if is_all(100.0) || has_rest && sum < 100.0 => Some(100.0),
            true => return Err(format!("`{text}` adds up to {sum} %: write 100 in all, or `rest` for one part")),
            false => [1.0, 100.0].into_iter().find(|whole| !has_rest && is_all(*whole)),
        };
        let mut parts = [Amount::Count(0); 3];
        for (part, number) in parts.iter_mut().zip(numbers) {
            *part = Amount::of(number, whole).ok_or_else(wrong)?;
        }
        Ok(Self::Parts(parts))
    }
}

impl Amount {
    /// Of a number of a split; `whole`: what all of them add up to, if they are shares. `None`: a part of a row.
    fn of(number: Option<f64>, whole: Option<f64>) -> Option<Self> {
        match (number, whole) {
            (None, _) => Some(Self::Rest),
            (Some(n), Some(whole)) => Some(Self::Share(n / whole)),
            (Some(n), None) => (n.fract() == 0.0).then_some(Self::Count(n as usize)),
        }
    }
}

/// The two or three numbers of a split, with or without `%`; `None` among them: `rest`, for one part at most.
fn numbers(text: &str) -> Option<Vec<Option<f64>>> {
    let percent = text.contains('%');
    let number = |word: &str| -> Option<Option<f64>> {
        if word == "rest" {
            return Some(None);
        }
        let digits = if percent { word.strip_suffix('%')?.trim() } else { word };
        digits.parse().ok().filter(|n| *n >= 0.0).map(Some)
    };
    let numbers: Vec<Option<f64>> = text.split('/').map(|word| number(word.trim())).collect::<Option<_>>()?;
    let rests = numbers.iter().filter(|number| number.is_none()).count();
    ((2..=3).contains(&numbers.len()) && rests <= 1).then_some(numbers)
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{share}"),
            Self::Count(count) => write!(f, "{count}"),
            Self::Rest => f.write_str("rest"),
        }
    }
}

impl Split {
    /// Numbers that were taken for counts of rows and come near 100, so that they may be meant as percent: their sum.
    pub(super) fn looks_like_shares(self) -> Option<usize> {
        let Self::Parts(parts) = self else { return None };
        let count = |amount: Amount| if let Amount::Count(n) = amount { Some(n) } else { None };
        let sum = parts.into_iter().try_fold(0usize, |sum, part| Some(sum.saturating_add(count(part)?)));
        sum.filter(|sum| (90..=100).contains(sum))
    }

    /// Whether the user wants rows in a part (0 training, 1 validation, 2 test), be it a single one.
    pub(super) fn asks_for(self, part: usize) -> bool {
        match self {
            Self::Auto => false,
            Self::Parts(parts) => match parts[part] {
                Amount::Share(share) => share > 0.0,
                Amount::Count(count) => count > 0,
                Amount::Rest => false,
            },
        }
    }

    /// Rows of each part out of `rows`. Shares are rounded down, and what is left over is trained on.
    pub(super) fn sizes(self, rows: usize) -> Result<[usize; 3]> {
        let parts = match self {
            Self::Auto => {
                let held_out = Amount::Count((rows / 20).min(HELD_OUT));
                [Amount::Rest, held_out, held_out]
            }
            Self::Parts(parts) => parts,
        };
        let size = |amount: Amount| match amount {
            Amount::Share(share) => (share * rows as f64 + 1e-9) as usize,
            Amount::Count(count) => count,
            Amount::Rest => 0,
        };
        let mut sizes = parts.map(size);
        let asked = sizes.iter().fold(0usize, |sum, size| sum.saturating_add(*size));
        if asked > rows {
            return Err(Error::input(format!("{asked} rows are asked for, and {rows} are left after cleaning"))
                .hint("ask for fewer, or for `rest` in one part: --split rest/1000/1000")
                .hint_zh("请减少行数，或让其中一份写 rest：--split rest/1000/1000"));
        }
        if let Some(rest) = parts.iter().position(|amount| *amount == Amount::Rest) {
            sizes[rest] = rows - asked;
        } else if matches!(parts[0], Amount::Share(_)) {
            sizes[0] += rows - asked;
        }
        Ok(sizes)
    }
}

/// The `count` rows that are drawn, in the order they had. Under `tag` those come first whose lines share a
/// theme, then those with any.
pub(super) fn take(mut rows: Vec<Row>, count: usize) -> Result<Vec<Row>> {
    if count == 0 {
        return Err(Error::input("--take 0 takes no couplet")
            .hint("leave it out to take all, or name how many")
            .hint_zh("不写 --take 则取全部；否则请写明数目"));
    }
    if count > rows.len() {
        return Err(Error::input(format!("--take {count}, but {} rows are left after cleaning", rows.len()))
            .hint("take fewer, or keep rows that were dropped: --keep REASON")
            .hint_zh("请减少 --take 的数目，或用 --keep 保留被剔除的行"));
    }
    let mut order: Vec<usize> = (0..rows.len()).collect();
    let rank = |row: &Row| row.theme.map_or(2, |theme| usize::from(!theme.shared));
    order.sort_by_key(|&row| (rank(&rows[row]), rows[row].draw, row));
    let mut taken = vec![false; rows.len()];
    order[..count].iter().for_each(|&row| taken[row] = true);
    let mut taken = taken.into_iter();
    rows.retain(|_| taken.next().unwrap_or(false));
    Ok(rows)
}

/// The part of every row, `None` where it is not needed. `groups` as [`crate::dataset::near::groups`] has them: none is parted.
///
/// Groups are drawn one by one, small ones first; each goes to validation, else to the test, if it still fits there, else to
/// training. So the held-out parts may miss some of their rows, and what they miss is trained on.
pub(super) fn assign(rows: &[Row], groups: &[usize], sizes: [usize; 3]) -> Vec<Option<Part>> {
    let mut size = vec![0; rows.len()];
    let mut draw = vec![u64::MAX; rows.len()];
    for (row, &group) in rows.iter().zip(groups) {
        size[group] += 1;
        draw[group] = draw[group].min(row.draw);
    }
    let mut order: Vec<usize> = (0..rows.len()).filter(|&group| size[group] > 0).collect();
    order.sort_by_key(|&group| (size[group] > LARGE, draw[group], group));

    let [train, mut valid, mut test] = sizes;
    let mut part_of = vec![Part::Train; rows.len()];
    for group in order {
        part_of[group] = if size[group] <= valid {
            valid -= size[group];
            Part::Valid
        } else if size[group] <= test {
            test -= size[group];
            Part::Test
        } else {
            Part::Train
        };
    }
    let mut parts: Vec<Option<Part>> = groups.iter().map(|&group| Some(part_of[group])).collect();
    let mut trained: Vec<usize> = (0..rows.len()).filter(|&row| parts[row] == Some(Part::Train)).collect();
    // What is not trained on is used nowhere.
    let wanted = if sizes.iter().sum::<usize>() == rows.len() { trained.len() } else { train };
    trained.sort_by_key(|&row| (rows[row].draw, row));
    trained.iter().skip(wanted).for_each(|&row| parts[row] = None);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dataset::prepare::read::Place, rng::Key};

    fn rows(count: usize) -> Vec<Row> {
        let row = |line: usize| Row {
            place: Place { file: 0, line: line as u32 },
            upper: String::new(),
            lower: String::new(),
            draw: Key::new(7, "rows").with(line as u64).bits(),
            theme: None,
        };
        (0..count).map(row).collect()
    }

    #[test]
    fn splits_are_shares_or_counts() {
        for (text, rows, want, why) in [
            ("90/5/5", 1000, [900, 50, 50], "percent"),
            ("0.9/0.05/0.05", 1000, [900, 50, 50], "shares"),
            ("90/5/5", 19, [19, 0, 0], "rounded down; the rest is trained on"),
            ("80/20", 10, [8, 2, 0], "no test"),
            ("90%/5%/5%", 1000, [900, 50, 50], "percent, said"),
            ("rest/5 %/5 %", 1000, [900, 50, 50], "percent, and the rest"),
            ("80/10", 1000, [80, 10, 0], "counts, for they are not 100 in all"),
            ("500/20/30", 1000, [500, 20, 30], "counts"),
            ("rest/20/30", 1000, [950, 20, 30], "the rest"),
            ("500/rest/0", 1000, [500, 500, 0], "in any place"),
            ("none", 1000, [1000, 0, 0], "nothing held out"),
            ("auto", 100, [90, 5, 5], "one in twenty"),
            ("auto", 19, [19, 0, 0], "too few"),
            ("auto", 770_000, [768_000, 1000, 1000], "enough"),
        ] {
            assert_eq!(text.parse::<Split>().unwrap().sizes(rows).unwrap(), want, "{text} of {rows}: {why}");
        }
        for text in [
            "",
            "90",
            "90/5/5/0",
            "a/b/c",
            "-1/2/3",
            "rest/rest/1",
            "0.5/0.2/0.2",
            "1.5/2/3",
            "80%/10%",
            "90%/5/5",
            "rest/60%/50%",
        ] {
            assert!(text.parse::<Split>().is_err(), "{text}");
        }
        let error = "500/20/30".parse::<Split>().unwrap().sizes(549).unwrap_err();
        assert_eq!(error.to_string(), "550 rows are asked for, and 549 are left after cleaning");
        for text in ["18446744073709551616/1/1", "rest/18446744073709551615/2", "1e300/1/1"] {
            let split = text.parse::<Split>().unwrap();
            assert!(split.sizes(549).is_err() && split.looks_like_shares().is_none(), "{text}");
        }
    }

    #[test]
    fn the_rows_taken_are_drawn_and_keep_their_order() {
        let lines = |rows: &[Row]| rows.iter().map(|row| row.place.line).collect::<Vec<_>>();
        let all = rows(100);
        let some = lines(&take(all.clone(), 40).unwrap());
        assert!(some.len() == 40 && some.is_sorted() && some != (0..40).collect::<Vec<_>>(), "{some:?}");
        let fewer = lines(&take(all.clone(), 20).unwrap());
        assert!(fewer.iter().all(|line| some.contains(line)), "a smaller drawing is a part of a larger one");
        assert!(take(all.clone(), 101).is_err());
        let error = take(all, 0).unwrap_err();
        assert_eq!(error.to_string(), "--take 0 takes no couplet");
        assert!(error.hint_text(false).unwrap().contains("leave it out") && error.hint_text(true).is_some());

        let mut tagged = rows(10);
        let theme = |shared| Some(crate::dataset::prepare::themes::Theme { index: 0, shared });
        (tagged[7].theme, tagged[2].theme) = (theme(true), theme(false));
        assert_eq!(lines(&take(tagged.clone(), 1).unwrap()), [7], "one theme for both lines comes first");
        assert_eq!(lines(&take(tagged, 2).unwrap()), [2, 7], "then any theme");
    }

    #[test]
    fn no_group_is_parted_and_the_parts_have_their_sizes() {
        let rows = rows(400);
        let groups: Vec<usize> = (0..400)
            .map(|row| {
                if row < 40 {
                    row / 4 * 4
                } else if row < 60 {
                    40
                } else {
                    row
                }
            })
            .collect();
        for sizes in [[320, 40, 40], [100, 50, 50], [400, 0, 0], [0, 200, 200]] {
            let parts = assign(&rows, &groups, sizes);
            for (row, &group) in groups.iter().enumerate() {
                let together = parts[row] == parts[group] || [row, group].iter().any(|row| parts[*row].is_none());
                assert!(together, "{sizes:?}: row {row} is not where its group is");
            }
            let count = |part| parts.iter().filter(|of| **of == part).count();
            let got = [Some(Part::Train), Some(Part::Valid), Some(Part::Test)].map(count);
            assert_eq!(got.iter().sum::<usize>() + count(None), 400);
            if sizes[1] < 200 {
                assert_eq!(got, sizes, "all fit");
                assert!(
                    parts[40..60].iter().all(|part| !matches!(part, Some(Part::Valid | Part::Test))),
                    "the large group is trained on"
                );
            }
        }
    }
}
