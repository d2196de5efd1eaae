//! 上联 in, right 下联 out: search under a plan, then rank.

use super::{
    rank::{Candidate, Scorer, Weights},
    rules::{Plan, TokenTable},
    search::{self, Beam},
    session::Session,
};
use crate::error::Result;

/// How many lines are looked for, and what makes one better than another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The search.
    pub beam: Beam,
    /// The ranking.
    pub weights: Weights,
}

/// The lines that answer each of `uppers` by its plan, the best first. All are searched at once: rows of a batch are
/// `uppers` times `beam.width`.
///
/// Errors: an 上联 is longer than the model's context; a logit is not a number. `interrupted` leaves out what is not
/// finished.
pub fn lines(
    asked: Scorer,
    table: &TokenTable,
    uppers: &[(&str, Plan)],
    choice: Choice,
    interrupted: &dyn Fn() -> bool,
) -> Result<Vec<Vec<Candidate>>> {
    let prompts = uppers.iter().map(|(upper, _)| asked.speaker.prompt(asked.tokenizer, &[], upper));
    let prompts = prompts.collect::<Result<Vec<_>>>()?;
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let plans: Vec<&Plan> = uppers.iter().map(|(_, plan)| plan).collect();
    let mut rows = Session::open(asked.model, asked.adapter, &prompts)?;
    let found = search::search(&mut rows, &plans, table, choice.beam, interrupted)?;
    let ranked = uppers.iter().zip(found).map(|((upper, _), found)| asked.rank(upper, found, choice.weights));
    ranked.collect()
}
