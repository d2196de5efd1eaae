//! A model over held-out rows: what it answers, what it loses, and columns of metrics to compare.
//!
//! ```text
//! records ─ cases ─→ Case ─ answers ─→ Answered ─┐
//!                      ├─ token_sums, forced ────┼─→ Column ─→ table, JSON
//!                      └─ references, re-paired ─┘
//! ```
//!
//! [`answers`] is one way to fill a column; whatever gives an [`Answered`] for every [`Case`] is another.
//! [`pass_rate`] is one number out of all of it, for a look during training.

mod case;
mod column;
mod loss;
mod recall;

pub use case::{Case, are_couplets, cases};
pub use column::{Column, Known, Loss, judged_lines, line};
pub use loss::{average, forced, token_sums};
pub use recall::{CHOICES, Recall};

use crate::{
    dataset::Tokenizer,
    error::Result,
    generate::{Finish, How, generate},
    model::{AdapterWeights, Qwen3},
};

/// Who answers.
#[derive(Clone, Copy)]
pub struct Writer<'a> {
    /// The base.
    pub model: &'a Qwen3,
    /// The adapter over it; `None`: the base alone.
    pub adapter: Option<&'a AdapterWeights>,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
}

/// An answer to a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// As the model wrote it.
    pub text: String,
    /// Whether it ended by itself.
    pub finished: bool,
}

/// How many of all are done.
pub type Told<'a> = &'a mut dyn FnMut(usize);

/// One answer to every case, in their order. `batch`: cases answered at once, which changes no answer.
///
/// `skip_special` leaves out tokens such as `<|im_end|>`. Where `how.interrupted` says so, there are fewer answers than cases.
pub fn answers(
    writer: Writer,
    cases: &[Case],
    how: &How,
    (batch, skip_special): (usize, bool),
    told: Told,
) -> Result<Vec<Answered>> {
    let mut answered = Vec::with_capacity(cases.len());
    for cases in cases.chunks(batch) {
        if (how.interrupted)() {
            break;
        }
        let prompts: Vec<Vec<u32>> = cases.iter().map(|case| case.prompt.clone()).collect();
        let first = answered.len();
        for answer in generate(writer.model, writer.adapter, &prompts, (1, first), how, &mut |_| Ok(()))?.concat() {
            answered.push(Answered {
                text: writer.tokenizer.decode(&answer.ids, skip_special)?,
                finished: answer.finish == Finish::Stop,
            });
        }
        told(answered.len());
    }
    Ok(answered)
}

/// The share of the answers to couplet `cases` that pass the judge (合格率). `None`: `how.interrupted` cut them short.
pub fn pass_rate(
    writer: Writer,
    cases: &[Case],
    known: Option<&Known>,
    how: &How,
    batch: usize,
) -> Result<Option<f64>> {
    let answered = answers(writer, cases, how, (batch, true), &mut |_| {})?;
    if answered.len() < cases.len() {
        return Ok(None);
    }
    let passing = column::judged_answers(cases, &answered, known).iter().filter(|row| row.passes()).count();
    Ok(Some(passing as f64 / cases.len() as f64))
}
