//! What the user should know about his config although nothing is wrong with it.

use super::{
    sections::{Dialect, OverLength, Recipe, SaveStrategy, TemplateName},
    settings::Settings,
};

/// One remark, in English and in Chinese.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// English.
    pub en: String,
    /// Chinese.
    pub zh: String,
}

impl Notice {
    /// Keys without effect, all in one line.
    pub(super) fn ignored(keys: &[String]) -> Option<Self> {
        let list = keys.join(", ");
        (!keys.is_empty()).then(|| Self { en: format!("ignored: {list}"), zh: format!("已忽略：{list}") })
    }

    /// Keys that stand on the command line more than once, all in one line.
    pub(super) fn twice(keys: &[String]) -> Option<Self> {
        let list = keys.join(", ");
        (!keys.is_empty()).then(|| Self {
            en: format!("given more than once on the command line, the last one holds: {list}"),
            zh: format!("命令行中重复给出，以最后一个为准：{list}"),
        })
    }
}

/// Where a default of the dialect, or a pair of model and template, may surprise.
pub fn surprises(recipe: &Recipe, settings: &Settings<'_>) -> Vec<Notice> {
    let theirs = recipe.dialect == Dialect::LlamaFactory;
    let data = &recipe.data;
    let mut notices = Vec::new();
    if theirs && data.over_length == OverLength::Truncate && !settings.given("over_length") {
        notices.push(Notice {
            en: format!(
                "rows of more than {} tokens are cut, as LlamaFactory does; over_length=error refuses them",
                data.longest_row()
            ),
            zh: format!(
                "超过 {} 个词元的行会像 LlamaFactory 那样截断；over_length=error 则拒绝训练",
                data.longest_row()
            ),
        });
    }
    if settings.flag("packing") && !settings.flag("neat_packing") {
        notices.push(Notice {
            en: "packing: rows of a pack do not see each other, as under neat_packing; in LlamaFactory's plain packing they do"
                .into(),
            zh: "packing：同一样本中的各行互不可见，与 neat_packing 相同；LlamaFactory 的普通 packing 则可见".into(),
        });
    }
    if theirs && data.template == TemplateName::Qwen3 && !settings.given("enable_thinking") {
        notices.push(Notice {
            en: "enable_thinking is true, as in LlamaFactory: empty thoughts are trained; enable_thinking=false trains the \
                 non-thinking mode"
                .into(),
            zh: "enable_thinking 为 true（与 LlamaFactory 相同）：会训练空的思考块；enable_thinking=false 训练非思考模式".into(),
        });
    }
    if data.template == TemplateName::Qwen3Nothink && is_hybrid(&recipe.model.model_name_or_path) {
        notices.push(Notice {
            en: format!(
                "{} is a hybrid model and expects a thinking block, which template qwen3_nothink leaves out; template=qwen3 \
                 with enable_thinking=false writes it",
                recipe.model.model_name_or_path
            ),
            zh: format!(
                "{} 是混合模型，需要思考块，而模板 qwen3_nothink 不写；请用 template=qwen3 与 enable_thinking=false",
                recipe.model.model_name_or_path
            ),
        });
    }
    if settings.says("warmup_ratio") && settings.says("warmup_steps") {
        notices.push(Notice {
            en: "warmup_ratio holds and not warmup_steps, as in transformers 5 (version 4 took the steps): keep one of the two"
                .into(),
            zh: "以 warmup_ratio 为准而非 warmup_steps，与 transformers 5 相同（第 4 版取步数）：请只保留一个".into(),
        });
    }
    notices.extend(about_saving(recipe));
    notices
}

/// Where checkpoints are fewer or more than a reader of the file expects.
fn about_saving(recipe: &Recipe) -> Vec<Notice> {
    let output = &recipe.output;
    let mut notices = Vec::new();
    if output.save_strategy != SaveStrategy::No && output.save_total_limit == Some(1) {
        notices.push(Notice {
            en: "save_total_limit 1 keeps 2 checkpoints: the older one backs the newer".into(),
            zh: "save_total_limit 为 1 时保留 2 个检查点：旧的为新的作后备".into(),
        });
    }
    if recipe.train.early_stopping_steps.is_some() && !output.load_best_model_at_end {
        notices.push(Notice {
            en: "early_stopping_steps without load_best_model_at_end: the last adapter is written, not the best".into(),
            zh: "设置了 early_stopping_steps 而没有 load_best_model_at_end：写出的是最后的适配器，不是最好的".into(),
        });
    }
    notices
}

/// The first Qwen3 series thinks or not on request; the later -2507 models do only one.
fn is_hybrid(model: &str) -> bool {
    let name = model.trim_end_matches('/').rsplit('/').next().unwrap_or(model);
    ["0.6B", "1.7B", "4B", "8B", "14B", "32B"].iter().any(|size| name.eq_ignore_ascii_case(&format!("Qwen3-{size}")))
}
