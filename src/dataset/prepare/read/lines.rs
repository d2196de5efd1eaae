//! Lines of text: what parts the two sides is found by trying.

use super::{Found, Read, names, numbered, shortened, shown};
use crate::{
    dataset::prepare::reason::tones,
    error::{Error, Result},
    prosody,
};
use std::path::Path;

/// So many lines tell how a file is written.
const SAMPLE: usize = 1000;
/// A share of the lines that leaves no doubt.
const SURE: f64 = 0.9;
/// So many more pairs that do not end 仄 … 平 than pairs that do, one after the other, are no accident: a line is missing.
const SHIFTED: usize = 20;

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

    /// 上联 and 下联 of a line, and whether a 横批 stands behind them; or how many sides there are instead.
    fn couplet<'a>(&self, line: &'a str) -> Result<([&'a str; 2], bool), usize> {
        match self.sides(line).as_slice() {
            &[upper, lower] => Ok(([upper, lower], false)),
            &[upper, lower, third] if is_banner(third, upper) && prosody::same_shape(upper, lower) => {
                Ok(([upper, lower], true))
            }
            sides => Err(sides.len()),
        }
    }

    /// Whether a line begins with two sides of one shape, so that it is more than one side itself.
    fn begins_with_couplet(&self, line: &str) -> bool {
        matches!(self.sides(line).as_slice(), [upper, lower, ..] if prosody::same_shape(upper, lower))
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

/// Whether what stands behind a couplet is its 横批: four characters as a rule, unlike its lines.
fn is_banner(text: &str, upper: &str) -> bool {
    text.starts_with("横批") || (prosody::shape(text) == [4] && !prosody::same_shape(text, upper))
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
    let columns = |line: &str, delimiter: char| line.split(delimiter).filter(|cell| !cell.trim().is_empty()).count();
    if share(&sample, |line| columns(line, '\t') >= 2) >= SURE {
        return Ok(Recognised::Table('\t'));
    }
    let mut shares: Vec<(f64, Recognised)> =
        separators(&sample).map(|(share, separator)| (share, Recognised::Lines(separator))).collect();
    // These stand before `，` and `,`, which part clauses more often than sides.
    let a_side_a_line = (alternating(&sample), Recognised::Alternating);
    let table = (share(&sample, |line| columns(line, ',') == 2), Recognised::Table(','));
    shares.splice(4..4, [a_side_a_line, table]);
    best(shares).ok_or_else(|| unknown(text, path))
}

/// What parts the sides of most lines.
pub(super) fn separator(text: &str, path: &Path) -> Result<Separator> {
    let sample: Vec<&str> = lines(text).map(|(_, line)| line).take(SAMPLE).collect();
    let comma = (share(&sample, |line| line.split(',').count() == 2), Separator::Text(",".into()));
    best(separators(&sample).chain([comma]).collect()).ok_or_else(|| unknown(text, path))
}

fn share(sample: &[&str], fits: impl Fn(&str) -> bool) -> f64 {
    sample.iter().filter(|line| fits(line)).count() as f64 / sample.len().max(1) as f64
}

/// Each separator with the share of the lines in which it parts two sides.
fn separators(sample: &[&str]) -> impl Iterator<Item = (f64, Separator)> {
    let tried = Separator::TRIED.into_iter();
    tried.map(|separator| (share(sample, |line| separator.couplet(line).is_ok()), separator))
}

/// The first that leaves no doubt; else the one that fits the most, more than half of the lines.
fn best<T>(mut shares: Vec<(f64, T)>) -> Option<T> {
    let sure = shares.iter().position(|(share, _)| *share >= SURE);
    // The first of equals.
    let best = (0..shares.len()).rev().max_by(|a, b| shares[*a].0.total_cmp(&shares[*b].0));
    let at = sure.or(best.filter(|best| shares[*best].0 > 0.5))?;
    Some(shares.swap_remove(at).1)
}

fn unknown(text: &str, path: &Path) -> Error {
    let Some((number, line)) = lines(text).next() else { return shown(Error::file(path, "holds no couplets")) };
    let fact = format!("{}:{number}: nothing parts two sides here: {}", path.display(), shortened(line));
    let is_numbered = line.trim_start().starts_with(|c: char| c.is_ascii_digit());
    let error = Error::input(fact);
    if is_numbered { numbered(error, "--format csv --columns 2,3 (blanks: --separator ' ')") } else { shown(error) }
}

/// Share of the lines that are 上联 or 下联 of a couplet in two lines: of one shape, the first ending 仄 and the second 平. The shape
/// alone says little: in a list of 上联, or of whole verses, all lines may have one. Where a line is missing, those behind it count
/// all the same.
fn alternating(sample: &[&str]) -> f64 {
    let whole = |separator: &Separator| share(sample, |line| separator.begins_with_couplet(line)) > 0.5;
    if [Separator::Dash, Separator::Bar, Separator::Blank].iter().any(whole) {
        return 0.0;
    }
    let is_couplet = |pair: &&[&str]| prosody::same_shape(pair[0], pair[1]) && tones(pair[0], pair[1]).end;
    2.0 * sample.windows(2).filter(is_couplet).count() as f64 / sample.len().max(1) as f64
}

/// Lines that hold something, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty())
}

/// Reads both sides of every line; a 横批 behind them is counted and left out.
pub(super) fn read(text: &str, separator: Separator, read: &mut Read) -> Result<Found> {
    for (at, (number, line)) in lines(text).enumerate() {
        match separator.couplet(line) {
            Ok((names, _)) if at == 0 && names::known(&names).is_some() => {}
            Ok(([upper, lower], has_banner)) => {
                let lower = if separator.is_mark() { lower.trim_end_matches(prosody::is_break) } else { lower };
                read.banners += usize::from(has_banner);
                read.pair(number, upper, lower);
            }
            Err(sides) => read.broken(number, line, format!("not two sides but {sides}")),
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

/// The line from which on 下联 and the next 上联 are paired: where the run of pairs begins that do not end 仄 … 平, if it is too
/// long for an accident.
fn shifted(text: &str) -> Option<usize> {
    let lines: Vec<(usize, &str)> = lines(text).collect();
    let (mut begins, mut more, mut most) = (None, 0, (0, None));
    for pair in lines.chunks_exact(2) {
        let [(number, upper), (_, lower)] = [pair[0], pair[1]];
        match tones(upper, lower).end {
            true if more <= 1 => (begins, more) = (None, 0),
            true => more -= 1,
            false => {
                begins = begins.or(Some(number));
                more += 1;
            }
        }
        most = most.max((more, begins));
    }
    most.1.filter(|_| most.0 >= SHIFTED)
}

/// The same where the format was not said but guessed. Errors: a line is missing.
pub(super) fn read_alternating_guessed(text: &str, path: &Path, read: &mut Read) -> Result<Found> {
    match shifted(text) {
        None => Ok(read_alternating(text, read)),
        Some(number) => Err(Error::input(format!(
            "{}:{number}: from here on the first of two lines does not end in 仄, or the second not in 平, read as: {}",
            path.display(),
            Found::Alternating.text(false)
        ))
        .hint("look whether a line is missing before; if all is as it should be, say so: --format alternating")
        .hint_zh("请检查此前是否缺了一行；若确实无误，请用 --format alternating 指明")),
    }
}
