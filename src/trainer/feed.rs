//! What an epoch feeds, before anything is computed: what the shared prefix saves, and what padding would cost.

use super::{Cut, padded_tokens, plan::StepPlan};
use crate::dataset::Example;
use serde::Serialize;

/// Tokens of an epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Feed {
    /// Of the rows.
    pub tokens: usize,
    /// That go through the model: a shared prefix once, no last token, no row without a label.
    pub fed: usize,
    /// That LlamaFactory's collator would make of them: batches padded to the longest and to a multiple of 8.
    pub padded: usize,
}

impl Feed {
    /// Of the first epoch of `train`, cut in this way.
    pub fn of_epoch(cut: Cut, plan: &StepPlan, train: &[Example]) -> Self {
        let order = plan.order(0);
        let mut feed = Self { tokens: train.iter().map(|row| row.input_ids.len()).sum(), ..Self::default() };
        for step in 0..plan.steps_per_epoch {
            let samples = plan.samples(step, &order);
            feed.padded += padded_tokens(&samples, train) as usize;
            feed.fed += cut.rows_fed(samples.indices.iter().map(|&i| (i, &train[i])));
        }
        feed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataset::{IGNORE, Origin},
        model::qwen3::Keep,
        testing::train_config,
    };

    #[test]
    fn a_prefix_is_fed_once_a_step_and_padding_goes_to_multiples_of_eight() {
        let row = |ids: &[u32], trained: usize| {
            let labels: Vec<u32> =
                ids.iter().enumerate().map(|(i, &id)| if i < trained { IGNORE } else { id }).collect();
            Example::new(ids.to_vec(), &labels, Origin { dataset: 0, row: 1 })
        };
        let rows = [row(&[1, 2, 3, 4, 5], 4), row(&[1, 2, 3, 6, 7, 8], 4), row(&[9; 9], 9)];
        let config = crate::config::TrainConfig {
            per_device_train_batch_size: 3,
            gradient_accumulation_steps: 1,
            ..train_config()
        };
        let plan = StepPlan::of(&rows, &config);
        let feed = |share_prefix| Feed::of_epoch(Cut { max_rows: 99, share_prefix, keep: Keep::Lean }, &plan, &rows);
        assert_eq!(feed(true), Feed { tokens: 20, fed: 3 + 1 + 2, padded: 48 }, "the row without a label is not fed");
        assert_eq!(feed(false), Feed { tokens: 20, fed: 4 + 5, padded: 48 });
    }
}
