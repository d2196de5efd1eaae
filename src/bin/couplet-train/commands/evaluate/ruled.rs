//! Answers by rules: the best line that `rules` allow for every row.

use super::rows::Rows;
use crate::commands::{
    ask::Asked,
    ruled::{CANDIDATES, ROWS},
};
use couplet_train::{
    config::{GenerationConfig, Rules},
    dataset::instruction::most_frequent,
    error::{Error, Result},
    eval::suite::{Answered, Told},
    generate::{
        Choice, Speaker, lines,
        rank::{Scorer, Weights},
        rules::{Plan, TokenTable},
        search::Beam,
    },
    model::AdapterWeights,
    report::Header,
};

/// What the search needs to know.
pub struct Ruled {
    table: TokenTable,
    choice: Choice,
    /// Asks every row as most of them ask.
    speaker: Speaker,
    plans: Vec<Plan>,
}

impl Ruled {
    /// `None`: no rules are asked for. `n`: lines that are found and ranked for every row.
    ///
    /// Errors: the rows are no couplets, or one has no line to answer.
    pub fn new(
        generation: &GenerationConfig,
        n: Option<usize>,
        asked: &Asked,
        rows: &Rows,
        header: &mut Header,
    ) -> Result<Option<Self>> {
        let rules = generation.rules.unwrap_or_default();
        if rules == Rules::Off {
            return match n.or(generation.candidates) {
                Some(_) => Err(Error::input("several candidates without rules")
                    .hint("add rules=strict: the best of them answers")
                    .hint_zh("请加上 rules=strict：取其中最好的一句")),
                None => Ok(None),
            };
        }
        if !rows.couplets {
            return Err(Error::input(format!("rules={}: the rows are no couplets", rules.name()))
                .hint("leave `rules` out, or name a data set of couplets")
                .hint_zh("请去掉 `rules`，或换成对联数据集"));
        }
        let width = n.or(generation.candidates).unwrap_or(CANDIDATES);
        let weights = Weights {
            beta: generation.rank_beta.unwrap_or(Weights::MEASURED.beta),
            gamma: generation.rank_gamma.unwrap_or(Weights::MEASURED.gamma),
        };
        let Weights { beta, gamma } = weights;
        header.row("rules", "规则", format!("{}; the best of {width}, beta {beta}, gamma {gamma}", rules.name()));
        let instruction = most_frequent(rows.instructions.iter().map(String::as_str));
        if instruction.as_ref().is_some_and(|instruction| !instruction.shared) {
            header.notice(
                "under rules every row is asked with the most frequent instruction",
                "有规则时，每行都用最常见的指令提问",
            );
        }
        let instruction = instruction.map(|instruction| instruction.text).filter(|text| !text.is_empty());
        let plan = |(row, case): (usize, &couplet_train::eval::suite::Case)| {
            Plan::new(&case.upper, rules, None).map_err(|err| err.at(format!("row {}", row + 1)))
        };
        Ok(Some(Self {
            table: TokenTable::new(&asked.tokenizer)?,
            choice: Choice { beam: Beam { width, n: width }, weights },
            speaker: Speaker { instruction, ..asked.speaker.clone() },
            plans: rows.cases.iter().enumerate().map(plan).collect::<Result<_>>()?,
        }))
    }

    /// The best line for every row; fewer where a signal came first.
    pub fn answers(
        &self,
        asked: &Asked,
        adapter: Option<&AdapterWeights>,
        rows: &Rows,
        interrupted: &dyn Fn() -> bool,
        told: Told,
    ) -> Result<Vec<Answered>> {
        let Asked { model, tokenizer, .. } = asked;
        let scorer = Scorer { model, adapter, tokenizer, speaker: &self.speaker };
        let planned: Vec<(&str, Plan)> =
            rows.cases.iter().zip(&self.plans).map(|(case, plan)| (case.upper.as_str(), plan.clone())).collect();
        let mut answered = Vec::with_capacity(planned.len());
        for planned in planned.chunks((ROWS / self.choice.beam.width).max(1)) {
            if interrupted() {
                break;
            }
            for candidates in lines(scorer, &self.table, planned, self.choice, interrupted)? {
                let best = candidates.into_iter().next();
                answered
                    .push(Answered { finished: best.is_some(), text: best.map(|best| best.text).unwrap_or_default() });
            }
            told(answered.len());
        }
        Ok(answered)
    }
}
