//! What can be typed.

mod data;

pub use data::{DataCommand, PrepareArgs, Punctuation, ShowArgs, SourceArgs, SplitArg, StatsArgs};

use clap::{Args, Parser, Subcommand, ValueEnum};
use couplet_train::report::{Look, Progress, Verbosity};
use std::path::PathBuf;

const QUICK_START: &str = "\
Quick start · 快速上手
  # train on real couplets · 用真实对联训练
  couplet-train --config configs/tiny_couplets.toml
  # a LlamaFactory config as it is · 直接用 LlamaFactory 配置
  couplet-train --config my.yaml learning_rate=2e-4
  # couplets in any format → training data · 对联文本 → 训练数据
  couplet-train data prepare pairs.txt --out data
  # ask what was trained, beside its base · 对比训练前后
  couplet-train generate --adapter outputs/tiny_couplets --compare \"海内存知己\"
  # how good is it, in numbers · 用数字评估
  couplet-train evaluate --adapter outputs/tiny_couplets dataset=couplets_test
  # base and adapter as one model · 合并成一个模型
  couplet-train export --adapter outputs/tiny_couplets export_dir=outputs/merged
";

/// A program that breaks on demand must not pass for a release.
const VERSION: &str = if cfg!(feature = "fault-injection") {
    concat!(env!("CARGO_PKG_VERSION"), " (fault-injection: for tests only)")
} else {
    env!("CARGO_PKG_VERSION")
};

/// Native LoRA fine-tuning for Qwen3 · Qwen3 的原生 LoRA 微调
#[derive(Debug, Parser)]
#[command(name = "couplet-train", version = VERSION, before_help = QUICK_START, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub train: TrainArgs,
    #[command(flatten)]
    pub ui: Ui,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train; the same as without the word · 训练
    Train(TrainArgs),
    /// What a run will do and take: rows, tokens, steps, memory, disk, time; trains nothing and fetches nothing · 训练前预估
    Plan(PlanArgs),
    /// Answer texts: base, adapters, or both side by side · 生成下联，可对比
    Generate(GenerateArgs),
    /// The same as a conversation · 对话
    Chat(ChatArgs),
    /// Held-out loss, BLEU, ROUGE and couplet metrics: base, adapters and real lines side by side · 评估
    Evaluate(EvaluateArgs),
    /// Base and adapter in one Hugging Face folder · 合并导出
    Export(ExportArgs),
    /// Look at a trained adapter · 检查适配器
    #[command(subcommand)]
    Adapter(AdapterCommand),
    /// Make training data, look at it, count it · 准备、查看、统计数据
    #[command(subcommand)]
    Data(DataCommand),
    /// What a config key means; LlamaFactory YAML ⇄ our TOML · 解释配置项，转换配置格式
    #[command(subcommand)]
    Config(ConfigCommand),
    /// What this binary was built for, driver and cards, and which one `auto` takes · 检查环境
    Doctor,
}

#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Recipe: our TOML, or a LlamaFactory YAML/JSON as it is · 配置文件
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The recipe, unless --config names it; then overrides of its keys · 配置文件与 key=value 覆盖
    #[arg(value_name = "FILE | KEY=VALUE")]
    pub rest: Vec<String>,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub recipe: TrainArgs,
    /// Time from a product of the model's size, not from some first steps: no weights are read · 不加载权重
    #[arg(long)]
    pub no_probe: bool,
}

/// Whom to ask. What is not said is taken from the adapter's `run.json`.
#[derive(Debug, Default, Args)]
pub struct AskArgs {
    /// The base model: a folder or a name · 基座模型
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
    /// A trained adapter; once for each of several · 适配器目录，可重复
    #[arg(long, value_name = "DIR")]
    pub adapter: Vec<PathBuf>,
    /// Instruction before every text, instead of training's · 指令
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub instruction: Option<String>,
    /// The text as it stands: no instruction, nothing cleaned · 原样提问，不加指令
    #[arg(long)]
    pub raw: bool,
}

#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// Texts to answer, e.g. 上联; `key=value` such as temperature=0.7; a LlamaFactory inference YAML · 文本、参数或推理配置
    #[arg(value_name = "TEXT | KEY=VALUE | FILE")]
    pub words: Vec<String>,
    #[command(flatten)]
    pub ask: AskArgs,
    /// The base model beside the adapters · 与基座模型对比
    #[arg(long)]
    pub compare: bool,
    /// One text a line; `-` is stdin, which is also read when no text is given · 从文件读取，每行一条
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Given characters of 下联, `-` where it is free; with rules=shape or rules=strict · 限定某些字，如 "-河-海-"
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    pub pattern: Option<String>,
    /// Answers to every text; more than one are sampled, or the best under rules · 每条生成几个
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub n: u16,
    /// Texts answered at once · 批大小
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub batch_size: u16,
    /// JSON lines on stdout: prompt, model, outputs, seconds · 输出 JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ChatArgs {
    /// `key=value` such as temperature=0.7; a LlamaFactory inference YAML · 参数或推理配置
    #[arg(value_name = "KEY=VALUE | FILE")]
    pub words: Vec<String>,
    #[command(flatten)]
    pub ask: AskArgs,
}

#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// `key=value` such as dataset=couplets_test, max_samples=200, output_dir=outputs/eval; a LlamaFactory predict YAML · 参数或预测配置
    #[arg(value_name = "KEY=VALUE | FILE")]
    pub words: Vec<String>,
    /// The base model: a folder or a name · 基座模型
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
    /// A trained adapter; once for each of several · 适配器目录，可重复
    #[arg(long, value_name = "DIR")]
    pub adapter: Vec<PathBuf>,
    /// Leave the base model out: half the time · 不评估基座，省一半时间
    #[arg(long)]
    pub no_base: bool,
    /// Rows answered at once · 批大小
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub batch_size: u16,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// `key=value` such as export_dir=merged, export_size=5, infer_dtype=float32; a LlamaFactory export YAML · 参数或导出配置
    #[arg(value_name = "KEY=VALUE | FILE")]
    pub words: Vec<String>,
    #[command(flatten)]
    pub ask: AskArgs,
}

#[derive(Debug, Subcommand)]
pub enum AdapterCommand {
    /// Names, shapes, finite values, size of the updates, and whether it moves the logits; exit code 1 if not · 检查
    Check(CheckArgs),
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The adapter's folder · 适配器目录
    pub dir: PathBuf,
    /// The base model, unless the adapter knows it · 基座模型
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// What a key means, takes and is by default; without a key, all of them · 解释配置项
    Explain(ExplainArgs),
    /// A training config in the other dialect, to stdout · LlamaFactory YAML/JSON → TOML，TOML → YAML
    Convert(ConvertArgs),
    /// The keys as JSON Schema, for editors · 供编辑器使用的 JSON Schema
    Schema(SchemaArgs),
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Names of keys · 键名
    #[arg(value_name = "KEY")]
    pub keys: Vec<String>,
    /// All keys as a page: docs/config.md · 输出 Markdown
    #[arg(long, conflicts_with = "keys")]
    pub markdown: bool,
}

#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// A LlamaFactory YAML or JSON, or our TOML · 配置文件
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Overrides of its keys · 覆盖
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Of LlamaFactory's flat YAML and JSON instead of our TOML · LlamaFactory 的格式
    #[arg(long)]
    pub llamafactory: bool,
}

#[derive(Debug, Args)]
pub struct Ui {
    /// Errors only · 只显示错误
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// More about every step · 显示更多
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// How progress is shown · 进度显示方式
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "HOW")]
    pub progress: ProgressArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ProgressArg {
    /// A bar on a terminal, lines elsewhere
    Auto,
    /// A line per log entry
    Plain,
    /// Evaluations only
    None,
}

impl Ui {
    /// The look the flags ask for.
    pub fn apply(&self, look: Look) -> Look {
        Look {
            progress: match self.progress {
                ProgressArg::Auto => Progress::Auto,
                ProgressArg::Plain => Progress::Plain,
                ProgressArg::None => Progress::None,
            },
            verbosity: match (self.quiet, self.verbose) {
                (true, _) => Verbosity::Quiet,
                (_, true) => Verbosity::Verbose,
                _ => Verbosity::Normal,
            },
            ..look
        }
    }
}
