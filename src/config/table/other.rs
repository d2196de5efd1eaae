//! Generation, export, and what belongs to other methods and engines.

use super::{
    ASK,
    Absent::{Same, Unset},
    Answer::{Ignored, Refused},
    EXPORT, Key, NO, NOTHING, OPEN, keys, theirs, words,
};
use crate::config::kind::{Kind, Words};

const DTYPE: Kind = Kind::Choice { now: &["auto", "bfloat16", "float32", "float16"], later: &[] };
const RULES: Kind = Kind::Choice { now: &["off", "shape", "strict"], later: &[] };
const NO_BEAMS: Words = words(
    "there is no beam search; `candidates` or `--n` give several answers",
    "不支持束搜索；可用 `candidates` 或 `--n` 得到多个答案",
);
const ENGINE: Words = words("the model is asked by this program itself", "由本程序自己推理");
const LORA_ADAMW: Words = words("train LoRA with AdamW", "请使用 LoRA 与 AdamW");
const OFF: Words = words("it belongs to a switch that is off", "它所属的功能没有开启");

pub(super) static GENERATION: &[Key] = keys! {
    do_sample: theirs(ASK, Kind::Flag, Unset),
        words("draw tokens at random, else the likeliest one; without it a LlamaFactory config draws but for `evaluate`, and so do words that ask for it",
              "随机采样，否则取概率最大的词元；不写时，除 `evaluate` 外 LlamaFactory 配置会采样，命令行写了采样参数也会采样");
    temperature: theirs(ASK, Kind::NonNegative, Same("0.95")), words("divides the logits; 0 takes the likeliest token", "logits 的除数；0 为取最大");
    top_p: theirs(ASK, Kind::Share, Same("0.7")), words("draw among the likeliest tokens that make up this probability", "在累计概率达到此值的词元中采样");
    top_k: theirs(ASK, Kind::Whole(0), Same("50")), words("draw among so many of the likeliest tokens; 0: all", "只在前若干个词元中采样；0 为不限");
    num_beams: theirs(ASK, Kind::Whole(1), Same("1")), words("only 1: there is no beam search", "只能为 1：不支持束搜索");
    repetition_penalty: theirs(ASK, Kind::Positive, Same("1.0")), words("above 1: tokens that have occurred become less likely", "大于 1 时降低已出现词元的概率");
    max_new_tokens: theirs(ASK, Kind::Whole(1), Unset),
        words("the longest answer, in tokens; without it 1024 in a LlamaFactory config and in `chat`, 128 in `generate`, and what its rows need in `evaluate`",
              "回答最多的词元数；不写时，LlamaFactory 配置与 `chat` 为 1024，`generate` 为 128，`evaluate` 按数据而定");
    skip_special_tokens: theirs(ASK, Kind::Flag, Same("true")), words("leave special tokens out of the text", "输出文本中略去特殊词元");
    infer_dtype: theirs(OPEN, DTYPE, Same("auto")), words("how the base's weights are kept; float16 only by export", "基座权重的精度；float16 仅用于导出");
    rules: theirs(ASK, RULES, Unset), words("what 下联 must keep by construction", "生成时强制遵守的对联规则");
    candidates: theirs(ASK, Kind::Whole(1), Unset), words("lines that are found under `rules` and ranked", "在 `rules` 下生成并排序的候选数");
    rank_beta: theirs(ASK, Kind::NonNegative, Unset), words("weight of −log p(下) when candidates are ranked", "候选排序中 −log p(下) 的权重");
    rank_gamma: theirs(ASK, Kind::NonNegative, Unset), words("weight of log p(上|下) when candidates are ranked", "候选排序中 log p(上|下) 的权重");

    eval_num_beams: Refused(&["1"]), NO_BEAMS;
    generation_num_beams: Refused(&["1"]), NO_BEAMS;
    length_penalty: Ignored, words("it is for beam search", "仅用于束搜索");
    max_length: Ignored, words("`max_new_tokens` bounds the answer", "由 `max_new_tokens` 限制长度");
    generation_max_length: Ignored, words("`max_new_tokens` bounds the answer", "由 `max_new_tokens` 限制长度");
    generation_config: Ignored, words("the generation keys say it all", "以生成参数为准");
    infer_backend: Ignored, ENGINE;
    vllm_maxlen: Ignored, ENGINE;
    vllm_gpu_util: Ignored, ENGINE;
    vllm_enforce_eager: Ignored, ENGINE;
    vllm_max_lora_rank: Ignored, ENGINE;
    vllm_config: Ignored, ENGINE;
    sglang_maxlen: Ignored, ENGINE;
    sglang_mem_fraction: Ignored, ENGINE;
    sglang_tp_size: Ignored, ENGINE;
    sglang_config: Ignored, ENGINE;
    sglang_lora_backend: Ignored, ENGINE;
    use_kt: NO, ENGINE;
    kt_weight_path: Ignored, ENGINE;
    kt_expert_checkpoint_path: Ignored, ENGINE;
    kt_use_lora_experts: Ignored, ENGINE;
    kt_lora_expert_num: Ignored, ENGINE;
    kt_lora_expert_intermediate_size: Ignored, ENGINE;
};

const QUANTISED: Words = words(
    "`export` refuses to quantise: do it to the exported folder, with a program of its own",
    "`export` 不做量化：请用专门的程序量化导出的目录",
);

pub(super) static EXPORTED: &[Key] = keys! {
    export_dir: theirs(EXPORT, Kind::Text, Unset), words("folder of the merged model", "合并后模型的目录");
    export_size: theirs(EXPORT, Kind::Whole(1), Same("5")), words("GB of weights in one file at most", "单个权重文件的最大体积（GB）");
    export_device: Ignored, words("merging is done in f32 on the CPU", "合并总在 CPU 上以 f32 进行");
    export_quantization_bit: Ignored, QUANTISED;
    export_quantization_dataset: Ignored, QUANTISED;
    export_quantization_nsamples: Ignored, QUANTISED;
    export_quantization_maxlen: Ignored, QUANTISED;
    export_legacy_format: Ignored, words("safetensors is written", "总是写 safetensors");
    export_hub_model_id: Ignored, words("nothing is uploaded", "不上传任何内容");
};

pub(super) static METHODS: &[Key] = keys! {
    use_llama_pro: NO, words("train LoRA", "请使用 LoRA");
    use_galore: NO, LORA_ADAMW;
    use_apollo: NO, LORA_ADAMW;
    use_badam: NO, LORA_ADAMW;
    use_adam_mini: NO, LORA_ADAMW;
    use_muon: NO, LORA_ADAMW;
    use_swanlab: NO, words("the run is logged to `output_dir`", "运行记录写入 `output_dir`");
    galore_target: Ignored, OFF;
    galore_rank: Ignored, OFF;
    galore_update_interval: Ignored, OFF;
    galore_scale: Ignored, OFF;
    galore_proj_type: Ignored, OFF;
    galore_layerwise: Ignored, OFF;
    apollo_target: Ignored, OFF;
    apollo_rank: Ignored, OFF;
    apollo_update_interval: Ignored, OFF;
    apollo_scale: Ignored, OFF;
    apollo_proj: Ignored, OFF;
    apollo_proj_type: Ignored, OFF;
    apollo_scale_type: Ignored, OFF;
    apollo_layerwise: Ignored, OFF;
    apollo_scale_front: Ignored, OFF;
    badam_mode: Ignored, OFF;
    badam_start_block: Ignored, OFF;
    badam_switch_mode: Ignored, OFF;
    badam_switch_interval: Ignored, OFF;
    badam_update_ratio: Ignored, OFF;
    badam_mask_mode: Ignored, OFF;
    badam_verbose: Ignored, OFF;
    swanlab_project: Ignored, OFF;
    swanlab_workspace: Ignored, OFF;
    swanlab_run_name: Ignored, OFF;
    swanlab_mode: Ignored, OFF;
    swanlab_api_key: Ignored, OFF;
    swanlab_logdir: Ignored, OFF;
    swanlab_lark_webhook_url: Ignored, OFF;
    swanlab_lark_secret: Ignored, OFF;
    freeze_trainable_layers: Ignored, OFF;
    freeze_trainable_modules: Ignored, OFF;
    freeze_extra_modules: Ignored, OFF;
    freeze_vision_tower: Ignored, OFF;
    freeze_multi_modal_projector: Ignored, OFF;
    freeze_language_model: NO, words("the language model is what is trained", "训练的正是语言模型");
    oft_rank: Ignored, OFF;
    oft_block_size: Ignored, OFF;
    oft_target: Ignored, OFF;
    pref_beta: Ignored, OFF;
    pref_ftx: Ignored, OFF;
    pref_bco_weight: Ignored, OFF;
    pref_loss: Ignored, OFF;
    dpo_label_smoothing: Ignored, OFF;
    kto_chosen_weight: Ignored, OFF;
    kto_rejected_weight: Ignored, OFF;
    simpo_gamma: Ignored, OFF;
    ld_alpha: Ignored, OFF;
    ppo_buffer_size: Ignored, OFF;
    ppo_epochs: Ignored, OFF;
    ppo_score_norm: Ignored, OFF;
    ppo_target: Ignored, OFF;
    ppo_whiten_rewards: Ignored, OFF;
    ref_model: Ignored, OFF;
    ref_model_adapters: Ignored, OFF;
    ref_model_quantization_bit: Ignored, OFF;
    reward_model: Ignored, OFF;
    reward_model_adapters: Ignored, OFF;
    reward_model_quantization_bit: Ignored, OFF;
    reward_model_type: Ignored, OFF;
    use_hyper_parallel: NO, words("one process trains on one device", "单进程单设备训练");
    hyper_parallel_args: NOTHING, words("one process trains on one device", "单进程单设备训练");
};
