//! What the commands share that use a trained adapter: which model is asked, and how. Whatever training knew comes from the adapter's receipt.

use super::{below, locate, trained::Trained};
use crate::{args::AskArgs, machine};
use candle_core::DType;
use couplet_train::{
    adapter::merge::merged,
    config::{GenerationConfig, InferDtype, InferenceConfig, TemplateName, keys},
    dataset::Tokenizer,
    device::{self, Opened},
    error::{Error, Result},
    eval::couplet::Comma,
    generate::{Limits, Sampling, Speaker},
    model::{AdapterWeights, Checkpoint, Qwen3, Qwen3Config, weights::Change},
    plan::{Part, explained},
    report::{Console, Header, Lang},
    run,
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// A model that can be asked.
pub struct Asked {
    pub model: Qwen3,
    pub tokenizer: Tokenizer,
    /// The base alone and the adapters over it, in the order they answer.
    pub voices: Vec<Voice>,
    pub speaker: Speaker,
    /// Tokens that end an answer.
    pub stop: Vec<u32>,
    /// What the adapters were read from, in their order.
    pub trained: Vec<Trained>,
    /// The checkpoint's.
    pub base_digest: String,
    /// How the training data of the first adapter writes the break between clauses.
    pub comma: Comma,
}

/// The base or one adapter over it.
pub struct Voice {
    pub name: String,
    /// `None`: the base.
    pub adapter: Option<AdapterWeights>,
}

/// The words of the command line: a config, `key=value`, and texts.
#[derive(Debug, Default, PartialEq)]
pub struct Words {
    pub config: Option<PathBuf>,
    pub overrides: Vec<String>,
    pub texts: Vec<String>,
}

impl Words {
    /// Tells them apart. A text with a name and `=` at its start, or that could name a config, has to come from a file. (A key with
    /// a full-width `＝` is no text either: it is refused as an override.)
    ///
    /// Errors: the name of a config that is not there.
    pub fn sort(words: &[String]) -> Result<Self> {
        let mut sorted = Self::default();
        for word in words {
            let full_width = || word.split_once('＝').filter(|(key, _)| keys::find(key).is_some());
            let key = word.split_once('=').or_else(full_width).map(|(key, _)| key);
            let is_config = [".yaml", ".yml", ".json", ".toml"].iter().any(|end| word.ends_with(end));
            if key.is_some_and(|key| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')) {
                sorted.overrides.push(word.clone());
            } else if !is_config {
                sorted.texts.push(word.clone());
            } else if Path::new(word).is_file() {
                sorted.config = Some(word.into());
            } else {
                return Err(Error::file(Path::new(word), "there is no such config file")
                    .hint("check the path; a text that ends like this goes into a file (--file)")
                    .hint_zh("请检查路径；若这是文本，请放入文件（--file）"));
            }
        }
        Ok(sorted)
    }
}

/// Loads the base once and every adapter over it. `compare`: the base answers too.
///
/// The header of the console says what is asked and how, and warns where that is not as training was.
pub fn open(
    config: &InferenceConfig,
    args: &AskArgs,
    compare: bool,
    header: &mut Header,
    console: &mut Console,
) -> Result<Asked> {
    let (dirs, lower) = whom(config, args);
    let trained = dirs.iter().map(|dir| Trained::open(dir)).collect::<Result<Vec<_>>>()?;
    let (dir, checkpoint) = base(config, args, &trained, console)?;
    let geometry = Qwen3Config::load(&dir)?;
    let tokenizer = Tokenizer::load(&dir)?;
    let speaker = speaker(config, args, &trained, header)?;
    tokenizer.check_template(speaker.template)?;

    if config.dtype == InferDtype::Float16 {
        return Err(Error::input("`infer_dtype=float16`: only `export` writes it")
            .hint("leave it out: the weights stay as the checkpoint has them")
            .hint_zh("请不要写该键：权重按原样使用"));
    }
    let opened = device::open(config.device, geometry.parameters())?;
    let dtype = weights_dtype(config.dtype, &geometry);
    if opened.device.is_cpu() {
        machine::refuse_too_large(geometry.parameters() * dtype.size_in_bytes(), dtype)?;
    }
    let no_adapter = couplet_train::config::LoraConfig {
        lora_rank: 1,
        lora_alpha: 1.0,
        lora_dropout: 0.0,
        lora_target: vec![],
        use_dora: false,
        use_rslora: false,
        pissa: Default::default(),
    };
    let (below, adapters) = if lower.is_empty() { below::of(&trained)? } else { below::stack(lower)? };
    adapters.iter().try_for_each(|adapter| adapter.refuse_misfit(&geometry))?;
    if !below.is_empty() {
        header.row("merged", "已合并", below::in_order(&below));
    }
    let change = |name: &str, rows, value| merged(&adapters, name, rows, value);
    let change: Option<&Change> = if adapters.is_empty() { None } else { Some(&change) };
    let loaded = Qwen3::load_changed(&geometry, &checkpoint, change, &no_adapter, (dtype, &opened.device));
    let (model, _) = loaded.map_err(|err| explained(err, Part::Weights(dtype)))?;
    let mut voices = Vec::new();
    if compare || trained.is_empty() {
        voices.push(Voice { name: console.look().lang.pick("base", "基座").to_owned(), adapter: None });
    }
    for trained in &trained {
        trained.warn_of_another_base(&checkpoint, header);
        voices.push(Voice { name: trained.dir.display().to_string(), adapter: Some(trained.over(&model)?) });
    }
    describe(header, &dir, &trained, &speaker, (&opened, dtype));
    if !lower.is_empty() {
        below::notice_unnamed(&config.adapters, header);
    }
    super::header::passed_over(header, &opened);
    let stop = stop_ids(&dir, &tokenizer);
    let (base_digest, comma) = (checkpoint.digest(), comma(&trained));
    Ok(Asked { model, tokenizer, voices, speaker, stop, comma, trained, base_digest })
}

/// Adapters that answer, each by itself; and those that are merged below. Of several in `adapter_name_or_path` the last
/// answers, over all others, as in LlamaFactory; `--adapter` names several that are compared.
fn whom<'a>(config: &'a InferenceConfig, args: &'a AskArgs) -> (&'a [PathBuf], &'a [PathBuf]) {
    match config.adapters.split_last() {
        Some((last, lower)) if args.adapter.is_empty() => (std::slice::from_ref(last), lower),
        _ => (&args.adapter, &[]),
    }
}

/// Where the base lies: as said, else where the first adapter was trained.
pub fn base(
    config: &InferenceConfig,
    args: &AskArgs,
    trained: &[Trained],
    console: &mut Console,
) -> Result<(PathBuf, Checkpoint)> {
    let first = trained.first();
    let said = args.base.clone().or_else(|| config.base.clone());
    let remembered = || first.and_then(|t| t.model_key("model_name_or_path").or_else(|| t.weights.base_model.clone()));
    let name = said.clone().or_else(remembered).ok_or_else(|| {
        Error::input("no model to ask")
            .hint("name a trained adapter with `--adapter outputs/run`, or a base model with `--base Qwen/Qwen3-0.6B`")
            .hint_zh("请用 `--adapter outputs/run` 指定适配器，或用 `--base Qwen/Qwen3-0.6B` 指定基座模型")
    })?;
    let known = |key: &str| first.filter(|_| said.is_none()).and_then(|trained| trained.model_key(key));
    let revision = config.revision.clone().or_else(|| known("model_revision")).unwrap_or("main".into());
    let cache = config.cache_dir.clone().or_else(|| known("cache_dir").map(PathBuf::from));
    let dir = locate::folder(&name, &revision, cache.as_deref(), &config.tokens, console);
    let dir = dir.map_err(|err| match first.filter(|_| said.is_none()) {
        None => err,
        Some(trained) => err
            .at(format!("the base of {}", trained.dir.display()))
            .hint("`--base` says where it is now")
            .hint_zh("请用 `--base` 指定它现在的位置"),
    })?;
    let checkpoint = Checkpoint::open(&dir)?;
    Ok((dir, checkpoint))
}

/// The more frequent of the two; `，` where nothing is known.
fn comma(trained: &[Trained]) -> Comma {
    let receipt = trained.first().and_then(|trained| trained.receipt.as_ref());
    let count = |mark: &str| receipt.and_then(|receipt| receipt["speak"]["punctuation"][mark].as_u64()).unwrap_or(0);
    if count(",") > count("，") { Comma::Half } else { Comma::Full }
}

/// As the first adapter was trained; what is said otherwise wins, with a warning.
pub fn speaker(config: &InferenceConfig, args: &AskArgs, trained: &[Trained], header: &mut Header) -> Result<Speaker> {
    let mut known = Vec::new();
    for trained in trained {
        if let Some(receipt) = &trained.receipt {
            let place = trained.dir.join(run::RECEIPT);
            let speaker = Speaker::from_receipt(&receipt["speak"]).map_err(|err| err.at(place.display()))?;
            let instruction = &receipt["speak"]["instruction"];
            if instruction.is_null() {
                header.notice(
                    format!(
                        "{}: most of its rows share no instruction; each text is asked as it stands",
                        trained.dir.display()
                    ),
                    format!("{}：训练数据没有共同的指令；文本按原样提问", trained.dir.display()),
                );
            }
            if instruction["shared"] == false {
                header.notice(
                    format!(
                        "{}: its rows had several instructions; the most frequent one is used",
                        trained.dir.display()
                    ),
                    format!("{}：训练数据有多种指令，此处使用最常见的一种", trained.dir.display()),
                );
            }
            known.push(speaker);
        }
    }
    if known.windows(2).any(|pair| pair[0] != pair[1]) {
        header.notice(
            "the adapters were trained with different templates or instructions; all are asked as the first was",
            "各适配器训练时的模板或指令不同；均按第一个的方式提问",
        );
    }
    let default_thinking = Some(config.llamafactory);
    let mut speaker = known.first().cloned().unwrap_or(Speaker::plain(TemplateName::Qwen3, default_thinking));
    if let Some(trained) = trained.iter().find(|trained| trained.receipt.is_none())
        && known.is_empty()
    {
        let dir = trained.dir.display();
        header.notice(
            format!("{dir} has no run.json: how it was asked in training is not known, see above for what is assumed"),
            format!("{dir} 中没有 run.json：不知道训练时如何提问，所作假设见上"),
        );
    }
    let mut differs = Vec::new();
    let mut say = |name: &'static str, changed: bool| differs.extend(changed.then_some(name));
    if let Some(template) = config.template {
        say("template", template != speaker.template);
        speaker.template = template;
    }
    if let Some(thinking) = config.enable_thinking {
        say("enable_thinking", thinking != speaker.enable_thinking);
        speaker.enable_thinking = thinking;
    }
    if let Some(system) = &config.system {
        say("default_system", speaker.system.as_ref() != Some(system));
        speaker.system = Some(system.clone());
    }
    if let Some(instruction) = &args.instruction {
        say("instruction", speaker.instruction.as_ref() != Some(instruction));
        speaker.instruction = Some(instruction.clone()).filter(|text| !text.is_empty());
    }
    if !known.is_empty() && !differs.is_empty() {
        let list = differs.join(", ");
        header.notice(format!("not asked as in training: {list}"), format!("与训练时的提问方式不同：{list}"));
    }
    if args.raw {
        speaker.instruction = None;
    }
    Ok(speaker)
}

/// `auto`: as the checkpoint is stored, which loses nothing; half precision of the other kind becomes f32 on its way.
fn weights_dtype(asked: InferDtype, geometry: &Qwen3Config) -> DType {
    match (asked, geometry.torch_dtype.as_deref()) {
        (InferDtype::Bfloat16, _) | (InferDtype::Auto, Some("bfloat16")) => DType::BF16,
        _ => DType::F32,
    }
}

fn describe(
    header: &mut Header,
    dir: &Path,
    trained: &[Trained],
    speaker: &Speaker,
    (opened, dtype): (&Opened, DType),
) {
    header.row("base", "基座", dir.display().to_string());
    for trained in trained {
        header.row("adapter", "适配器", trained.dir.display().to_string());
    }
    let weights = if dtype == DType::BF16 { "bf16" } else { "f32" };
    let place = opened.describe().unwrap_or_else(|| format!("CPU, {} threads", rayon::current_num_threads()));
    header.row("device", "设备", format!("{place}; {weights} weights"));
    let template = match (speaker.template, speaker.enable_thinking) {
        (TemplateName::Qwen3Nothink, _) => "qwen3_nothink".to_owned(),
        (TemplateName::Qwen3, Some(thinking)) => format!("qwen3, enable_thinking {thinking}"),
        (TemplateName::Qwen3, None) => "qwen3, enable_thinking null".to_owned(),
    };
    header.row("template", "模板", template);
    if let Some(system) = &speaker.system {
        header.row("system", "系统提示", system.clone());
    }
    header.row("instruction", "指令", speaker.instruction.clone().unwrap_or("–".into()));
}

/// The end of a turn, and whatever the checkpoint's `generation_config.json` ends with.
fn stop_ids(dir: &Path, tokenizer: &Tokenizer) -> Vec<u32> {
    let mut ids = BTreeSet::from([tokenizer.end_id(), tokenizer.pad_id()]);
    let text = std::fs::read_to_string(dir.join("generation_config.json")).unwrap_or_default();
    let json: Value = serde_json::from_str(&text).unwrap_or_default();
    let eos = &json["eos_token_id"];
    let listed = eos.as_array().into_iter().flatten().chain([eos]);
    ids.extend(listed.filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()));
    ids.into_iter().collect()
}

/// How tokens are chosen. Greedy unless something asks for chance: LlamaFactory's defaults fill in the rest.
pub fn sampling(generation: &GenerationConfig, llamafactory: bool, n: usize) -> Result<Sampling> {
    let g = generation;
    let asks = g.temperature.is_some_and(|t| t > 0.0) || g.top_p.is_some() || g.top_k.is_some() || n > 1;
    let do_sample = g.do_sample.unwrap_or(llamafactory || asks) && g.temperature != Some(0.0);
    if n > 1 && !do_sample {
        return Err(Error::input(format!(
            "`--n {n}` asks for several answers, but without sampling they are all the same"
        ))
        .hint("give a temperature above 0, e.g. `temperature=0.9`, and no `do_sample=false`")
        .hint_zh("请设置大于 0 的温度，例如 `temperature=0.9`，且不要写 `do_sample=false`"));
    }
    Ok(Sampling {
        do_sample,
        temperature: g.temperature.unwrap_or(0.95),
        top_k: g.top_k.unwrap_or(50),
        top_p: g.top_p.unwrap_or(0.7),
        repetition_penalty: g.repetition_penalty.unwrap_or(1.0),
        seed: g.seed.unwrap_or(42),
    })
}

/// A row of the header: how tokens are chosen, and how many.
pub fn describe_sampling(header: &mut Header, sampling: &Sampling, limits: &Limits) {
    let how = match sampling.is_random() {
        false => "greedy".to_owned(),
        true => format!(
            "temperature {}, top_k {}, top_p {}, seed {}",
            sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed
        ),
    };
    let penalty = match sampling.repetition_penalty {
        1.0 => String::new(),
        penalty => format!(", repetition_penalty {penalty}"),
    };
    header.row("choice", "取词", format!("{how}{penalty}; at most {} tokens", limits.max_new_tokens));
}

/// How long an answer took.
pub fn pace(lang: Lang, characters: usize, seconds: f64, first: Option<f64>) -> String {
    let rate = characters as f64 / seconds.max(1e-9);
    let first = first.unwrap_or(seconds);
    match lang {
        Lang::En => {
            format!("{characters} characters in {seconds:.2} s: {rate:.1} chars/s; the first token after {first:.2} s")
        }
        Lang::Zh => format!("{characters} 字，{seconds:.2} 秒，{rate:.1} 字/秒；首个词元 {first:.2} 秒"),
    }
}

/// Characters of a text that are none of its blanks.
pub fn characters(text: &str) -> usize {
    text.chars().filter(|c| !c.is_whitespace()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_apart() {
        let words = ["海内存知己", "temperature=0.7", "top_k＝5", "天=地", "天＝地", "Cargo.toml"].map(String::from);
        let sorted = Words::sort(&words).unwrap();
        assert_eq!(sorted.texts, ["海内存知己", "天=地", "天＝地"]);
        assert_eq!(sorted.overrides, ["temperature=0.7", "top_k＝5"]);
        assert_eq!(sorted.config.as_deref(), Some(Path::new("Cargo.toml")));
        let err = Words::sort(&["no_such.yaml".to_owned()]).unwrap_err().to_string();
        assert_eq!(err, "no_such.yaml: there is no such config file");
    }

    #[test]
    fn chance_is_asked_for() {
        let set = |change: fn(&mut GenerationConfig)| {
            let mut generation = GenerationConfig::default();
            change(&mut generation);
            generation
        };
        for (generation, llamafactory, n, want, why) in [
            (set(|_| ()), false, 1, Some(false), "greedy by default"),
            (set(|_| ()), true, 1, Some(true), "LlamaFactory samples by default"),
            (set(|g| g.top_p = Some(0.9)), false, 1, Some(true), "top_p means nothing otherwise"),
            (set(|g| g.temperature = Some(0.0)), true, 1, Some(false), "temperature 0"),
            (set(|g| g.seed = Some(1)), false, 1, Some(false), "a seed alone asks for nothing"),
            (set(|_| ()), false, 4, Some(true), "several answers"),
            (set(|g| g.do_sample = Some(false)), false, 4, None, "several equal answers"),
        ] {
            assert_eq!(sampling(&generation, llamafactory, n).ok().map(|s| s.is_random()), want, "{why}");
        }
    }
}
