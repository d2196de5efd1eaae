//! Two files with a side each: line by line, as the public set of 700,000 couplets has them.

use super::{Found, Read};
use crate::error::{Error, Result};
use std::path::PathBuf;

/// Pairs the lines of two texts by their numbers. A line that is empty in both is skipped, and so are empty lines that only one
/// of them has at its end.
pub(super) fn read(texts: &[String; 2], paths: [&PathBuf; 2], read: &mut Read) -> Result<Found> {
    let mut sides = texts.each_ref().map(|text| text.lines().collect::<Vec<_>>());
    let counts = sides.each_ref().map(Vec::len);
    let fewer = counts[0].min(counts[1]);
    if sides.iter().any(|lines| lines[fewer..].iter().any(|line| !line.trim().is_empty())) {
        let [a, b] = paths.map(|path| path.display());
        return Err(Error::input(format!("{a} has {} lines, {b} has {}", counts[0], counts[1]))
            .hint("line N of one file answers line N of the other: neither may miss a line")
            .hint_zh("两个文件须逐行对应，行数必须相同"));
    }
    sides.iter_mut().for_each(|lines| lines.truncate(fewer));
    let [upper, lower] = sides;
    for (number, (upper, lower)) in (1..).zip(upper.into_iter().zip(lower)) {
        match [upper, lower].map(|side| side.trim().is_empty()) {
            [true, true] => {}
            [true, false] => read.broken(number, lower, "no 上联"),
            [false, true] => read.broken(number, upper, "no 下联"),
            [false, false] => read.pair(number, upper, lower),
        }
    }
    Ok(Found::Parallel(paths[1].clone()))
}
