//! Memory of training, by part.

use crate::{
    config::{LoraConfig, Projection},
    kernels::card,
    model::{Qwen3Config, head_rows, qwen3::Keep},
};
use candle_core::DType;
use serde::Serialize;

/// What is trained, and in which dtype.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// The base model's geometry.
    pub model: &'a Qwen3Config,
    /// The adapter's.
    pub lora: &'a LoraConfig,
    /// Of weights and activations.
    pub dtype: DType,
    /// Whether checkpoints are written beside training.
    pub saves: bool,
    /// Whether the embeddings get noise.
    pub noise: bool,
}

/// The largest micro-batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Rows through the model.
    pub rows: usize,
    /// Labelled rows.
    pub labels: usize,
    /// Rows through the model at once in an evaluation; 0: there is none.
    pub evaluated: usize,
}

/// What attention of the largest micro-batch has to look at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attended {
    /// Rows of the longest sample.
    pub longest: usize,
    /// Rows that stand once for all samples.
    pub prefix: usize,
}

/// Bytes that a card holds beside tensors once its kernels have run: cuBLAS's workspace (32 MiB on Hopper, by its manual), the
/// code of its kernels, of candle's and of ours, which is loaded when it is first used, and what the pool loses by rounding.
/// An estimate, not measured yet. The context itself is there before anything is planned, and is not free any more then.
const BESIDE_TENSORS: u64 = 256 << 20;

/// Of the memory that comes and goes, the share that an allocator loses where buffers of other sizes follow each other and do not
/// fit into the holes: on the CPU 0.0 to 0.15 in steps, which keep most of it, and 0.02 to 0.3 in evaluations, measured on the
/// tiny model and on 0.6B (docs/performance.md).
const FRAGMENTED: f64 = 0.1;
const FRAGMENTED_IN_EVALUATIONS: f64 = 0.18;

/// Bytes at the peak of a step, by part; what the process holds before the model is loaded comes on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The base.
    pub weights: u64,
    /// Masters, gradients, both moments, and the copy the model multiplies with.
    pub trainable: u64,
    /// The copy that a checkpoint is written from.
    pub checkpoint: u64,
    /// What blocks keep between forward and backward.
    pub activations: u64,
    /// The block at work, and the logits.
    pub working: u64,
    /// An evaluation, which takes place where nothing is kept: the largest of the four moments counts.
    pub evaluation: u64,
    /// The optimizer's update, where nothing is kept either: new masters, moments and copy beside the old.
    pub update: u64,
    /// The widest rows that enter a product, in tiles: room that a CPU's threads keep from product to product.
    pub tiles: u64,
    /// What is free and of no use: holes between buffers of other sizes, on a CPU.
    pub fragments: u64,
    /// PiSSA: what the base lacks, which stays until the end.
    pub principal: u64,
    /// PiSSA's converted adapter, made after the last step: the trained matrices, those they began as, and both together.
    pub conversion: u64,
    /// What a card holds beside tensors.
    pub card: u64,
}

impl Memory {
    /// All parts.
    pub fn total(&self) -> u64 {
        let stays = self.weights + self.trainable + self.checkpoint + self.tiles + self.principal;
        stays + self.fragments + self.card + self.highest()
    }

    /// The largest of the moments.
    fn highest(&self) -> u64 {
        self.step().max(self.evaluation).max(self.update).max(self.conversion)
    }

    /// The largest of the moments with what is lost in it.
    fn with_holes(&self) -> u64 {
        let with = |bytes: u64, share: f64| bytes + (share * bytes as f64) as u64;
        let others = with(self.step().max(self.update).max(self.conversion), FRAGMENTED);
        others.max(with(self.evaluation, FRAGMENTED_IN_EVALUATIONS))
    }

    /// A micro-batch.
    fn step(&self) -> u64 {
        self.activations + self.working
    }

    /// `weights 1.19 GB, trainable 0.10 GB, …`
    pub fn describe(&self) -> String {
        let if_largest = |part: u64| if part == self.highest() { part } else { 0 };
        let parts = [
            ("weights", self.weights),
            ("trainable", self.trainable),
            ("checkpoint", self.checkpoint),
            ("activations", self.activations),
            ("working", self.working),
            ("or evaluation", if_largest(self.evaluation)),
            ("or update", if_largest(self.update)),
            ("or conversion", if_largest(self.conversion)),
            ("tiles", self.tiles),
            ("fragments", self.fragments),
            ("PiSSA", self.principal),
            ("card", self.card),
        ];
        let texts = parts.iter().filter(|(_, bytes)| *bytes > 0);
        texts.map(|(name, bytes)| format!("{name} {}", crate::error::gigabytes(*bytes))).collect::<Vec<_>>().join(", ")
    }
}

impl Shape<'_> {
    /// The peak of a step.
    pub fn memory(&self, load: Load, keep: Keep) -> Memory {
        let size = self.dtype.size_in_bytes();
        let copy = if self.dtype == DType::F32 { 0 } else { size };
        let (n, rows, pissa) = (self.trainable(), self.magnitudes(), self.lora.pissa);
        let if_so = |is_so: bool, each: usize| if is_so { (each * self.matrices()) as u64 } else { 0 };
        let memory = Memory {
            weights: (self.model.parameters() * size) as u64,
            // Masters, gradient and two moments in f32. Of a magnitude ‖W‖² in f64, a copy, ‖V‖ and the factor.
            trainable: (n * (4 * 4 + copy) + rows * (8 + 3 * 4)) as u64,
            checkpoint: if self.saves { (n * 3 * 4) as u64 } else { 0 },
            activations: self.activations(load, keep) as u64,
            working: (self.working(load, keep).max(self.head(load)) + self.noise(load, true)) as u64,
            evaluation: self.evaluation(load) as u64,
            update: (n * (3 * 4 + copy) + rows * 3 * 4) as u64,
            tiles: self.tiles(load.rows.max(load.evaluated)) as u64,
            principal: if_so(pissa.pissa_init, 4),
            conversion: if_so(pissa.pissa_convert, 4 * 4),
            fragments: 0,
            card: 0,
        };
        Memory { fragments: memory.with_holes() - memory.highest(), ..memory }
    }

    /// The same on a card, where the copy for a checkpoint and what PiSSA needs are in the machine's memory, and the masters at
    /// the start stay until the end is compared with them.
    pub fn memory_on_card(&self, load: Load, attended: Attended, keep: Keep) -> Memory {
        let memory = self.memory(load, keep);
        let more = |rows| (self.attention_on_card(rows, attended) + self.magnitudes_on_card(rows)) as u64;
        Memory {
            trainable: memory.trainable + 4 * self.trainable() as u64,
            checkpoint: 0,
            working: memory.working + more(load.rows) - (self.noise(load, true) - self.noise(load, false)) as u64,
            evaluation: if load.evaluated == 0 { 0 } else { memory.evaluation + more(load.evaluated) },
            tiles: 0,
            fragments: 0,
            principal: 0,
            conversion: 0,
            card: BESIDE_TENSORS,
            ..memory
        }
    }

    /// Bytes of attention besides its operands and results, on a card.
    fn attention_on_card(&self, rows: usize, Attended { longest, prefix }: Attended) -> usize {
        let (c, size) = (self.model, self.dtype.size_in_bytes());
        let (heads, kv_heads, width) = (c.num_attention_heads, c.num_key_value_heads, c.head_dim);
        if !card::has_attention(self.dtype, width) {
            // All scores of a sample: in f32 as they are, masked, less their maximum, as exponentials and as probabilities.
            let narrow = if size < 4 { 2 * size } else { 0 };
            return heads * longest * longest * (5 * 4 + narrow);
        }
        // Of every row and head the logarithm of its sum and do·o. And the parts in which the gradient of the prefix is added up:
        // no more than the kernels' `room_for_parts`.
        let (tiles, behind) = (prefix.div_ceil(64), rows.saturating_sub(prefix) * (heads / kv_heads));
        let parts_each = 1 + behind.div_ceil(512).min((128 / tiles.max(1)).max(1));
        let parts = tiles * parts_each * kv_heads * 64 * 2 * width;
        4 * (2 * rows * heads + parts)
    }

    /// Bytes of the widest projection in f32, three times, where candle's operations bring rows to their magnitudes.
    fn magnitudes_on_card(&self, rows: usize) -> usize {
        if self.lora.use_dora { 3 * 4 * rows * self.model.intermediate_size } else { 0 }
    }

    /// Trainable parameters.
    pub fn trainable(&self) -> usize {
        self.matrices() + self.magnitudes()
    }

    /// Values of A and B.
    pub(super) fn matrices(&self) -> usize {
        self.over_targets(|(out, width)| self.lora.lora_rank * (out + width))
    }

    /// Values of DoRA's magnitudes: rows of the weights that it brings to a length.
    fn magnitudes(&self) -> usize {
        if self.lora.use_dora { self.over_targets(|(out, _)| out) } else { 0 }
    }

    /// Sum over all projections with an adapter, whose weight is (out, in).
    pub(super) fn over_targets(&self, of: impl Fn((usize, usize)) -> usize) -> usize {
        let targets = self.lora.lora_target.iter();
        self.model.num_hidden_layers * targets.map(|p| of(self.model.projection(*p))).sum::<usize>()
    }

    /// Values of a row that a magnitude keeps of a projection for its gradient: of all that goes on as it is, nothing.
    fn kept_by_magnitude(&self, projection: Projection) -> usize {
        let goes_on = !matches!(projection, Projection::OProj | Projection::DownProj) && self.lora.lora_dropout == 0.0;
        let is_kept = self.lora.use_dora && !goes_on && self.lora.lora_target.contains(&projection);
        if is_kept { self.model.projection(projection).0 } else { 0 }
    }

    /// Bytes kept by all blocks: all but the last on `T` rows, the last on `L` where it can.
    fn activations(&self, Load { rows, labels, .. }: Load, keep: Keep) -> usize {
        let (c, size) = (self.model, self.dtype.size_in_bytes());
        let (d, f) = (c.hidden_size, c.intermediate_size);
        let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        if keep == Keep::Input {
            return c.num_hidden_layers * rows * d * size;
        }
        let on_keys = |p: &&Projection| matches!(p, Projection::KProj | Projection::VProj);
        let adapters_on_keys = self.lora.lora_target.iter().filter(on_keys).count();
        let adapters_on_queries = self.lora.lora_target.len() - adapters_on_keys;
        let of_magnitudes = |keys: bool| -> usize {
            let some = Projection::ALL.iter().filter(|p| on_keys(p) == keys);
            some.map(|p| self.kept_by_magnitude(*p)).sum()
        };
        // x, k, v, s·x·Aᵀ of k and v; 1/rms of the row and of its keys' heads.
        let mut by_row = (d + 2 * kv + self.lora.lora_rank * adapters_on_keys) * size + 4 * (1 + c.num_key_value_heads);
        // q, o, x_mid, gate, up, the other s·x·Aᵀ; 1/rms.
        let mut by_query =
            (2 * q + d + 2 * f + self.lora.lora_rank * adapters_on_queries) * size + 4 * (1 + c.num_attention_heads);
        by_row += of_magnitudes(true) * size;
        by_query += of_magnitudes(false) * size;
        if keep == Keep::Everything {
            by_row += (d + kv) * size; // h, rotated k
            by_query += (q + d) * size; // rotated q, h_mid
        }
        (c.num_hidden_layers - 1) * rows * (by_row + by_query) + rows * by_row + labels * by_query
    }

    /// Bytes of one block running backward: four gradients or products of the MLP's width (with DoRA two more), and what is
    /// rebuilt; and of the tables of angles.
    fn working(&self, Load { rows, .. }: Load, keep: Keep) -> usize {
        let (c, size) = (self.model, self.dtype.size_in_bytes());
        let (d, f) = (c.hidden_size, c.intermediate_size);
        let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        let rebuilt = 2 * d + q + kv;
        let again = match keep {
            Keep::Everything => 0,
            Keep::Lean => rebuilt,
            // The whole set of the block that is run again.
            Keep::Input => {
                rebuilt + saved_values(c) + Projection::ALL.map(|p| self.kept_by_magnitude(p)).iter().sum::<usize>()
            }
        };
        rows * (again + 2 * d + (4 + self.more_by_magnitudes()) * f + c.head_dim) * size + self.dropout(rows)
    }

    /// Bytes of dropping out of the inputs of `down_proj`, the widest: the mask and the masked rows in f32, and in bf16 also
    /// the rows before it in f32, and the masked rows in bf16.
    fn dropout(&self, rows: usize) -> usize {
        let size = self.dtype.size_in_bytes();
        let a_value = 4 + 4 + if size < 4 { 4 + size } else { 0 };
        if self.lora.lora_dropout > 0.0 { rows * self.model.intermediate_size * a_value } else { 0 }
    }

    /// Bytes of the noise on the embeddings; `made_there`: with the f32 it is made from, which for a card are in the machine's
    /// memory.
    fn noise(&self, Load { rows, .. }: Load, made_there: bool) -> usize {
        let a_value = self.dtype.size_in_bytes() + if made_there { 4 } else { 0 };
        if self.noise { rows * self.model.hidden_size * a_value } else { 0 }
    }

    /// Bytes of one block running forward: its lean set with that of its adapters, what is derived from it, and its output; and
    /// the tables of angles. Or of the logits, where every row may have a label.
    fn evaluation(&self, Load { evaluated, .. }: Load) -> usize {
        let (c, size) = (self.model, self.dtype.size_in_bytes());
        let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        let derived = 2 * c.hidden_size + q + kv + c.intermediate_size;
        let of_adapters =
            self.lora.lora_rank * self.lora.lora_target.len() + self.more_by_magnitudes() * c.intermediate_size;
        let block = evaluated * (saved_values(c) + of_adapters + derived + c.hidden_size + c.head_dim) * size;
        block.max(self.logits(evaluated) + (2 * c.hidden_size + c.head_dim) * evaluated * size)
    }

    /// Bytes of so many rows of the widest that enters a product.
    fn tiles(&self, rows: usize) -> usize {
        let c = self.model;
        let widest = c.hidden_size.max(c.num_attention_heads * c.head_dim).max(c.intermediate_size);
        rows * widest * self.dtype.size_in_bytes()
    }

    /// Rows of the MLP's width that DoRA takes at once besides: an update or a gradient, and what its magnitude makes of it.
    fn more_by_magnitudes(&self) -> usize {
        if self.lora.use_dora { 2 } else { 0 }
    }

    /// Bytes of the logits of a chunk of labelled rows and of their rows.
    fn head(&self, Load { labels, .. }: Load) -> usize {
        self.logits(labels) + 3 * labels * self.model.hidden_size * self.dtype.size_in_bytes()
    }

    /// Bytes of the logits of so many rows, of which no more than [`head_rows`] are there at once.
    fn logits(&self, rows: usize) -> usize {
        let vocab_size = self.model.vocab_size;
        rows.min(head_rows(vocab_size)) * vocab_size * self.dtype.size_in_bytes()
    }
}

/// Values of the lean set of a block for one row, adapters left out: x, x_mid; q, o; k, v; gate, up.
pub(super) fn saved_values(c: &Qwen3Config) -> usize {
    let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    2 * c.hidden_size + 2 * q + 2 * kv + 2 * c.intermediate_size
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        config::Pissa,
        model::{Batch, Checkpoint, Params, Qwen3, qwen3::DropoutPlan},
        testing,
    };
    use candle_core::Device;
    use std::path::Path;

    pub fn qwen3_0_6b(dtype: DType) -> Shape<'static> {
        let lora = lora(Projection::ALL.to_vec());
        Shape {
            model: Box::leak(Box::new(testing::qwen3_0_6b())),
            lora: Box::leak(Box::new(lora)),
            dtype,
            saves: true,
            noise: false,
        }
    }

    fn lora(lora_target: Vec<Projection>) -> LoraConfig {
        LoraConfig {
            lora_rank: 8,
            lora_alpha: 16.0,
            lora_dropout: 0.0,
            lora_target,
            use_dora: false,
            use_rslora: false,
            pissa: Default::default(),
        }
    }

    #[test]
    fn known_sizes_of_qwen3_0_6b() {
        let shape = qwen3_0_6b(DType::BF16);
        assert_eq!(shape.trainable(), 5_046_272, "rank 8 on all seven projections");
        let memory = shape.memory(Load { rows: 243, labels: 82, evaluated: 0 }, Keep::Lean);
        assert_eq!(memory.weights, 2 * 596_049_920);
        assert_eq!(memory.checkpoint, 12 * 5_046_272);
        assert_eq!(
            memory.total(),
            memory.weights
                + memory.trainable
                + memory.checkpoint
                + memory.activations
                + memory.working
                + memory.tiles
                + memory.fragments
        );
        assert_eq!(memory.fragments, (memory.activations + memory.working) / 10);
        let evaluated = shape.memory(Load { rows: 243, labels: 82, evaluated: 10_000 }, Keep::Lean);
        assert_eq!(evaluated.evaluation, 2 * 10_000 * (14_336 + 56 + 8_192 + 1_024 + 128));
        assert_eq!((memory.tiles, evaluated.tiles), (2 * 243 * 3_072, 2 * 10_000 * 3_072));
        assert_eq!(evaluated.fragments, evaluated.evaluation * 18 / 100, "an evaluation leaves more holes");
        let besides = |m: Memory| m.total() - m.tiles - m.fragments;
        assert_eq!(besides(evaluated) - evaluated.evaluation, besides(memory) - memory.activations - memory.working);
        let few = shape.memory(Load { rows: 243, labels: 82, evaluated: 300 }, Keep::Lean);
        assert_eq!(few.evaluation, 2 * (220 * 151_936 + 300 * (2 * 1_024 + 128)), "a chunk of logits is larger");
        assert_eq!(
            Shape { saves: false, ..shape }.memory(Load { rows: 1, labels: 1, evaluated: 0 }, Keep::Lean).checkpoint,
            0
        );
    }

    #[test]
    fn what_is_random_needs_memory_while_a_block_is_at_work() {
        let load = Load { rows: 4000, labels: 300, evaluated: 0 };
        for (dtype, dropped, noise) in [(DType::F32, 8, 8), (DType::BF16, 14, 6)] {
            let plain = qwen3_0_6b(dtype);
            let more = |shape: Shape| shape.memory(load, Keep::Lean).working - plain.memory(load, Keep::Lean).working;
            let dropping = LoraConfig { lora_dropout: 0.1, ..plain.lora.clone() };
            assert_eq!(more(Shape { lora: &dropping, ..plain }), 4000 * 3072 * dropped, "{dtype:?}");
            assert_eq!(more(Shape { noise: true, ..plain }), 4000 * 1024 * noise, "{dtype:?}");
            let on_card = |shape: Shape| shape.memory_on_card(load, Attended::default(), Keep::Lean).working;
            let more = on_card(Shape { noise: true, ..plain }) - on_card(plain);
            assert_eq!(more, 4000 * 1024 * (noise - 4), "{dtype:?}: it is made in the machine's memory");
        }
    }

    #[test]
    fn a_card_holds_more_and_less() {
        let load = Load { rows: 1000, labels: 300, evaluated: 500 };
        let attended = Attended { longest: 60, prefix: 29 };
        let (bf16, f32) = (qwen3_0_6b(DType::BF16), qwen3_0_6b(DType::F32));
        let on_card = |shape: &Shape| shape.memory_on_card(load, attended, Keep::Lean);
        let (cpu, card) = (bf16.memory(load, Keep::Lean), on_card(&bf16));
        assert_eq!((card.weights, card.activations, card.update), (cpu.weights, cpu.activations, cpu.update));
        assert_eq!((cpu.card, card.card), (0, 256 << 20));
        assert_eq!((card.checkpoint, card.tiles), (0, 0), "a checkpoint's copy is the machine's");
        assert_eq!(card.trainable - cpu.trainable, 4 * 5_046_272, "the masters at the start");
        // 971 rows behind the prefix by two heads are four parts of 512, and its own rows one more.
        let parts = 5 * 8 * 64 * 2 * 128;
        assert_eq!(card.working - cpu.working, 4 * (2 * 1000 * 16 + parts));
        let scores = on_card(&f32).working - f32.memory(load, Keep::Lean).working;
        assert_eq!(scores, 16 * 60 * 60 * 20, "no kernel for f32: the scores of a sample five times");
        let idle = Load { evaluated: 0, ..load };
        assert_eq!(bf16.memory_on_card(idle, attended, Keep::Lean).evaluation, 0, "nothing is held out");
    }

    #[test]
    fn the_largest_of_four_moments_counts_and_is_named() {
        let none = Memory {
            weights: 0,
            trainable: 0,
            checkpoint: 0,
            activations: 0,
            working: 0,
            evaluation: 0,
            update: 0,
            tiles: 0,
            fragments: 0,
            principal: 0,
            conversion: 0,
            card: 0,
        };
        let gb = |n: u64| n * 1_000_000_000;
        for (step, evaluation, update, conversion, total, named) in [
            (5, 4, 3, 2, 5, "activations 5.00 GB"),
            (3, 5, 4, 0, 5, "activations 3.00 GB, or evaluation 5.00 GB"),
            (1, 2, 4, 3, 4, "activations 1.00 GB, or update 4.00 GB"),
            (1, 2, 4, 6, 6, "activations 1.00 GB, or conversion 6.00 GB"),
        ] {
            let (activations, evaluation) = (gb(step), gb(evaluation));
            let memory = Memory { activations, evaluation, update: gb(update), conversion: gb(conversion), ..none };
            assert_eq!((memory.total(), memory.describe().as_str()), (gb(total), named));
        }
    }

    #[test]
    fn pissa_keeps_what_the_base_lacks_in_the_memory_of_the_machine() {
        let (plain, load) = (qwen3_0_6b(DType::BF16), Load { rows: 10, labels: 3, evaluated: 0 });
        let matrices = plain.trainable() as u64;
        for (pissa_init, pissa_convert) in [(true, false), (true, true), (false, true)] {
            let pissa = Pissa { pissa_init, pissa_convert, ..Pissa::default() };
            let lora = LoraConfig { pissa, ..plain.lora.clone() };
            let (shape, keep) = (Shape { lora: &lora, ..plain }, Keep::Lean);
            let memory = shape.memory(load, keep);
            let (principal, conversion) =
                (u64::from(pissa_init) * 4 * matrices, u64::from(pissa_convert) * 16 * matrices);
            assert_eq!((memory.principal, memory.conversion), (principal, conversion));
            let stays = |m: Memory| m.total() - m.highest() - m.fragments;
            assert_eq!(stays(memory), stays(plain.memory(load, keep)) + principal);
            let on_card = |shape: &Shape| shape.memory_on_card(load, Attended::default(), keep);
            assert_eq!(on_card(&shape), on_card(&plain), "and not in the card's");
        }
    }

    #[test]
    fn blocks_keep_as_many_bytes_as_the_model_says() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/tiny_qwen3");
        let config = Qwen3Config::load(&dir).unwrap();
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let ids: Vec<u32> = (1..30).collect();
        let labels: Vec<u32> = (1..30).map(|i| if i < 20 { u32::MAX } else { i }).collect();
        let batch = Batch::pack(&[(0, &ids, &labels), (1, &ids[..25], &labels[..25])], u32::MAX, true).unwrap();
        let load = Load { rows: batch.ids.len(), labels: batch.label_rows.len(), evaluated: 0 };
        for dtype in [DType::F32, DType::BF16] {
            for targets in [Projection::ALL.to_vec(), vec![Projection::VProj, Projection::DownProj]] {
                for (use_dora, lora_dropout) in [(false, 0.0), (false, 0.1), (true, 0.0), (true, 0.1)] {
                    let lora = LoraConfig { use_dora, lora_dropout, ..lora(targets.clone()) };
                    let (model, layout) = Qwen3::load(&config, &checkpoint, &lora, dtype, &Device::Cpu).unwrap();
                    let params = Params::new(layout, dtype, &Device::Cpu, |slot| Ok(vec![0.01; slot.range().len()]));
                    let params = params.unwrap();
                    let shape = Shape { model: &config, lora: &lora, dtype, saves: false, noise: false };
                    assert_eq!(shape.trainable(), params.len());
                    let dropout = DropoutPlan::anywhere(lora_dropout);
                    for keep in [Keep::Everything, Keep::Lean, Keep::Input] {
                        let kept = model.kept_bytes(&batch, &params, (dropout, keep)).unwrap();
                        let said = shape.memory(load, keep).activations;
                        assert_eq!(said, kept as u64, "{dtype:?}, {keep:?}, {lora:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn magnitudes_take_what_they_take() {
        let (shape, load) = (qwen3_0_6b(DType::BF16), Load { rows: 1000, labels: 30, evaluated: 10_000 });
        let lora = LoraConfig { use_dora: true, ..shape.lora.clone() };
        let (dora, rows) = (Shape { lora: &lora, ..shape }, 28 * (2048 + 2 * 1024 + 1024 + 2 * 3072 + 1024));
        assert_eq!(dora.trainable() - shape.trainable(), rows);
        let attended = Attended { longest: 60, prefix: 29 };
        let memory = |shape: &Shape| shape.memory_on_card(load, attended, Keep::Lean);
        let (plain, dora) = (memory(&shape), memory(&dora));
        assert_eq!(
            dora.trainable - plain.trainable,
            (rows * (4 * 4 + 2 + 4 + 20)) as u64,
            "and the masters at the start"
        );
        assert_eq!(dora.update - plain.update, (rows * (3 * 4 + 2 + 12)) as u64);
        assert_eq!(dora.activations - plain.activations, 2 * 2 * 1024 * (27 * 1000 + 30), "the sums of o and down");
        assert_eq!(dora.working - plain.working, 1000 * 3072 * (2 * 2 + 3 * 4));
        assert_eq!(dora.evaluation - plain.evaluation, 10_000 * 3072 * (2 * 2 + 3 * 4));
    }
}
