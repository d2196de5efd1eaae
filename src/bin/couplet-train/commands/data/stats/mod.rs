//! `couplet-train data stats`: the data of a config in numbers, before it costs anything.

mod text;

use super::source::Source;
use crate::args::StatsArgs;
use candle_core::{DType, Device};
use couplet_train::{
    config::{OverLength, Recipe},
    dataset::{
        self, Example, Split,
        encode::{Encoded, Row, encode_rows},
        instruction::{Instruction, most_frequent},
        leaks::{Leaks, Place},
        near,
        repeats::{contradictions, distinct, repeats},
        stats::{Bin, Lengths, histogram},
        summary::{FileSummary, common_prefix},
    },
    error::{Error, Result},
    fs,
    model::{Qwen3Config, qwen3::Keep},
    plan::micro_batch_rows,
    prosody::bare_shape,
    report::{Look, histogram as picture},
    trainer::{Cut, Feed, plan::StepPlan},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    io::{Write, stdout},
    path::Path,
};

/// Bins of lengths on the terminal and in the picture.
const BINS: usize = 16;
const PICTURE_BINS: usize = 64;

/// Counts; the result goes to stdout.
pub fn run(args: &StatsArgs, look: Look) -> Result<()> {
    args.plot.iter().try_for_each(|path| refuse_other_picture(path))?;
    let source = Source::open(&args.source, look)?;
    let (stats, lengths) = Stats::of(&source)?;
    if let Some(path) = &args.plot {
        let bars = |lengths: &[usize]| {
            let bins = histogram(lengths, PICTURE_BINS).into_iter();
            bins.map(|bin| (bin.from, bin.to, bin.rows)).collect()
        };
        let splits: Vec<_> =
            stats.splits.iter().zip(&lengths).map(|(split, lengths)| (split.name, bars(lengths))).collect();
        fs::write_atomic(path, &picture::png("Tokens a row", "tokens", &splits)?)?;
    }
    let mut out = stdout().lock();
    match args.source.json {
        true => {
            serde_json::to_writer(&mut out, &stats).map_err(std::io::Error::from).and_then(|()| out.write_all(b"\n"))?
        }
        false => out.write_all(text::render(&stats, look.lang).as_bytes())?,
    }
    Ok(())
}

/// A picture is a PNG, whatever its name.
fn refuse_other_picture(path: &Path) -> Result<()> {
    match path.extension() {
        Some(extension) if !extension.eq_ignore_ascii_case("png") => {
            Err(Error::file(path, "the picture is a PNG, and the name of another kind of file was given")
                .hint("let the name end in .png")
                .hint_zh("文件名请以 .png 结尾"))
        }
        _ => Ok(()),
    }
}

/// What is told of the data. Indices are gone: rows are named by file and row.
#[derive(Serialize)]
struct Stats {
    files: Vec<FileSummary>,
    splits: Vec<SplitStats>,
    over_length: OverLength,
    longest_row: usize,
    over_long: Vec<TooLong>,
    prefix: Prefix,
    feed: Fed,
    doubles: Vec<Double>,
    contradictions: Vec<Vec<Place>>,
    alike: Alike,
    instruction: Option<Instruction>,
    couplets: Couplets,
    leaks: Vec<Leaks>,
}

/// Rows that are trained, held out or tested.
#[derive(Serialize)]
struct SplitStats {
    name: &'static str,
    rows: usize,
    /// What is said to the model, what it answers, and both.
    prompt: Lengths,
    response: Lengths,
    whole: Lengths,
    histogram: Vec<Bin>,
}

#[derive(Serialize)]
struct TooLong {
    #[serde(flatten)]
    place: Place,
    tokens: usize,
}

/// What all training rows begin with.
#[derive(Serialize)]
struct Prefix {
    tokens: usize,
    text: String,
}

/// Tokens of an epoch.
#[derive(Serialize)]
struct Fed {
    samples_a_step: usize,
    batch: usize,
    /// Rows of the model that go through it at once, on a CPU.
    at_once: usize,
    share_prefix: bool,
    trained: usize,
    #[serde(flatten)]
    feed: Feed,
}

#[derive(Serialize)]
struct Double {
    row: Place,
    first: Place,
}

/// Training rows that have a line in common, but for one character, with another.
#[derive(Serialize)]
struct Alike {
    rows: usize,
    groups: usize,
    largest: usize,
}

/// Rows whose two sides are made alike, by the characters of their clauses without marks: what `data prepare` asks of them.
#[derive(Serialize)]
struct Couplets {
    rows: usize,
    shapes: Vec<Shape>,
}

#[derive(Serialize)]
struct Shape {
    characters: Vec<usize>,
    rows: usize,
}

impl Stats {
    /// And the uncut lengths of the rows of every split.
    fn of(source: &Source) -> Result<(Self, Vec<Vec<usize>>)> {
        let (data, read) = (&source.recipe.data, &source.read);
        let mut files = read.files.clone();
        let mut test_files = read.test_files.clone();
        let encode = |split: &Split| encode_rows(&split.rows, data, &source.tokenizer);
        let (train, eval, test) = (encode(&read.train)?, encode(&read.eval)?, encode(&read.test)?);
        dataset::count(&[(&read.train.left_out, &train), (&read.eval.left_out, &eval)], data, &mut files);
        dataset::count(&[(&read.test.left_out, &test)], data, &mut test_files);
        let (mut splits, mut all_lengths, mut over_long) = (vec![], vec![], vec![]);
        for (name, split, encoded, read_from) in [
            ("training", &read.train, &train, &files),
            ("held out", &read.eval, &eval, &files),
            ("test", &read.test, &test, &test_files),
        ] {
            if split.rows.is_empty() {
                continue;
            }
            let (stats, lengths) = SplitStats::of(name, encoded);
            over_long.extend(too_long(&split.rows, encoded, data.longest_row(), read_from));
            splits.push(stats);
            all_lengths.push(lengths);
        }
        files.extend(test_files);
        let train = dataset::settle(&read.train.left_out, train, data);
        let rows = &read.train.rows;
        let place = |origin| Place::of(origin, &read.files);
        let distinct = distinct(rows);
        let prefix = train.first().map_or(vec![], |row| row.input_ids[..common_prefix(&train)].to_vec());
        let stats = Self {
            files,
            splits,
            over_length: data.over_length,
            longest_row: data.longest_row(),
            over_long,
            prefix: Prefix { tokens: prefix.len(), text: source.tokenizer.decode(&prefix, false)? },
            feed: Fed::of(&source.recipe, &source.model_dir, &train),
            doubles: repeats(&train)
                .into_iter()
                .map(|(row, first)| Double { row: place(row), first: place(first) })
                .collect(),
            contradictions: contradictions(&distinct)
                .into_iter()
                .map(|rows| rows.into_iter().map(|row| place(row.origin)).collect())
                .collect(),
            alike: Alike::of(&distinct),
            instruction: most_frequent(rows.iter().map(|row| row.record.prompt.as_str())),
            couplets: Couplets::of(rows),
            leaks: read.leaks(),
        };
        Ok((stats, all_lengths))
    }
}

impl SplitStats {
    fn of(name: &'static str, rows: &[Encoded]) -> (Self, Vec<usize>) {
        let lengths = |of: fn(&Encoded) -> usize| rows.iter().map(of).collect::<Vec<usize>>();
        let whole = lengths(|row| row.full_len);
        let split = Self {
            name,
            rows: rows.len(),
            prompt: Lengths::of(lengths(|row| row.full_len - row.answer_len)),
            response: Lengths::of(lengths(|row| row.answer_len)),
            histogram: histogram(&whole, BINS),
            whole: Lengths::of(whole.clone()),
        };
        (split, whole)
    }
}

/// Rows of more than `longest` tokens, in the order of their files.
fn too_long(rows: &[Row], encoded: &[Encoded], longest: usize, files: &[FileSummary]) -> Vec<TooLong> {
    let long = rows.iter().zip(encoded).filter(|(_, encoded)| encoded.full_len > longest);
    let mut long: Vec<_> = long.collect();
    long.sort_by_key(|(row, _)| row.origin);
    let tell =
        |(row, encoded): (&Row, &Encoded)| TooLong { place: Place::of(row.origin, files), tokens: encoded.full_len };
    long.into_iter().map(tell).collect()
}

impl Fed {
    fn of(recipe: &Recipe, model_dir: &Path, train: &[Example]) -> Self {
        let plan = StepPlan::of(train, &recipe.train);
        let dtype = if recipe.train.bf16 { DType::BF16 } else { DType::F32 };
        // A folder with a tokenizer alone will do: then a step goes through the model as one.
        let by_model =
            || Qwen3Config::load(model_dir).map_or(usize::MAX, |model| micro_batch_rows(&model, dtype, &Device::Cpu));
        let at_once = recipe.train.micro_batch_tokens.unwrap_or_else(by_model);
        let share_prefix = recipe.train.shared_prefix && !recipe.is_random();
        let cut = Cut { max_rows: at_once, share_prefix, keep: Keep::Lean };
        Self {
            samples_a_step: plan.samples_per_step(),
            batch: recipe.train.per_device_train_batch_size,
            at_once,
            share_prefix,
            trained: train.iter().map(Example::label_count).sum(),
            feed: Feed::of_epoch(cut, &plan, train),
        }
    }
}

impl Alike {
    fn of(rows: &[&Row]) -> Self {
        let pairs: Vec<near::Pair> = rows.iter().map(|row| row.record.pair()).collect();
        let lines: Vec<&[&str]> = pairs.iter().map(near::lines).collect();
        let mut sizes: HashMap<usize, usize> = HashMap::new();
        near::groups(&lines, near::Telling::LEAK).into_iter().for_each(|group| *sizes.entry(group).or_default() += 1);
        let several = || sizes.values().filter(|rows| **rows > 1);
        Self { rows: several().sum(), groups: several().count(), largest: several().max().copied().unwrap_or(0) }
    }
}

impl Couplets {
    /// The most frequent shape first.
    fn of(rows: &[Row]) -> Self {
        let mut shapes: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
        for row in rows {
            let [asked, answered] = row.record.pair().map(bare_shape);
            if !asked.is_empty() && asked == answered {
                *shapes.entry(asked).or_default() += 1;
            }
        }
        let mut shapes: Vec<Shape> = shapes.into_iter().map(|(characters, rows)| Shape { characters, rows }).collect();
        shapes.sort_by_key(|shape| std::cmp::Reverse(shape.rows));
        Self { rows: shapes.iter().map(|shape| shape.rows).sum(), shapes }
    }
}
