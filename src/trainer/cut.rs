//! How the samples of a step go through the model: which together, what they share, what is kept. Changes no result.

use super::{padded_tokens, plan::StepPlan};
use crate::{
    dataset::{Example, IGNORE},
    error::Result,
    model::{Batch, qwen3::Keep},
    plan::{Attended, Rows},
};

/// Rows that another micro-batch costs as much as: all weights are read twice more. What fewer shared rows would save is
/// not worth one.
const MICRO_BATCH: usize = 64;

/// A sample: its index in the data, and its row.
pub type Sample<'e> = (usize, &'e Example);

/// How a step goes through the model.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Rows that go through the model at once.
    pub max_rows: usize,
    /// The tokens that all samples of a micro-batch begin with are computed once.
    pub share_prefix: bool,
    /// What every block keeps for its backward pass.
    pub keep: Keep,
}

impl Cut {
    /// Micro-batches, packed. Every sample is in one of them.
    pub fn batches<'e>(self, samples: &[Sample<'e>]) -> impl Iterator<Item = Result<(Batch, Vec<Sample<'e>>)>> {
        self.micro_batches(samples).into_iter().map(move |micro| Ok((self.pack(&micro)?, micro)))
    }

    /// Samples that go together: those of one instruction where prefixes are shared, at most `max_rows` rows at once (a
    /// longer sample stands alone).
    pub fn micro_batches<'e>(self, samples: &[Sample<'e>]) -> Vec<Vec<Sample<'e>>> {
        if !self.share_prefix {
            return pieces(samples, 0, self.max_rows);
        }
        let groups = by_prefix(samples);
        groups.iter().flat_map(|group| pieces(group, prefix(group), self.max_rows)).collect()
    }

    fn pack(self, samples: &[Sample]) -> Result<Batch> {
        packed(samples, self.share_prefix)
    }

    /// What goes through the model in the steps of a run over `train`.
    pub fn survey(self, plan: &StepPlan, train: &[Example]) -> Survey {
        let mut survey = Survey::default();
        for (_, step) in plan.steps() {
            survey.tokens += step.indices.iter().map(|&i| train[i].input_ids.len()).sum::<usize>();
            survey.padded += padded_tokens(&step, train);
            let samples = step.indices.into_iter().map(|i| (i, &train[i]));
            let samples: Vec<Sample> = samples.filter(|(_, row)| row.is_trainable()).collect();
            for micro in self.micro_batches(&samples) {
                let rows = self.rows_of(&micro);
                if rows.fed > survey.largest.fed {
                    survey.largest = rows;
                    survey.samples = micro.iter().map(|(i, _)| *i).collect();
                }
                survey.rows += rows;
                survey.micro_batches += 1;
            }
        }
        survey
    }

    /// The rows of an evaluation of `rows`, and how many go through the model at once at the most.
    pub fn evaluation(self, rows: &[Example]) -> (Rows, usize) {
        self.rows(&rows.iter().enumerate().filter(|(_, row)| row.is_trainable()).collect::<Vec<_>>())
    }

    /// The rows of `samples`, and how many of them go through the model at once at the most.
    pub fn rows(self, samples: &[Sample]) -> (Rows, usize) {
        let (mut all, mut most) = (Rows::default(), 0);
        for micro in self.micro_batches(samples) {
            let rows = self.rows_of(&micro);
            most = most.max(rows.fed);
            all += rows;
        }
        (all, most)
    }

    /// What attention looks at in the micro-batch of `samples`, indices into `train`, and in the longest of all samples.
    pub fn attended(self, train: &[Example], samples: &[usize], evaluated: [&[Example]; 2]) -> Attended {
        let samples: Vec<Sample> = samples.iter().map(|&i| (i, &train[i])).collect();
        let longest = train.iter().chain(evaluated.into_iter().flatten()).map(|row| fed(&(0, row))).max().unwrap_or(0);
        Attended { longest, prefix: if self.share_prefix { prefix(&samples) } else { 0 } }
    }

    /// Rows that these samples feed together, those of them that have a label.
    pub fn rows_fed<'e>(self, samples: impl Iterator<Item = Sample<'e>>) -> usize {
        self.rows(&samples.filter(|(_, row)| row.is_trainable()).collect::<Vec<_>>()).0.fed
    }

    /// Rows through the model.
    fn rows_of(self, micro: &[Sample]) -> Rows {
        let shared = if self.share_prefix { prefix(micro) } else { 0 };
        let up_to = |row: usize| row * (row + 1) / 2;
        let mut rows = Rows { fed: shared, seen: up_to(shared), ..Rows::default() };
        for sample in micro {
            rows.fed += fed(sample) - shared;
            rows.seen += up_to(fed(sample)) - up_to(shared);
            // The row before a label asks; it sees as many keys as the label has tokens before it.
            for place in sample.1.predicted() {
                rows.labels += 1;
                rows.seen_by_labels += place;
            }
        }
        rows
    }
}

/// What goes through the model in a whole run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Tokens of all samples of all steps.
    pub tokens: usize,
    /// The same as LlamaFactory pads them.
    pub padded: u64,
    /// What is computed.
    pub rows: Rows,
    /// Passes forward and backward.
    pub micro_batches: usize,
    /// The largest of them.
    pub largest: Rows,
    /// Its samples, as indices into the training rows; none where nothing has a label.
    pub samples: Vec<usize>,
}

/// Samples laid out for one pass.
pub fn packed(samples: &[Sample], share_prefix: bool) -> Result<Batch> {
    let labels: Vec<Vec<u32>> = samples.iter().map(|(_, row)| row.labels()).collect();
    let rows = samples.iter().zip(&labels);
    let rows: Vec<_> =
        rows.map(|((i, row), labels)| (*i as u64, row.input_ids.as_slice(), labels.as_slice())).collect();
    Batch::pack(&rows, IGNORE, share_prefix)
}

/// Rows a sample feeds by itself: its last token is only a target.
fn fed((_, row): &Sample) -> usize {
    row.input_ids.len().saturating_sub(1)
}

/// Rows that one copy can stand for.
fn prefix(samples: &[Sample]) -> usize {
    Batch::shared_prefix(samples.iter().map(|(_, row)| (row.input_ids.as_slice(), row.first_predicted())))
}

/// Cuts samples, in order, into runs of at most `budget` rows, `shared` of each sample counting once.
fn pieces<'e>(samples: &[Sample<'e>], shared: usize, budget: usize) -> Vec<Vec<Sample<'e>>> {
    let mut pieces: Vec<Vec<Sample>> = vec![];
    let mut rows = 0;
    for sample in samples {
        rows += fed(sample) - shared;
        match pieces.last_mut() {
            Some(piece) if rows <= budget => piece.push(*sample),
            _ => {
                rows = fed(sample);
                pieces.push(vec![*sample]);
            }
        }
    }
    pieces
}

/// Samples by what they begin with, wherever a group of their own saves more rows than another micro-batch costs. Each
/// group keeps the order of the step; groups come in the order of their first sample.
fn by_prefix<'e>(samples: &[Sample<'e>]) -> Vec<Vec<Sample<'e>>> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by(|a, b| samples[*a].1.input_ids.cmp(&samples[*b].1.input_ids));
    let mut groups = vec![];
    split(samples, order, &mut groups);
    groups.sort_by_key(|group| group[0]);
    groups.into_iter().map(|group| group.into_iter().map(|i| samples[i]).collect()).collect()
}

/// Splits off those of `sorted` (places in `samples`, sorted by their ids) that do better by themselves; what stays
/// together becomes a group.
fn split(samples: &[Sample], sorted: Vec<usize>, groups: &mut Vec<Vec<usize>>) {
    let prefix_of = |places: &[usize]| prefix(&places.iter().map(|i| samples[*i]).collect::<Vec<_>>());
    let common = prefix_of(&sorted);
    let next = |i: &usize| samples[*i].1.input_ids.get(common);
    let mut rest = vec![];
    for part in sorted.chunk_by(|a, b| next(a) == next(b)) {
        let saved = (part.len() - 1) * prefix_of(part);
        let is_smaller = part.len() < sorted.len();
        if is_smaller && saved > part.len() * common + MICRO_BATCH {
            split(samples, part.to_vec(), groups);
        } else {
            rest.extend_from_slice(part);
        }
    }
    if !rest.is_empty() {
        rest.sort_unstable();
        groups.push(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::TrainConfig, dataset::Origin, testing};

    fn row(ids: Vec<u32>, trainable: bool) -> Example {
        let n = ids.len();
        let labels = ids.iter().enumerate().map(|(i, id)| if trainable && i + 2 >= n { *id } else { IGNORE });
        Example::new(ids.clone(), &labels.collect::<Vec<_>>(), Origin { dataset: 0, row: 1 })
    }

    /// An instruction of 29 tokens of that number, and 20 tokens of its own.
    fn asked(instruction: u32, own: u32) -> Example {
        row([vec![1, 2], vec![instruction; 27], (0..20).map(|i| 1000 + 20 * own + i).collect()].concat(), true)
    }

    fn groups(rows: &[Example], max_rows: usize, share_prefix: bool) -> Vec<Vec<usize>> {
        let samples: Vec<Sample> = rows.iter().enumerate().collect();
        let cut = Cut { max_rows, share_prefix, keep: Keep::Lean };
        cut.micro_batches(&samples).iter().map(|micro| micro.iter().map(|(i, _)| *i).collect()).collect()
    }

    #[test]
    fn micro_batches_keep_the_order_and_the_budget() {
        for (lengths, budget, want) in [
            (vec![3, 3, 3], 6, vec![vec![0, 1], vec![2]]),
            (vec![9, 1, 1], 4, vec![vec![0], vec![1, 2]]),
            (vec![2, 2], 100, vec![vec![0, 1]]),
            (vec![5], 1, vec![vec![0]]),
            (vec![], 10, vec![]),
        ] {
            let rows: Vec<Example> = lengths.iter().map(|n| row((0..=*n).collect(), true)).collect();
            assert_eq!(groups(&rows, budget, false), want, "budget {budget}");
        }
        let rows: Vec<Example> = (0..4).map(|own| asked(7, own)).collect();
        assert_eq!(groups(&rows, 96, false), [[0, 1], [2, 3]], "48 rows each");
        assert_eq!(groups(&rows, 29 + 4 * 19, true), [[0, 1, 2, 3]], "29 of them once for all");
        assert_eq!(groups(&rows, 29 + 3 * 19, true), [vec![0, 1, 2], vec![3]]);
    }

    #[test]
    fn instructions_go_by_themselves_where_that_saves_rows() {
        for (instructions, want, why) in [
            (vec![7, 7, 7, 7], vec![vec![0, 1, 2, 3]], "one for all"),
            (vec![7, 8, 7, 8, 7, 8, 7, 8], vec![vec![0, 2, 4, 6], vec![1, 3, 5, 7]], "two of four"),
            (vec![7, 8, 7, 7, 7], vec![vec![0, 2, 3, 4], vec![1]], "a stranger stays behind"),
            (vec![7, 8, 9, 7, 8, 9], vec![vec![0, 1, 2, 3, 4, 5]], "pairs save less than they cost"),
            (vec![7, 9, 7, 8, 7, 7], vec![vec![0, 2, 4, 5], vec![1, 3]], "strangers stay together"),
        ] {
            let rows: Vec<Example> = instructions.iter().zip(0..).map(|(i, own)| asked(*i, own)).collect();
            assert_eq!(groups(&rows, 10_000, true), want, "{why}");
            assert_eq!(groups(&rows, 10_000, false), [(0..rows.len()).collect::<Vec<_>>()], "{why}: nothing is shared");
        }
    }

    #[test]
    fn the_largest_micro_batch_of_a_run_is_found() {
        let plain = |tokens: u32, trainable| row((0..tokens).collect(), trainable);
        // Two a step, in file order.
        let rows = [plain(4, true), plain(5, true), plain(9, true), plain(50, false), plain(6, true), plain(6, true)];
        let config = TrainConfig {
            per_device_train_batch_size: 2,
            disable_shuffling: true,
            num_train_epochs: 1.0,
            ..testing::train_config()
        };
        let plan = StepPlan::new(rows.len(), &config);
        let find = |max_rows, share_prefix| {
            let cut = Cut { max_rows, share_prefix, keep: Keep::Lean };
            let survey = cut.survey(&plan, &rows);
            (survey.samples, survey.largest.fed, survey.largest.labels)
        };
        assert_eq!(find(100, false), (vec![4, 5], 10, 4), "5 + 5 rows; the row of 50 has no label");
        assert_eq!(find(100, true), (vec![2], 8, 2), "of 5 + 5 rows three are shared");
        assert_eq!(find(8, false), (vec![2], 8, 2), "one at a time, the longest is the largest");
        let cut = Cut { max_rows: 8, share_prefix: true, keep: Keep::Lean };
        let unlabelled = cut.survey(&plan, &vec![plain(5, false); 6]);
        assert_eq!((unlabelled.samples, unlabelled.rows, unlabelled.tokens), (vec![], Rows::default(), 30));
        let most = |cut: Cut, rows: &[Example]| cut.evaluation(rows).1;
        assert_eq!(most(Cut { max_rows: 100, ..cut }, &rows[..3]), 3 + 4 + 8 - 2, "one row is shared");
        assert_eq!(most(cut, &rows[..2]), 3 + 4 - 1);
        assert_eq!(most(cut, &[]), 0);
    }

    #[test]
    fn a_survey_counts_what_the_batches_of_a_run_hold() {
        let rows: Vec<Example> = (0..40).map(|own| asked(7 + own % 3, own)).collect();
        let config = TrainConfig { per_device_train_batch_size: 8, num_train_epochs: 2.0, ..testing::train_config() };
        let plan = StepPlan::of(&rows, &config);
        for (share_prefix, max_rows) in [(true, 10_000), (true, 200), (false, 200)] {
            let cut = Cut { max_rows, share_prefix, keep: Keep::Lean };
            let (mut all, mut batches, mut largest) = (Rows::default(), 0, 0);
            for (_, step) in plan.steps() {
                let samples: Vec<Sample> = step.indices.iter().map(|&i| (i, &rows[i])).collect();
                for packed in cut.batches(&samples) {
                    let of = Rows::of(&packed.unwrap().0);
                    (all, batches, largest) = (
                        {
                            all += of;
                            all
                        },
                        batches + 1,
                        largest.max(of.fed),
                    );
                }
            }
            let survey = cut.survey(&plan, &rows);
            assert_eq!((survey.rows, survey.micro_batches, survey.largest.fed), (all, batches, largest));
            assert_eq!((survey.tokens, survey.padded), (2 * 40 * 49, 2 * 40 * 56), "49 tokens a row");
        }
    }
}
