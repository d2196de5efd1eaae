//! What is said before a run begins.

use super::{
    below,
    header::{self, Facts},
    inputs::Inputs,
    pissa,
    planned::Planned,
};
use couplet_train::{
    config::{Notice, Recipe},
    report::Header,
    trainer::plan::StepPlan,
};

/// The header, and what the user should know of config, model and data.
pub fn said_before(
    recipe: &Recipe,
    (inputs, pissa): (&Inputs, Option<&str>),
    planned: &Planned,
    plan: &StepPlan,
    notices: Vec<Notice>,
) -> Header {
    let facts = Facts {
        model_dir: &inputs.model_dir,
        model: &inputs.model_config,
        opened: &inputs.opened,
        dtype: inputs.dtype,
        trainable: planned.shape(&inputs.model_config).trainable(),
        pissa,
        data: &inputs.data.summary,
        test: inputs.test.as_ref().map(|test| &test.summary),
        plan,
        cut: planned.cut,
        memory: &planned.memory,
        peak: planned.peak(),
        largest: planned.load,
        estimated: inputs.is_estimated && inputs.missing.is_none(),
        assumed: inputs.missing.is_some(),
    };
    let mut header = header::header(recipe, &facts);
    if cfg!(feature = "fault-injection") {
        header.notice(
            "built with `fault-injection`, for tests only; do not train with it",
            "此程序以 `fault-injection` 构建，仅供测试，请勿用于训练",
        );
    }
    for notice in notices {
        header.notice(notice.en, notice.zh);
    }
    header::passed_over(&mut header, &inputs.opened);
    planned.notice(&mut header);
    if inputs.existing.is_some() && inputs.asked != recipe.lora {
        header.notice(
            "rank, alpha, dropout, targets, DoRA, rsLoRA and PiSSA are those of `adapter_name_or_path`, not of the config",
            "秩、alpha、dropout、目标模块、DoRA、rsLoRA 与 PiSSA 取自 `adapter_name_or_path`，而非配置文件",
        );
    }
    below::notice(&recipe.model, &mut header);
    pissa::notice(&recipe.lora.pissa, inputs, &mut header);
    if recipe.train.shared_prefix && !planned.cut.share_prefix {
        header.notice(
            "`lora_dropout` or `neftune_noise_alpha`: the shared prefix is computed for every sample",
            "设置了 `lora_dropout` 或 `neftune_noise_alpha`：共同前缀将逐样本计算",
        );
    }
    let tested = inputs.test.iter().flat_map(|test| &test.summary.warnings);
    for warning in inputs.data.summary.warnings.iter().chain(tested) {
        // Which rows are too long follows from their tokens.
        let about = if inputs.is_estimated && warning.en.contains("cutoff_len") { "≈ " } else { "" };
        header.notice(format!("{about}{}", warning.en), format!("{about}{}", warning.zh));
    }
    header
}
