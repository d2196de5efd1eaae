//! What the user should know about his config although nothing is wrong with it.

use super::{
    sections::{Dialect, OverLength, Recipe, TemplateName},
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

    /// Keys about checkpoints, all in one line.
    pub(super) fn saving(keys: &[String]) -> Option<Self> {
        let list = keys.join(", ");
        (!keys.is_empty()).then(|| Self {
            en: format!("no checkpoints are written yet, only the final adapter: {list}"),
            zh: format!("尚不写检查点，只写最终的适配器：{list}"),
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
                data.cutoff_len
            ),
            zh: format!("超过 {} 个词元的行会像 LlamaFactory 那样截断；over_length=error 则拒绝训练", data.cutoff_len),
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
    notices
}

/// The first Qwen3 series thinks or not on request; the later -2507 models do only one.
fn is_hybrid(model: &str) -> bool {
    let name = model.trim_end_matches('/').rsplit('/').next().unwrap_or(model);
    ["0.6B", "1.7B", "4B", "8B", "14B", "32B"].iter().any(|size| name.eq_ignore_ascii_case(&format!("Qwen3-{size}")))
}
