//! What can be typed behind `couplet-train data`.

use clap::{Args, Subcommand, ValueEnum};
use couplet_train::dataset::prepare::{Format, Reason, Split};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Raw couplets in whatever format → cleaned Alpaca JSON for training, validation and test · 整理对联数据
    Prepare(PrepareArgs),
    /// Rows as the model sees them: what is shared, said, learned and cut off · 逐行查看训练样本
    Show(ShowArgs),
    /// Lengths, repeats, what padding and prefixes cost, held-out rows that training has seen · 统计数据
    Stats(StatsArgs),
}

#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// Files of couplets: a pair a line (parted by blanks, tab, ——, ； …), CSV, TSV, JSON, JSON Lines; `-` is stdin · 输入文件，格式自动识别
    #[arg(value_name = "FILE", required_unless_present = "upper")]
    pub files: Vec<PathBuf>,
    /// Two files with a side each, line by line: that of 上联 · 上联文件（与 --lower 逐行对应）
    #[arg(long, value_name = "FILE", requires = "lower", help_heading = "Input · 输入")]
    pub upper: Option<PathBuf>,
    /// And that of 下联 · 下联文件
    #[arg(long, value_name = "FILE", requires = "upper", help_heading = "Input · 输入")]
    pub lower: Option<PathBuf>,
    /// How the files are written, where it is not recognised · 输入格式
    #[arg(long, value_enum, value_name = "FORMAT", help_heading = "Input · 输入")]
    pub format: Option<FormatArg>,
    /// What stands between the two sides, or between columns · 分隔符
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Input · 输入")]
    pub separator: Option<String>,
    /// Columns of 上联 and 下联: names, or numbers from 1 · 两列的列名或列号
    #[arg(long, value_name = "UPPER,LOWER", value_parser = two_names, help_heading = "Input · 输入")]
    pub columns: Option<[String; 2]>,

    /// 繁体 → 简体
    #[arg(long, help_heading = "Text and cleaning · 文本与清洗")]
    pub simplify: bool,
    /// `full`: , ; : ! ? become ，；：！？ and blanks between clauses ， · 标点转全角
    #[arg(
        long,
        value_enum,
        default_value = "keep",
        value_name = "HOW",
        help_heading = "Text and cleaning · 文本与清洗"
    )]
    pub punctuation: Punctuation,
    /// Keep rows in spite of a reason: characters, shape, copied, register, tones, duplicate, mirrored · 保留因此被剔除的行
    #[arg(long, value_name = "REASON", value_delimiter = ',', value_parser = reason, help_heading = "Text and cleaning · 文本与清洗")]
    pub keep: Vec<Reason>,
    /// Drop rows with wrong tones too; else they are only counted · 平仄不合者也剔除
    #[arg(long, help_heading = "Text and cleaning · 文本与清洗")]
    pub strict: bool,

    /// So many random couplets · 随机取若干副
    #[arg(long, value_name = "N", help_heading = "Choice · 取样与划分")]
    pub take: Option<usize>,
    /// Of all that is random · 随机种子
    #[arg(long, value_name = "S", default_value_t = 42, help_heading = "Choice · 取样与划分")]
    pub seed: u64,
    /// Shares or counts: 90/5/5 (or 90%/5%/5%), 50000/2000/2000, rest/1000/1000, none; auto holds out one row in twenty twice, at most 1,000 · 训练/验证/测试
    #[arg(long, value_name = "TRAIN/VALID/TEST", default_value = "auto", value_parser = str::parse::<Split>, help_heading = "Choice · 取样与划分")]
    pub split: Split,
    /// Equal shares of lengths in the training rows: frequent ones are drawn, rare ones repeated up to 4 times · 均衡各种字数
    #[arg(long, value_enum, value_name = "BY", help_heading = "Choice · 取样与划分")]
    pub balance: Option<Balance>,

    /// Instruction of the rows: a text, or a file with a wording a line, the usual one first · 指令，或每行一种指令的文件
    #[arg(long, value_name = "TEXT | FILE", help_heading = "Instruction · 指令")]
    pub instruction: Option<String>,
    /// Such a file; --instruction then stands before every line of it · 指令文件；--instruction 放在每行之前
    #[arg(long, value_name = "FILE", help_heading = "Instruction · 指令")]
    pub instruction_file: Option<PathBuf>,
    /// Tell two of five training rows their theme (写景, 抒情, 节庆 …) behind the instruction · 在部分指令后注明题材
    #[arg(long, help_heading = "Instruction · 指令")]
    pub tag: bool,

    /// Folder for the JSON files and dataset_info.json · 输出目录
    #[arg(long, alias = "output", default_value = "data", value_name = "DIR", help_heading = "Output · 输出")]
    pub out: PathBuf,
    /// Name of the data set: NAME, NAME_valid, NAME_test; the input's name when absent · 数据集名
    #[arg(long, help_heading = "Output · 输出")]
    pub name: Option<String>,
    /// Replace a data set of that name · 覆盖同名数据集
    #[arg(long, help_heading = "Output · 输出")]
    pub overwrite: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// Both sides on a line
    Lines,
    /// 上联 on one line, 下联 on the next
    Alternating,
    /// Columns parted by commas
    Csv,
    /// Columns parted by tabs
    Tsv,
    /// An array, or a row a line
    Json,
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Lines => Self::Lines,
            FormatArg::Alternating => Self::Alternating,
            FormatArg::Csv => Self::Csv,
            FormatArg::Tsv => Self::Tsv,
            FormatArg::Json => Self::Json,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Punctuation {
    /// As it stands
    Keep,
    /// Full-width
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Balance {
    /// Characters of a line
    Length,
}

fn two_names(text: &str) -> Result<[String; 2], String> {
    let names: Vec<&str> = text.split([',', '，']).map(str::trim).collect();
    match names.as_slice() {
        [upper, lower] if !upper.is_empty() && !lower.is_empty() => Ok([(*upper).to_owned(), (*lower).to_owned()]),
        _ => Err("write two names or numbers: --columns 上联,下联".into()),
    }
}

fn reason(text: &str) -> Result<Reason, String> {
    let names: Vec<&str> =
        Reason::ALL.into_iter().filter(|reason| *reason != Reason::Sides).map(Reason::name).collect();
    let found = Reason::ALL.into_iter().find(|reason| reason.name() == text && names.contains(&text));
    found.ok_or_else(|| format!("reasons are {}", names.join(", ")))
}

/// Which data: that of a config, or a data set and the model whose tokenizer it is for.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// The config, as for training, unless --config names it; then overrides of its keys · 配置文件与 key=value 覆盖
    #[arg(value_name = "FILE | KEY=VALUE")]
    pub words: Vec<String>,
    /// The config · 配置文件
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Without a config: the model whose tokenizer it is, a folder or a name · 模型（取其分词器）
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Without a config: a data set of dataset_info.json, or a file · 数据集名或文件
    #[arg(long, value_name = "NAME | FILE")]
    pub data: Option<String>,
    /// JSON on stdout · 输出 JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// The row with this number in its file, from 1 · 文件中的行号
    #[arg(long, value_name = "N", conflicts_with = "rows")]
    pub row: Option<usize>,
    /// Rows A to B of their file, both shown · 行号范围（含两端）
    #[arg(long, value_name = "A..B", value_parser = row_range)]
    pub rows: Option<std::ops::RangeInclusive<usize>>,
    /// Only rows that are trained, held out, or tested · 只看训练、验证或测试数据
    #[arg(long, value_enum, value_name = "WHICH")]
    pub split: Option<SplitArg>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SplitArg {
    Train,
    Valid,
    Test,
}

/// `3..5` → 3, 4, 5.
fn row_range(text: &str) -> Result<std::ops::RangeInclusive<usize>, String> {
    let ends = text.split_once("..").map(|(a, b)| (a.trim().parse(), b.trim_start_matches('=').trim().parse()));
    match ends {
        Some((Ok(first), Ok(last))) if first <= last => Ok(first..=last),
        _ => Err("write the first row and the last, as in 3..5".into()),
    }
}

#[derive(Debug, Args)]
pub struct StatsArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Draw the lengths of the rows into a picture · 把长度分布画成 PNG
    #[arg(long, value_name = "FILE.png")]
    pub plot: Option<PathBuf>,
}
