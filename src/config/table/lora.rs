//! What is trained in the base.

use super::{
    Absent::{Same, Unset},
    Answer::{Ignored, Refused},
    Key, NO, NOTHING, SCORED,
    Section::{Lora, Model, Train},
    TRAIN, by, keys, read, theirs, words,
};
use crate::config::kind::{Kind, Words};

const STAGE: Kind = Kind::Choice { now: &["sft"], later: &["pt", "rm", "ppo", "dpo", "kto"] };
const TYPE: Kind = Kind::Choice { now: &["lora"], later: &["full", "freeze", "oft"] };
const CROSS_ENTROPY: Words = words("the loss is cross entropy", "损失为交叉熵");

pub(super) static KEYS: &[Key] = keys! {
    lora_rank: read(TRAIN, Lora, Kind::Whole(1), Same("8")),
        words("rank r: A is r × in, B is out × r", "秩 r：A 为 r × in，B 为 out × r");
    lora_alpha: read(TRAIN, Lora, Kind::Positive, Unset),
        words("the update is scaled by lora_alpha / lora_rank; without it twice the rank", "更新量乘以 lora_alpha / lora_rank；不写时为秩的两倍");
    lora_dropout: read(TRAIN, Lora, Kind::BelowOne, Same("0")),
        words("probability of zeroing an input of A, in training only", "训练时将 A 的输入置零的概率");
    lora_target: read(TRAIN, Lora, Kind::List, Same("all")),
        words("projections that get an adapter: all, or some of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
              "加适配器的投影：all，或 q_proj、k_proj、v_proj、o_proj、gate_proj、up_proj、down_proj 中的几个");
    use_rslora: read(TRAIN, Lora, Kind::Flag, Same("false")),
        words("scale by lora_alpha / √lora_rank", "按 lora_alpha / √lora_rank 缩放");
    use_dora: read(TRAIN, Lora, Kind::Flag, Same("false")),
        words("DoRA: A and B turn the rows of a weight, and their lengths are trained beside them", "DoRA：A、B 改变权重各行的方向，行的长度另行训练");
    create_new_adapter: read(TRAIN, Model, Kind::Flag, Same("false")),
        words("merge every adapter of `adapter_name_or_path` and train a new one over them", "合并 `adapter_name_or_path` 的全部适配器，在其上训练新的适配器");
    loraplus_lr_ratio: read(TRAIN, Train, Kind::Positive, Unset),
        words("LoRA+: B, and with DoRA the lengths, learn at so many times the rate of A, which is `learning_rate`; 16 is usual",
              "LoRA+：B（以及 DoRA 的行长度）的学习率为 A 的多少倍，A 用 `learning_rate`；常用 16");
    pissa_init: read(TRAIN, Lora, Kind::Flag, Same("false")),
        words("PiSSA: A and B begin as the largest singular values of their weight, which the base then lacks. The adapter fits only that base; `pissa_convert` writes one for the whole",
              "PiSSA：A 与 B 由权重的最大奇异值初始化，并从基座中减去。所得适配器只适用于减去后的基座；适用于原基座的由 `pissa_convert` 写出");
    pissa_iter: read(TRAIN, Lora, Kind::Whole(-1), Same("16")),
        words("PiSSA: rounds in which the singular values are found, which are then near; -1: until they are exact", "PiSSA：求奇异值的迭代次数，所得为近似值；-1 为求到精确");
    pissa_convert: read(TRAIN, Lora, Kind::Flag, by("false", "true")),
        words("PiSSA: also write `pissa_converted/`, a plain LoRA of twice the rank over the whole base", "PiSSA：另写 `pissa_converted/`：可直接用于原基座的普通 LoRA，秩为两倍");
    stage: theirs(SCORED, STAGE, Same("sft")),
        words("what is learned: answers to instructions", "训练阶段：指令微调");
    finetuning_type: theirs(SCORED, TYPE, Same("lora")),
        words("what is trained: a LoRA adapter", "训练方式：LoRA 适配器");

    additional_target: NOTHING, words("train the seven projections of `lora_target`", "请训练 `lora_target` 的七个投影");
    module_dropout: Refused(&["0"]), words("use `lora_dropout`", "请用 `lora_dropout`");
    loraplus_lr_embedding: Ignored, words("embeddings are not trained", "不训练词嵌入");
    pure_bf16: NO, words("use `bf16: true`: the base is bf16, the adapter stays f32", "请用 `bf16: true`：基座为 bf16，适配器保持 f32");
    use_dft_loss: NO, CROSS_ENTROPY;
    use_eaft_loss: NO, CROSS_ENTROPY;
    eaft_alpha: Ignored, CROSS_ENTROPY;
    use_asft_loss: NO, CROSS_ENTROPY;
    asft_alpha: Ignored, CROSS_ENTROPY;
};
