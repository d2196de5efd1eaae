//! The rows, and how they become tokens.

use super::{
    ALL, Absent,
    Absent::{Required, Same, Unset},
    Answer::{Ignored, Refused},
    EVALUATE, Key, NO, NOTHING, SCORED,
    Section::Data,
    TRAIN, by, keys, read, theirs, words,
};
use crate::config::kind::{Kind, Words};

const TEMPLATE: Kind = Kind::Choice { now: &["qwen3", "qwen3_nothink"], later: &[] };
const OVER_LENGTH: Kind = Kind::Choice { now: &["error", "drop", "truncate"], later: &[] };
const BAD_ROW: Kind = Kind::Choice { now: &["error", "skip", "llamafactory"], later: &[] };
/// `interleave_once` is refused by the `datasets` library that LlamaFactory stands on.
const MIX: Kind = Kind::Choice { now: &["concat", "interleave_under", "interleave_over"], later: &["interleave_once"] };
const WORKERS: Words =
    words("rows are read and tokenised without workers or a cache", "数据的读取与分词不需要工作进程和缓存");
const ORDER: Words = words("rows follow LlamaFactory's order", "数据按 LlamaFactory 的顺序");
const TEXT_ONLY: Words = words("only text is trained", "只训练文本");

pub(super) static KEYS: &[Key] = keys! {
    dataset: read(SCORED, Data, Kind::List, Required),
        words("names in dataset_info.json, joined in this order", "dataset_info.json 中的数据集名，按此顺序连接");
    eval_dataset: read(SCORED, Data, Kind::List, Unset),
        words("held-out data sets; excludes `val_size`", "验证数据集；不能与 `val_size` 同用");
    test_dataset: read(TRAIN, Data, Kind::List, Unset),
        words("rows neither trained on nor chosen by: the final adapter is scored on them once", "既不训练也不用于选择的数据：最后对适配器评分一次");
    dataset_dir: read(SCORED, Data, Kind::Text, Same("data")),
        words("folder of dataset_info.json", "dataset_info.json 所在的目录");
    template: read(ALL, Data, TEMPLATE, Absent::By { llamafactory: None, toml: Some("qwen3") }),
        words("qwen3 for hybrid models, qwen3_nothink for the -2507-Instruct ones", "混合模型用 qwen3，-2507-Instruct 模型用 qwen3_nothink");
    cutoff_len: read(SCORED, Data, Kind::Whole(2), Same("2048")),
        words("the longest row, in tokens", "每行最多的词元数");
    over_length: read(SCORED, Data, OVER_LENGTH, by("truncate", "error")),
        words("what happens to longer rows", "超长的行如何处理：报错、丢弃或截断");
    on_bad_row: read(SCORED, Data, BAD_ROW, by("llamafactory", "error")),
        words("what happens to a row that cannot be trained: an error, left out and counted (skip), or left out where LlamaFactory does so (no response, roles out of turn)",
              "无法训练的行如何处理：报错（error）；略去并计数（skip）；仅略去 LlamaFactory 也会略去的行，如没有回答、角色未按顺序（llamafactory）");
    max_samples: read(SCORED, Data, Kind::Whole(1), Unset),
        words("only the first rows of every data set", "每个数据集只取前若干行");
    mix_strategy: read(TRAIN, Data, MIX, Same("concat")),
        words("how several data sets become one: one after the other, or interleaved until the first (under) or the last (over) is used up",
              "多个数据集如何合并：依次连接，或交错，直到最短的（under）或全部（over）用完");
    interleave_probs: read(TRAIN, Data, Kind::Shares, Unset),
        words("share of every data set when they are interleaved; without it in turn", "交错时各数据集的概率；不写时轮流");
    val_size: read(SCORED, Data, Kind::ShareOrCount, Same("0")),
        words("rows held out of `dataset`: a share below 1, a count from 1", "从 `dataset` 中留出的验证行：小于 1 为比例，否则为条数");
    mask_history: read(TRAIN, Data, Kind::Flag, Same("false")),
        words("only the last answer of a conversation is trained", "多轮对话只训练最后一轮回答");
    train_on_prompt: read(TRAIN, Data, Kind::Flag, Same("false")),
        words("prompt tokens are trained too", "提示部分也参与训练");
    enable_thinking: read(ALL, Data, Kind::Thinking, by("true", "false")),
        words("template qwen3: true trains an empty thought, false puts it before the answer untrained and removes thoughts, null puts it there and keeps them",
              "模板 qwen3：true 训练空思考块；false 把它放在回答之前、不训练，并删去思考；null 同样放置但保留思考");
    preserve_thinking: read(TRAIN, Data, Kind::Flag, Same("false")),
        words("thoughts of earlier turns stay under `mask_history`", "`mask_history` 下保留前几轮的思考");
    default_system: read(ALL, Data, Kind::Text, Unset),
        words("system text for rows without one", "没有系统提示的行所用的系统提示");
    eval_on_each_dataset: read(TRAIN, Data, Kind::Flag, Same("false")),
        words("each of `eval_dataset` is also evaluated by itself, as eval_NAME_loss", "除合并评估外，每个 `eval_dataset` 也单独评估，记为 eval_NAME_loss");
    packing: read(TRAIN, Data, Kind::Flag, Unset),
        words("several rows fill one sample of `cutoff_len` tokens, chosen as LlamaFactory chooses them; each is trained as if it stood alone: none sees another or predicts another's first token",
              "多行合成一个不超过 `cutoff_len` 个词元的样本，组合方式与 LlamaFactory 相同；各行如同单独训练：互不可见，也不预测下一行的首个词元");
    neat_packing: read(TRAIN, Data, Kind::Flag, Same("false")),
        words("the same as `packing`", "与 `packing` 相同");
    preprocessing_batch_size: read(TRAIN, Data, Kind::Whole(1), Same("1000")),
        words("under `packing` rows that are packed together at most", "`packing` 时最多多少行一起打包");
    preprocessing_num_workers: read(TRAIN, Data, Kind::Whole(1), Unset),
        words("under `packing` equal stretches of the data that are packed apart, as LlamaFactory's workers do", "`packing` 时数据等分为若干段分别打包，与 LlamaFactory 的进程数对应");
    n: theirs(EVALUATE, Kind::Whole(1), Unset),
        words("answers to every row that are found under `rules` and ranked", "每行在 `rules` 下生成并排序的答案数");

    streaming: NO, words("all rows are read before training", "训练前会读入全部数据");
    buffer_size: Ignored, words("all rows are read before training", "训练前会读入全部数据");
    ignore_pad_token_for_loss: Refused(&["true"]), words("padding is never trained", "填充部分从不参与训练");
    tokenized_path: NOTHING, words("rows are tokenised at every start, in seconds", "每次启动时重新分词，只需数秒");
    length_column_name: Ignored, words("the tokens of rows are counted", "行长按词元数计算");
    sortish_sampler: NO, ORDER;
    label_names: NOTHING, words("the answers of the data are the labels", "标签即数据中的回答");
    dataloader_drop_last: NO, words("a last incomplete batch is trained too", "最后不满的一批也会训练");

    overwrite_cache: Ignored, WORKERS;
    dataloader_num_workers: Ignored, WORKERS;
    dataloader_pin_memory: Ignored, WORKERS;
    dataloader_persistent_workers: Ignored, WORKERS;
    dataloader_prefetch_factor: Ignored, WORKERS;
    data_shared_file_system: Ignored, WORKERS;
    remove_unused_columns: Ignored, words("only columns that dataset_info.json names are read", "只读取 dataset_info.json 中映射的列");
    tool_format: Refused(&["qwen"]), words("tools and calls are written as Qwen3's template writes them", "工具与调用按 Qwen3 模板的格式书写");
    media_dir: Ignored, TEXT_ONLY;
    image_max_pixels: Ignored, TEXT_ONLY;
    image_min_pixels: Ignored, TEXT_ONLY;
    image_do_pan_and_scan: Ignored, TEXT_ONLY;
    crop_to_patches: Ignored, TEXT_ONLY;
    video_max_pixels: Ignored, TEXT_ONLY;
    video_min_pixels: Ignored, TEXT_ONLY;
    video_fps: Ignored, TEXT_ONLY;
    video_maxlen: Ignored, TEXT_ONLY;
    use_audio_in_video: Ignored, TEXT_ONLY;
    audio_sampling_rate: Ignored, TEXT_ONLY;
};
