//! Raw couplets → data to train on: Alpaca files and their entries in `dataset_info.json`.
//!
//! [`prepare`] is the whole way: files are read in whatever format they have (`read`), each side is tidied (`text`), rows that
//! teach nothing good are dropped with a `reason` (`clean`), some are taken and parted so that no near-duplicate stands on both
//! sides of a split ([`near`], `parts`), and what is trained on may be balanced, tagged and worded in several ways (`balance`,
//! `themes`, `instruction`). The same files and options give the same bytes; which couplets are drawn does not depend on the
//! order of the lines (of repeats the first is kept, as it stands there).

mod balance;
mod clean;
mod instruction;
mod options;
mod parts;
mod read;
mod reason;
mod simplify;
mod text;
mod themes;
mod words;
mod write;

pub use balance::Balanced;
pub use instruction::Instructions;
pub use options::{DEFAULT_INSTRUCTION, Options};
pub use parts::{Amount, Part, Split};
pub use read::{Format, Found, Layout, STDIN, Separator, Source};
pub use reason::Reason;

use crate::{
    dataset::{near, summary::Warning},
    error::{Error, Result},
};
use clean::{Cleaned, Dropped, Ends, Row};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use write::Target;

/// What was done and written.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// What was read.
    pub sources: Vec<Source>,
    /// Reasons that dropped rows: how many, and where the first of them stands.
    pub dropped: Vec<(Reason, usize, String)>,
    /// Rows that were kept.
    pub kept: usize,
    /// Kept rows whose tones are wrong.
    pub wrong_tones: usize,
    /// Rows that were drawn of those kept; all unless `take` says so.
    pub taken: usize,
    /// Groups of near-duplicates among these.
    pub groups: Groups,
    /// Rows of each part, copies among them, and its file; parts without rows are left out.
    pub parts: Vec<(Part, usize, PathBuf)>,
    /// Rows that no part asked for.
    pub unused: usize,
    /// Lengths of the training rows, if they were balanced.
    pub balanced: Vec<Balanced>,
    /// Themes of the training rows, the most frequent first, if they were tagged.
    pub themes: Vec<(&'static str, usize)>,
    /// Rows of the training file whose instruction tells their theme, copies among them.
    pub told: usize,
    /// One line for every dropped row.
    pub report: PathBuf,
    /// The registry with the new entries.
    pub registry: PathBuf,
    /// What the user should know.
    pub notes: Vec<Warning>,
}

/// Rows that hang together by near-duplicates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Groups {
    /// Groups of two rows and more.
    pub groups: usize,
    /// Rows in them.
    pub rows: usize,
    /// Rows of the largest.
    pub largest: usize,
}

/// Prepares a data set. Nothing is written before everything was read and is well, but the report where every row was dropped;
/// each file is replaced whole.
///
/// Errors: a name, file or entry that is taken (unless `overwrite`); a file that cannot be read or understood, with the place;
/// nothing left after cleaning, or less than is asked for.
pub fn prepare(options: &Options) -> Result<Prepared> {
    prepare_and_tell(options, &|| ())
}

/// The same; `begins` is told before the first file is written.
pub fn prepare_and_tell(options: &Options, begins: &dyn Fn()) -> Result<Prepared> {
    let target = Target::new(options)?;
    let inputs = options.files.iter().chain(options.parallel.iter().flatten());
    if let Some(path) = inputs.into_iter().find(|path| write::is_result(&target, path)) {
        return Err(Error::file(path, "would be read and replaced at once")
            .hint("choose another folder (--out) or name (--name)")
            .hint_zh("请换一个输出目录（--out）或名称（--name）"));
    }
    let read = read::read(&options.files, options.parallel.as_ref(), &options.layout)?;
    let cleaned = clean::clean(read.pairs, read.broken, options);
    if cleaned.rows.is_empty() {
        begins();
        target.write_report(&write::report(&cleaned.dropped, options))?;
        return Err(nothing_left(&cleaned.dropped, &target.report(), options));
    }
    let mut notes = notes(&cleaned, read.banners, options);
    notes.extend(wrong_ends(&cleaned.ends, &read.sources)?);
    let Cleaned { rows, dropped, wrong_tones, .. } = cleaned;
    let kept = rows.len();
    let rows = match options.take {
        Some(count) => parts::take(rows, count)?,
        None => rows,
    };
    let lines: Vec<near::Pair> = rows.iter().map(|row| [row.upper.as_str(), &row.lower]).collect();
    let groups = near::groups(&lines, near::Telling::SPLIT);
    let sizes = options.split.sizes(rows.len())?;
    let assigned = parts::assign(&rows, &groups, sizes);
    let of =
        |part| rows.iter().zip(&assigned).filter(|(_, of)| **of == Some(part)).map(|(row, _)| row).collect::<Vec<_>>();
    let [train, valid, test] = Part::ALL.map(of);
    if train.is_empty() {
        return Err(Error::input("no row is left to train on")
            .hint("hold out less: --split rest/1000/1000, or none")
            .hint_zh("请减少留出的行数：--split rest/1000/1000，或 none"));
    }
    let groups = sized(&groups);
    notes.extend(missing(options.split, sizes, [train.len(), valid.len(), test.len()], groups)?);
    let (copies, balanced) = if options.balance {
        let (copies, balanced) = balance::copies(&train);
        (Some(copies), balanced)
    } else {
        (None, vec![])
    };
    let rows_of_train = copies.as_ref().map_or(train.len(), |copies| copies.iter().sum());
    let unused = assigned.iter().filter(|part| part.is_none()).count();
    notes.extend(options.split.looks_like_shares().filter(|_| unused > 0).map(|sum| taken_for_counts(sum, unused)));
    let counts = [(Part::Train, rows_of_train), (Part::Valid, valid.len()), (Part::Test, test.len())];
    let parts =
        counts.into_iter().filter(|(_, count)| *count > 0).map(|(part, count)| (part, count, target.file(part)));
    let themes = if options.tag { themes_of(&train) } else { vec![] };
    let (training, told) = write::training(&train, copies.as_deref(), &options.instructions);
    let mut prepared = Prepared {
        sources: read.sources,
        dropped: counted(&dropped, options),
        kept,
        wrong_tones,
        taken: rows.len(),
        groups,
        parts: parts.collect(),
        unused,
        balanced,
        themes,
        told,
        report: target.report(),
        registry: target.registry(),
        notes: vec![],
    };

    let mut files = vec![(Part::Train, training)];
    for (part, rows) in [(Part::Valid, valid), (Part::Test, test)].into_iter().filter(|(_, rows)| !rows.is_empty()) {
        files.push((part, write::held_out(&rows, &options.instructions)));
    }
    begins();
    let gone = target.write(&files, &write::report(&dropped, options))?;
    notes.extend(gone.iter().map(|name| Warning {
        en: format!("`{name}` of an earlier preparation is no longer registered; its file is still there"),
        zh: format!("先前准备的 `{name}` 已取消登记，其文件仍在"),
    }));
    prepared.notes = notes;
    Ok(prepared)
}

/// How often each reason occurs, in the order of [`Reason::ALL`], and where it does first.
fn counted(dropped: &[Dropped], options: &Options) -> Vec<(Reason, usize, String)> {
    let mut counts: BTreeMap<Reason, (usize, String)> = BTreeMap::new();
    for Dropped { place, reason, .. } in dropped {
        counts.entry(*reason).or_insert_with(|| (0, options.place(place.file, place.line))).0 += 1;
    }
    counts.into_iter().map(|(reason, (count, first))| (reason, count, first)).collect()
}

fn sized(first: &[usize]) -> Groups {
    let mut sizes = vec![0; first.len()];
    first.iter().for_each(|&group| sizes[group] += 1);
    let several = sizes.iter().filter(|size| **size > 1);
    Groups { groups: several.clone().count(), rows: several.sum(), largest: sizes.iter().max().map_or(0, |size| *size) }
}

/// What validation and test lack of their sizes, because groups of near-duplicates are not parted.
///
/// Errors: one that was asked for has no row.
fn missing(split: Split, sizes: [usize; 3], got: [usize; 3], groups: Groups) -> Result<Vec<Warning>> {
    let (rows, largest) = (sizes.iter().sum::<usize>(), groups.largest);
    let mut notes = vec![];
    for (part, en, zh) in [(1, "validation", "验证"), (2, "the test", "测试")] {
        let (size, got) = (sizes[part], got[part]);
        if got == 0 && split.asks_for(part) {
            let fact = match size {
                0 => format!("the share of {en} is less than one row"),
                _ => format!(
                    "no group of near-duplicates fits into the {size} rows of {en}, and none is parted: the largest has {largest} \
                     of {rows} rows"
                ),
            };
            return Err(Error::input(fact)
                .hint("ask for more rows, by a count (--split rest/1000/1000); or for none, and hold out rows of another file")
                .hint_zh("请用行数多留一些（--split rest/1000/1000）；或不留，另用别的文件作验证和测试"));
        }
        if got < size {
            notes.push(Warning {
                en: format!(
                    "{en} has {got} of {size} rows: near-duplicates are not parted, the largest group has {largest}"
                ),
                zh: format!("{zh}只有 {got} 行（应为 {size} 行）：近似的行不拆开，最大的一组有 {largest} 行"),
            });
        }
    }
    Ok(notes)
}

/// Numbers that add up to nearly 100 may be meant as percent.
fn taken_for_counts(sum: usize, unused: usize) -> Warning {
    Warning {
        en: format!(
            "the numbers of --split add up to {sum} and not to 100, so they are counts of rows, and no part has the other \
             {unused} rows; shares are written 90/5/5 or 90%/5%/5%"
        ),
        zh: format!(
            "--split 各数之和为 {sum} 而非 100，故按行数划分，其余 {unused} 行未用到；按比例请写 90/5/5 或 90%/5%/5%"
        ),
    }
}

fn themes_of(rows: &[&Row]) -> Vec<(&'static str, usize)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    rows.iter().filter_map(|row| row.theme).for_each(|theme| *counts.entry(theme.name()).or_default() += 1);
    let mut themes: Vec<_> = counts.into_iter().collect();
    themes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    themes
}

fn nothing_left(dropped: &[Dropped], report: &Path, options: &Options) -> Error {
    let reasons = counted(dropped, options);
    let reasons: Vec<String> =
        reasons.iter().map(|(reason, count, first)| format!("{} {count} (first {first})", reason.name())).collect();
    let first = dropped.first().map_or_else(String::new, |Dropped { place, fact, text, .. }| {
        format!("; {}: {fact}: {}", options.place(place.file, place.line), read::shortened(text))
    });
    let report = report.display();
    Error::input(format!("every row was dropped: {}{first}", reasons.join(", ")))
        .hint(format!("each row and its reason stand in {report}; `--keep REASON` keeps rows in spite of a reason"))
        .hint_zh(format!("各行及其原因写在 {report}；`--keep 原因` 可保留因该原因被剔除的行"))
}

/// Where more than half of the rows of a file do not end as couplets do, something else stands in it, or the sides are exchanged.
///
/// Errors: that is so, and the format was guessed.
fn wrong_ends(ends: &[Ends], sources: &[Source]) -> Result<Vec<Warning>> {
    /// So many rows tell it.
    const TELLING: usize = 20;
    let mut notes = vec![];
    for (Ends { rows, wrong }, source) in ends.iter().zip(sources) {
        if *rows < TELLING || 2 * wrong <= *rows {
            continue;
        }
        let path = source.path.display();
        let en = format!(
            "{path}: in {wrong} of {rows} rows 上联 does not end in 仄, or 下联 not in 平, read as: {}",
            source.found.text(false)
        );
        if source.guessed {
            let (how, how_zh) = match source.found {
                Found::Table { .. } => ("--format, --separator or --columns", "--format、--separator 或 --columns"),
                _ => ("--format or --separator", "--format 或 --separator"),
            };
            return Err(Error::input(en)
                .hint(format!(
                    "look whether these are couplets, 上联 first; if they are, say how they are written: {how}"
                ))
                .hint_zh(format!("请检查是否确为对联、上联在前；若是，请用 {how_zh} 指明格式")));
        }
        let found = source.found.text(true);
        let zh = format!("{path}：{rows} 行中有 {wrong} 行上联不以仄声收尾或下联不以平声收尾，读作：{found}");
        notes.push(Warning { en, zh });
    }
    Ok(notes)
}

fn notes(cleaned: &Cleaned, banners: usize, options: &Options) -> Vec<Warning> {
    let mut notes = vec![];
    let mut note = |count: usize, en: &str, zh: &str| {
        if count > 0 {
            notes.push(Warning { en: format!("{en}: {count}"), zh: format!("{zh}：{count}") });
        }
    };
    note(
        cleaned.spaced,
        "rows with a blank between any two characters; the blanks were removed",
        "逐字用空格隔开的行（空格已去掉）",
    );
    note(
        cleaned.with_heading,
        "rows with 上联： or 下联： before a side; it was removed",
        "含「上联：」「下联：」的行（已去掉）",
    );
    note(banners, "rows with a 横批 behind the two sides; it is not used", "两联之后另有横批的行（横批未使用）");
    let (en, zh) = match options.simplify {
        false => (
            "rows with traditional characters; --simplify writes them simplified",
            "含繁体字的行（--simplify 可转为简体）",
        ),
        true => ("rows with characters of old texts that have no simplified form", "含无简化形式的旧字的行"),
    };
    note(cleaned.traditional, en, zh);
    note(
        cleaned.ending_in_mark,
        "rows with punctuation at the end of a side, which the model will learn to write",
        "联末带标点的行（模型会学着写标点）",
    );
    let instructions = &options.instructions;
    let shared = instructions.shared().chars().count();
    if instructions.count() > 1 && 2 * shared < instructions.usual().chars().count() {
        notes.push(Warning {
            en: format!(
                "the {} instructions share only their first {shared} characters; what all rows begin with is computed once, \
                 so let them begin alike: --instruction TEXT stands before every line of --instruction-file",
                instructions.count()
            ),
            zh: format!(
                "{} 种指令只有开头 {shared} 个字相同；相同的开头只需计算一次，宜让它们开头一致：--instruction 文本 会放在 \
                 --instruction-file 的每一行之前",
                instructions.count()
            ),
        });
    }
    notes
}

#[cfg(test)]
mod tests;
