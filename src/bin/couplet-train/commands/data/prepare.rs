//! `couplet-train data prepare`: raw couplets → data to train on, said row by row, and how to go on.

use crate::{
    args::{PrepareArgs, Punctuation},
    commands::{header::thousands, stop},
};
use couplet_train::{
    dataset::prepare::{self, Groups, Instructions, Layout, Options, Part, Prepared, STDIN},
    error::{Error, Result},
    report::{Console, Header, Lang, Look},
};
use std::{
    io::{IsTerminal, Write, stdout},
    path::{Path, PathBuf},
};

/// Prepares, says what came of every row, and prints the commands that go on.
pub fn run(args: &PrepareArgs, look: Look) -> Result<()> {
    let options = options(args)?;
    let stop = stop::listen(look)?;
    // What is begun is finished: some files would be there, and no entry that names them.
    let done = prepare::prepare_and_tell(&options, &|| stop.defer())?;
    let color = look.color && stdout().is_terminal();
    let mut out = stdout().lock();
    Console::new(&mut out, Look { color, ..look }).header(&said(&done, &options, look.lang));
    for command in next(&done, &options) {
        writeln!(out, "{command}")?;
    }
    Ok(())
}

fn options(args: &PrepareArgs) -> Result<Options> {
    if args.out.starts_with("~") {
        return Err(Error::file(&args.out, "begins with `~`, which only a shell replaces")
            .hint("write the whole path, or leave out the `=`: --out ~/data")
            .hint_zh("请写完整路径，或去掉等号：--out ~/data"));
    }
    let sides = [&args.upper, &args.lower];
    let is_stdin = |file: &&PathBuf| file.as_path() == Path::new(STDIN);
    if args.files.iter().chain(sides.into_iter().flatten()).filter(is_stdin).count() > 1 {
        return Err(Error::input("standard input (`-`) is named twice and can be read once")
            .hint("write one of the two to a file first")
            .hint_zh("标准输入（`-`）只能读取一次：请将其中一份先存为文件"));
    }
    let first = args.files.first().or(args.upper.as_ref());
    Ok(Options {
        files: args.files.clone(),
        parallel: args.upper.clone().zip(args.lower.clone()).map(|(upper, lower)| [upper, lower]),
        layout: Layout {
            format: args.format.map(Into::into),
            separator: args.separator.clone().filter(|text| !text.is_empty()),
            columns: args.columns.clone(),
        },
        out: args.out.clone(),
        name: args.name.clone().or_else(|| name_of(first?)).unwrap_or_default(),
        simplify: args.simplify,
        full_width: args.punctuation == Punctuation::Full,
        keep: args.keep.clone(),
        strict: args.strict,
        take: args.take,
        seed: args.seed,
        split: args.split,
        instructions: instructions(args)?,
        balance: args.balance.is_some(),
        tag: args.tag,
        overwrite: args.overwrite,
    })
}

/// What a file is called without its endings: `pairs` of `data/pairs.csv.gz`, `stdin` of `-`.
fn name_of(file: &Path) -> Option<String> {
    if file == Path::new(STDIN) {
        return Some("stdin".into());
    }
    let name = file.file_name()?.to_string_lossy();
    let unpacked = name.strip_suffix(".gz").unwrap_or(&name);
    Some(Path::new(unpacked).file_stem()?.to_string_lossy().into_owned())
}

/// A text that names a file is that file, and one that looks like a file must be one.
fn instructions(args: &PrepareArgs) -> Result<Instructions> {
    match (args.instruction.as_deref(), &args.instruction_file) {
        (text, Some(file)) => Instructions::read(file, text.unwrap_or_default()),
        (Some(text), None) if Path::new(text).is_file() || text.ends_with(".txt") => {
            Instructions::read(Path::new(text), "")
        }
        (Some(text), None) => Ok(Instructions::one(text)),
        (None, None) => Ok(Instructions::one(prepare::DEFAULT_INSTRUCTION)),
    }
}

fn said(done: &Prepared, options: &Options, lang: Lang) -> Header {
    let chinese = lang == Lang::Zh;
    let mut header = Header::default();
    let read = done.sources.iter().map(|source| {
        let (path, rows, found) = (source.path.display(), thousands(source.rows), source.found.text(chinese));
        match lang {
            Lang::En => format!("{path}: {rows} rows; {found}"),
            Lang::Zh => format!("{path}：{rows} 行；{found}"),
        }
    });
    header.row("read", "读取", read.collect::<Vec<_>>().join("\n"));
    header.row("dropped", "剔除", dropped(done, lang));
    let wrong = 100.0 * done.wrong_tones as f64 / done.kept as f64;
    header.row(
        "kept",
        "保留",
        match (lang, options.strict) {
            (Lang::En, false) => {
                format!("{}; tones wrong in {wrong:.1} % of them (--strict drops these)", thousands(done.kept))
            }
            (Lang::Zh, false) => format!("{} 行，其中 {wrong:.1} % 平仄不合（--strict 可剔除）", thousands(done.kept)),
            (Lang::En, true) => thousands(done.kept),
            (Lang::Zh, true) => format!("{} 行", thousands(done.kept)),
        },
    );
    if options.take.is_some() {
        header.row("taken", "取样", drawn(done, options, lang));
    }
    header.row("alike", "近似", alike(done.groups, lang));
    if !done.balanced.is_empty() {
        let class = |class: &prepare::Balanced| {
            let (before, after) = (thousands(class.before), thousands(class.after));
            match lang {
                Lang::En => format!("{}: {before} → {after}", class.en),
                Lang::Zh => format!("{} {before} → {after}", class.zh),
            }
        };
        let classes = done.balanced.iter().map(class).collect::<Vec<_>>();
        header.row("lengths", "字数", classes.join(lang.pick(", ", "，")));
    }
    if options.tag {
        let themes = done.themes.iter().map(|(name, rows)| format!("{name} {}", thousands(*rows))).collect::<Vec<_>>();
        let told = thousands(done.told);
        let text = match lang {
            Lang::En => format!("{}; told to {told} rows of the training file", themes.join(", ")),
            Lang::Zh => format!("{}；训练文件中 {told} 行注明题材", themes.join("，")),
        };
        header.row("themes", "题材", text);
    }
    header.row("instruction", "指令", instruction(&options.instructions, lang));
    for (part, rows, file) in &done.parts {
        let (en, zh) = match part {
            Part::Train => ("train", "训练"),
            Part::Valid => ("valid", "验证"),
            Part::Test => ("test", "测试"),
        };
        let (rows, file, name) = (thousands(*rows), file.display(), part.of(&options.name));
        let text = match lang {
            Lang::En => format!("{rows} rows → {file}, registered as `{name}`"),
            Lang::Zh => format!("{rows} 行 → {file}，登记为 `{name}`"),
        };
        header.row(en, zh, text);
    }
    if done.unused > 0 {
        let text = match lang {
            Lang::En => format!("{} rows that no part asked for", thousands(done.unused)),
            Lang::Zh => format!("{} 行未被任何部分用到", thousands(done.unused)),
        };
        header.row("unused", "未用", text);
    }
    header.notices = done.notes.iter().map(|note| (note.en.clone(), note.zh.clone())).collect();
    header
}

fn dropped(done: &Prepared, lang: Lang) -> String {
    let all: usize = done.dropped.iter().map(|(_, count, _)| count).sum();
    if all == 0 {
        return lang.pick("none", "无").into();
    }
    let report = done.report.display();
    let mut lines = vec![match lang {
        Lang::En => format!("{}, each with its place and reason in {report}", thousands(all)),
        Lang::Zh => format!("{} 行，位置与原因逐行写在 {report}", thousands(all)),
    }];
    lines.extend(done.dropped.iter().map(|(reason, rows, first)| match lang {
        Lang::En => format!("{} {}: {}, first {first}", reason.name(), thousands(*rows), reason.text(false)),
        Lang::Zh => format!("{} {}：{}，首见 {first}", reason.name(), thousands(*rows), reason.text(true)),
    }));
    lines.join("\n")
}

fn drawn(done: &Prepared, options: &Options, lang: Lang) -> String {
    let (taken, seed) = (thousands(done.taken), options.seed);
    match (lang, options.tag) {
        (Lang::En, false) => format!("{taken}, drawn by seed {seed}"),
        (Lang::En, true) => format!("{taken}, drawn by seed {seed}, those with a theme first"),
        (Lang::Zh, false) => format!("{taken} 行，种子 {seed}"),
        (Lang::Zh, true) => format!("{taken} 行，种子 {seed}，有题材者优先"),
    }
}

fn alike(groups: Groups, lang: Lang) -> String {
    let Groups { groups, rows, largest } = groups;
    if groups == 0 {
        return lang.pick("no row shares a line with another, or nearly", "没有相同或仅差一字的联句").into();
    }
    let [groups, rows, largest] = [groups, rows, largest].map(thousands);
    match lang {
        Lang::En => format!(
            "{rows} rows share a line with another, or all of it but one character; groups: {groups}, the largest of {largest}; none is parted"
        ),
        Lang::Zh => format!("{rows} 行与他行有相同或仅差一字的联句，共 {groups} 组（最大 {largest} 行），同组不跨划分"),
    }
}

fn instruction(instructions: &Instructions, lang: Lang) -> String {
    let usual = instructions.usual();
    let shared = instructions.shared();
    match (lang, instructions.count()) {
        (_, 1) if usual.is_empty() => lang.pick("none: the 上联 alone", "无：只有上联").into(),
        (_, 1) => usual.to_owned(),
        (Lang::En, count) => {
            format!("{count} wordings, which share the beginning 「{shared}」; the usual one: {usual}")
        }
        (Lang::Zh, count) => format!("{count} 种，共同开头为「{shared}」；最常用：{usual}"),
    }
}

/// Commands that train on the data and judge the result.
fn next(done: &Prepared, options: &Options) -> Vec<String> {
    let name = &options.name;
    let has = |part| done.parts.iter().any(|(of, ..)| *of == part);
    let dir = quoted(&format!("dataset_dir={}", options.out.display()));
    // The recipe's own held-out set lies elsewhere.
    let held_out = match has(Part::Valid) {
        true => format!("eval_dataset={}", Part::Valid.of(name)),
        false => "eval_dataset= eval_strategy=no".into(),
    };
    let train = format!(
        "couplet-train --config configs/tiny_couplets.toml dataset={name} {dir} {held_out} output_dir=outputs/{name}"
    );
    let test = Part::Test.of(name);
    let judge = format!("couplet-train evaluate --adapter outputs/{name} dataset={test} {dir}");
    [Some(train), has(Part::Test).then_some(judge)].into_iter().flatten().collect()
}

/// As a shell reads one word.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:@,+".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_set_is_called_as_its_file_without_its_endings() {
        for (file, want) in [
            ("data/pairs.csv.gz", "pairs"),
            ("pairs.txt", "pairs"),
            ("pairs", "pairs"),
            ("pairs.gz", "pairs"),
            ("a.b.txt", "a.b"),
            ("-", "stdin"),
        ] {
            assert_eq!(name_of(Path::new(file)).as_deref(), Some(want), "{file}");
        }
    }

    #[test]
    fn a_word_with_a_space_is_quoted() {
        for (word, want) in [("data", "data"), ("新/目录", "新/目录"), ("my data", "'my data'"), ("it's", "'it'\\''s'")]
        {
            assert_eq!(quoted(word), want);
        }
    }
}
