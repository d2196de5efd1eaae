//! How it is trained, what is written, and on which machine.

use super::{
    Absent,
    Absent::{Required, Same, Unset},
    Answer::{Ignored, Refused},
    EVALUATE, Key, NO, NOTHING, RUN, SCORED,
    Section::{Output, Train},
    TRAIN, by, keys, read, theirs, words,
};
use crate::config::{
    kind::{Kind, Words},
    scheduler::SchedulerType,
};

const SCHEDULER: Kind = Kind::Choice { now: SchedulerType::NAMES, later: &["reduce_lr_on_plateau", "greedy"] };
const ON_OFF: Kind = Kind::Choice { now: &["auto", "on", "off"], later: &[] };
const SHARED: Kind = Kind::Choice { now: &["auto", "off"], later: &[] };
const EVALUATIONS: Kind = Kind::Choice { now: &["no", "steps", "epoch"], later: &[] };
const SAVES: Kind = Kind::Choice { now: &["no", "steps", "epoch"], later: &["best"] };
const SAMPLING: Kind = Kind::Choice { now: &["random", "sequential", "group_by_length"], later: &[] };
const COUNTED: Kind = Kind::Choice { now: &["no", "all", "non_padding"], later: &[] };
const BF16: Words = words("use `bf16: true`", "请用 `bf16: true`");
const SPEED: Words = words("it changes speed or memory, not the result", "只影响速度或显存，不影响结果");
/// AdamW in f32 under other names, which say where it is computed. `adamw_hf` is not among them: it places ε elsewhere, so its
/// numbers differ.
const OPTIM: Kind = Kind::Choice {
    now: &[
        "adamw_torch",
        "adamw_torch_fused",
        "adamw_torch_xla",
        "adamw_torch_npu_fused",
        "adamw_apex_fused",
        "adamw_anyprecision",
        "paged_adamw",
        "paged_adamw_32bit",
    ],
    later: &[
        "adamw_hf",
        "adamw_8bit",
        "adamw_bnb_8bit",
        "adamw_torch_4bit",
        "adamw_torch_8bit",
        "paged_adamw_8bit",
        "ademamix",
        "adafactor",
        "lion_32bit",
        "lion_8bit",
        "paged_lion_8bit",
        "paged_lion_32bit",
        "muon",
        "rmsprop",
        "sgd",
        "adagrad",
        "apollo_adamw",
        "galore_adamw",
        "lomo",
        "adalomo",
        "grokadamw",
        "schedule_free_adamw",
    ],
};

pub(super) static KEYS: &[Key] = keys! {
    do_train: theirs(SCORED, Kind::Flag, Unset), words("this config trains", "本配置用于训练");
    per_device_train_batch_size: read(TRAIN, Train, Kind::Whole(1), Same("8")),
        words("samples of a micro-batch", "每个微批的样本数");
    per_device_eval_batch_size: read(SCORED, Train, Kind::Whole(1), Same("8")),
        words("samples of an evaluation batch; eval_loss is a mean over samples of batch means", "评估批大小；eval_loss 是各样本所在批均值的平均");
    gradient_accumulation_steps: read(TRAIN, Train, Kind::Whole(1), Same("1")),
        words("micro-batches of an optimizer step", "每个优化步累积的微批数");
    learning_rate: read(TRAIN, Train, Kind::Positive, Same("5e-5")),
        words("the highest learning rate", "学习率的峰值");
    num_train_epochs: read(TRAIN, Train, Kind::Positive, Same("3.0")),
        words("passes over the training rows; may be a fraction", "训练轮数，可为小数");
    max_steps: read(TRAIN, Train, Kind::Limit, Unset),
        words("stop after so many optimizer steps; overrides the epochs", "训练的总步数；给出时不看轮数");
    lr_scheduler_type: read(TRAIN, Train, SCHEDULER, by("linear", "cosine")),
        words("shape of the learning rate over the run", "学习率的变化方式");
    lr_scheduler_kwargs: read(TRAIN, Train, Kind::Table, Unset),
        words("parameters of the shape", "该方式的参数");
    warmup_ratio: read(TRAIN, Train, Kind::BelowOne, by("0", "0.1")),
        words("share of all steps spent warming up, rounded up; where it is given, `warmup_steps` says nothing", "预热步数占总步数的比例，向上取整；写明时 `warmup_steps` 不起作用");
    warmup_steps: read(TRAIN, Train, Kind::ShareOrCount, Same("0")),
        words("steps spent warming up, or below 1 a share of all", "预热步数；小于 1 时为总步数的比例");
    optim: theirs(TRAIN, OPTIM, Same("adamw_torch")),
        words("the optimizer: AdamW with f32 moments, whatever computes it", "优化器：f32 状态的 AdamW");
    weight_decay: read(TRAIN, Train, Kind::NonNegative, Same("0")),
        words("decoupled weight decay, of all trained tensors", "解耦的权重衰减，作用于全部训练参数");
    adam_beta1: read(TRAIN, Train, Kind::BelowOne, Same("0.9")), words("AdamW's β₁", "AdamW 的 β₁");
    adam_beta2: read(TRAIN, Train, Kind::BelowOne, Same("0.999")), words("AdamW's β₂", "AdamW 的 β₂");
    adam_epsilon: read(TRAIN, Train, Kind::Positive, Same("1e-8")), words("AdamW's ε", "AdamW 的 ε");
    max_grad_norm: read(TRAIN, Train, Kind::NonNegative, Same("1.0")),
        words("the gradient is scaled down to this norm; 0: not", "梯度范数上限；0 为不裁剪");
    neftune_noise_alpha: read(TRAIN, Train, Kind::NonNegative, Unset),
        words("NEFTune: in training uniform noise within ±alpha/√(tokens × width) on the embeddings; 5 is usual, 0: none", "NEFTune：训练时给词嵌入加 ±alpha/√(词元数 × 维度) 内的均匀噪声；常用 5，0 为不加");
    bf16: read(TRAIN, Train, Kind::Flag, Same("false")),
        words("base and activations in bf16, the adapter in f32", "基座与激活用 bf16，适配器用 f32");
    seed: read(RUN, Train, Kind::Whole(0), Same("42")),
        words("seed of everything random", "随机种子");
    data_seed: read(TRAIN, Train, Kind::Whole(0), Unset),
        words("seed of the row order; without it `seed`", "数据顺序的种子；不写时为 `seed`");
    disable_shuffling: read(TRAIN, Train, Kind::Flag, Same("false")),
        words("rows in file order in every epoch", "每轮都按文件顺序");
    train_sampling_strategy: read(TRAIN, Train, SAMPLING, Same("random")),
        words("which rows an epoch takes after which; group_by_length puts rows of like length side by side, as LlamaFactory does in its first epoch and, where it does not evaluate in between, in the later ones",
              "每轮取数据的顺序；group_by_length 把长度相近的行放在一起，首轮与 LlamaFactory 相同，中间不评估时以后各轮也相同");
    group_by_length: theirs(TRAIN, Kind::Flag, Same("false")),
        words("the older name of train_sampling_strategy: group_by_length", "train_sampling_strategy: group_by_length 的旧写法");
    shared_prefix: read(TRAIN, Train, SHARED, Same("auto")),
        words("compute what all samples of a micro-batch begin with once; changes no result", "微批中各样本的共同前缀只算一次，不影响结果");
    gradient_checkpointing: read(TRAIN, Train, ON_OFF, Same("auto")),
        words("keep less and compute blocks twice; changes no bit", "少存激活、重算各层；结果不变");
    micro_batch_tokens: read(TRAIN, Train, Kind::Whole(1), Unset),
        words("rows through the model at once; without it chosen by the model's size", "一次前向的词元数；不写时按模型大小选择");
    max_seconds: read(TRAIN, Train, Kind::Positive, Unset),
        words("stop after so many seconds with a checkpoint, to go on at the next start", "到时存检查点并停止，下次启动继续");

    fp16: NO, BF16;
    fp16_opt_level: Refused(&["O1"]), BF16;
    fp16_backend: Ignored, BF16;
    half_precision_backend: Ignored, BF16;
    fp8: NO, BF16;
    fp8_backend: Ignored, BF16;
    fp8_enable_fsdp_float8_all_gather: Ignored, BF16;
    bf16_full_eval: NO, words("evaluation computes as training does", "评估与训练的精度相同");
    fp16_full_eval: NO, words("evaluation computes as training does", "评估与训练的精度相同");
    adafactor: NO, words("the optimizer is AdamW", "优化器为 AdamW");
    optim_args: NOTHING, words("use the `adam_*` keys", "请用 `adam_*` 各项");
    optim_target_modules: NOTHING, words("choose modules with `lora_target`", "请用 `lora_target` 选择模块");
    label_smoothing_factor: Refused(&["0"]), words("the loss is plain cross entropy", "损失为普通交叉熵");
    auto_find_batch_size: NO, words("set `per_device_train_batch_size`", "请设置 `per_device_train_batch_size`");
    tf32: Ignored, SPEED;
    torch_compile: Ignored, SPEED;
    torch_compile_backend: Ignored, SPEED;
    torch_compile_mode: Ignored, SPEED;
    torchdynamo: Ignored, SPEED;
    torch_empty_cache_steps: Ignored, SPEED;
    jit_mode_eval: Ignored, SPEED;
    full_determinism: Ignored, words("every run is reproducible", "每次运行都可复现");
};

const WATCHED: Words = words("the run is written to `output_dir` and nowhere else", "运行记录只写入 `output_dir`");
const FILES: Words =
    words("a checkpoint is safetensors and JSON, written once", "检查点由 safetensors 与 JSON 组成，只写一份");
const UPLOAD: Words = words("upload the files of `output_dir` yourself", "请自行上传 `output_dir` 中的文件");
const NO_UPLOAD: Words = words("nothing is uploaded", "不上传任何内容");
const RUNNING_SUMS: Words = words("evaluation keeps running sums and no outputs", "评估只累加数值，不保留输出");
const PROFILER: Words = words("there is no profiler", "没有性能分析器");

pub(super) static OUTPUT: &[Key] = keys! {
    output_dir: read(SCORED, Output, Kind::Text, Required),
        words("where everything goes", "输出目录");
    overwrite_output_dir: read(SCORED, Output, Kind::Flag, Same("false")),
        words("replace what another config left there; an unfinished run of this one goes on all the same", "覆盖其他配置留下的内容；同一配置未完成的训练仍会继续");
    logging_steps: read(TRAIN, Output, Kind::Steps, by("500", "10")),
        words("optimizer steps between two log lines; below 1 a share of all steps, rounded up", "两行日志之间的步数；小于 1 时为总步数的比例，向上取整");
    plot_loss: read(TRAIN, Output, Kind::Flag, by("false", "true")),
        words("draw training_loss.png", "绘制 training_loss.png");
    include_num_input_tokens_seen: read(TRAIN, Output, COUNTED, Same("no")),
        words("count fed tokens into the log: all (or true), with the padding of LlamaFactory's batches, or non_padding", "在日志中累计输入的词元数：all（或 true）含填充，non_padding 不含");
    eval_strategy: read(TRAIN, Train, EVALUATIONS, Same("no")),
        words("when to evaluate during training", "训练中何时评估");
    eval_steps: read(TRAIN, Train, Kind::Steps, Unset),
        words("steps between evaluations, or a share as for `logging_steps`, which holds without it", "两次评估之间的步数，或如 `logging_steps` 的比例；不写时同 `logging_steps`");
    compute_accuracy: read(TRAIN, Train, Kind::Flag, Same("false")),
        words("evaluations also give eval_accuracy, the share of trained tokens that the model would choose", "评估另给出 eval_accuracy，即模型会选中的训练词元所占比例");
    early_stopping_steps: read(TRAIN, Train, Kind::Whole(1), Unset),
        words("stop after so many evaluations in a row without a better `metric_for_best_model`", "连续若干次评估没有更好的 `metric_for_best_model` 时停止");
    sample_prompts: read(TRAIN, Train, Kind::Texts, Unset),
        words("texts that the model answers at every evaluation", "每次评估时让模型作答的文本");
    eval_couplets: read(TRAIN, Train, Kind::Whole(0), Same("0")),
        words("held-out rows answered and judged at every evaluation", "每次评估时作答并评判的验证行数");
    save_strategy: read(TRAIN, Output, SAVES, Same("steps")),
        words("when a checkpoint is written", "何时写检查点");
    save_steps: read(TRAIN, Output, Kind::Steps, by("500", "200")),
        words("optimizer steps between checkpoints, or a share as for `logging_steps`", "两个检查点之间的步数，或如 `logging_steps` 的比例");
    save_total_limit: read(TRAIN, Output, Kind::Limit, Absent::By { llamafactory: None, toml: Some("3") }),
        words("checkpoints kept", "保留的检查点个数");
    save_only_model: read(TRAIN, Output, Kind::Flag, Same("false")),
        words("checkpoints hold the adapter and nothing to resume from", "检查点只存适配器，不能用于恢复");
    resume_from_checkpoint: read(TRAIN, Output, Kind::Resume, Unset),
        words("true: the newest checkpoint, which must be there; false: from the first step; a folder: this one; without it an unfinished run goes on",
              "true：最新检查点，必须存在；false：从头开始；目录：指定检查点；不写时继续未完成的训练");
    load_best_model_at_end: read(TRAIN, Output, Kind::Flag, Same("false")),
        words("write the adapter of the best evaluation instead of the last", "写出评估最好的适配器，而不是最后的");
    metric_for_best_model: read(TRAIN, Output, Kind::Text, Same("eval_loss")),
        words("what makes an evaluation the best: eval_loss, eval_loss_per_token, eval_couplet_pass, or what `compute_accuracy` and `eval_on_each_dataset` add",
              "以哪项指标判断最好：eval_loss、eval_loss_per_token、eval_couplet_pass，或 `compute_accuracy` 与 `eval_on_each_dataset` 所增加的指标");
    greater_is_better: read(TRAIN, Output, Kind::Flag, Unset),
        words("whether more of it is better; without it true for accuracy and couplets that pass, false for losses", "指标是否越大越好；不写时准确率与合格率为 true，损失为 false");
    do_eval: theirs(SCORED, Kind::Flag, Unset), words("held-out rows are evaluated", "评估验证数据");
    do_predict: theirs(EVALUATE, Kind::Flag, Unset), words("`evaluate` answers held-out rows and scores the answers", "由 `evaluate` 生成回答并评分");
    predict_with_generate: theirs(EVALUATE, Kind::Flag, Unset), words("`evaluate` answers held-out rows and scores the answers", "由 `evaluate` 生成回答并评分");

    logging_strategy: Refused(&["steps"]), words("use `logging_steps`", "请用 `logging_steps`");
    logging_first_step: NO, words("use `logging_steps`", "请用 `logging_steps`");
    eval_delay: Refused(&["0"]), words("use `eval_steps`", "请用 `eval_steps`");
    eval_on_start: NO, words("the run begins with an evaluation anyway; its loss is in run.json", "训练开始前总会评估，其损失写入 run.json");
    ignore_data_skip: NO, words("a resumed run goes on with the next row", "恢复训练时从下一行数据继续");
    push_to_hub: NO, UPLOAD;
    hub_model_id: NOTHING, UPLOAD;
    hub_token: NOTHING, UPLOAD;
    push_to_hub_model_id: NOTHING, UPLOAD;
    push_to_hub_organization: NOTHING, UPLOAD;
    push_to_hub_token: NOTHING, UPLOAD;
    hub_private_repo: Ignored, NO_UPLOAD;
    hub_strategy: Ignored, NO_UPLOAD;
    hub_always_push: Ignored, NO_UPLOAD;
    hub_revision: Ignored, NO_UPLOAD;

    report_to: Ignored, WATCHED;
    run_name: Ignored, WATCHED;
    project: Ignored, WATCHED;
    trackio_space_id: Ignored, WATCHED;
    trackio_bucket_id: Ignored, WATCHED;
    trackio_static_space_id: Ignored, WATCHED;
    logging_dir: Ignored, WATCHED;
    log_level: Ignored, WATCHED;
    log_level_replica: Ignored, WATCHED;
    log_on_each_node: Ignored, WATCHED;
    logging_nan_inf_filter: Ignored, words("a loss that is not finite stops the run", "损失不是有限数时训练会停止");
    disable_tqdm: Ignored, words("`--progress` says how progress is shown", "进度显示由 `--progress` 决定");
    skip_memory_metrics: Ignored, words("memory is measured in any case", "总会测量内存");
    include_effective_tokens_per_second: Ignored, words("rows are never padded, so all tokens are effective", "从不填充，所有词元都有效");
    include_tokens_per_second: Ignored, words("the speed is shown in any case", "总会显示速度");
    debug: Ignored, words("there is nothing to switch on", "没有对应的调试功能");
    save_safetensors: Ignored, FILES;
    save_on_each_node: Ignored, FILES;
    enable_jit_checkpoint: Ignored, words("a signal always ends with a checkpoint", "收到信号时总会先存检查点");
    restore_callback_states_from_checkpoint: Ignored, words("a checkpoint restores the whole state", "检查点恢复全部状态");
    eval_accumulation_steps: Ignored, RUNNING_SUMS;
    eval_do_concat_batches: Ignored, RUNNING_SUMS;
    eval_use_gather_object: Ignored, RUNNING_SUMS;
    prediction_loss_only: Ignored, RUNNING_SUMS;
    include_for_metrics: Ignored, RUNNING_SUMS;
    include_inputs_for_metrics: Ignored, RUNNING_SUMS;
    batch_eval_metrics: Ignored, RUNNING_SUMS;
    past_index: Ignored, RUNNING_SUMS;
    use_legacy_prediction_loop: Ignored, RUNNING_SUMS;
    enable_torch_profiler: Ignored, PROFILER;
    profiler_output_dir: Ignored, PROFILER;
    profiler_wait_steps: Ignored, PROFILER;
    profiler_warmup_steps: Ignored, PROFILER;
    profiler_active_steps: Ignored, PROFILER;
    profiler_repeat: Ignored, PROFILER;
    profiler_record_shapes: Ignored, PROFILER;
    profiler_profile_memory: Ignored, PROFILER;
    profiler_with_stack: Ignored, PROFILER;
    profile_modules: Ignored, PROFILER;
};

const ALONE: Words = words("one process trains on one device", "单进程单设备训练");

pub(super) static MACHINE: &[Key] = keys! {
    use_mca: NO, ALONE;
    deepspeed: NOTHING, ALONE;
    fsdp: NOTHING, ALONE;
    fsdp_config: NOTHING, ALONE;
    fsdp_min_num_params: Ignored, ALONE;
    fsdp_transformer_layer_cls_to_wrap: Ignored, ALONE;
    accelerator_config: NOTHING, ALONE;
    parallelism_config: NOTHING, ALONE;
    ray_num_workers: Refused(&["1"]), ALONE;
    ray_init_kwargs: Ignored, ALONE;
    ray_scope: Ignored, ALONE;
    master_addr: Ignored, ALONE;
    master_port: Ignored, ALONE;
    local_rank: Ignored, ALONE;
    ddp_timeout: Ignored, ALONE;
    ddp_backend: Ignored, ALONE;
    ddp_bucket_cap_mb: Ignored, ALONE;
    ddp_broadcast_buffers: Ignored, ALONE;
    ddp_find_unused_parameters: Ignored, ALONE;
    ddp_static_graph: Ignored, ALONE;
    average_tokens_across_devices: Ignored, ALONE;
    mp_parameters: Ignored, ALONE;
    tpu_num_cores: Ignored, ALONE;
    tpu_metrics_debug: Ignored, ALONE;
    use_mps_device: NO, words("say `device`: auto, cpu or cuda:N", "请用 `device`：auto、cpu 或 cuda:N");
};
