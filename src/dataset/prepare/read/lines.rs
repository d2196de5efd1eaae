//! Lines of text: what parts the two sides is found by trying.

use super::{Found, Read, names, shortened, shown};
use crate::{
    error::{Error, Result},
    prosody,
};
use std::path::Path;

/// So many lines tell how a file is written.
const SAMPLE: usize = 1000;
/// A share of the lines that leaves no doubt.
const SURE: f64 = 0.9;

/// What stands between two sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Separator {
    /// Blanks, also full-width, and tabs; any number of them.
    Blank,
    /// `——`, any number of dashes.
    Dash,
    /// `|` or `｜`.
    Bar,
    /// `；` or `;`.
    Semicolon,
    /// `，`, as verse has it.
    Comma,
    /// What the user says.
    Text(String),
}

impl Separator {
    /// Those that are tried, the surest first.
    const TRIED: [Self; 5] = [Self::Dash, Self::Bar, Self::Semicolon, Self::Blank, Self::Comma];

    /// The sides of a line, without what stands around them; none is empty.
    fn sides<'a>(&self, line: &'a str) -> Vec<&'a str> {
        let one_of = |marks: &'static [char]| line.split(marks).collect::<Vec<_>>();
        let sides = match self {
            Self::Blank => line.split_whitespace().collect(),
            Self::Dash => one_of(&['—']),
            Self::Bar => one_of(&['|', '｜']),
            Self::Semicolon => one_of(&['；', ';']),
            Self::Comma => one_of(&['，']),
            Self::Text(text) => line.split(text.as_str()).collect(),
        };
        sides.into_iter().map(str::trim).filter(|side| !side.is_empty()).collect()
    }

    /// Whether it is punctuation, so that the full stop behind the second side belongs to the line and not to the side.
    fn is_mark(&self) -> bool {
        matches!(self, Self::Semicolon | Self::Comma)
    }

    /// What it is called.
    pub fn name(&self, chinese: bool) -> String {
        match (self, chinese) {
            (Self::Blank, true) => "空白".into(),
            (Self::Blank, false) => "blanks".into(),
            (Self::Dash, _) => "`——`".into(),
            (Self::Bar, _) => "`|`".into(),
            (Self::Semicolon, _) => "`；`".into(),
            (Self::Comma, _) => "`，`".into(),
            (Self::Text(text), _) => format!("`{text}`"),
        }
    }
}

/// How the lines of a file are written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Recognised {
    /// Both sides on a line.
    Lines(Separator),
    /// A side a line.
    Alternating,
    /// Columns.
    Table(char),
}

/// Finds out how a text is written. Errors: nothing fits more than half of its lines.
pub(super) fn recognise(text: &str, path: &Path) -> Result<Recognised> {
    let sample: Vec<&str> = lines(text).map(|(_, line)| line).take(SAMPLE).collect();
    let share = |fits: &dyn Fn(&str) -> bool| {
        sample.iter().filter(|line| fits(line)).count() as f64 / sample.len().max(1) as f64
    };
    let columns = |line: &str, delimiter: char| line.split(delimiter).filter(|cell| !cell.trim().is_empty()).count();
    let tabs = share(&|line| columns(line, '\t') >= 2);
    if tabs >= SURE {
        return Ok(Recognised::Table('\t'));
    }
    let mut shares: Vec<(f64, Recognised)> = Separator::TRIED
        .into_iter()
        .map(|separator| (share(&|line| separator.sides(line).len() == 2), Recognised::Lines(separator)))
        .collect();
    // Before `，`, which parts clauses more often than sides.
    shares.insert(4, (share(&|line| columns(line, ',') == 2), Recognised::Table(',')));
    shares.push((alternating(&sample), Recognised::Alternating));
    let sure = shares.iter().position(|(share, _)| *share >= SURE);
    // The first of equals.
    let best = (0..shares.len()).rev().max_by(|a, b| shares[*a].0.total_cmp(&shares[*b].0));
    match sure.or(best.filter(|best| shares[*best].0 > 0.5)) {
        Some(at) => Ok(shares.swap_remove(at).1),
        None => Err(unknown(text, path)),
    }
}

/// What parts the sides of most lines.
pub(super) fn separator(text: &str, path: &Path) -> Result<Separator> {
    match recognise(text, path)? {
        Recognised::Lines(separator) => Ok(separator),
        Recognised::Table('\t') => Ok(Separator::Blank),
        Recognised::Table(delimiter) => Ok(Separator::Text(delimiter.into())),
        Recognised::Alternating => Err(unknown(text, path)),
    }
}

fn unknown(text: &str, path: &Path) -> Error {
    shown(match lines(text).next() {
        None => Error::file(path, "holds no couplets"),
        Some((number, line)) => {
            Error::input(format!("{}:{number}: nothing parts two sides here: {}", path.display(), shortened(line)))
        }
    })
}

/// Share of the pairs of lines that have one shape. Pairs of equal shape stand side by side also in a list of 上联, but not often.
fn alternating(sample: &[&str]) -> f64 {
    let pairs = sample.chunks_exact(2);
    let count = pairs.len();
    let equal = pairs.filter(|pair| prosody::same_shape(pair[0], pair[1]) && pair[0] != pair[1]).count();
    equal as f64 / count.max(1) as f64
}

/// Lines that hold something, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty())
}

/// Reads both sides of every line.
pub(super) fn read(text: &str, separator: Separator, read: &mut Read) -> Result<Found> {
    for (at, (number, line)) in lines(text).enumerate() {
        match separator.sides(line).as_slice() {
            [upper, lower] if at == 0 && names::known(&[upper, lower]).is_some() => {}
            [upper, lower] => {
                let lower = if separator.is_mark() { lower.trim_end_matches(prosody::is_break) } else { lower };
                read.pair(number, *upper, lower);
            }
            sides => read.broken(number, line, format!("not two sides but {}", sides.len())),
        }
    }
    Ok(Found::Lines(separator))
}

/// Reads 上联 and 下联 line by line, in turn.
pub(super) fn read_alternating(text: &str, read: &mut Read) -> Found {
    let mut lines = lines(text);
    while let Some((number, upper)) = lines.next() {
        match lines.next() {
            Some((_, lower)) => read.pair(number, upper.trim(), lower.trim()),
            None => read.broken(number, upper, "no 下联"),
        }
    }
    Found::Alternating
}
