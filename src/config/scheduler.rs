//! The shapes that the learning rate may take, and the parameters of each: `lr_scheduler_type` and `lr_scheduler_kwargs`.

use super::{keys, kind::Kind, sections::TrainConfig, settings::Settings, value::Value};
use crate::error::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;

/// `lr_scheduler_type`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerType {
    /// Warmup, then a line to 0.
    Linear,
    /// Warmup, then half a cosine to 0.
    Cosine,
    /// Warmup, then falling half cosines that begin at the peak again.
    CosineWithRestarts,
    /// Warmup, then half a cosine to a minimum.
    CosineWithMinLr,
    /// The same, but the warmup begins above 0 and the cosine one step on.
    CosineWarmupWithMinLr,
    /// Warmup, then a power of the steps left, to `lr_end`.
    Polynomial,
    /// Warmup, then falling with the root of the steps.
    InverseSqrt,
    /// Warmup, a third of the rest at the peak, then a fall.
    WarmupStableDecay,
    /// The peak rate throughout, without warmup.
    Constant,
    /// Warmup, then the peak rate.
    ConstantWithWarmup,
}

/// The value of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Argument {
    /// A number, whole or not.
    Number(f64),
    /// One of the words that the parameter takes.
    Word(&'static str),
}

/// `lr_scheduler_kwargs`: what is said of the shape; the rest is as transformers has it.
pub type SchedulerKwargs = BTreeMap<&'static str, Argument>;

const RAMPS: &[&str] = &["linear", "cosine", "1-sqrt"];
const RAMP: Kind = Kind::Choice { now: RAMPS, later: &[] };
const CYCLES: (&str, Kind) = ("num_cycles", Kind::Positive);
const MIN_LR: (&str, Kind) = ("min_lr", Kind::NonNegative);
const MIN_LR_RATE: (&str, Kind) = ("min_lr_rate", Kind::Share);

impl SchedulerType {
    /// All, in the order they are named to the user.
    pub const ALL: [Self; 10] = [
        Self::Linear,
        Self::Cosine,
        Self::CosineWithRestarts,
        Self::CosineWithMinLr,
        Self::CosineWarmupWithMinLr,
        Self::Polynomial,
        Self::InverseSqrt,
        Self::WarmupStableDecay,
        Self::Constant,
        Self::ConstantWithWarmup,
    ];

    /// Their names, as in a config.
    pub const NAMES: &'static [&'static str] = &[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "cosine_with_min_lr",
        "cosine_warmup_with_min_lr",
        "polynomial",
        "inverse_sqrt",
        "warmup_stable_decay",
        "constant",
        "constant_with_warmup",
    ];

    /// As in a config.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The shape of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What `lr_scheduler_kwargs` may say of it.
    pub fn parameters(self) -> &'static [(&'static str, Kind)] {
        match self {
            Self::Linear | Self::Constant | Self::ConstantWithWarmup => &[],
            Self::Cosine | Self::CosineWithRestarts => &[CYCLES],
            Self::CosineWithMinLr => &[MIN_LR, MIN_LR_RATE, CYCLES],
            Self::CosineWarmupWithMinLr => &[MIN_LR, MIN_LR_RATE, ("warmup_lr_rate", Kind::Share), CYCLES],
            Self::Polynomial => &[("lr_end", Kind::NonNegative), ("power", Kind::Positive)],
            Self::InverseSqrt => &[("timescale", Kind::Positive)],
            Self::WarmupStableDecay => &[
                ("num_stable_steps", Kind::Whole(0)),
                ("num_decay_steps", Kind::Whole(0)),
                ("warmup_type", RAMP),
                ("decay_type", RAMP),
                ("min_lr_ratio", Kind::Share),
                CYCLES,
            ],
        }
    }
}

/// Shape and parameters. Errors: a parameter that the shape does not have, a value out of its range, a missing minimum.
pub fn read(s: &Settings<'_>) -> Result<(SchedulerType, SchedulerKwargs)> {
    let name = s.required_text("lr_scheduler_type")?;
    let kind = SchedulerType::of(&name).ok_or_else(|| s.missing("lr_scheduler_type"))?;
    let mut kwargs = SchedulerKwargs::new();
    if let Value::Table(pairs) = s.value("lr_scheduler_kwargs") {
        for (name, value) in pairs.iter().filter(|(_, value)| *value != Value::Null) {
            let (name, argument) = argument(s, kind, name, value)?;
            kwargs.insert(name, argument);
        }
    }
    refuse_contradictions(s, kind, &kwargs)?;
    Ok((kind, kwargs))
}

fn argument(s: &Settings<'_>, kind: SchedulerType, name: &str, value: &Value) -> Result<(&'static str, Argument)> {
    let parameters = kind.parameters();
    let Some((known, takes)) = parameters.iter().find(|(known, _)| *known == name) else {
        return Err(unknown(s, kind, name));
    };
    let value = takes.loosen(value.clone());
    let argument = match &value {
        _ if !takes.admits(&value) => None,
        Value::Text(word) => RAMPS.iter().find(|ramp| *ramp == word).map(|ramp| Argument::Word(ramp)),
        value => value.number().map(Argument::Number),
    };
    argument.map(|argument| (*known, argument)).ok_or_else(|| {
        let (en, zh) = takes.describe();
        s.complain("lr_scheduler_kwargs", format!("`{name}` in `lr_scheduler_kwargs` must be {en}, found {value}"))
            .hint("correct the value, or remove it")
            .hint_zh(format!("`{name}` 应为{zh}，也可不写"))
    })
}

fn unknown(s: &Settings<'_>, kind: SchedulerType, name: &str) -> Error {
    let names: Vec<&str> = kind.parameters().iter().map(|(name, _)| *name).collect();
    let err = s.complain("lr_scheduler_kwargs", format!("schedule `{}` has no parameter `{name}`", kind.name()));
    match (keys::closest(name, names.iter().copied()), names.is_empty()) {
        (Some(near), _) => err.hint(format!("did you mean `{near}`?")).hint_zh(format!("是否想写 `{near}`？")),
        (None, true) => err
            .hint("it has none: remove `lr_scheduler_kwargs`")
            .hint_zh("该调度没有参数，请删除 `lr_scheduler_kwargs`"),
        (None, false) => {
            err.hint(format!("it has {}", names.join(", "))).hint_zh(format!("可用的参数：{}", names.join("、")))
        }
    }
}

/// What transformers refuses when it builds the schedule.
fn refuse_contradictions(s: &Settings<'_>, kind: SchedulerType, kwargs: &SchedulerKwargs) -> Result<()> {
    let has_minimum = kind.parameters().contains(&MIN_LR);
    match (has_minimum, kwargs.contains_key("min_lr"), kwargs.contains_key("min_lr_rate")) {
        (true, false, false) => {
            return Err(s
                .complain("lr_scheduler_type", format!("schedule `{}` needs its minimum", kind.name()))
                .hint("say for example `lr_scheduler_kwargs: {min_lr_rate: 0.1}`, a tenth of `learning_rate`")
                .hint_zh("例如写 `lr_scheduler_kwargs: {min_lr_rate: 0.1}`，即 `learning_rate` 的十分之一"));
        }
        (true, true, true) => {
            return Err(s
                .complain("lr_scheduler_kwargs", "`min_lr` and `min_lr_rate` both say the minimum")
                .hint("keep one of the two")
                .hint_zh("请只保留一个"));
        }
        _ => {}
    }
    let (end, peak) = (number(kwargs, "lr_end").unwrap_or(POLYNOMIAL_END), s.number("learning_rate").unwrap_or(0.0));
    if kind == SchedulerType::Polynomial && end >= peak {
        return Err(s
            .complain("lr_scheduler_type", format!("schedule `polynomial` ends at {end:e}, not below `learning_rate`"))
            .hint("set `lr_end` in `lr_scheduler_kwargs` below `learning_rate`")
            .hint_zh("请把 `lr_scheduler_kwargs` 中的 `lr_end` 设得小于 `learning_rate`"));
    }
    Ok(())
}

/// `lr_end` of `polynomial` where it is not said.
pub const POLYNOMIAL_END: f64 = 1e-7;

/// The number of a parameter, where it is said.
pub fn number(kwargs: &SchedulerKwargs, name: &str) -> Option<f64> {
    match kwargs.get(name) {
        Some(Argument::Number(x)) => Some(*x),
        _ => None,
    }
}

/// The word of a parameter, where it is said.
pub fn word(kwargs: &SchedulerKwargs, name: &str) -> Option<&'static str> {
    match kwargs.get(name) {
        Some(Argument::Word(word)) => Some(word),
        _ => None,
    }
}

/// `5e-5`; with LoRA+ `5e-5 for A, 8e-4 for B`.
pub fn peak_in_words(train: &TrainConfig) -> String {
    let peak = train.learning_rate;
    match train.loraplus_lr_ratio {
        None => format!("{peak:e}"),
        Some(ratio) => format!("{peak:e} for A, {:e} for B", ratio * peak),
    }
}

/// ` (num_cycles 2, power 0.5)`; nothing where nothing is said.
pub fn in_words(kwargs: &SchedulerKwargs) -> String {
    let said = kwargs.iter().map(|(name, argument)| match argument {
        Argument::Number(x) => format!("{name} {x}"),
        Argument::Word(word) => format!("{name} {word}"),
    });
    let said: Vec<String> = said.collect();
    if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) }
}
