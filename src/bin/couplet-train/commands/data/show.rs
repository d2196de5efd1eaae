//! `couplet-train data show`: rows as the model sees them.

use super::source::Source;
use crate::args::{ShowArgs, SplitArg};
use couplet_train::{
    config::OverLength,
    dataset::{
        Fault, Origin, Tokenizer,
        encode::{self, Part, Row, encode_rows},
        leaks::Place,
        summary::{FileSummary, common_prefix},
    },
    error::{Error, Result},
    json::Object,
    report::{
        Lang, Look,
        text::{columns, shown, table},
    },
};
use serde_json::{Value, json};
use std::{
    io::{IsTerminal, Write, stdout},
    ops::RangeInclusive,
};

/// Shows the rows that were asked for; without a number the first one. They go to stdout.
pub fn run(args: &ShowArgs, look: Look) -> Result<()> {
    let source = Source::open(&args.source, look)?;
    let data = &source.recipe.data;
    let numbers = args.rows.clone().or(args.row.map(|row| row..=row));
    let chosen = chosen(&source, numbers, args.split)?;
    let train: Vec<_> = encode_rows(&source.read.train.rows, data, &source.tokenizer)?;
    let train: Vec<_> = train.into_iter().map(|row| row.example).collect();
    let prefix = train.first().map_or(vec![], |row| row.input_ids[..common_prefix(&train)].to_vec());
    drop(train);

    let stdout_look = Look::detect(stdout().is_terminal(), |name| std::env::var(name).ok());
    let look = Look { color: stdout_look.color, ..look };
    let mut out = stdout().lock();
    for (i, Chosen { split, origin, files, row }) in chosen.into_iter().enumerate() {
        let head = Head { place: Place::of(origin, files), dataset: &files[origin.dataset].name, split };
        let is_json = args.source.json;
        if i > 0 && !is_json {
            writeln!(out)?;
        }
        let row = match row {
            Ok(row) => row,
            Err(fault) if is_json => {
                writeln!(out, "{}", head.left_out_json(fault))?;
                continue;
            }
            Err(fault) => {
                writeln!(out, "{}", head.left_out(fault, look.lang))?;
                continue;
            }
        };
        let parts = encode::parts(&row.record, data, &source.tokenizer)?;
        let tokens = parts.iter().map(|part| part.ids.len()).sum::<usize>();
        let shown = Shown {
            head,
            stretches: stretches(&parts, &prefix, &source.tokenizer)?,
            is_too_long: tokens > data.longest_row(),
            over_length: data.over_length,
        };
        match is_json {
            true => writeln!(out, "{}", shown.json())?,
            false => write!(out, "{}", shown.text(look))?,
        }
    }
    Ok(())
}

/// A row that was asked for.
struct Chosen<'s> {
    split: SplitArg,
    origin: Origin,
    /// Those that the split was read from.
    files: &'s [FileSummary],
    /// What stands there, or why it is left out.
    row: std::result::Result<&'s Row, &'s Fault>,
}

impl Chosen<'_> {
    fn number(&self) -> usize {
        self.files[self.origin.dataset].place(self.origin.row).1
    }
}

/// Errors: no such row.
fn chosen(source: &Source, numbers: Option<RangeInclusive<usize>>, split: Option<SplitArg>) -> Result<Vec<Chosen<'_>>> {
    let read = &source.read;
    let splits = [
        (SplitArg::Train, &read.train, &read.files),
        (SplitArg::Valid, &read.eval, &read.files),
        (SplitArg::Test, &read.test, &read.test_files),
    ];
    let mut all = vec![];
    for (kind, of, files) in splits.into_iter().filter(|(kind, ..)| split.is_none_or(|split| split == *kind)) {
        let chosen = |origin, row| Chosen { split: kind, origin, files, row };
        all.extend(of.rows.iter().map(|row| chosen(row.origin, Ok(row))));
        all.extend(of.left_out.iter().map(|row| chosen(row.origin, Err(&row.fault))));
    }
    if all.is_empty() {
        return Err(nothing_in(split));
    }
    let mut chosen: Vec<Chosen> = match &numbers {
        // In split order the first that is not left out.
        None => {
            let first = all.iter().position(|row| row.row.is_ok()).unwrap_or(0);
            vec![all.swap_remove(first)]
        }
        Some(numbers) => all.into_iter().filter(|row| numbers.contains(&row.number())).collect(),
    };
    chosen.sort_by_key(|row| (row.split as u8, row.origin));
    // A file drawn from more than once gives a row more than once.
    chosen.dedup_by_key(|row| (row.split as u8, row.origin));
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let files = match split {
        None => [&read.files[..], &read.test_files].concat(),
        Some(SplitArg::Test) => read.test_files.clone(),
        Some(_) => read.files.clone(),
    };
    let files: Vec<String> = files.iter().map(rows_of).collect();
    let what = match numbers {
        None => "such row".to_owned(),
        Some(numbers) if numbers.start() == numbers.end() => format!("row {}", numbers.start()),
        Some(numbers) => format!("row {}..{}", numbers.start(), numbers.end()),
    };
    Err(Error::input(format!("no {what} is read: {}", files.join("; ")))
        .hint("`max_samples` and `num_samples` leave rows out, --split as well")
        .hint_zh("`max_samples`、`num_samples` 与 --split 都会略去一些行"))
}

/// Which rows a data set has, and which of them are read.
fn rows_of(file: &FileSummary) -> String {
    let of_one = |path: &str, rows: usize| format!("{path} has rows 1 to {rows}");
    let mut text = match file.parts.as_slice() {
        [] => of_one(&file.path, file.rows),
        parts => parts.iter().map(|part| of_one(&part.path, part.rows)).collect::<Vec<_>>().join(", "),
    };
    if file.drawn {
        text += &format!(", of which `num_samples` draws {}", file.read);
    } else if file.mixed {
        text += ", of which `mix_strategy` takes some";
    } else if file.read < file.rows {
        let (path, row) = file.place(file.read);
        let of = if file.parts.is_empty() { String::new() } else { format!(" of {path}") };
        text += &format!(", and `max_samples` ends it at row {row}{of}");
    }
    text
}

/// That a split has no row at all.
fn nothing_in(split: Option<SplitArg>) -> Error {
    match split {
        Some(SplitArg::Valid) => Error::input("no row is held out: `eval_dataset` is empty and `val_size` 0")
            .hint("set one of them, or leave --split out")
            .hint_zh("请设置其中之一，或去掉 --split"),
        Some(SplitArg::Test) => Error::input("no row is tested: `test_dataset` is empty")
            .hint("name a data set in it, or leave --split out")
            .hint_zh("请在其中写明数据集，或去掉 --split"),
        Some(SplitArg::Train) | None => Error::input("no row is trained: `dataset` is empty")
            .hint("name a data set in it")
            .hint_zh("请在其中写明数据集"),
    }
}

/// What becomes of a stretch of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Fed, and common to all training rows.
    Shared,
    /// Fed.
    Spoken,
    /// Fed and trained.
    Learned,
    /// Behind `cutoff_len`.
    CutOff,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Spoken => "spoken",
            Self::Learned => "learned",
            Self::CutOff => "cut off",
        }
    }

    fn in_words(self, lang: Lang) -> &'static str {
        let zh = match self {
            Self::Shared => "共享",
            Self::Spoken => "输入",
            Self::Learned => "学习",
            Self::CutOff => "截去",
        };
        lang.pick(self.name(), zh)
    }

    /// The code of its colour on a terminal.
    fn color(self) -> &'static str {
        match self {
            Self::Shared => "2",
            Self::Spoken => "0",
            Self::Learned => "1;32",
            Self::CutOff => "9;31",
        }
    }
}

/// Tokens of one role: their ids and, one by one, their texts; and the text of all.
struct Stretch {
    role: Role,
    ids: Vec<u32>,
    tokens: Vec<String>,
    text: String,
}

/// The whole row, cut-off tokens where they were. `prefix`: what all training rows begin with.
fn stretches(parts: &[Part], prefix: &[u32], tokenizer: &Tokenizer) -> Result<Vec<Stretch>> {
    let row = parts.iter().flat_map(|part| &part.ids[..part.kept]);
    let shared = row.zip(prefix).take_while(|(a, b)| a == b).count();
    let mut stretches: Vec<(Role, Vec<u32>)> = vec![];
    let mut kept = 0;
    for part in parts {
        for (i, id) in part.ids.iter().enumerate() {
            let role = match i < part.kept {
                false => Role::CutOff,
                true if part.learned => Role::Learned,
                true if kept < shared => Role::Shared,
                true => Role::Spoken,
            };
            kept += usize::from(i < part.kept);
            match stretches.last_mut() {
                Some((last, ids)) if *last == role => ids.push(*id),
                _ => stretches.push((role, vec![*id])),
            }
        }
    }
    let spelled = |(role, ids): (Role, Vec<u32>)| {
        let tokens = ids.iter().map(|id| spelled(&[*id], tokenizer)).collect::<Result<_>>()?;
        Ok(Stretch { role, text: spelled(&ids, tokenizer)?, tokens, ids })
    };
    stretches.into_iter().map(spelled).collect()
}

/// The text of `ids`; bytes that make no whole character as `<E5>`.
fn spelled(ids: &[u32], tokenizer: &Tokenizer) -> Result<String> {
    let (mut text, mut bytes) = (String::new(), vec![]);
    for id in ids {
        match tokenizer.token_bytes(*id) {
            Some(more) => bytes.extend(more),
            None => {
                text += &characters(&std::mem::take(&mut bytes));
                text += &tokenizer.decode(&[*id], false)?;
            }
        }
    }
    Ok(text + &characters(&bytes))
}

fn characters(bytes: &[u8]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("<{byte:02X}>")).collect::<String>();
    bytes.utf8_chunks().map(|chunk| chunk.valid().to_owned() + &hex(chunk.invalid())).collect()
}

/// Where a row stands.
struct Head<'s> {
    place: Place,
    dataset: &'s str,
    split: SplitArg,
}

impl Head<'_> {
    fn text(&self, lang: Lang) -> String {
        let (place, dataset) = (self.place.text(lang == Lang::Zh), self.dataset);
        let split = match self.split {
            SplitArg::Train => lang.pick("training", "训练"),
            SplitArg::Valid => lang.pick("held out", "验证"),
            SplitArg::Test => lang.pick("test", "测试"),
        };
        shown(&match lang {
            Lang::En => format!("{place} ({dataset}, {split})"),
            Lang::Zh => format!("{place}（{dataset}，{split}）"),
        })
    }

    fn json(&self) -> Object {
        let split = match self.split {
            SplitArg::Train => "train",
            SplitArg::Valid => "valid",
            SplitArg::Test => "test",
        };
        let keys = [
            ("file", json!(self.place.file)),
            ("row", json!(self.place.row)),
            ("dataset", json!(self.dataset)),
            ("split", json!(split)),
        ];
        keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// The line of a row that is neither trained nor evaluated.
    fn left_out(&self, fault: &Fault, lang: Lang) -> String {
        let (head, reason, fact) = (self.text(lang), fault.reason.name(), shown(&fault.fact));
        match lang {
            Lang::En => format!("{head}: left out ({reason}): {fact}"),
            Lang::Zh => format!("{head}：已略去（{reason}）：{fact}"),
        }
    }

    fn left_out_json(&self, fault: &Fault) -> Value {
        let mut row = self.json();
        row.extend([("left_out".to_owned(), json!(fault.reason)), ("fact".to_owned(), json!(fault.fact))]);
        row.into()
    }
}

/// A row to be shown.
struct Shown<'s> {
    head: Head<'s>,
    stretches: Vec<Stretch>,
    is_too_long: bool,
    over_length: OverLength,
}

impl Shown<'_> {
    fn count(&self, is_meant: impl Fn(Role) -> bool) -> usize {
        self.stretches.iter().filter(|stretch| is_meant(stretch.role)).map(|stretch| stretch.ids.len()).sum()
    }

    /// One line, where the row stands and what there is of it; the text by roles; the tokens one by one.
    fn text(&self, look: Look) -> String {
        let lang = look.lang;
        let paint = |role: Role, text: &str| match look.color {
            true => text
                .split('\n')
                .map(|line| format!("\x1b[{}m{line}\x1b[0m", role.color()))
                .collect::<Vec<_>>()
                .join("\n"),
            false => text.to_owned(),
        };
        let by_role: Vec<(&str, String)> = self
            .stretches
            .iter()
            .map(|stretch| {
                // A newline at the end ends no line here.
                let text = shown(&stretch.text);
                (stretch.role.in_words(lang), paint(stretch.role, text.strip_suffix('\n').unwrap_or(&text)))
            })
            .collect();
        let mut lines = vec![];
        for stretch in &self.stretches {
            for (id, token) in stretch.ids.iter().zip(&stretch.tokens) {
                let mark = if stretch.role == Role::Learned { "*" } else { "" };
                lines.push(vec![
                    format!("{:>5}", lines.len()),
                    format!("{id:>6}"),
                    mark.to_owned(),
                    visible(token),
                    stretch.role.in_words(lang).to_owned(),
                ]);
            }
        }
        let mut tokens = columns(&lines);
        if look.color {
            let roles = self.stretches.iter().flat_map(|stretch| vec![stretch.role; stretch.ids.len()]);
            tokens = tokens.lines().zip(roles).map(|(line, role)| paint(role, line) + "\n").collect();
        }
        format!("{}\n{}{}", self.title(lang), table(&by_role, str::to_owned), tokens)
    }

    fn title(&self, lang: Lang) -> String {
        let head = self.head.text(lang);
        let (all, learned) = (self.count(|_| true), self.count(|role| role == Role::Learned));
        let (shared, lost) = (self.count(|role| role == Role::Shared), self.count(|role| role == Role::CutOff));
        let mut title = match lang {
            Lang::En => {
                format!("{head}: {all} tokens, {learned} of them learned, {shared} common to all training rows")
            }
            Lang::Zh => format!("{head}：共 {all} 个词元，学习 {learned} 个，与全部训练行共享 {shared} 个"),
        };
        if self.is_too_long {
            let (en, zh) = match self.over_length {
                OverLength::Error => (", and training refuses it (over_length)", "，训练时会报错（over_length）"),
                OverLength::Drop => (", and training leaves it out (over_length)", "，训练时会略去此行（over_length）"),
                OverLength::Truncate => ("", ""),
            };
            title += &match lang {
                Lang::En => format!("; {lost} too many for cutoff_len{en}"),
                Lang::Zh => format!("；超出 cutoff_len {lost} 个{zh}"),
            };
        }
        title
    }

    /// `labels` are LlamaFactory's: -100 where nothing is trained. Both lists are those of training: without what is cut off.
    fn json(&self) -> Value {
        let kept = || self.stretches.iter().filter(|stretch| stretch.role != Role::CutOff);
        let label = |stretch: &Stretch, id: u32| if stretch.role == Role::Learned { i64::from(id) } else { -100 };
        let ids: Vec<u32> = kept().flat_map(|stretch| stretch.ids.clone()).collect();
        let labels: Vec<i64> =
            kept().flat_map(|stretch| stretch.ids.iter().map(move |id| label(stretch, *id))).collect();
        let stretch = |stretch: &Stretch| json!({"role": stretch.role.name(), "text": stretch.text, "ids": stretch.ids, "tokens": stretch.tokens});
        let keys = [
            ("tokens", json!(ids.len())),
            ("learned", json!(self.count(|role| role == Role::Learned))),
            ("shared", json!(self.count(|role| role == Role::Shared))),
            ("cut_off", json!(self.count(|role| role == Role::CutOff))),
            ("dropped", json!(self.is_too_long && self.over_length == OverLength::Drop)),
            ("input_ids", json!(ids)),
            ("labels", json!(labels)),
            ("stretches", self.stretches.iter().map(stretch).collect()),
        ];
        let mut row = self.head.json();
        row.extend(keys.map(|(key, value)| (key.to_owned(), value)));
        row.into()
    }
}

/// A token on one line, its blanks to be seen.
fn visible(token: &str) -> String {
    shown(token).replace('\n', "").replace(' ', "␣").replace('\u{3000}', "␣␣")
}
