//! `couplet-train adapter check`: is it whole, finite, alive, and of this base?

use super::{ask, below, proof, trained::Trained};
use crate::args::{AskArgs, CheckArgs};
use couplet_train::{
    adapter::{check, peft},
    config,
    dataset::Tokenizer,
    error::{Error, Kind, Result},
    model::{Checkpoint, Qwen3Config},
    report::{Console, Header, Lang, Look, verdict::WORSE},
    trainer::checkpoint,
};
use serde_json::Value;
use std::{
    io::stderr,
    path::{Path, PathBuf},
};

/// Looks at an adapter; the findings go to stdout. Exit code 1: it is damaged, dead or belongs to another base.
#[expect(clippy::print_stdout, reason = "the result")]
pub fn check(args: &CheckArgs, look: Look) -> Result<u8> {
    let mut console = Console::new(stderr(), look);
    let (config, _) = config::inference(None, &[], config::table::Command::Generate)?;
    let asked = AskArgs { base: args.base.clone(), ..AskArgs::default() };
    let trained = [Trained::open(&args.dir).map_err(|err| unreadable(err, &args.dir))?];
    let (dir, base) = ask::base(&config, &asked, &trained, &mut console)?;
    let geometry = Qwen3Config::load(&dir)?;
    // A foreign adapter is a finding about it, not a wrong use of the command.
    let found = |err: Error| if err.kind() == Kind::Input { err.in_run() } else { err };
    let findings = check::inspect(&trained[0].weights, &geometry).map_err(found)?;
    let lora = &trained[0].weights.lora;
    let (below, lower) = below::of(&trained)?;
    lower.iter().try_for_each(|adapter| adapter.refuse_misfit(&geometry))?;
    println!("base      {}", dir.display());
    if !below.is_empty() {
        println!("merged    {}", below::in_order(&below));
    }
    let dora = if lora.use_dora { "DoRA, " } else { "" };
    println!("lora      {dora}r {}, alpha {}, scale {:.4}", lora.lora_rank, lora.lora_alpha, lora.scale());
    println!("tensors   {}, all finite, names and shapes as the base has them", findings.tensors);
    println!("updates   {}", proof::updates(&findings));
    if !findings.zero.is_empty() && !findings.is_dead() {
        println!("zero      {} modules do nothing, first {}", findings.zero.len(), findings.zero[0]);
    }
    if findings.rests_on_magnitudes() {
        let text = look.lang.pick(
            "every B is zero: only the base can tell whether the magnitudes do anything; see how far the logits move",
            "所有 B 均为零：幅度是否起作用只有对照基座才知道，请看 logits 的变化",
        );
        println!("zero      {text}");
    }
    proof::refuse_dead(&findings, &args.dir)?;

    let tokenizer = Tokenizer::load(&dir)?;
    let mut header = Header::default();
    let speaker = ask::speaker(&config, &asked, &trained, &mut header)?;
    let (batch, rows) = proof::sample(trained.first(), &speaker, &tokenizer)?;
    let (untuned, tuned) = proof::streamed_logits(&geometry, &base, (&lower, None), &trained[0].weights, &batch)?;
    let moved = proof::largest_difference(&tuned, &untuned)?;
    println!("logits    moved by up to {moved:.3} ({rows})");
    proof::refuse_motionless(moved, &args.dir)?;
    header.rows.clear();
    console.header(&header);
    if trained[0].is_of_another_base(&base.digest()) {
        let (fact, _) = trained[0].another_base();
        return Err(Error::run(format!("{}: {fact}", args.dir.display()))
            .hint("check it over the base that it was trained on")
            .hint_zh("请用训练它的基座来检查"));
    }
    if let Some(worse) = trained[0].receipt.as_ref().and_then(|receipt| worse(receipt, look.lang)) {
        println!("warning   {worse}");
    }
    println!("OK");
    Ok(0)
}

/// What is wrong with an adapter that is there is a finding too, and where another of its run is sound, it is named.
fn unreadable(err: Error, dir: &Path) -> Error {
    if ![peft::CONFIG, peft::WEIGHTS].iter().any(|name| dir.join(name).is_file()) {
        return err;
    }
    let err = err.in_run();
    match sound_checkpoint(dir).filter(|_| Checkpoint::open_file(&dir.join(peft::WEIGHTS)).is_err()) {
        None => err,
        Some(sound) => {
            let sound = sound.display();
            err.hint(format!(
                "the adapter is damaged or was cut off; that of {sound} is sound: use it, or copy this one again"
            ))
            .hint_zh(format!("适配器损坏或不完整；{sound} 中的适配器完好，可改用它，或重新复制"))
        }
    }
}

/// The newest other checkpoint of the run that wrote `dir` whose adapter can be read whole.
fn sound_checkpoint(dir: &Path) -> Option<PathBuf> {
    let run = if checkpoint::step_of(dir).is_some() { dir.parent()? } else { dir };
    let all = checkpoint::list(run).ok()?.into_iter().rev().map(|(_, path)| path);
    all.filter(|path| path.file_name() != dir.file_name()).find(|path| check::refuse_damaged(path).is_ok())
}

/// What the run says of its losses, where it made its model worse. A number that is none is `null` there.
fn worse(receipt: &Value, lang: Lang) -> Option<String> {
    let results = &receipt["results"];
    let before = results["eval_loss_before"].as_f64()?;
    let after = results["eval_loss"].as_f64().unwrap_or(f64::NAN);
    if after <= before * WORSE {
        return None;
    }
    let diverged = !results["verdict"]["diverged"].is_null();
    Some(match lang {
        Lang::En => format!(
            "{}: its run.json has a held-out loss of {before:.3} before training and {after:.3} after; train again with a smaller \
             learning_rate",
            if diverged { "the run diverged" } else { "the run made its model worse" }
        ),
        Lang::Zh => format!(
            "{}：其 run.json 记录的留出集损失训练前为 {before:.3}，训练后为 {after:.3}；请降低 learning_rate 重新训练",
            if diverged { "该次训练已发散" } else { "该次训练使模型变差" }
        ),
    })
}
