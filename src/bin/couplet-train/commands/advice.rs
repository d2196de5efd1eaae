//! What a user would rather hear before the night than after it.

use super::{inputs::Inputs, pissa};
use couplet_train::{
    config::{OutputConfig, Recipe},
    error::{Result, gigabytes},
    model::params::Slot,
    report::Header,
    trainer::{
        checkpoint,
        plan::StepPlan,
        saver::{Saver, Space},
    },
};

/// Fewer log lines than this make no curve.
const FEWEST_POINTS: usize = 10;

/// Checkpoints that take more are worth a word: 10 GB.
const MUCH: u64 = 10_000_000_000;

/// Bytes of a picture, rather too many.
const PICTURE: u64 = 64 << 10;

/// Notices about log lines and checkpoints of a run of so many steps.
pub fn add(output: &OutputConfig, total_steps: usize, space: Space, header: &mut Header) {
    let steps = output.logging_steps.of(total_steps);
    if let Some(better) = better_logging_steps(total_steps, steps) {
        let points = total_steps / steps;
        let more = total_steps / better;
        header.notice(
            format!(
                "logging_steps {steps} gives {points} {} in {total_steps} steps; logging_steps={better} gives {more}",
                if points == 1 { "point" } else { "points" }
            ),
            format!(
                "logging_steps 为 {steps} 时，{total_steps} 步只有 {points} 个点；logging_steps={better} 有 {more} 个"
            ),
        );
    }
    if output.save_total_limit.is_none() && space.most > MUCH {
        let (all, three) = (gigabytes(space.most), gigabytes(4 * space.least));
        header.notice(
            format!("all checkpoints are kept and will fill {all}; save_total_limit=3 keeps it under {three}"),
            format!("所有检查点都会保留，将占用 {all}；save_total_limit=3 则不超过 {three}"),
        );
    }
}

/// A `logging_steps` that makes a curve, where the given one makes none and the run is long enough for one.
fn better_logging_steps(total: usize, given: usize) -> Option<usize> {
    let better = (total / (2 * FEWEST_POINTS)).max(1);
    (total >= FEWEST_POINTS && total / given < FEWEST_POINTS && better < given).then_some(better)
}

/// What the run will write.
pub fn space(recipe: &Recipe, inputs: &Inputs, saver: &Saver, plan: &StepPlan, slots: &[Slot]) -> Result<Space> {
    let eval_steps = plan.evaluates_every(&recipe.train);
    let pictures = if recipe.output.plot_loss { 4 * PICTURE } else { 0 };
    let of_pissa = pissa::folders(recipe) * checkpoint::size(slots, None)?;
    saver.space(plan, slots, eval_steps, inputs.tokenizer_size() + pictures + of_pissa)
}

#[cfg(test)]
mod tests {
    use super::*;
    use couplet_train::{
        config::{Format, from_str},
        report::Lang,
    };
    use std::path::Path;

    #[test]
    fn ten_points_are_enough() {
        for (total, given, want, why) in [
            (1000, 500, Some(50), "the default of LlamaFactory"),
            (1000, 100, None, "ten points"),
            (27, 500, Some(1), "none at all"),
            (10, 1, None, "no more to be had"),
            (9, 500, None, "too short a run for a curve"),
            (15, 2, Some(1), "a short run"),
        ] {
            assert_eq!(better_logging_steps(total, given), want, "{why}");
        }
    }

    #[test]
    fn each_is_said_once_with_the_better_value() {
        let text = "model_name_or_path: m\nstage: sft\ndataset: d\ntemplate: qwen3\noutput_dir: o\n";
        let said = |more: &str, most: u64| -> Vec<String> {
            let loaded = from_str(&format!("{text}{more}"), Format::Yaml, Path::new("c.yaml"), &[]).unwrap();
            let mut header = Header::default();
            add(&loaded.recipe.output, 1000, Space { least: 600_000_000, most }, &mut header);
            header.notices(Lang::En).map(str::to_owned).collect()
        };
        assert_eq!(said("", 1), ["logging_steps 500 gives 2 points in 1000 steps; logging_steps=50 gives 20"]);
        let much = said("logging_steps: 10\n", 40_000_000_000);
        assert_eq!(
            much,
            ["all checkpoints are kept and will fill 40.00 GB; save_total_limit=3 keeps it under 2.40 GB"]
        );
        assert_eq!(said("logging_steps: 10\nsave_total_limit: 5\n", 40_000_000_000), [""; 0]);
    }
}
