//! What the steps of a benchmark hold: tokens, arithmetic, and the largest micro-batch.

use couplet_train::{
    dataset::Example,
    plan::{Attended, Flop, Load, Memory, Shape},
    trainer::Cut,
};

/// What steps hold, summed over them.
#[derive(Default)]
pub struct Work {
    /// Tokens of the samples.
    pub real: usize,
    /// Rows that went through the model.
    pub fed: usize,
    /// Tokens as LlamaFactory's collator would feed them: `batch` samples at once, each as long as the longest, and that a multiple of 8.
    pub padded: usize,
    /// Tokens that were trained.
    pub label: usize,
    pub useful: Flop,
    pub executed: Flop,
    /// The micro-batch with the most rows, and what its attention looks at.
    largest: (Load, Attended),
}

impl Work {
    pub fn of(steps: &[Vec<(usize, &Example)>], batch: usize, cut: Cut, shape: &Shape) -> Self {
        let mut work = Self::default();
        for samples in steps {
            work.executed += shape.executed_once();
            for (_, sample) in samples {
                let (tokens, labels) = (sample.input_ids.len(), sample.predicted().count());
                work.real += tokens;
                work.label += labels;
                work.useful += shape.useful(tokens, labels);
            }
            for together in samples.chunks(batch) {
                let longest = together.iter().map(|(_, sample)| sample.input_ids.len()).max().expect("a sample");
                work.padded += together.len() * longest.next_multiple_of(8);
            }
            for micro in cut.batches(samples) {
                let (micro, together) = micro.expect("a micro-batch");
                let load = Load { rows: micro.ids.len(), labels: micro.label_rows.len(), evaluated: 0 };
                work.fed += load.rows;
                work.executed += shape.executed(&micro, cut.keep);
                if load.rows > work.largest.0.rows {
                    let rows: Vec<Example> = together.iter().map(|(_, row)| (*row).clone()).collect();
                    let all: Vec<usize> = (0..rows.len()).collect();
                    work.largest = (load, cut.attended(&rows, &all, [&[], &[]]));
                }
            }
        }
        work
    }

    /// What the plan says of the largest micro-batch, and of it the part that is tensors.
    pub fn memory(&self, shape: &Shape, cut: Cut, on_card: bool) -> (Memory, u64) {
        let (load, attended) = self.largest;
        let memory = match on_card {
            true => shape.memory_on_card(load, attended, cut.keep),
            false => shape.memory(load, cut.keep),
        };
        (memory, memory.total() - memory.card)
    }
}
