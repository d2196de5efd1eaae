//! The base model: which one, and how it is loaded.

use super::{
    ALL,
    Absent::{Required, Same, Unset},
    Answer::{Ignored, Refused},
    Key, NO, NOTHING, RUN,
    Section::Model,
    keys, read, theirs, words,
};
use crate::config::kind::{Kind, Words};

const SPEED: Words = words("it changes speed or memory, not the result", "只影响速度或显存，不影响结果");
const QUANTISATION: Words = words("the base is never quantised", "基座从不量化");
const VOCABULARY: Words = words("train with the checkpoint's own vocabulary", "请使用模型自带的词表");
const LOCAL: Words = words("download the model first and give its folder", "请先下载模型，再填写本地目录");

pub(super) static KEYS: &[Key] = keys! {
    model_name_or_path: read(ALL, Model, Kind::Text, Required),
        words("the base model: a folder with a checkpoint, or a name such as Qwen/Qwen3-14B", "基座模型：检查点目录，或模型名，如 Qwen/Qwen3-14B");
    adapter_name_or_path: read(ALL, Model, Kind::List, Unset),
        words("PEFT adapters: all but the last are merged into the base, the last is trained on or answers", "PEFT 适配器目录：前面的合并进基座，最后一个继续训练或用于生成");
    cache_dir: read(ALL, Model, Kind::Text, Unset),
        words("where downloaded models are kept; without it the Hugging Face cache", "下载模型的存放目录；不写时为 Hugging Face 缓存");
    model_revision: read(ALL, Model, Kind::Text, Same("main")),
        words("branch, tag or commit of the model repository", "模型仓库的分支、标签或提交");
    hf_hub_token: read(ALL, Model, Kind::Secret, Unset),
        words("token for gated and private models; HF_TOKEN in the environment is better kept", "受限或私有模型的令牌；放在环境变量 HF_TOKEN 中更安全");
    ms_hub_token: read(ALL, Model, Kind::Secret, Unset),
        words("the same for ModelScope; or MODELSCOPE_API_TOKEN in the environment", "ModelScope 的令牌；也可放入环境变量 MODELSCOPE_API_TOKEN");
    device: read(RUN, Model, Kind::Text, Same("auto")),
        words("where to compute: auto, cpu or cuda:N", "计算设备：auto、cpu 或 cuda:N");
    use_cpu: theirs(RUN, Kind::Flag, Same("false")),
        words("compute on the CPU; in TOML device = \"cpu\"", "用 CPU 计算；TOML 中写 device = \"cpu\"");

    // Quantisation has its own error, with numbers.
    quantization_bit: NOTHING, words("load the base in bf16 (`bf16: true`)", "请以 bf16 加载基座模型（`bf16: true`）");
    quantization_method: Ignored, QUANTISATION;
    quantization_type: Ignored, QUANTISATION;
    quantization_device_map: Ignored, QUANTISATION;
    double_quantization: Ignored, QUANTISATION;

    adapter_folder: NOTHING, words("give the whole path in `adapter_name_or_path`", "请在 `adapter_name_or_path` 中写完整路径");
    resize_vocab: NO, VOCABULARY;
    add_tokens: NOTHING, VOCABULARY;
    add_special_tokens: NOTHING, VOCABULARY;
    new_special_tokens_config: NOTHING, VOCABULARY;
    init_special_tokens: Ignored, words("no tokens are added", "不添加词元");
    split_special_tokens: NO, words("special tokens stay whole", "特殊词元保持完整");
    rope_scaling: NOTHING, words("keep `cutoff_len` within the model's own context", "请把 `cutoff_len` 控制在模型的上下文长度内");
    shift_attn: NO, words("attention is full", "使用完整注意力");
    mixture_of_depths: NOTHING, words("Qwen3 is trained as it is", "按 Qwen3 原有结构训练");
    moe_aux_loss_coef: Refused(&["0"]), words("only dense Qwen3 models are trained", "只训练稠密的 Qwen3 模型");
    upcast_layernorm: NO, words("norms stay as in the base", "归一化层与基座一致");
    upcast_lmhead_output: NO, words("the output head stays as in the base", "输出头与基座一致");
    train_from_scratch: NO, words("start from a checkpoint", "请从已有模型开始");
    om_hub_token: NOTHING, LOCAL;

    flash_attn: Ignored, SPEED;
    use_unsloth: Ignored, SPEED;
    use_unsloth_gc: Ignored, SPEED;
    enable_liger_kernel: Ignored, SPEED;
    use_liger_kernel: Ignored, SPEED;
    liger_kernel_config: Ignored, SPEED;
    use_v1_kernels: Ignored, SPEED;
    disable_gradient_checkpointing: Ignored, words("it changes memory, not the result; ours is `gradient_checkpointing`", "只影响显存，不影响结果；对应的键是 `gradient_checkpointing`");
    gradient_checkpointing_kwargs: Ignored, SPEED;
    use_reentrant_gc: Ignored, SPEED;
    low_cpu_mem_usage: Ignored, SPEED;
    use_kv_cache: Ignored, SPEED;
    use_cache: Ignored, SPEED;
    offload_folder: Ignored, SPEED;
    use_fast_tokenizer: Ignored, words("tokenizer.json is always read by the fast tokenizer", "总是使用快速分词器读取 tokenizer.json");
    trust_remote_code: Ignored, words("no code of a model repository is ever run", "从不运行模型仓库中的代码");
    print_param_status: Ignored, words("the header counts the parameters", "启动信息已列出参数量");
};
