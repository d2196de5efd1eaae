//! `couplet-train export`: base and adapters in one folder, proven against what it was made from.

use super::{
    ask::{self, Words},
    below,
    data::quoted,
    proof, stop,
    trained::Trained,
};
use crate::args::ExportArgs;
use candle_core::DType;
use couplet_train::{
    adapter::{
        check::{self, Agreement},
        export::{export, refuse_taken},
        merge::Merge,
    },
    config::{self, InferDtype, TemplateName, table},
    dataset::Tokenizer,
    error::{Error, Result},
    fs,
    generate::Speaker,
    model::{Checkpoint, Qwen3Config, streamed},
    report::{Console, Header, Lang, Look},
    signal::{Signal, Stop},
};
use std::{
    io::stderr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

/// Merges, writes, and reads the result back. Its path goes to stdout.
#[expect(clippy::print_stdout, reason = "the result")]
pub fn run(args: &ExportArgs, look: Look) -> Result<u8> {
    let mut console = Console::new(stderr(), look);
    let written: Arc<OnceLock<PathBuf>> = Arc::default();
    let stop = Stop::install_with({
        let written = Arc::clone(&written);
        move |signal| tell_stopped(look, signal, written.get())
    })?;
    let words = Words::sort(&args.words)?;
    if let Some(text) = words.texts.first() {
        return Err(Error::input(format!("`{text}` is neither `key=value` nor a config file"))
            .hint("couplet-train export --adapter outputs/run export_dir=merged")
            .hint_zh("couplet-train export --adapter outputs/run export_dir=merged"));
    }
    let (config, notices) = config::inference(words.config.as_deref(), &words.overrides, table::Command::Export)?;
    let out = config.export.dir.clone().ok_or_else(|| {
        Error::input("`export_dir` is missing")
            .hint("say where the merged model goes, e.g. `export_dir=merged`")
            .hint_zh("请写明合并后模型的位置，例如 `export_dir=merged`")
    })?;
    refuse_taken(&out)?;
    let dirs = if args.ask.adapter.is_empty() { &config.adapters } else { &args.ask.adapter };
    if dirs.is_empty() {
        return Err(Error::input("no adapter to merge")
            .hint("name it: `--adapter outputs/run`, or `adapter_name_or_path` in the config")
            .hint_zh("请指明适配器：`--adapter outputs/run`，或配置中的 `adapter_name_or_path`"));
    }
    let trained = dirs.iter().map(|dir: &PathBuf| Trained::open(dir)).collect::<Result<Vec<_>>>()?;
    // It is asked as the last was trained.
    let last = &trained[trained.len() - 1..];
    let (base_dir, base) = ask::base(&config, &args.ask, last, &mut console)?;
    let geometry = Qwen3Config::load(&base_dir)?;
    let tokenizer = Tokenizer::load(&base_dir)?;
    let mut header = Header::default();
    let speaker = ask::speaker(&config, &args.ask, last, &mut header)?;
    let dtype = match config.dtype {
        InferDtype::Auto => None,
        InferDtype::Float32 => Some(DType::F32),
        InferDtype::Bfloat16 => Some(DType::BF16),
        InferDtype::Float16 => Some(DType::F16),
    };
    header.row("base", "基座", base_dir.display().to_string());
    // Those that the first was trained over come before it.
    let (stack, weights) = below::stack(dirs)?;
    below::notice_unnamed(&stack, &mut header);
    stack.iter().for_each(|dir| header.row("adapter", "适配器", dir.display().to_string()));
    header.row("output", "输出", out.display().to_string());
    notices.into_iter().for_each(|notice| header.notice(notice.en, notice.zh));
    console.header(&header);

    let merge = Merge::new(&geometry, &base, &weights, dtype)?;
    for (dir, adapter) in stack.iter().zip(&weights) {
        check::refuse_non_finite(adapter, &geometry).map_err(|err| err.at(dir.display()))?;
    }
    let name = out.display().to_string();
    let mut shown = 0;
    let show = |done, all| {
        if done > shown {
            console.export(&name, done, all);
            shown = done;
        }
        stop.requested().map_or(Ok(()), |signal| Err(Error::run(format!("stopped by {}", signal.name()))))
    };
    // A signal waits until the folder is gone, or whole.
    stop.defer();
    let ended = export(&merge, &base_dir, &out, config.export.size * 1_000_000_000, dtype, &speaker.modelfile(), show);
    if ended.is_ok() {
        let _ = written.set(out.clone()); // it is set once
    }
    stop.leave_at_once();
    if let Some(signal) = stop.requested() {
        tell_stopped(look, signal, written.get());
        return Ok(signal.exit_code());
    }
    ended?;

    let (batch, rows) = proof::sample(last.first(), &speaker, &tokenizer)?;
    let merged = Checkpoint::open(&out)?;
    let Some((upper, lower)) = weights.split_last() else {
        return Err(Error::run("internal error: nothing was merged"));
    };
    let (untuned, tuned) = proof::streamed_logits(&geometry, &base, (lower, dtype), upper, &batch)?;
    let mut foreign = Header::default();
    trained.iter().for_each(|trained| trained.warn_of_another_base(&base, &mut foreign));
    console.header(&foreign);
    let result = streamed::logits(&geometry, &merged, None, None, &batch)?;
    let agreement = Agreement::of(&untuned, &tuned, &result)?;
    console.line(&told(&agreement, rows, look.lang));
    let dtype_written =
        dtype.or(merged.info("model.embed_tokens.weight").map(|(dtype, _)| dtype)).unwrap_or(DType::F32);
    // A model that is not the tuned one must not stay under its name.
    agreement.refuse_difference(dtype_written).inspect_err(|_| {
        stop.defer();
        remove(&out);
    })?;
    console.line(&serving(&out, &speaker, look.lang));
    println!("{name}");
    Ok(0)
}

/// Says what is left of an export that a signal ended.
fn tell_stopped(look: Look, signal: Signal, written: Option<&PathBuf>) {
    match written.map(|out| out.display()) {
        None => stop::tell(look, signal, stop::NOTHING_WRITTEN),
        Some(out) => {
            let en = format!("{out} is whole, but was not compared with base + adapter");
            let zh = format!("{out} 已完整写出，但尚未与「基座+适配器」比较");
            stop::tell(look, signal, (&en, &zh));
        }
    }
}

fn remove(dir: &Path) {
    if let (Some(parent), Some(name)) = (dir.parent(), dir.file_name().and_then(|name| name.to_str())) {
        let _ = fs::remove_durable_dir(parent, name); // the error that led here is the one worth telling
    }
}

fn told(a: &Agreement, rows: &str, lang: Lang) -> String {
    let (positions, max, mean, largest) = (a.positions, a.max, a.mean, a.largest);
    let (top1, lost) = (100.0 * a.top1, 100.0 * a.lost);
    match lang {
        Lang::En => format!(
            "read back and compared with base + adapter at {positions} positions ({rows}): logits differ by {max:.1e} at \
             most, {mean:.1e} on average (largest logit {largest:.1}); same first choice at {top1:.1} %; rounding costs \
             {lost:.2} % of what the adapter does"
        ),
        Lang::Zh => format!(
            "已读回，并在 {positions} 个位置与「基座+适配器」比较：logits 最大差 {max:.1e}，平均差 {mean:.1e}（最大 logit \
             {largest:.1}）；首选词元相同 {top1:.1} %；舍入损失适配器作用的 {lost:.2} %"
        ),
    }
}

/// How the model is served so that it is asked as in training.
fn serving(out: &Path, speaker: &Speaker, lang: Lang) -> String {
    let out = quoted(&out.display().to_string());
    let thinking = match (speaker.template, speaker.enable_thinking) {
        (TemplateName::Qwen3Nothink, _) => "",
        (TemplateName::Qwen3, Some(true)) => ", \"chat_template_kwargs\": {\"enable_thinking\": true}",
        (TemplateName::Qwen3, _) => ", \"chat_template_kwargs\": {\"enable_thinking\": false}",
    };
    let content = match &speaker.instruction {
        Some(instruction) => format!("{instruction}\\n上联"),
        None => "上联".into(),
    };
    let system = speaker.system.iter().map(|text| format!("{{\"role\": \"system\", \"content\": {text:?}}}, "));
    let system: String = system.collect();
    let request = format!("{{\"messages\": [{system}{{\"role\": \"user\", \"content\": \"{content}\"}}]{thinking}}}");
    let (serve, ask) = (lang.pick("serve it", "部署"), lang.pick("ask it as training did", "按训练时的方式提问"));
    format!(
        "{serve}:  vllm serve {out}    |    ollama create couplets -f {out}/Modelfile\n{ask}:  POST /v1/chat/completions {request}"
    )
}
