//! A run that begins as PiSSA does: what is taken out of the base, what the user is told of it, and the folders it leaves.

use super::inputs::Inputs;
use candle_core::{Device, Tensor};
use couplet_train::{
    adapter::{
        merge::merged,
        peft::Existing,
        pissa::{self, CONVERTED, INIT, Matrices},
    },
    config::{Pissa, Recipe},
    error::{Error, Result},
    model::{AdapterWeights, Checkpoint, Params, Principal, Qwen3, params::Slot},
    report::{Console, Header},
};
use std::{path::Path, time::Instant};

/// Seconds after which the user is told how far it is.
const SOON: f64 = 2.0;

/// What the base lacks in this run, and how it was come by, for the header. `None`: it lacks nothing.
///
/// A run that goes on, or that continues such an adapter, takes what that one began with; else it is drawn from the weights.
pub fn principal(
    recipe: &Recipe,
    inputs: &Inputs,
    base: &Checkpoint,
    goes_on: Option<&Path>,
    console: &mut Console,
) -> Result<Option<(Principal, String)>> {
    if !recipe.lora.pissa.pissa_init {
        return Ok(None);
    }
    let left = goes_on.and_then(Path::parent).filter(|dir| dir.join(INIT).is_dir());
    if let Some(dir) = left.or_else(|| recipe.model.continued()) {
        let read = || {
            let start = pissa::start_of(dir, &recipe.lora)?;
            Principal::of(&inputs.model_config, &recipe.lora, |slot| start.values(slot))
        };
        let principal = read().map_err(|err| if left.is_some() { of_this_run(err, dir) } else { err })?;
        return Ok(Some((principal, format!("as in {}", dir.join(INIT).display()))));
    }
    let weight = |name: &str, (out, width): (usize, usize)| -> Result<Tensor> {
        merged(&inputs.merged, name, 0..out, base.tensor(name, &[out, width], inputs.dtype, &Device::Cpu)?)
    };
    let (began, what) = (Instant::now(), console.look().lang.pick("PiSSA: weights", "PiSSA：权重"));
    let progress = |done, all| {
        if began.elapsed().as_secs_f64() > SOON {
            console.progress(what, done, all);
        }
    };
    let principal = Principal::draw(&inputs.model_config, &recipe.lora, recipe.train.seed, weight, progress)?;
    let weights = principal.slots().len() / 2;
    let how = match recipe.lora.pissa.rounds() {
        Some(rounds) => format!("found in {rounds} rounds, seed {}", recipe.train.seed),
        None => "exact".to_owned(),
    };
    let seconds = began.elapsed().as_secs_f64();
    let r = recipe.lora.lora_rank;
    Ok(Some((principal, format!("the {r} largest singular values of {weights} weights, {how} ({seconds:.1} s)"))))
}

/// What the run has written itself was not downloaded, and need not be kept.
fn of_this_run(err: Error, out: &Path) -> Error {
    let folder = out.join(INIT).display().to_string();
    err.hint(format!(
        "delete {folder}: what it held is found again, and a digest in the checkpoint tells whether it is the same"
    ))
    .hint_zh(format!("请删除 {folder}：其内容会重新求得，检查点中的摘要会核对是否一致"))
}

/// What will be taken out of the base, before it is looked for.
pub fn planned(recipe: &Recipe) -> Option<String> {
    let (r, pissa) = (recipe.lora.lora_rank, &recipe.lora.pissa);
    let how = pissa.rounds().map_or_else(|| "exact".to_owned(), |rounds| format!("found in {rounds} rounds"));
    pissa.pissa_init.then(|| format!("the {r} largest singular values of every targeted weight, {how}"))
}

/// Says what the adapter will be worth to others.
pub fn notice(pissa: &Pissa, inputs: &Inputs, header: &mut Header) {
    let of_a_plain_one = inputs.existing.is_some() && !pissa.pissa_init;
    if of_a_plain_one && pissa.pissa_convert {
        header.notice(
            format!(
                "{CONVERTED}/ will fit the base as it was before what the starting adapter replaced was taken out, not the one that \
                 is trained on"
            ),
            format!("{CONVERTED}/ 适用于减去初始适配器所替代部分之前的基座，而非本次训练所用的基座"),
        );
    } else if of_a_plain_one && inputs.asked.pissa.pissa_convert {
        header.notice(
            "`pissa_convert` is ignored: `adapter_name_or_path` did not begin by PiSSA, and the base lacks nothing; where it was \
             saved without what the adapter replaced, remove `pissa_init`",
            "忽略 `pissa_convert`：`adapter_name_or_path` 并非由 PiSSA 初始化，基座完整；若基座保存时已减去该适配器所替代的部分，请去掉 `pissa_init`",
        );
    }
    if pissa.pissa_init && !pissa.pissa_convert {
        header.notice(
            format!(
                "the adapter will fit only the base without what {INIT}/ holds, which this program reads along; PEFT finds that \
                 again only with `pissa_iter: -1`, other programs not at all; `pissa_convert: true` writes a plain LoRA besides"
            ),
            format!(
                "所得适配器只适用于减去 {INIT}/ 之后的基座，本程序会一并读取；PEFT 仅在 `pissa_iter: -1` 时能重现该部分，其他程序不能；\
                 `pissa_convert: true` 会另写一个普通 LoRA"
            ),
        );
    }
}

/// Adapters that the run writes besides the adapter and its checkpoints.
pub fn folders(recipe: &Recipe) -> u64 {
    match (recipe.lora.pissa.pissa_convert, recipe.lora.pissa.pissa_init) {
        (true, _) => 4, // one of them of twice the rank
        (false, pissa_init) => u64::from(pissa_init),
    }
}

/// Before the first step: the folder of what the base lacks, or of how an adapter begins that is to be converted.
pub fn begin(recipe: &Recipe, principal: Option<&Principal>, params: &Params, initial: &Tensor) -> Result<()> {
    if !recipe.lora.pissa.pissa_convert && principal.is_none() {
        return Ok(());
    }
    let (slots, start) = start(principal, params, initial)?;
    pissa::begin(&recipe.output.output_dir, matrices(recipe, &slots, &start))
}

/// After the last: the folders of the conversion, read back.
#[expect(clippy::disallowed_methods, reason = "saving reads the parameters back")]
pub fn end(recipe: &Recipe, principal: Option<&Principal>, params: &Params, initial: &Tensor) -> Result<()> {
    if !recipe.lora.pissa.pissa_convert {
        return Ok(());
    }
    let (slots, start) = start(principal, params, initial)?;
    let (out, trained) = (&recipe.output.output_dir, params.flat().to_vec1::<f32>()?);
    pissa::end(out, matrices(recipe, &slots, &trained), &start)?;
    Existing::open(&out.join(CONVERTED)).map(drop)
}

#[expect(clippy::disallowed_methods, reason = "once a run")]
fn start(principal: Option<&Principal>, params: &Params, initial: &Tensor) -> Result<(Vec<Slot>, Vec<f32>)> {
    let slots = params.slots().map(|(_, slot)| slot.clone()).collect();
    Ok((slots, principal.map_or_else(|| initial.to_vec1(), |principal| Ok(principal.flat().to_vec()))?))
}

fn matrices<'a>(recipe: &'a Recipe, slots: &'a [Slot], values: &'a [f32]) -> Matrices<'a> {
    Matrices { slots, values, lora: &recipe.lora, base_model: &recipe.model.model_name_or_path }
}

/// The adapter with which `model` is the base as it was.
pub fn untrained(recipe: &Recipe, principal: &Principal, model: &Qwen3) -> Result<AdapterWeights> {
    let layout = model.adapter_layout(&recipe.lora)?;
    let params = Params::new(layout, model.activations(), model.device(), |slot| principal.values(slot))?;
    AdapterWeights::new(model.config().num_hidden_layers, &recipe.lora, &params)
}
