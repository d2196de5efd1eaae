//! `couplet-train adapter check`: is it whole, finite, alive, and of this base?

use super::{ask, below, proof, trained::Trained};
use crate::args::{AskArgs, CheckArgs};
use couplet_train::{
    adapter::check,
    config,
    dataset::Tokenizer,
    error::{Error, Kind, Result},
    model::Qwen3Config,
    report::{Console, Header, Look},
};
use std::io::stderr;

/// Looks at an adapter; the findings go to stdout. Exit code 1: it is dead or belongs to another base.
#[expect(clippy::print_stdout, reason = "the result")]
pub fn check(args: &CheckArgs, look: Look) -> Result<u8> {
    let mut console = Console::new(stderr(), look);
    let (config, _) = config::inference(None, &[], config::table::Command::Generate)?;
    let asked = AskArgs { base: args.base.clone(), ..AskArgs::default() };
    let trained = [Trained::open(&args.dir)?];
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
    println!("OK");
    Ok(0)
}
