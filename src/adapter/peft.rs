//! `adapter_config.json` + `adapter_model.safetensors`, as PEFT writes and reads them.
//!
//! Names in the file: `base_model.model.<module path>.lora_A.weight` `[r, in]`, `.lora_B.weight` `[out, r]` and, with DoRA,
//! `.lora_magnitude_vector` `[out]`, f32.

use super::pissa;
use crate::{
    config::{LoraConfig, Pissa, Projection},
    error::{Error, Result, io_reason},
    fs,
    model::{
        Checkpoint, Params,
        params::Slot,
        shards::{self, Entry},
        weights::f32_bytes,
    },
};
use candle_core::{DType, Device};
use serde_json::{Value, json};
use std::{borrow::Cow, path::Path};

/// More than any width: so few that no size computed from it wraps.
const HIGHEST_RANK: u64 = 1 << 20;

/// The configuration's file name.
pub const CONFIG: &str = "adapter_config.json";
/// The file name of the matrices.
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// Writes the adapter into `dir`, each file whole or not at all. A value that is not finite is an error before the first.
///
/// The configuration holds the classic keys that old and new PEFT both read; old versions refuse unknown ones.
#[expect(clippy::disallowed_methods, reason = "saving reads the parameters back")]
pub fn save(dir: &Path, params: &Params, lora: &LoraConfig, base_model: &str) -> Result<()> {
    let values: Vec<f32> = params.flat().to_vec1()?;
    let slots: Vec<Slot> = params.slots().map(|(_, slot)| slot.clone()).collect();
    if let Some(slot) = first_not_finite(&values, &slots) {
        return Err(Error::run(format!("{} is not finite: no adapter is written", slot.name))
            .hint("the last checkpoint is a good one; lower `learning_rate`")
            .hint_zh("最近的检查点仍然完好；请降低 `learning_rate`"));
    }
    let (header, values) = weights_parts(&slots, &values)?;
    fs::write_parts_atomic(&dir.join(WEIGHTS), &[&header, &values])?;
    fs::write_atomic(&dir.join(CONFIG), config_text(lora, base_model).as_bytes())
}

/// The first of `slots`, which lie end to end in `values`, with a value that is not finite.
pub fn first_not_finite<'s>(values: &[f32], slots: impl IntoIterator<Item = &'s Slot>) -> Option<&'s Slot> {
    slots.into_iter().find(|slot| values[slot.range()].iter().any(|x| !x.is_finite()))
}

/// The text of `adapter_config.json`.
pub fn config_text(lora: &LoraConfig, base_model: &str) -> String {
    serde_json::to_string_pretty(&config_json(lora, base_model)).expect("plain JSON")
}

fn config_json(lora: &LoraConfig, base_model: &str) -> Value {
    let targets: Vec<&str> = lora.lora_target.iter().map(|p| p.name()).collect();
    // PEFT itself writes an integer where alpha is one, and old versions expect it.
    let alpha = match lora.lora_alpha.fract() == 0.0 {
        true => json!(lora.lora_alpha as i64),
        false => json!(lora.lora_alpha),
    };
    json!({
        "alpha_pattern": {},
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": init_lora_weights(&lora.pissa),
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": alpha,
        "lora_dropout": lora.lora_dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": lora.lora_rank,
        "rank_pattern": {},
        "revision": null,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": lora.use_dora,
        "use_rslora": lora.use_rslora,
    })
}

/// PEFT's word for how the matrices began.
fn init_lora_weights(pissa: &Pissa) -> Value {
    match (pissa.pissa_init, pissa.rounds()) {
        (false, _) => json!(true),
        (true, None) => json!("pissa"),
        (true, Some(rounds)) => json!(format!("{PISSA_ROUNDS}{rounds}")),
    }
}

const PISSA_ROUNDS: &str = "pissa_niter_";

/// The word read back. Errors: it stands for something else that changes the base.
fn pissa_of(json: &Value) -> Result<Pissa> {
    let of = |pissa_iter| Pissa { pissa_init: true, pissa_iter, ..Pissa::default() };
    match json["init_lora_weights"].as_str() {
        None | Some("gaussian") => Ok(Pissa::default()),
        Some("pissa") => Ok(of(-1)),
        Some(word) => match word.strip_prefix(PISSA_ROUNDS).and_then(|rounds| rounds.parse::<u32>().ok()) {
            Some(rounds) => Ok(of(rounds.into())),
            None => Err(only_plain_lora(Error::input(format!(
                "init_lora_weights {word:?} may change the base model (OLoRA, CorDA, LoftQ, …), which is not supported"
            )))),
        },
    }
}

/// The tensor's name in the file.
pub fn file_name(slot: &Slot) -> String {
    format!("base_model.model.{}{}", slot.name, if slot.is_magnitude() { "" } else { ".weight" })
}

/// The tensor's shape in the file.
fn file_shape(slot: &Slot) -> Vec<usize> {
    if slot.is_magnitude() { vec![slot.shape.1] } else { vec![slot.shape.0, slot.shape.1] }
}

/// The two parts of `adapter_model.safetensors`: the header, and `values`, in which the slots lie end to end, row-major.
pub fn weights_parts<'v>(slots: &[Slot], values: &'v [f32]) -> Result<(Vec<u8>, Cow<'v, [u8]>)> {
    let entry = |slot: &Slot| Entry { name: file_name(slot), dtype: DType::F32, shape: file_shape(slot) };
    Ok((shards::header(&slots.iter().map(entry).collect::<Vec<_>>())?, f32_bytes(values)))
}

/// An adapter directory to continue, to merge or to use.
pub struct Existing {
    pub(super) tensors: Checkpoint,
    /// PiSSA: what the base lacks. Then rank and matrices are those of the plain LoRA over the whole base.
    pub(super) start: Option<Checkpoint>,
    /// Its rank, alpha, dropout, scaling and targets, and whether it is DoRA.
    pub lora: LoraConfig,
    /// The model it was trained on, as its configuration names it.
    pub base_model: Option<String>,
}

impl Existing {
    /// Opens `dir` to be used over the whole base: a PiSSA adapter is the plain one that [`pissa::end`] makes of it.
    ///
    /// Errors: as [`Self::open_own`]; it fits only a base that lacks something, and what that is is not there.
    pub fn open(dir: &Path) -> Result<Self> {
        let own = Self::open_own(dir)?;
        if !own.lora.pissa.pissa_init {
            return Ok(own);
        }
        let start = pissa::start_of(dir, &own.lora)?;
        Ok(Self { start: Some(start.tensors), lora: pissa::converted(&own.lora), ..own })
    }

    /// Opens the matrices in `dir` as they are, whatever base they fit. Kinds of adapter that this engine would compute wrongly
    /// are refused by name.
    ///
    /// Errors: a file of the adapter is missing or damaged; it is not plain LoRA on the seven projections; it is half of a PiSSA
    /// adapter and does not say so.
    pub fn open_own(dir: &Path) -> Result<Self> {
        pissa::refuse_half(dir)?;
        Self::read(dir)
    }

    /// [`Self::open_own`] of whatever lies there.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let text = std::fs::read_to_string(&path).map_err(|err| {
            Error::file(&path, format!("cannot be read: {}", io_reason(&err)))
                .hint("`adapter_name_or_path` must be a PEFT adapter folder")
                .hint_zh("`adapter_name_or_path` 应是 PEFT 适配器文件夹")
        })?;
        let json: Value = serde_json::from_str(&text)
            .map_err(|err| only_plain_lora(Error::file(&path, format!("not valid JSON: {err}"))))?;
        let lora = parse_config(&json).map_err(|err| err.at(path.display()))?;
        let base_model = json["base_model_name_or_path"].as_str().filter(|name| !name.is_empty()).map(str::to_owned);
        let tensors = Checkpoint::open_file(&dir.join(WEIGHTS))?;
        refuse_another_rank(&tensors, lora.lora_rank).map_err(|err| err.at(path.display()))?;
        Ok(Self { tensors, start: None, lora, base_model })
    }

    /// Its files: one, or two whose matrices are joined.
    pub(super) fn files(&self) -> impl Iterator<Item = &Checkpoint> {
        std::iter::once(&self.tensors).chain(&self.start)
    }

    /// The rank of the matrices in each file.
    pub(super) fn rank_in_file(&self) -> usize {
        self.lora.lora_rank / self.files().count()
    }

    /// The shape of the tensor of `slot` in each file.
    fn shape_in_file(&self, slot: &Slot) -> Vec<usize> {
        let mut shape = file_shape(slot);
        shape[usize::from(slot.is_b())] /= self.files().count();
        shape
    }

    /// The stored values of `slot`, row-major. Errors: no such tensor, or another shape.
    #[expect(clippy::disallowed_methods, reason = "loading, not a step")]
    pub fn values(&self, slot: &Slot) -> Result<Vec<f32>> {
        self.refuse_missing(slot)?;
        let shape = self.shape_in_file(slot);
        let read = |file: &Checkpoint| -> Result<Vec<f32>> {
            Ok(file.tensor(&file_name(slot), &shape, DType::F32, &Device::Cpu)?.flatten_all()?.to_vec1()?)
        };
        match &self.start {
            None => read(&self.tensors),
            Some(start) => Ok(pissa::joined(slot.is_b(), shape[1], &read(&self.tensors)?, &read(start)?)),
        }
    }

    /// A digest of every tensor read so far.
    pub fn digest(&self) -> String {
        self.files().map(Checkpoint::digest).collect::<Vec<_>>().join("+")
    }

    /// Errors: the file has no tensor for `slot`, or one of another shape.
    pub fn refuse_missing(&self, slot: &Slot) -> Result<()> {
        self.files().try_for_each(|file| file.expect_shape(&file_name(slot), &self.shape_in_file(slot))).map_err(
            |err| {
                Error::input(err.to_string())
                    .hint("was it trained on another base model? if not, its file is damaged")
                    .hint_zh("它是否在另一个基座模型上训练？若不是，则文件已损坏")
            },
        )
    }

    /// Every tensor of the file must have a place in the model; the first that has none is an error.
    pub fn refuse_strangers<'a>(&self, slots: impl Iterator<Item = &'a Slot>) -> Result<()> {
        let known: Vec<String> = slots.map(file_name).collect();
        match self.files().flat_map(Checkpoint::names).find(|name| !known.iter().any(|k| k == name)) {
            None => Ok(()),
            Some(name) => {
                Err(Error::input(format!("the adapter has a tensor {name} that this model has no place for"))
                    .hint("was it trained on another base model, or on other modules than its config says?")
                    .hint_zh("它是否在另一个基座模型上训练，或与其配置的模块不符？"))
            }
        }
    }
}

/// Errors: a matrix A has not `rank` rows.
fn refuse_another_rank(tensors: &Checkpoint, rank: usize) -> Result<()> {
    let shapes = tensors.names().filter(|name| name.ends_with(".lora_A.weight")).filter_map(|name| tensors.info(name));
    match shapes.filter_map(|(_, shape)| shape.first()).find(|rows| **rows != rank) {
        None => Ok(()),
        Some(rows) => Err(Error::input(format!("r is {rank}, but the matrices in {WEIGHTS} have rank {rows}"))
            .hint("the two files are not of the same adapter, or one was changed; take both from one run")
            .hint_zh("两个文件不属于同一适配器，或其一被改动；请使用同一次训练的文件")),
    }
}

fn parse_config(json: &Value) -> Result<LoraConfig> {
    let refused = [
        (json["peft_type"] != "LORA", "peft_type is not LORA"),
        (json["fan_in_fan_out"] == true, "fan_in_fan_out is not supported"),
        (json["bias"].as_str().is_some_and(|b| b != "none"), "bias is not \"none\""),
        (json["modules_to_save"].as_array().is_some_and(|m| !m.is_empty()), "modules_to_save is not supported"),
        (json["rank_pattern"].as_object().is_some_and(|m| !m.is_empty()), "rank_pattern is not supported"),
        (json["alpha_pattern"].as_object().is_some_and(|m| !m.is_empty()), "alpha_pattern is not supported"),
        (!json["layers_to_transform"].is_null(), "layers_to_transform is not supported"),
        (!json["layer_replication"].is_null(), "layer_replication is not supported"),
        (!json["exclude_modules"].is_null(), "exclude_modules is not supported"),
        (!json["alora_invocation_tokens"].is_null(), "alora_invocation_tokens is not supported"),
        (json["use_qalora"] == true, "use_qalora is not supported"),
    ];
    if let Some((_, what)) = refused.iter().find(|(wrong, _)| *wrong) {
        return Err(only_plain_lora(Error::input(*what)));
    }
    let missing = |what: &str| only_plain_lora(Error::input(what));
    let rank = json["r"].as_u64().filter(|r| *r > 0 && *r <= HIGHEST_RANK);
    let rank = rank.ok_or_else(|| missing("r is not a positive integer"))?;
    let alpha = json["lora_alpha"].as_f64().ok_or_else(|| missing("lora_alpha is not a number"))?;
    let dropout = json["lora_dropout"].as_f64().unwrap_or(0.0);
    if !(0.0..1.0).contains(&dropout) {
        return Err(missing("lora_dropout is not from 0 to below 1"));
    }
    let names: Vec<&str> = json["target_modules"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let known = |name: &&str| Projection::ALL.iter().any(|p| p.name() == *name);
    if names.is_empty() || !names.iter().all(known) {
        return Err(Error::input(format!("target_modules {} is not a list of projections", json["target_modules"]))
            .hint("known: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj")
            .hint_zh("可用：q_proj、k_proj、v_proj、o_proj、gate_proj、up_proj、down_proj"));
    }
    let pissa = pissa_of(json)?;
    if json["use_dora"] == true && pissa.pissa_init {
        return Err(only_plain_lora(Error::input("DoRA that began by PiSSA is not supported")));
    }
    Ok(LoraConfig {
        lora_rank: rank as usize,
        lora_alpha: alpha,
        lora_dropout: dropout,
        lora_target: Projection::ALL.into_iter().filter(|p| names.contains(&p.name())).collect(),
        use_dora: json["use_dora"] == true,
        use_rslora: json["use_rslora"] == true,
        pissa,
    })
}

fn only_plain_lora(err: Error) -> Error {
    err.hint(
        "only LoRA, DoRA and PiSSA over q/k/v/o/gate/up/down_proj can be used, from the files PEFT or this program wrote",
    )
    .hint_zh("只支持 q/k/v/o/gate/up/down_proj 上的 LoRA、DoRA 与 PiSSA（PEFT 或本程序写出的文件）")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::params::Layout;
    use crate::testing::wave;
    use std::collections::HashMap;

    fn lora() -> LoraConfig {
        LoraConfig {
            lora_rank: 2,
            lora_alpha: 5.0,
            lora_dropout: 0.1,
            lora_target: vec![Projection::QProj, Projection::DownProj],
            use_dora: true,
            use_rslora: true,
            pissa: Default::default(),
        }
    }

    fn params() -> Params {
        params_with(|slot| Ok(wave(slot.shape, 0.5, &Device::Cpu)?.flatten_all()?.to_vec1()?))
    }

    fn params_with(values: impl Fn(&Slot) -> Result<Vec<f32>>) -> Params {
        let mut layout = Layout::default();
        for (name, shape) in [("lora_A", (2, 6)), ("lora_B", (4, 2)), ("lora_magnitude_vector", (1, 4))] {
            layout.push(format!("model.layers.0.self_attn.q_proj.{name}"), shape);
        }
        Params::new(layout, DType::F32, &Device::Cpu, values).unwrap()
    }

    #[test]
    fn an_adapter_that_is_not_finite_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let params = params_with(|slot| Ok(vec![if slot.is_b() { f32::NAN } else { 1.0 }; slot.range().len()]));
        let err = save(dir.path(), &params, &lora(), "m").unwrap_err().to_string();
        assert_eq!(err, "model.layers.0.self_attn.q_proj.lora_B is not finite: no adapter is written");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_saved_adapter_has_pefts_names_and_reads_back_equal() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &params(), &lora(), "Qwen/Qwen3-14B").unwrap();
        let bytes = std::fs::read(dir.path().join(WEIGHTS)).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata(), &Some(HashMap::from([("format".to_owned(), "pt".to_owned())])));
        let tensors = metadata.tensors().into_iter();
        let mut shapes: Vec<(String, Vec<usize>)> = tensors.map(|(name, info)| (name, info.shape.clone())).collect();
        shapes.sort();
        let named = |name: &str, shape: &[usize]| {
            (format!("base_model.model.model.layers.0.self_attn.q_proj.{name}"), shape.to_vec())
        };
        let want =
            [named("lora_A.weight", &[2, 6]), named("lora_B.weight", &[4, 2]), named("lora_magnitude_vector", &[4])];
        assert_eq!(shapes, want);
        let existing = Existing::open(dir.path()).unwrap();
        assert_eq!(existing.lora, lora());
        let params = params();
        existing.refuse_strangers(params.slots().map(|(_, slot)| slot)).unwrap();
        for (id, slot) in params.slots() {
            let want: Vec<f32> = params.master(id).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(existing.values(slot).unwrap(), want);
        }
        let other_rank = config_text(&LoraConfig { lora_rank: 4, ..lora() }, "m");
        std::fs::write(dir.path().join(CONFIG), other_rank).unwrap();
        let err = Existing::open(dir.path()).err().unwrap().to_string();
        assert!(
            err.ends_with("config.json: r is 4, but the matrices in adapter_model.safetensors have rank 2"),
            "{err}"
        );
        let err = existing.refuse_strangers(params.slots().map(|(_, s)| s).take(1)).unwrap_err().to_string();
        assert!(err.contains("q_proj.lora_B.weight that this model has no place for"), "{err}");
    }

    #[test]
    fn adapters_we_would_compute_wrongly_are_refused() {
        let good = config_json(&lora(), "x");
        for (key, value, want) in [
            ("peft_type", json!("LOHA"), "peft_type is not LORA"),
            ("rank_pattern", json!({"q_proj": 4}), "rank_pattern is not supported"),
            ("modules_to_save", json!(["lm_head"]), "modules_to_save is not supported"),
            ("target_modules", json!("all-linear"), "target_modules \"all-linear\" is not a list of projections"),
            ("r", json!(0), "r is not a positive integer"),
            (
                "init_lora_weights",
                json!("olora"),
                "init_lora_weights \"olora\" may change the base model (OLoRA, CorDA, LoftQ, …), which is not supported",
            ),
            ("r", json!(1u64 << 60), "r is not a positive integer"),
            ("lora_dropout", json!(1.5), "lora_dropout is not from 0 to below 1"),
        ] {
            let mut json = good.clone();
            json[key] = value;
            assert_eq!(parse_config(&json).expect_err(key).to_string(), want);
        }
    }
}
