//! Beam search under rules: the most likely lines that a plan allows.

use super::{
    rules::{Next, Plan, State, TokenTable},
    session::{Logits, Session},
};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::collections::HashSet;

/// Sequences that grow, and the logits after each. A [`Session`] with its newest logits; something simpler in tests.
pub trait Rows: Sync {
    /// The logits after row `row`, `[V]`.
    fn logits(&self, row: usize) -> &[f32];

    /// Row `i` becomes what row `from[i]` was, with `tokens[i]` behind it.
    fn advance(&mut self, from: &[usize], tokens: &[u32]) -> Result<()>;
}

impl Rows for (Session<'_>, Logits) {
    fn logits(&self, row: usize) -> &[f32] {
        self.1.row(row)
    }

    fn advance(&mut self, from: &[usize], tokens: &[u32]) -> Result<()> {
        self.0.select(from);
        self.1 = self.0.step(tokens)?;
        Ok(())
    }
}

/// How wide the search is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beam {
    /// Lines that are kept at each step, for every prompt.
    pub width: usize,
    /// Lines that are wanted, at most `width`.
    pub n: usize,
}

/// A line that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The line.
    pub text: String,
    /// Its tokens, without the end.
    pub ids: Vec<u32>,
    /// log p of tokens and end, in nats, among all tokens of the model and not only those that the rules allow.
    pub log_p: f64,
}

/// The `n` best lines for every plan, the most likely first. `rows` holds one row for every plan, its prompt.
///
/// A plan's lines are those of both tone systems in one beam: a line stays in it as long as one system holds it right, so
/// none is kept twice and none mixes them. Lines that are not equally long yet are compared by log p a character.
/// Errors: of the model; a logit is not a number. `interrupted` ends the search with what is finished.
pub fn search(
    rows: &mut dyn Rows,
    plans: &[&Plan],
    table: &TokenTable,
    beam: Beam,
    interrupted: &dyn Fn() -> bool,
) -> Result<Vec<Vec<Found>>> {
    let mut found: Vec<Vec<Found>> = plans.iter().map(|_| vec![]).collect();
    let mut lines: Vec<Line> = plans.iter().enumerate().map(|(prompt, plan)| Line::start(prompt, plan)).collect();
    while !lines.is_empty() && !interrupted() {
        let grown: Vec<Vec<(Next, f64)>> = lines
            .par_iter()
            .map(|line| grow(&*rows, line, plans[line.prompt], table, beam.width))
            .collect::<Result<_>>()?;
        let mut next: Vec<Vec<Line>> = plans.iter().map(|_| vec![]).collect();
        for (line, grown) in lines.iter().zip(grown) {
            for (token, log_p) in grown {
                match token.state {
                    Some(state) => next[line.prompt].push(line.with(token.id, table, state, log_p)),
                    None => found[line.prompt].push(line.end(log_p)),
                }
            }
        }
        for (lines, found) in next.iter_mut().zip(&mut found) {
            prune(lines, found, beam);
        }
        lines = next.into_iter().flatten().collect();
        if !lines.is_empty() {
            let (from, tokens): (Vec<usize>, Vec<u32>) = lines.iter().map(Line::step).unzip();
            rows.advance(&from, &tokens)?;
            lines.iter_mut().enumerate().for_each(|(row, line)| line.row = row);
        }
    }
    Ok(found)
}

/// A line on its way.
struct Line {
    prompt: usize,
    /// The row of the newest logits that it continues.
    row: usize,
    state: State,
    ids: Vec<u32>,
    text: Vec<u8>,
    log_p: f64,
}

impl Line {
    fn start(prompt: usize, plan: &Plan) -> Self {
        Self { prompt, row: prompt, state: State::start(plan), ids: vec![], text: vec![], log_p: 0.0 }
    }

    fn with(&self, id: u32, table: &TokenTable, state: State, log_p: f64) -> Self {
        let ids = self.ids.iter().copied().chain([id]).collect();
        let text = [&self.text, table.bytes(id)].concat();
        Self { prompt: self.prompt, row: self.row, state, ids, text, log_p }
    }

    fn end(&self, log_p: f64) -> Found {
        Found { text: String::from_utf8_lossy(&self.text).into_owned(), ids: self.ids.clone(), log_p }
    }

    fn step(&self) -> (usize, u32) {
        (self.row, self.ids.last().copied().unwrap_or_default())
    }

    fn per_character(&self) -> f64 {
        self.log_p / self.state.progress()
    }
}

/// The tokens that may follow a line, and log p of the line with each.
fn grow(rows: &dyn Rows, line: &Line, plan: &Plan, table: &TokenTable, width: usize) -> Result<Vec<(Next, f64)>> {
    let logits = rows.logits(line.row);
    let total = log_sum_exp(logits);
    if total.is_nan() {
        return Err(Error::run("the model's logits are not numbers")
            .hint("the adapter is damaged or its training diverged; `--base` asks the base model alone")
            .hint_zh("适配器已损坏或训练已发散；可用 `--base` 单独询问基座模型"));
    }
    let best = table.best(plan, &line.state, logits, width).into_iter();
    Ok(best.map(|next| (line.log_p + f64::from(next.logit) - total, next)).map(|(log_p, next)| (next, log_p)).collect())
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from((x - max).exp())).sum();
    f64::from(max) + sum.ln()
}

/// Keeps the best of a prompt's lines; of the same text in other tokens, the more likely. No line is kept that could not
/// be among the `n` that are found.
fn prune(lines: &mut Vec<Line>, found: &mut Vec<Found>, beam: Beam) {
    found.sort_by(|a, b| b.log_p.total_cmp(&a.log_p));
    let mut texts = HashSet::new();
    found.retain(|found| texts.insert(found.text.clone()));
    found.truncate(beam.n);
    lines.sort_by(|a, b| b.log_p.total_cmp(&a.log_p));
    let mut texts = HashSet::new();
    lines.retain(|line| texts.insert(line.text.clone()));
    lines.sort_by(|a, b| b.per_character().total_cmp(&a.per_character()));
    lines.truncate(beam.width);
    if found.len() == beam.n {
        let worst = found.last().map_or(f64::INFINITY, |found| found.log_p);
        lines.retain(|line| line.log_p > worst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Rules, dataset::Tokenizer, rng::Key};
    use std::path::Path;

    /// A model whose logits depend on the text so far and nothing else. It would rather not write parts of characters.
    struct Fake {
        texts: Vec<Vec<u32>>,
        logits: Vec<Vec<f32>>,
        parts: Vec<bool>,
    }

    impl Fake {
        fn new(rows: usize, table: &TokenTable) -> Self {
            let parts = (0..VOCAB).map(|id| std::str::from_utf8(table.bytes(id)).is_err()).collect();
            let mut fake = Self { texts: vec![vec![]; rows], logits: vec![], parts };
            fake.look();
            fake
        }

        fn look(&mut self) {
            let logits = |text: &Vec<u32>| {
                let key = text.iter().fold(Key::new(3, "fake"), |key, id| key.with(u64::from(*id)));
                let logit = |(id, part): (u64, &bool)| if *part { -60.0 } else { 12.0 * key.uniform(id) };
                (0..).zip(&self.parts).map(logit).collect()
            };
            self.logits = self.texts.iter().map(logits).collect();
        }
    }

    impl Rows for Fake {
        fn logits(&self, row: usize) -> &[f32] {
            &self.logits[row]
        }

        fn advance(&mut self, from: &[usize], tokens: &[u32]) -> Result<()> {
            self.texts = from.iter().zip(tokens).map(|(row, id)| [&self.texts[*row][..], &[*id]].concat()).collect();
            self.look();
            Ok(())
        }
    }

    /// Of the shipped model's tokenizer.
    const VOCAB: u32 = 6_670;

    fn tiny() -> TokenTable {
        let tokenizer = Tokenizer::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/tiny_qwen3")).unwrap();
        assert_eq!(tokenizer.vocab_size(), VOCAB as usize);
        TokenTable::new(&tokenizer).unwrap()
    }

    /// log p of a line and its end, token by token.
    fn log_p(table: &TokenTable, ids: &[u32]) -> f64 {
        let mut fake = Fake::new(1, table);
        let all = ids.iter().copied().chain([table.end()]);
        all.map(|id| {
            let log_p = f64::from(fake.logits(0)[id as usize]) - log_sum_exp(fake.logits(0));
            fake.advance(&[0], &[id]).unwrap();
            log_p
        })
        .sum()
    }

    #[test]
    fn a_wide_beam_finds_the_best_line_and_says_how_likely_it_is() {
        let table = tiny();
        // 尽 asks for 平, everything else is given: as many lines as there are such characters.
        let plan = Plan::new("白日依山尽", Rules::Strict, Some("黄河入海-")).unwrap();
        let found = search(&mut Fake::new(1, &table), &[&plan], &table, Beam { width: 4, n: 3 }, &|| false).unwrap();
        assert_eq!(found[0].len(), 3);
        for line in &found[0] {
            assert!(line.text.starts_with("黄河入海"), "{line:?}");
            assert!((line.log_p - log_p(&table, &line.ids)).abs() < 1e-6, "{line:?}");
        }
        let given = State::start(&plan).after(&plan, "黄河入海".as_bytes()).unwrap();
        let last = (0..VOCAB).filter(|id| {
            let bytes = table.bytes(*id);
            std::str::from_utf8(bytes).is_ok_and(|text| !text.is_empty()) && given.after(&plan, bytes).is_some()
        });
        let before = &found[0][0].ids[..4];
        let best = last.map(|id| log_p(&table, &[before, &[id]].concat())).fold(f64::NEG_INFINITY, f64::max);
        let widest =
            search(&mut Fake::new(1, &table), &[&plan], &table, Beam { width: 6000, n: 1 }, &|| false).unwrap();
        assert!((widest[0][0].log_p - best).abs() < 1e-6, "{} and by trying all {best}", widest[0][0].log_p);
    }

    #[test]
    fn a_line_does_not_depend_on_what_is_searched_beside_it() {
        let table = tiny();
        let plans = ["白日依山尽", "山，水水", "大漠孤烟直，长河落日圆满"]
            .map(|upper| Plan::new(upper, Rules::Strict, None).unwrap());
        let beam = Beam { width: 3, n: 2 };
        let all: Vec<&Plan> = plans.iter().collect();
        let together = search(&mut Fake::new(3, &table), &all, &table, beam, &|| false).unwrap();
        for (plan, together) in all.iter().zip(&together) {
            let alone = search(&mut Fake::new(1, &table), &[plan], &table, beam, &|| false).unwrap();
            assert_eq!(&alone[0], together);
            assert_eq!(together.len(), 2);
            assert!(together[0].log_p >= together[1].log_p && together[0].text != together[1].text);
        }
    }

    #[test]
    fn an_interrupted_search_ends() {
        let table = tiny();
        let plan = Plan::new("白日依山尽", Rules::Shape, None).unwrap();
        let found = search(&mut Fake::new(1, &table), &[&plan], &table, Beam { width: 2, n: 1 }, &|| true);
        assert_eq!(found.unwrap(), [vec![]]);
    }

    #[test]
    fn logits_that_are_no_numbers_are_refused() {
        let table = tiny();
        let plan = Plan::new("白日依山尽", Rules::Shape, None).unwrap();
        let mut fake = Fake::new(1, &table);
        fake.logits[0][7] = f32::NAN;
        let err = search(&mut fake, &[&plan], &table, Beam { width: 2, n: 1 }, &|| false).expect_err("NaN");
        assert!(err.to_string().contains("not numbers"), "{err}");
    }
}
