//! `couplet-train data show`: rows as the model sees them.

use super::source::Source;
use crate::args::{ShowArgs, SplitArg};
use couplet_train::{
    config::OverLength,
    dataset::{
        LeftOut, Tokenizer,
        encode::{self, Part, Row, encode_rows},
        leaks::Place,
        summary::{FileSummary, common_prefix},
    },
    error::{Error, Result},
    report::{
        Lang, Look,
        text::{columns, shown, table},
    },
};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
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
    for (i, (split, row, files)) in chosen.into_iter().enumerate() {
        let parts = encode::parts(&row.record, data, &source.tokenizer)?;
        let tokens = parts.iter().map(|part| part.ids.len()).sum::<usize>();
        let shown = Shown {
            place: Place::of(row.origin, files),
            dataset: &files[row.origin.dataset].name,
            split,
            stretches: stretches(&parts, &prefix, &source.tokenizer)?,
            is_too_long: tokens > data.longest_row(),
            over_length: data.over_length,
        };
        match args.source.json {
            true => writeln!(out, "{}", shown.json())?,
            false => write!(out, "{}{}", if i > 0 { "\n" } else { "" }, shown.text(look))?,
        }
    }
    Ok(())
}

/// A row, its split, and the files of that split.
type Chosen<'s> = (SplitArg, &'s Row, &'s [FileSummary]);

/// Errors: no such row.
fn chosen(source: &Source, numbers: Option<RangeInclusive<usize>>, split: Option<SplitArg>) -> Result<Vec<Chosen<'_>>> {
    let read = &source.read;
    let splits = [
        (SplitArg::Train, &read.train, &read.files),
        (SplitArg::Valid, &read.eval, &read.files),
        (SplitArg::Test, &read.test, &read.test_files),
    ];
    let wanted = splits.into_iter().filter(|(kind, ..)| split.is_none_or(|split| split == *kind));
    let rows =
        wanted.clone().flat_map(|(kind, split, files)| split.rows.iter().map(move |row| (kind, row, files.as_slice())));
    let mut seen = HashSet::new();
    let mut chosen: Vec<Chosen> = match &numbers {
        None => rows.take(1).collect(),
        // A file drawn from more than once gives a row more than once.
        Some(numbers) => rows
            .filter(|(kind, row, files)| {
                let number = files[row.origin.dataset].place(row.origin.row).1;
                numbers.contains(&number) && seen.insert((*kind as u8, row.origin))
            })
            .collect(),
    };
    chosen.sort_by_key(|(kind, row, _)| (*kind as u8, row.origin));
    if chosen.is_empty() {
        let left_out = wanted.flat_map(|(_, split, files)| split.left_out.iter().map(move |row| (row, files)));
        let is_meant = |(row, files): &(&LeftOut, &Vec<FileSummary>)| {
            let number = files[row.origin.dataset].place(row.origin.row).1;
            numbers.as_ref().is_some_and(|numbers| numbers.contains(&number))
        };
        if let Some((row, _)) = left_out.into_iter().find(is_meant) {
            return Err(Error::input(row.fault.fact.clone())
                .hint("`on_bad_row` leaves such rows out")
                .hint_zh("`on_bad_row` 会略去这样的行"));
        }
        let range = |file: &FileSummary| match file.parts.as_slice() {
            [] => vec![format!("{} has rows 1 to {}", file.path, file.rows)],
            parts => parts.iter().map(|part| format!("{} has rows 1 to {}", part.path, part.rows)).collect(),
        };
        let files: Vec<String> = read.files.iter().chain(&read.test_files).flat_map(range).collect();
        let what = numbers.map_or("such row".into(), |numbers| format!("row {}..{}", numbers.start(), numbers.end()));
        return Err(Error::input(format!("no {what} is read: {}", files.join(", ")))
            .hint("`max_samples` and `num_samples` leave rows out, --split as well")
            .hint_zh("`max_samples`、`num_samples` 与 --split 都会略去一些行"));
    }
    Ok(chosen)
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

/// A row to be shown.
struct Shown<'s> {
    place: Place,
    dataset: &'s str,
    split: SplitArg,
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
        let (place, dataset) = (self.place.text(lang == Lang::Zh), self.dataset);
        let (all, learned) = (self.count(|_| true), self.count(|role| role == Role::Learned));
        let (shared, lost) = (self.count(|role| role == Role::Shared), self.count(|role| role == Role::CutOff));
        let split = match (self.split, lang) {
            (SplitArg::Train, Lang::En) => "training",
            (SplitArg::Valid, Lang::En) => "held out",
            (SplitArg::Test, Lang::En) => "test",
            (SplitArg::Train, Lang::Zh) => "训练",
            (SplitArg::Valid, Lang::Zh) => "验证",
            (SplitArg::Test, Lang::Zh) => "测试",
        };
        let mut title = match lang {
            Lang::En => format!(
                "{place} ({dataset}, {split}): {all} tokens, {learned} of them learned, {shared} common to all training rows"
            ),
            Lang::Zh => format!(
                "{place}（{dataset}，{split}）：共 {all} 个词元，学习 {learned} 个，与全部训练行共享 {shared} 个"
            ),
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
        json!({
            "file": self.place.file,
            "row": self.place.row,
            "dataset": self.dataset,
            "split": match self.split { SplitArg::Train => "train", SplitArg::Valid => "valid", SplitArg::Test => "test" },
            "tokens": ids.len(),
            "learned": self.count(|role| role == Role::Learned),
            "shared": self.count(|role| role == Role::Shared),
            "cut_off": self.count(|role| role == Role::CutOff),
            "dropped": self.is_too_long && self.over_length == OverLength::Drop,
            "input_ids": ids,
            "labels": labels,
            "stretches": self.stretches.iter().map(|stretch| json!({
                "role": stretch.role.name(), "text": stretch.text, "ids": stretch.ids, "tokens": stretch.tokens,
            })).collect::<Vec<_>>(),
        })
    }
}

/// A token on one line, its blanks to be seen.
fn visible(token: &str) -> String {
    shown(token).replace('\n', "").replace(' ', "␣").replace('\u{3000}', "␣␣")
}
