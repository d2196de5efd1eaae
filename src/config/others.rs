//! LlamaFactory's and Hugging Face's keys that are not read: renamed, without effect, or refused.
//!
//! The second half of the table in `keys`. A key stands here when a LlamaFactory YAML for SFT may hold it.

use super::kind::Words;

/// A key of LlamaFactory's that is refused unless its value switches nothing on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Refused {
    /// Its name.
    pub name: &'static str,
    /// Values that are accepted, as in YAML. `null` always is.
    pub off: &'static [&'static str],
    /// What to do instead.
    pub way: Words,
}

/// Older spellings and the present ones.
pub static RENAMED: &[(&str, &str)] = &[
    ("evaluation_strategy", "eval_strategy"),
    ("no_cuda", "use_cpu"),
    ("per_gpu_train_batch_size", "per_device_train_batch_size"),
    ("per_gpu_eval_batch_size", "per_device_eval_batch_size"),
];

/// Accepted without effect, by reason.
pub static IGNORED: &[(Words, &[&str])] = &[
    (
        Words { en: "it changes speed or memory, not the result", zh: "只影响速度或显存，不影响结果" },
        &[
            "flash_attn",
            "use_unsloth",
            "use_unsloth_gc",
            "enable_liger_kernel",
            "use_v1_kernels",
            "disable_gradient_checkpointing",
            "gradient_checkpointing_kwargs",
            "use_reentrant_gc",
            "low_cpu_mem_usage",
            "use_kv_cache",
            "use_cache",
            "offload_folder",
            "torch_compile",
            "torch_compile_backend",
            "torch_compile_mode",
            "torch_empty_cache_steps",
            "tf32",
            "eval_accumulation_steps",
            "full_determinism",
        ],
    ),
    (
        Words {
            en: "rows are read and tokenised without workers or a cache",
            zh: "数据的读取与分词不需要工作进程和缓存",
        },
        &[
            "overwrite_cache",
            "preprocessing_batch_size",
            "preprocessing_num_workers",
            "dataloader_num_workers",
            "dataloader_pin_memory",
            "dataloader_persistent_workers",
            "dataloader_prefetch_factor",
            "data_shared_file_system",
            "remove_unused_columns",
            "use_fast_tokenizer",
            "trust_remote_code",
            "buffer_size",
            "interleave_probs",
            "tool_format",
            "media_dir",
            "use_audio_in_video",
            "crop_to_patches",
        ],
    ),
    (
        Words { en: "the run is written to `output_dir` and nowhere else", zh: "运行记录只写入 `output_dir`" },
        &[
            "report_to",
            "run_name",
            "project",
            "trackio_space_id",
            "logging_dir",
            "log_level",
            "log_level_replica",
            "log_on_each_node",
            "logging_nan_inf_filter",
            "disable_tqdm",
            "print_param_status",
            "skip_memory_metrics",
            "include_effective_tokens_per_second",
            "include_tokens_per_second",
        ],
    ),
    (
        Words { en: "one process trains on one device", zh: "单进程单设备训练" },
        &[
            "ddp_timeout",
            "ddp_backend",
            "ddp_bucket_cap_mb",
            "ddp_broadcast_buffers",
            "ddp_find_unused_parameters",
            "local_rank",
            "average_tokens_across_devices",
        ],
    ),
    (
        Words {
            en: "a checkpoint is safetensors and JSON, written once",
            zh: "检查点由 safetensors 与 JSON 组成，只写一份",
        },
        &["save_safetensors", "save_on_each_node"],
    ),
    (
        Words { en: "it belongs to a switch that is off", zh: "它所属的功能没有开启" },
        &[
            "quantization_method",
            "quantization_type",
            "quantization_device_map",
            "double_quantization",
            "loraplus_lr_embedding",
            "pissa_iter",
            "eval_use_gather_object",
            "prediction_loss_only",
            "include_for_metrics",
            "batch_eval_metrics",
        ],
    ),
    (
        Words { en: "it is about generation, not training", zh: "它与生成有关，与训练无关" },
        &[
            "do_sample",
            "temperature",
            "top_p",
            "top_k",
            "num_beams",
            "max_length",
            "max_new_tokens",
            "repetition_penalty",
            "length_penalty",
            "skip_special_tokens",
            "generation_max_length",
            "generation_num_beams",
            "generation_config",
            "infer_backend",
            "infer_dtype",
        ],
    ),
    (
        Words { en: "it is about export, not training", zh: "它与导出有关，与训练无关" },
        &[
            "export_size",
            "export_device",
            "export_quantization_bit",
            "export_quantization_dataset",
            "export_quantization_nsamples",
            "export_quantization_maxlen",
            "export_legacy_format",
            "export_hub_model_id",
        ],
    ),
];

const OFF_SWITCH: Words = Words { en: "it belongs to a switch that is off", zh: "它所属的功能没有开启" };
const OTHER_ENGINE: Words = Words { en: "it belongs to another engine", zh: "它属于其他推理引擎" };
const NOT_TEXT: Words = Words { en: "only text is trained", zh: "只训练文本" };

/// Families of parameters whose switch is refused or off.
pub static IGNORED_PREFIXES: &[(&str, Words)] = &[
    ("swanlab_", OFF_SWITCH),
    ("trackio_", OFF_SWITCH),
    ("galore_", OFF_SWITCH),
    ("apollo_", OFF_SWITCH),
    ("badam_", OFF_SWITCH),
    ("oft_", OFF_SWITCH),
    ("freeze_", OFF_SWITCH),
    ("pref_", OFF_SWITCH),
    ("dpo_", OFF_SWITCH),
    ("kto_", OFF_SWITCH),
    ("ppo_", OFF_SWITCH),
    ("simpo_", OFF_SWITCH),
    ("reward_model", OFF_SWITCH),
    ("ref_model", OFF_SWITCH),
    ("dft_", OFF_SWITCH),
    ("eaft_", OFF_SWITCH),
    ("asft_", OFF_SWITCH),
    ("vllm_", OTHER_ENGINE),
    ("sglang_", OTHER_ENGINE),
    ("kt_", OTHER_ENGINE),
    ("image_", NOT_TEXT),
    ("video_", NOT_TEXT),
    ("audio_", NOT_TEXT),
];

const fn refused(name: &'static str, off: &'static [&'static str], en: &'static str, zh: &'static str) -> Refused {
    Refused { name, off, way: Words { en, zh } }
}

const NO: &[&str] = &["false"];
const NOTHING: &[&str] = &[];

/// Refused by name unless off.
pub static REFUSED: &[Refused] = &[
    // Quantisation has its own error, with numbers.
    refused(
        "quantization_bit",
        NOTHING,
        "load the base in bf16 (`bf16: true`)",
        "请以 bf16 加载基座模型（`bf16: true`）",
    ),
    // Model.
    refused(
        "adapter_folder",
        NOTHING,
        "give the whole path in `adapter_name_or_path`",
        "请在 `adapter_name_or_path` 中写完整路径",
    ),
    refused("resize_vocab", NO, "train with the checkpoint's own vocabulary", "请使用模型自带的词表"),
    refused("split_special_tokens", NO, "special tokens stay whole", "特殊词元保持完整"),
    refused("add_tokens", NOTHING, "train with the checkpoint's own vocabulary", "请使用模型自带的词表"),
    refused("add_special_tokens", NOTHING, "train with the checkpoint's own vocabulary", "请使用模型自带的词表"),
    refused("new_special_tokens_config", NOTHING, "train with the checkpoint's own vocabulary", "请使用模型自带的词表"),
    refused(
        "rope_scaling",
        NOTHING,
        "keep `cutoff_len` within the model's own context",
        "请把 `cutoff_len` 控制在模型的上下文长度内",
    ),
    refused("shift_attn", NO, "attention is full", "使用完整注意力"),
    refused("mixture_of_depths", NOTHING, "Qwen3 is trained as it is", "按 Qwen3 原有结构训练"),
    refused("moe_aux_loss_coef", &["0"], "only dense Qwen3 models are trained", "只训练稠密的 Qwen3 模型"),
    refused("upcast_layernorm", NO, "norms stay as in the base", "归一化层与基座一致"),
    refused("upcast_lmhead_output", NO, "the output head stays as in the base", "输出头与基座一致"),
    refused("train_from_scratch", NO, "start from a checkpoint", "请从已有模型开始"),
    refused(
        "hf_hub_token",
        NOTHING,
        "put the token into the environment variable HF_TOKEN",
        "请把令牌放入环境变量 HF_TOKEN",
    ),
    refused("ms_hub_token", NOTHING, "download the model first and give its folder", "请先下载模型，再填写本地目录"),
    refused("om_hub_token", NOTHING, "download the model first and give its folder", "请先下载模型，再填写本地目录"),
    // Data.
    refused("packing", NO, "rows are trained one by one", "每行单独训练"),
    refused("neat_packing", NO, "rows are trained one by one", "每行单独训练"),
    refused("streaming", NO, "all rows are read before training", "训练前会读入全部数据"),
    refused("mix_strategy", &["concat"], "data sets are joined one after another", "多个数据集按顺序连接"),
    refused("eval_on_each_dataset", NO, "held-out data sets are joined", "验证数据集会合并"),
    refused("ignore_pad_token_for_loss", &["true"], "padding is never trained", "填充部分从不参与训练"),
    refused("tokenized_path", NOTHING, "rows are tokenised at every start, in seconds", "每次启动时重新分词，只需数秒"),
    refused("group_by_length", NO, "rows follow LlamaFactory's order", "数据按 LlamaFactory 的顺序"),
    refused("train_sampling_strategy", &["random"], "rows follow LlamaFactory's order", "数据按 LlamaFactory 的顺序"),
    refused("length_column_name", &["length"], "rows follow LlamaFactory's order", "数据按 LlamaFactory 的顺序"),
    refused("dataloader_drop_last", NO, "a last incomplete batch is trained too", "最后不满的一批也会训练"),
    // LoRA.
    refused(
        "additional_target",
        NOTHING,
        "train the seven projections of `lora_target`",
        "请训练 `lora_target` 的七个投影",
    ),
    refused("loraplus_lr_ratio", NOTHING, "A and B share one learning rate", "A 与 B 使用同一学习率"),
    refused("use_dora", NO, "train plain LoRA or `use_rslora`", "请使用普通 LoRA 或 `use_rslora`"),
    refused("pissa_init", NO, "A starts random and B at zero", "A 随机初始化，B 为零"),
    refused("pissa_convert", NO, "A starts random and B at zero", "A 随机初始化，B 为零"),
    refused(
        "create_new_adapter",
        NO,
        "merge the first adapter into the base beforehand",
        "请先把已有适配器合并进基座模型",
    ),
    refused("use_llama_pro", NO, "train LoRA", "请使用 LoRA"),
    refused("use_galore", NO, "train LoRA with AdamW", "请使用 LoRA 与 AdamW"),
    refused("use_apollo", NO, "train LoRA with AdamW", "请使用 LoRA 与 AdamW"),
    refused("use_badam", NO, "train LoRA with AdamW", "请使用 LoRA 与 AdamW"),
    refused("use_adam_mini", NO, "train LoRA with AdamW", "请使用 LoRA 与 AdamW"),
    refused("use_muon", NO, "train LoRA with AdamW", "请使用 LoRA 与 AdamW"),
    // Training.
    refused(
        "pure_bf16",
        NO,
        "use `bf16: true`: the base is bf16, the adapter stays f32",
        "请用 `bf16: true`：基座为 bf16，适配器保持 f32",
    ),
    refused("fp16", NO, "use `bf16: true`", "请用 `bf16: true`"),
    refused("fp16_opt_level", &["O1"], "use `bf16: true`", "请用 `bf16: true`"),
    refused("fp8", NO, "use `bf16: true`", "请用 `bf16: true`"),
    refused("compute_accuracy", NO, "watch `eval_loss`", "请看 `eval_loss`"),
    refused("predict_with_generate", NO, "`couplet-train evaluate` generates", "请用 `couplet-train evaluate` 生成"),
    refused("use_swanlab", NO, "the run is logged to `output_dir`", "运行记录写入 `output_dir`"),
    refused("use_dft_loss", NO, "the loss is cross entropy", "损失为交叉熵"),
    refused("use_eaft_loss", NO, "the loss is cross entropy", "损失为交叉熵"),
    refused("use_asft_loss", NO, "the loss is cross entropy", "损失为交叉熵"),
    refused("label_smoothing_factor", &["0"], "the loss is plain cross entropy", "损失为普通交叉熵"),
    refused("neftune_noise_alpha", NOTHING, "embeddings are trained without noise", "训练时不加噪声"),
    refused("optim_args", NOTHING, "use the `adam_*` keys", "请用 `adam_*` 各项"),
    refused("optim_target_modules", NOTHING, "choose modules with `lora_target`", "请用 `lora_target` 选择模块"),
    refused("auto_find_batch_size", NO, "set `per_device_train_batch_size`", "请设置 `per_device_train_batch_size`"),
    refused("logging_strategy", &["steps"], "use `logging_steps`", "请用 `logging_steps`"),
    refused("logging_first_step", NO, "use `logging_steps`", "请用 `logging_steps`"),
    refused("eval_delay", &["0"], "use `eval_steps`", "请用 `eval_steps`"),
    refused("eval_on_start", NO, "use `eval_strategy`", "请用 `eval_strategy`"),
    refused("ignore_data_skip", NO, "a resumed run goes on with the next row", "恢复训练时从下一行数据继续"),
    refused("use_mca", NO, "one process trains on one device", "单进程单设备训练"),
    refused("cp_size", &["1"], "one process trains on one device", "单进程单设备训练"),
    refused("deepspeed", NOTHING, "one process trains on one device", "单进程单设备训练"),
    refused("fsdp", &["", "[]"], "one process trains on one device", "单进程单设备训练"),
    refused("fsdp_config", NOTHING, "one process trains on one device", "单进程单设备训练"),
    refused("accelerator_config", NOTHING, "one process trains on one device", "单进程单设备训练"),
    refused("ray_num_workers", &["1"], "one process trains on one device", "单进程单设备训练"),
    refused("push_to_hub", NO, "upload the files of `output_dir` yourself", "请自行上传 `output_dir` 中的文件"),
    refused("hub_model_id", NOTHING, "upload the files of `output_dir` yourself", "请自行上传 `output_dir` 中的文件"),
    refused("hub_token", NOTHING, "upload the files of `output_dir` yourself", "请自行上传 `output_dir` 中的文件"),
    // Other commands.
    refused("do_predict", NO, "`couplet-train evaluate` predicts", "请用 `couplet-train evaluate` 预测"),
    refused("export_dir", NOTHING, "`couplet-train export` exports", "请用 `couplet-train export` 导出"),
];
