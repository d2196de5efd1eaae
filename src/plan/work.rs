//! Arithmetic of training, in floating-point operations: what is executed, and what of it the data ask for.
//!
//! A multiply-add counts as two. Only products are counted: norms, rotary embedding, SwiGLU, softmax and the optimizer are
//! bound by memory and not by arithmetic.

use super::Shape;
use crate::{
    config::Projection,
    model::{Batch, qwen3::Keep},
};
use serde::Serialize;
use std::ops::AddAssign;

/// Floating-point operations, by part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Flop {
    /// Frozen projections of all blocks: `x·Wᵀ` and `dy·W`.
    pub projections: u64,
    /// Adapters: the low-rank update, ∂A, ∂B and its input gradient.
    pub adapters: u64,
    /// `lm_head`.
    pub head: u64,
    /// `q·kᵀ`, `p·v` and their gradients, of every query with the keys it sees.
    pub attention: u64,
}

impl Flop {
    /// All parts.
    pub fn total(&self) -> u64 {
        self.projections + self.adapters + self.head + self.attention
    }
}

impl AddAssign for Flop {
    fn add_assign(&mut self, other: Self) {
        self.projections += other.projections;
        self.adapters += other.adapters;
        self.head += other.head;
        self.attention += other.attention;
    }
}

/// Rows of one or many micro-batches, and what they look at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rows {
    /// Through the model.
    pub fed: usize,
    /// With a label.
    pub labels: usize,
    /// Keys that all rows see, each its own and those before it.
    pub seen: usize,
    /// Keys that the labelled rows see.
    pub seen_by_labels: usize,
}

impl Rows {
    /// Those of a micro-batch.
    pub fn of(batch: &Batch) -> Self {
        // Positions restart with each sample and go on behind the prefix: a row sees that many keys, and its own.
        let seen = |position: u32| position as usize + 1;
        Self {
            fed: batch.ids.len(),
            labels: batch.label_rows.len(),
            seen: batch.positions.iter().map(|position| seen(*position)).sum(),
            seen_by_labels: batch.label_rows.iter().map(|row| seen(batch.positions[*row as usize])).sum(),
        }
    }
}

impl AddAssign for Rows {
    fn add_assign(&mut self, other: Self) {
        self.fed += other.fed;
        self.labels += other.labels;
        self.seen += other.seen;
        self.seen_by_labels += other.seen_by_labels;
    }
}

impl Shape<'_> {
    /// [`Self::executed_by`] of one micro-batch.
    pub fn executed(&self, batch: &Batch, keep: Keep) -> Flop {
        self.executed_by(&Rows::of(batch), keep)
    }

    /// What forward and backward of these rows execute, where blocks keep `keep`.
    ///
    /// All projections run on `T` rows, but in the last block only those of keys and values: the others run on `L`. The
    /// first block hands no gradient down. Attention needs 2 products forward and 5 backward, one of which makes the
    /// scores again.
    pub fn executed_by(&self, all: &Rows, keep: Keep) -> Flop {
        use Projection::{KProj, OProj, QProj, VProj};
        let (c, last) = (self.model, self.model.num_hidden_layers - 1);
        let (rows, labels) = (all.fed, all.labels);
        let forwards = if keep == Keep::Input { 2 } else { 1 };
        let attention_is_trained =
            [QProj, KProj, VProj, OProj].iter().any(|projection| self.lora.lora_target.contains(projection));
        let mut flop = Flop { head: self.head_flop(labels), ..Flop::default() };
        for layer in 0..=last {
            let goes_below_mlp = layer > 0 || attention_is_trained;
            for projection in Projection::ALL {
                let (out, width) = c.projection(projection);
                let on_keys = matches!(projection, KProj | VProj);
                let rows = if layer == last && !on_keys { labels } else { rows };
                let has_backward = goes_below_mlp || !(on_keys || matches!(projection, QProj | OProj));
                let has_dx = has_backward && (layer > 0 || !(on_keys || projection == QProj));
                let is_target = self.lora.lora_target.contains(&projection);
                // Under dropout DoRA multiplies the rows that A sees with W as well.
                let times = if is_target && self.lora.use_dora && self.lora.lora_dropout > 0.0 { 2 } else { 1 };
                flop.projections += 2 * (times * rows * out * width * (forwards + usize::from(has_dx))) as u64;
                if is_target {
                    let (a, b) = (self.lora.lora_rank * width, self.lora.lora_rank * out);
                    // Forward x·Aᵀ and its product with Bᵀ; backward dy·B, ∂B, ∂A, and the product with A.
                    let products = forwards * (a + b) + 2 * b + a + if has_dx { a } else { 0 };
                    flop.adapters += 2 * (rows * products) as u64;
                }
            }
            let seen = if layer == last { all.seen_by_labels } else { all.seen };
            flop.attention += self.attention_flop(seen) * (2 * forwards + if goes_below_mlp { 5 } else { 0 }) as u64;
        }
        flop
    }

    /// What a step executes once, whatever its micro-batches are: the lengths of DoRA's rows, `A·Wᵀ`, `A·Aᵀ` and `B·(A·Aᵀ)`.
    pub fn executed_once(&self) -> Flop {
        let r = self.lora.lora_rank;
        let lengths = if self.lora.use_dora {
            self.over_targets(|(out, width)| r * (out * width + r * (out + width)))
        } else {
            0
        };
        Flop { adapters: 2 * lengths as u64, ..Flop::default() }
    }

    /// What a sample of `tokens`, `labels` of them trained, asks for: every token once through every projection, forward
    /// and backward, no row left out, no row shared, and nothing computed twice.
    ///
    /// `S·(4N + 6λ) + 4·V·D·L`, and attention. Frozen weights have no gradient: 4N and not 6N.
    pub fn useful(&self, tokens: usize, labels: usize) -> Flop {
        let layers = self.model.num_hidden_layers as u64;
        Flop {
            projections: 4 * (tokens * self.model.linear_parameters()) as u64,
            adapters: 6 * (tokens * self.matrices()) as u64,
            head: self.head_flop(labels),
            attention: layers * 6 * self.attention_flop(tokens * (tokens + 1) / 2),
        }
    }

    /// What a forward pass of these rows executes: an evaluation.
    ///
    /// The last block and its rows without labels are counted like the others, about one block in a hundred too many.
    pub fn forward_by(&self, all: &Rows) -> u64 {
        let weights = all.fed * (self.model.linear_parameters() + self.trainable());
        let attention = 2 * self.model.num_hidden_layers as u64 * self.attention_flop(all.seen);
        2 * weights as u64 + self.head_flop(all.labels) / 2 + attention
    }

    /// `lm_head` forward and backward.
    fn head_flop(&self, labels: usize) -> u64 {
        4 * (labels * self.model.vocab_size * self.model.hidden_size) as u64
    }

    /// One of attention's products in one block; `seen`: pairs of a query and a key.
    fn attention_flop(&self, seen: usize) -> u64 {
        2 * (seen * self.model.num_attention_heads * self.model.head_dim) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::memory::tests::qwen3_0_6b;
    use candle_core::DType;

    const NO: u32 = u32::MAX;

    /// Samples that begin with `prefix` equal tokens, (tokens, labels at the end) each.
    fn batch(prefix: usize, samples: &[(usize, usize)], share: bool) -> Batch {
        let ids = |(i, (tokens, _)): (usize, &(usize, usize))| -> Vec<u32> {
            (0..*tokens).map(|t| if t < prefix { t } else { 1000 * (i + 1) + t } as u32).collect()
        };
        let ids: Vec<Vec<u32>> = samples.iter().enumerate().map(ids).collect();
        let labels: Vec<Vec<u32>> = (ids.iter().zip(samples))
            .map(|(ids, (tokens, labels))| [&vec![NO; tokens - labels], &ids[tokens - labels..]].concat())
            .collect();
        let rows: Vec<(u64, &[u32], &[u32])> = ids.iter().zip(&labels).map(|(i, l)| (0, &i[..], &l[..])).collect();
        Batch::pack(&rows, NO, share).unwrap()
    }

    #[test]
    fn the_sum_over_blocks_equals_the_closed_form() {
        let shape = qwen3_0_6b(DType::F32);
        // Of Qwen3-0.6B, rank 8: all blocks; q, o and the MLP of one; q, k and v of one.
        let (n, lambda, head) = (440_401_920, 5_046_272, 151_936 * 1024);
        let (last, last_lambda) = (2 * 2048 * 1024 + 3 * 3072 * 1024, 8 * (2 * 3072 + 3 * 4096));
        let (first, first_a) = (4096 * 1024, 3 * 8 * 1024);
        for (prefix, samples, share) in [
            (29, vec![(57, 10), (48, 7), (83, 25)], true),
            (29, vec![(57, 10), (48, 7), (83, 25)], false),
            (0, vec![(512, 511)], true),
        ] {
            let batch = batch(prefix, &samples, share);
            let saved = if share { prefix * (samples.len() - 1) } else { 0 };
            let t = (samples.iter().map(|(tokens, _)| tokens - 1).sum::<usize>() - saved) as u64;
            let l = samples.iter().map(|(_, labels)| *labels as u64).sum::<u64>();
            let lean = shape.executed(&batch, Keep::Lean);
            assert_eq!(lean.projections, t * 4 * n - 4 * last * (t - l) - 2 * first * t, "{samples:?}");
            assert_eq!(lean.adapters, t * 6 * lambda - 6 * last_lambda * (t - l) - 2 * first_a * t, "{samples:?}");
            assert_eq!(lean.head, 4 * head * l);
            assert_eq!(shape.executed(&batch, Keep::Everything), lean);

            let again = shape.executed(&batch, Keep::Input);
            assert_eq!(again.projections - lean.projections, t * 2 * n - 2 * last * (t - l), "every block once more");
            assert_eq!(again.adapters - lean.adapters, t * 2 * lambda - 2 * last_lambda * (t - l));
            assert_eq!(again.head, lean.head, "the head is not run again");
            assert_eq!(again.attention * 7, lean.attention * 9);
        }
    }

    #[test]
    fn attention_counts_the_keys_that_each_query_sees() {
        let shape = qwen3_0_6b(DType::F32);
        let samples = [(57, 10), (48, 7), (83, 25)];
        let triangle = |rows: usize| rows * (rows + 1) / 2;
        let all: usize = samples.iter().map(|(tokens, _)| triangle(tokens - 1)).sum();
        // The row before a label asks in the last block.
        let asked = samples.iter().map(|(tokens, labels)| triangle(tokens - 1) - triangle(tokens - 1 - labels));
        let last: usize = asked.sum();
        for (share, pairs) in [(false, 27 * all + last), (true, 27 * (all - 2 * triangle(29)) + last)] {
            let flop = shape.executed(&batch(29, &samples, share), Keep::Lean);
            assert_eq!(flop.attention, (7 * 2 * 2048 * pairs) as u64, "share_prefix {share}");
        }
    }

    #[test]
    fn a_first_block_without_adapters_on_attention_ends_behind_its_mlp() {
        let full = qwen3_0_6b(DType::F32);
        let lora = crate::config::LoraConfig { lora_target: vec![Projection::DownProj], ..full.lora.clone() };
        let shape = Shape { lora: &lora, ..full };
        let batch = batch(0, &[(57, 10)], true);
        let (all, less) = (full.executed(&batch, Keep::Lean), shape.executed(&batch, Keep::Lean));
        assert_eq!(all.projections - less.projections, 2 * 56 * 2048 * 1024, "no gradient through o");
        assert_eq!(all.attention - less.attention, 5 * 2 * 2048 * (56 * 57 / 2), "nor through attention");
        let by_block = 2 * 8 * (3 * 4096) as u64;
        assert_eq!(less.adapters, by_block * (27 * 56 + 10), "2 products of every matrix forward, 4 backward");
    }

    #[test]
    fn dora_multiplies_once_a_step_and_under_dropout_twice() {
        let plain = qwen3_0_6b(DType::F32);
        let of = |use_dora, lora_dropout| crate::config::LoraConfig { use_dora, lora_dropout, ..plain.lora.clone() };
        let (lora, dropped) = (of(true, 0.0), of(true, 0.1));
        let (dora, dropped) = (Shape { lora: &lora, ..plain }, Shape { lora: &dropped, ..plain });
        let batch = batch(0, &[(57, 10)], true);
        let executed = |shape: &Shape| shape.executed(&batch, Keep::Lean);
        assert_eq!(executed(&dora), executed(&plain), "but for what is no product");
        assert_eq!(executed(&dropped).projections, 2 * executed(&plain).projections);
        assert_eq!(dora.useful(57, 10), plain.useful(57, 10));
        assert_eq!(plain.executed_once(), Flop::default());
        // Of every weight r rows, and r² for each of its rows and columns.
        let once = 8 * 440_401_920 + 8 * 5_046_272;
        assert_eq!(dora.executed_once(), Flop { adapters: 2 * once, ..Flop::default() });
    }

    #[test]
    fn a_sample_asks_for_what_it_would_cost_alone() {
        let shape = qwen3_0_6b(DType::F32);
        let useful = shape.useful(57, 10);
        assert_eq!(useful.projections, 57 * 4 * 440_401_920);
        assert_eq!(useful.adapters, 57 * 6 * 5_046_272);
        assert_eq!(useful.head, 10 * 4 * 151_936 * 1024);
        assert_eq!(useful.attention, 28 * 6 * 2 * 2048 * (57 * 58 / 2));
        let parts = [useful.projections, useful.adapters, useful.head, useful.attention];
        assert_eq!(useful.total(), parts.iter().sum::<u64>());
        let mut twice = useful;
        twice += useful;
        assert_eq!(twice.total(), 2 * useful.total());
    }
}
