//! Which samples make which step: LlamaFactory's arithmetic of batches, epochs and steps.

use crate::{
    config::{EvalStrategy, SamplingStrategy, TrainConfig},
    dataset::{self, Example, order},
};
use std::ops::Range;

/// The steps of a run over its training samples: rows, or packs of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct StepPlan {
    /// The first row of every sample, and behind them the number of rows.
    starts: Vec<usize>,
    batch_size: usize,
    accumulation: usize,
    seed: u64,
    /// Grouped by length, transformers asks the generator that `data_seed` does not seed.
    grouping_seed: u64,
    sampling: SamplingStrategy,
    /// Tokens of every sample.
    lengths: Vec<usize>,
    /// Optimizer steps of the whole run.
    pub total_steps: usize,
    /// Optimizer steps of one epoch; its last step may have fewer micro-steps.
    pub steps_per_epoch: usize,
}

/// The samples of one optimizer step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepSamples {
    /// Indices into the training rows, in the order they are trained.
    pub indices: Vec<usize>,
    /// How many.
    pub samples: usize,
    /// Rows of LlamaFactory's micro-batches, which only say here how long its padding made a sample.
    pub micro_batches: Vec<usize>,
    /// Passes over the data once this step is done.
    pub epoch: f64,
    /// Whether this step ends an epoch.
    pub ends_epoch: bool,
}

impl StepSamples {
    /// [`Self::indices`], a micro-batch of LlamaFactory's at a time.
    pub fn by_micro_batch(&self) -> impl Iterator<Item = &[usize]> {
        let mut rest = self.indices.as_slice();
        self.micro_batches.iter().map(move |&size| {
            let (micro, tail) = rest.split_at(size);
            rest = tail;
            micro
        })
    }
}

impl StepPlan {
    /// Steps from one evaluation to the next; the last step is evaluated in any case. `None`: there are no evaluations on the way.
    pub fn evaluates_every(&self, config: &TrainConfig) -> Option<usize> {
        match config.eval_strategy {
            EvalStrategy::No => None,
            EvalStrategy::Steps => Some(config.eval_steps.of(self.total_steps)),
            EvalStrategy::Epoch => Some(self.steps_per_epoch),
        }
    }

    /// The plan for these rows, at least one.
    pub fn of(rows: &[Example], config: &TrainConfig) -> Self {
        let mut starts = vec![0];
        starts.extend(dataset::samples(rows).scan(0, |end, sample| {
            *end += sample.len();
            Some(*end)
        }));
        let lengths = dataset::samples(rows).map(|sample| sample[0].sample_len()).collect();
        let plan = Self::new(starts.len() - 1, config);
        Self { starts, lengths, ..plan }
    }

    /// The plan for `samples` > 0 rows of equal length, each a sample.
    pub fn new(samples: usize, config: &TrainConfig) -> Self {
        let batch_size = config.per_device_train_batch_size;
        let accumulation = config.gradient_accumulation_steps;
        let steps_per_epoch = samples.div_ceil(batch_size).div_ceil(accumulation).max(1);
        let by_epochs = (config.num_train_epochs * steps_per_epoch as f64).ceil() as usize;
        Self {
            starts: (0..=samples).collect(),
            batch_size,
            accumulation,
            seed: config.data_seed.unwrap_or(config.seed),
            grouping_seed: config.seed,
            sampling: match config.disable_shuffling {
                true => SamplingStrategy::Sequential,
                false => config.train_sampling_strategy,
            },
            lengths: vec![1; samples],
            total_steps: config.max_steps.unwrap_or(by_epochs),
            steps_per_epoch,
        }
    }

    /// Samples of an epoch.
    pub fn epoch_samples(&self) -> usize {
        self.starts.len() - 1
    }

    /// Samples that make one full optimizer step.
    pub fn samples_per_step(&self) -> usize {
        self.batch_size * self.accumulation
    }

    /// The order of the samples in `epoch`, from 0.
    pub fn order(&self, epoch: usize) -> Vec<usize> {
        match self.sampling {
            SamplingStrategy::Random => order::epoch_order(self.epoch_samples(), self.seed, epoch),
            SamplingStrategy::Sequential => (0..self.epoch_samples()).collect(),
            SamplingStrategy::GroupByLength => {
                order::grouped_order(&self.lengths, self.samples_per_step(), self.grouping_seed, epoch)
            }
        }
    }

    /// The epoch of a step, both from 0.
    pub fn epoch_of(&self, step: usize) -> usize {
        step / self.steps_per_epoch
    }

    /// The samples of `step` (from 0), given the [`Self::order`] of its epoch.
    pub fn samples(&self, step: usize, order: &[usize]) -> StepSamples {
        let Range { start, end } = self.range(step);
        let batches = self.epoch_samples().div_ceil(self.batch_size);
        let rows =
            |samples: &[usize]| samples.iter().flat_map(|&s| self.starts[s]..self.starts[s + 1]).collect::<Vec<_>>();
        StepSamples {
            indices: rows(&order[start..end]),
            samples: end - start,
            micro_batches: order[start..end].chunks(self.batch_size).map(|micro| rows(micro).len()).collect(),
            epoch: self.epoch_of(step) as f64 + end.div_ceil(self.batch_size) as f64 / batches as f64,
            ends_epoch: end == self.epoch_samples(),
        }
    }

    /// Every step of the run, from 0, with its samples.
    pub fn steps(&self) -> impl Iterator<Item = (usize, StepSamples)> {
        (0..=self.epoch_of(self.total_steps.saturating_sub(1))).flat_map(move |epoch| {
            let (order, first) = (self.order(epoch), epoch * self.steps_per_epoch);
            let steps = first..(first + self.steps_per_epoch).min(self.total_steps);
            steps.map(move |step| (step, self.samples(step, &order)))
        })
    }

    /// The first step without a label: the rows of all its samples lost their answers to `cutoff_len`. `rows` are those of
    /// [`Self::of`].
    pub fn first_bare_step(&self, rows: &[Example]) -> Option<(usize, StepSamples)> {
        if rows.iter().all(Example::is_trainable) {
            return None;
        }
        self.steps().find(|(_, samples)| !samples.indices.iter().any(|&row| rows[row].is_trainable()))
    }

    fn range(&self, step: usize) -> Range<usize> {
        let start = (step % self.steps_per_epoch) * self.samples_per_step();
        start..(start + self.samples_per_step()).min(self.epoch_samples())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::train_config;

    fn plan(samples: usize, batch: usize, accumulation: usize, epochs: f64, max_steps: Option<usize>) -> StepPlan {
        let config = TrainConfig {
            per_device_train_batch_size: batch,
            gradient_accumulation_steps: accumulation,
            num_train_epochs: epochs,
            max_steps,
            ..train_config()
        };
        StepPlan::new(samples, &config)
    }

    #[test]
    fn steps_are_counted_as_llamafactory_counts_them() {
        for (samples, batch, accumulation, epochs, max_steps, per_epoch, total, why) in [
            (24, 2, 4, 3.0, None, 3, 9, "even"),
            (23, 2, 4, 3.0, None, 3, 9, "a ragged last micro-batch"),
            (25, 2, 4, 3.0, None, 4, 12, "a last step of one micro-batch"),
            (24, 2, 4, 1.5, None, 3, 5, "half an epoch, rounded up"),
            (24, 2, 4, 3.0, Some(4), 3, 4, "max_steps wins"),
            (3, 8, 8, 2.0, None, 1, 2, "fewer rows than a step"),
        ] {
            let p = plan(samples, batch, accumulation, epochs, max_steps);
            assert_eq!((p.steps_per_epoch, p.total_steps), (per_epoch, total), "{why}");
        }
    }

    #[test]
    fn a_pack_fills_one_place_of_a_batch() {
        let row = |pack: usize, tokens: usize| Example {
            pack: Some(dataset::Pack { number: pack, len: 16 }),
            ..Example::new(vec![7; tokens], &vec![7; tokens], dataset::Origin { dataset: 0, row: 1 })
        };
        let rows = [row(0, 9), row(1, 5), row(1, 4), row(1, 3), row(2, 8), row(2, 7), row(3, 2)];
        let config = TrainConfig { gradient_accumulation_steps: 2, num_train_epochs: 2.0, ..train_config() };
        let config = TrainConfig { per_device_train_batch_size: 1, ..config };
        let p = StepPlan::of(&rows, &config);
        assert_eq!((p.epoch_samples(), p.steps_per_epoch, p.total_steps), (4, 2, 4));
        let members = [vec![0], vec![1, 2, 3], vec![4, 5], vec![6]];
        for (step, samples) in p.steps() {
            let order = order::epoch_order(4, 42, step / 2);
            let packs = &order[step % 2 * 2..step % 2 * 2 + 2];
            let want: Vec<usize> = packs.iter().flat_map(|&pack| members[pack].clone()).collect();
            let sizes: Vec<usize> = packs.iter().map(|&pack| members[pack].len()).collect();
            assert_eq!((samples.indices, samples.samples, samples.micro_batches), (want, 2, sizes), "step {step}");
        }
    }

    #[test]
    fn rows_are_sampled_as_the_config_says() {
        let origin = crate::dataset::Origin { dataset: 0, row: 1 };
        let row = |n: usize| Example::new(vec![7; n], &vec![7; n], origin);
        let rows: Vec<Example> = (0..40).map(|i| row(1 + i * 7 % 13)).collect();
        use SamplingStrategy::{GroupByLength, Random, Sequential};
        let order = |strategy, disable_shuffling| {
            let config = TrainConfig { train_sampling_strategy: strategy, disable_shuffling, ..train_config() };
            let config = TrainConfig { data_seed: (strategy == GroupByLength).then_some(7), ..config };
            StepPlan::of(&rows, &config).order(1)
        };
        let file_order: Vec<usize> = (0..40).collect();
        assert_eq!(order(Random, false), order::epoch_order(40, 42, 1));
        for (strategy, disabled) in [(Sequential, false), (Random, true), (GroupByLength, true)] {
            assert_eq!(order(strategy, disabled), file_order, "{strategy:?}");
        }
        let lengths: Vec<usize> = rows.iter().map(|row| row.input_ids.len()).collect();
        assert_eq!(order(GroupByLength, false), order::grouped_order(&lengths, 2, 42, 1), "by `seed`, not `data_seed`");
    }

    #[test]
    fn an_epoch_shows_every_row_once_and_counts_its_share() {
        let p = plan(25, 2, 4, 2.0, None);
        for epoch in 0..2 {
            let order = p.order(epoch);
            let steps: Vec<StepSamples> = (0..4).map(|u| p.samples(epoch * 4 + u, &order)).collect();
            let mut seen: Vec<usize> = steps.iter().flat_map(|s| s.indices.clone()).collect();
            assert_eq!(seen, order);
            seen.sort_unstable();
            assert_eq!(seen, (0..25).collect::<Vec<_>>());
            assert_eq!(steps[3].micro_batches, [1], "the last step is ragged");
            assert_eq!(steps[0].micro_batches, [2; 4]);
            let share: Vec<f64> = steps.iter().map(|s| s.epoch - epoch as f64).collect();
            assert_eq!(share, [4.0 / 13.0, 8.0 / 13.0, 12.0 / 13.0, 1.0]);
            assert_eq!(steps.iter().map(|s| s.ends_epoch).collect::<Vec<_>>(), [false, false, false, true]);
        }
        assert_ne!(p.order(0), p.order(1), "another order in every epoch");
    }
}
