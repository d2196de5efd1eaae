//! The checkpoint's `config.json`: the geometry of a dense Qwen3, in both spellings transformers has used.

use crate::{
    config::Projection,
    error::{Error, Result, io_reason},
};
use serde_json::Value;
use std::path::Path;

/// Geometry of a dense Qwen3 checkpoint. Field names are the file's.
#[derive(Debug, Clone, PartialEq)]
pub struct Qwen3Config {
    /// V
    pub vocab_size: usize,
    /// D
    pub hidden_size: usize,
    /// F
    pub intermediate_size: usize,
    /// Decoder blocks.
    pub num_hidden_layers: usize,
    /// H
    pub num_attention_heads: usize,
    /// K; H is a multiple of it.
    pub num_key_value_heads: usize,
    /// E; not necessarily D/H.
    pub head_dim: usize,
    /// ε of every RMSNorm.
    pub rms_norm_eps: f64,
    /// θ of the rotary embedding.
    pub rope_theta: f64,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// Longest sequence the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// `torch_dtype` or `dtype`, as written.
    pub torch_dtype: Option<String>,
}

/// More than any model has, and so few that no size computed from them wraps.
const MOST_PARAMETERS: u128 = 1 << 45;
/// The same of blocks, which are listed before their weights are looked for.
const MOST_BLOCKS: usize = 4096;

impl Qwen3Config {
    /// (out, in) of a projection's weight.
    pub fn projection(&self, projection: Projection) -> (usize, usize) {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        match projection {
            Projection::QProj => (q, d),
            Projection::KProj | Projection::VProj => (kv, d),
            Projection::OProj => (d, q),
            Projection::GateProj | Projection::UpProj => (f, d),
            Projection::DownProj => (d, f),
        }
    }

    /// Every tensor that a checkpoint of this geometry must have: its name and shape.
    pub fn tensors(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        let (d, v, e) = (self.hidden_size, self.vocab_size, self.head_dim);
        let norms =
            [("input_layernorm", d), ("post_attention_layernorm", d), ("self_attn.q_norm", e), ("self_attn.k_norm", e)];
        let block = move |layer: usize| {
            let name = move |part: &str| format!("model.layers.{layer}.{part}.weight");
            let matrix = move |p: Projection| {
                let (out, width) = self.projection(p);
                (name(p.path()), vec![out, width])
            };
            Projection::ALL.into_iter().map(matrix).chain(norms.map(move |(part, width)| (name(part), vec![width])))
        };
        let head = (!self.tie_word_embeddings).then(|| ("lm_head.weight".to_owned(), vec![v, d]));
        let ends = [("model.embed_tokens.weight".to_owned(), vec![v, d]), ("model.norm.weight".to_owned(), vec![d])];
        (0..self.num_hidden_layers).flat_map(block).chain(ends).chain(head)
    }

    /// Reads `dir/config.json`.
    ///
    /// Anything this engine would compute wrongly is refused by name: another architecture, a quantised checkpoint,
    /// `rope_scaling`, sliding windows, attention bias.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|err| {
            Error::file(&path, format!("cannot be read: {}", io_reason(&err)))
                .hint("`model_name_or_path` must be a folder with config.json, tokenizer.json and *.safetensors")
                .hint_zh("`model_name_or_path` 应是含有 config.json、tokenizer.json 和 *.safetensors 的文件夹")
        })?;
        let json: Value =
            serde_json::from_str(&text).map_err(|err| damaged(Error::file(&path, format!("not valid JSON: {err}"))))?;
        Self::parse(&json).map_err(|err| err.at(path.display()))
    }

    /// From the parsed file. Messages carry no path; [`Self::load`] adds it.
    pub fn parse(json: &Value) -> Result<Self> {
        refuse_what_we_do_not_compute(json)?;
        let rope = json.get("rope_parameters").filter(|v| v.is_object()).unwrap_or(json);
        let hidden_size = positive(json, "hidden_size")?;
        let num_attention_heads = positive(json, "num_attention_heads")?;
        let config = Self {
            vocab_size: positive(json, "vocab_size")?,
            hidden_size,
            intermediate_size: positive(json, "intermediate_size")?,
            num_hidden_layers: positive(json, "num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: positive(json, "num_key_value_heads")?,
            head_dim: positive(json, "head_dim")?,
            rms_norm_eps: number(json, "rms_norm_eps")?,
            rope_theta: number(rope, "rope_theta")?,
            tie_word_embeddings: json.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
            max_position_embeddings: positive(json, "max_position_embeddings")?,
            torch_dtype: ["torch_dtype", "dtype"]
                .iter()
                .find_map(|key| json.get(*key).and_then(Value::as_str))
                .map(str::to_owned),
        };
        if !config.num_attention_heads.is_multiple_of(config.num_key_value_heads) {
            return Err(damaged(Error::input(format!(
                "num_attention_heads {} is not a multiple of num_key_value_heads {}",
                config.num_attention_heads, config.num_key_value_heads
            ))));
        }
        if config.exact_parameters() > MOST_PARAMETERS || config.num_hidden_layers > MOST_BLOCKS {
            let (parameters, blocks) = (config.exact_parameters() as f64, config.num_hidden_layers);
            let fact = format!("it describes a model of {parameters:.1e} parameters in {blocks} blocks");
            return Err(damaged(Error::input(fact)));
        }
        if !config.head_dim.is_multiple_of(2) {
            let fact = format!("head_dim {} is odd; rotary embedding needs pairs", config.head_dim);
            return Err(damaged(Error::input(fact)));
        }
        Ok(config)
    }

    /// [`Self::parameters`] of whatever a file says, in numbers that neither wrap nor lose much.
    fn exact_parameters(&self) -> u128 {
        let product = |factors: &[usize]| factors.iter().fold(1u128, |product, n| product.saturating_mul(*n as u128));
        let (d, f, e) = (self.hidden_size, self.intermediate_size, self.head_dim);
        let heads = self.num_attention_heads.saturating_add(self.num_key_value_heads);
        let block = [product(&[2, d, heads, e]), product(&[3, d, f]), product(&[2, d]), product(&[2, e])];
        let block = block.iter().fold(0u128, |sum, n| sum.saturating_add(*n));
        block.saturating_mul(self.num_hidden_layers as u128).saturating_add(product(&[2, self.vocab_size, d]))
    }

    /// Weights of the frozen projections of all blocks: the N of the cost model.
    pub fn linear_parameters(&self) -> usize {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        self.num_hidden_layers * (2 * d * q + 2 * d * kv + 3 * d * f)
    }

    /// All weights, embedding and (if untied) head included.
    pub fn parameters(&self) -> usize {
        let norms = self.num_hidden_layers * (2 * self.hidden_size + 2 * self.head_dim) + self.hidden_size;
        let embeddings = self.vocab_size * self.hidden_size * if self.tie_word_embeddings { 1 } else { 2 };
        self.linear_parameters() + norms + embeddings
    }
}

fn refuse_what_we_do_not_compute(json: &Value) -> Result<()> {
    let architecture = json["architectures"][0].as_str().or_else(|| json["model_type"].as_str()).unwrap_or("none");
    if !["Qwen3ForCausalLM", "qwen3"].contains(&architecture) {
        return Err(Error::input(format!("architecture {architecture} is not supported"))
            .hint("couplet-train trains dense Qwen3 (Qwen3ForCausalLM): Qwen/Qwen3-0.6B, 1.7B, 4B, 8B, 14B, 32B")
            .hint_zh("couplet-train 只训练稠密的 Qwen3（Qwen3ForCausalLM）：Qwen/Qwen3-0.6B、1.7B、4B、8B、14B、32B"));
    }
    if let Some(quantization) = json.get("quantization_config").filter(|v| !v.is_null()) {
        let method = quantization["quant_method"].as_str().unwrap_or("unknown method");
        return Err(Error::input(format!("the checkpoint is quantised ({method}); LoRA needs the original weights"))
            .hint("take the unquantised checkpoint, e.g. Qwen/Qwen3-14B instead of Qwen/Qwen3-14B-AWQ or -FP8")
            .hint_zh("请使用未量化的权重，例如用 Qwen/Qwen3-14B 代替 Qwen/Qwen3-14B-AWQ 或 -FP8"));
    }
    let scaling = json.get("rope_scaling").filter(|v| !v.is_null());
    let rope_type = scaling.or_else(|| json.get("rope_parameters")).and_then(|rope| {
        let name = rope.get("rope_type").or_else(|| rope.get("type"))?;
        name.as_str().map(str::to_owned)
    });
    let rope_type = rope_type.unwrap_or_else(|| if scaling.is_some() { "unnamed".into() } else { "default".into() });
    let refused = [
        (
            rope_type != "default",
            format!("rope_scaling ({rope_type})"),
            "set it to null: it is for texts longer than the model was made for, and rows of couplets are short",
            "请将其设为 null：它只用于超出模型原有长度的文本，而对联很短",
        ),
        (
            uses_sliding_window(json),
            "sliding-window attention".into(),
            "use a Qwen3 with full attention, as all published dense ones are, e.g. Qwen/Qwen3-0.6B",
            "请使用全注意力的 Qwen3（已发布的稠密模型都是），例如 Qwen/Qwen3-0.6B",
        ),
        (
            json["attention_bias"] == true,
            "attention_bias = true".into(),
            "Qwen3 has none; if this is a Qwen2 or Qwen2.5, use a Qwen3 instead, e.g. Qwen/Qwen3-0.6B",
            "Qwen3 没有注意力偏置；若这是 Qwen2 或 Qwen2.5，请改用 Qwen3，例如 Qwen/Qwen3-0.6B",
        ),
        (
            json.get("hidden_act").is_some_and(|act| act != "silu"),
            format!("hidden_act = {}", json["hidden_act"]),
            "Qwen3 uses silu; use a published checkpoint, e.g. Qwen/Qwen3-0.6B",
            "Qwen3 使用 silu；请使用已发布的模型，例如 Qwen/Qwen3-0.6B",
        ),
    ];
    match refused.into_iter().find(|(wrong, ..)| *wrong) {
        Some((_, what, en, zh)) => Err(Error::input(format!("{what} is not supported")).hint(en).hint_zh(zh)),
        None => Ok(()),
    }
}

fn uses_sliding_window(json: &Value) -> bool {
    let layers = json["layer_types"].as_array().is_some_and(|types| types.iter().any(|t| t == "sliding_attention"));
    layers || (json["use_sliding_window"] == true && !json["sliding_window"].is_null())
}

fn positive(json: &Value, key: &str) -> Result<usize> {
    match json.get(key) {
        Some(value) => match value.as_u64() {
            Some(n) if n > 0 => Ok(n as usize),
            _ => Err(damaged(Error::input(format!("{key} is {value}, a positive integer is needed")))),
        },
        None => Err(damaged(Error::input(format!("{key} is missing")))),
    }
}

fn number(json: &Value, key: &str) -> Result<f64> {
    match json.get(key).and_then(Value::as_f64) {
        Some(x) if x.is_finite() && x > 0.0 => Ok(x),
        _ => Err(damaged(Error::input(format!("{key} is missing or not a positive number")))),
    }
}

/// The way out of a file that is not as its maker wrote it.
fn damaged(err: Error) -> Error {
    err.hint("take the config.json of the checkpoint as it was published; fetch it again")
        .hint_zh("请使用模型发布时的 config.json；可重新下载")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn published() -> Value {
        json!({
            "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "head_dim": 128, "hidden_act": "silu",
            "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960,
            "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-6,
            "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true,
            "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151936
        })
    }

    #[test]
    fn both_spellings_give_the_same_geometry() {
        let old = Qwen3Config::parse(&published()).unwrap();
        let mut json = published();
        let fields = json.as_object_mut().unwrap();
        fields.remove("rope_theta");
        fields.remove("rope_scaling");
        let dtype = fields.remove("torch_dtype").unwrap();
        fields.insert("dtype".into(), dtype);
        fields.insert("rope_parameters".into(), json!({"rope_theta": 1000000.0, "rope_type": "default"}));
        assert_eq!(Qwen3Config::parse(&json).unwrap(), old);
        assert_eq!(old.parameters(), 596_049_920, "as published: 0.6B");
        assert_eq!(old.linear_parameters(), 440_401_920);
    }

    #[test]
    fn what_would_be_computed_wrongly_is_refused_by_name() {
        let cases = [
            ("architectures", json!(["LlamaForCausalLM"]), "architecture LlamaForCausalLM is not supported"),
            (
                "quantization_config",
                json!({"quant_method": "awq"}),
                "the checkpoint is quantised (awq); LoRA needs the original weights",
            ),
            ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}), "rope_scaling (yarn) is not supported"),
            ("layer_types", json!(["sliding_attention"]), "sliding-window attention is not supported"),
            ("attention_bias", json!(true), "attention_bias = true is not supported"),
            ("hidden_act", json!("gelu"), "hidden_act = \"gelu\" is not supported"),
            ("hidden_size", json!(-4), "hidden_size is -4, a positive integer is needed"),
            (
                "num_hidden_layers",
                json!(u64::MAX),
                "it describes a model of 2.9e26 parameters in 18446744073709551615 blocks",
            ),
            ("vocab_size", json!(1u64 << 40), "it describes a model of 2.3e15 parameters in 28 blocks"),
            ("rms_norm_eps", json!("x"), "rms_norm_eps is missing or not a positive number"),
            ("num_key_value_heads", json!(3), "num_attention_heads 16 is not a multiple of num_key_value_heads 3"),
        ];
        for (key, value, want) in cases {
            let mut json = published();
            json[key] = value;
            let err = Qwen3Config::parse(&json).expect_err(key);
            assert_eq!(err.to_string(), want);
        }
    }
}
