//! Cuts and tags characters that make no word of the dictionary: a hidden Markov model (HMM), decoded by Viterbi.
//!
//! A state is a character's place in its word together with the tag of that word, so one path gives both. The numbers
//! are jieba's, and so is what happens where they leave a choice: `tables/README.md` describes both.

use super::Tagged;
use std::{collections::HashMap, sync::LazyLock};

/// 4 places × 64 tags.
const STATES: usize = 256;

/// log P of a character from a state that never emits it. It swallows every other term it is added to, so that two such
/// paths are equal: jieba's own value, because which of them is taken depends on it.
const NEVER: f64 = -3.14e100;

struct Model {
    /// Place (`B` begins a word, `M` is inside, `E` ends it, `S` is one by itself), then the tag; ascending.
    names: Vec<&'static str>,
    /// log P that a run of characters starts in a state.
    start: Vec<f64>,
    /// The states that may follow each state, with log P.
    next: Vec<Vec<(usize, f64)>>,
    /// The states that emit each character.
    emissions: HashMap<char, Vec<Emission>>,
}

struct Emission {
    state: usize,
    log_p: f64,
    /// Whether the character takes such states whenever one of them can follow. If none is usual, it takes any.
    usual: bool,
}

static MODEL: LazyLock<Model> = LazyLock::new(|| parse(include_str!("tables/posseg.txt")));

/// Reads the table: a line that opens with a letter is a state, the lines after it what the state emits.
fn parse(table: &'static str) -> Model {
    let number = |text: &str| text.parse::<f64>().expect("a number");
    let lines = || table.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let is_state = |fields: &[&str]| fields[0].starts_with(|c: char| c.is_ascii_uppercase());
    let names: Vec<&str> = lines().filter(|fields| is_state(fields)).map(|fields| fields[0]).collect();
    let mut model = Model { names, start: vec![], next: vec![], emissions: HashMap::new() };
    for fields in lines() {
        if is_state(&fields) {
            let words: Vec<&str> = fields[2].split_whitespace().collect();
            let transition = |pair: &[&str]| {
                let to = model.names.binary_search(&pair[0]).expect("a state of the table");
                (to, number(pair[1]))
            };
            model.next.push(words.chunks(2).map(transition).collect());
            model.start.push(number(fields[1]));
        } else {
            let (state, log_p) = (model.start.len() - 1, number(fields[0]));
            for (characters, usual) in [(fields[1], true), (fields[2], false)] {
                for c in characters.chars() {
                    model.emissions.entry(c).or_default().push(Emission { state, log_p, usual });
                }
            }
        }
    }
    model
}

/// Cuts a run of characters into words with their tags.
pub(super) fn cut(run: &str) -> Vec<Tagged<'_>> {
    let names = path(run).into_iter().map(|state| MODEL.names[state]);
    let mut words: Vec<(usize, &str)> = vec![];
    for ((at, _), name) in run.char_indices().zip(names) {
        let (place, tag) = name.split_at(1);
        if words.is_empty() || matches!(place, "B" | "S") {
            words.push((at, tag)); // the model never changes the tag inside a word
        }
    }
    let ends = words.iter().skip(1).map(|(at, _)| *at).chain([run.len()]);
    words.iter().zip(ends).map(|((from, tag), to)| (&run[*from..to], *tag)).collect()
}

/// The likeliest path into a state: its log P (−∞: there is none), and the state before.
type Best = (f64, usize);

/// The likeliest states of a run of characters, one for each (Viterbi). Of equally likely ones the last by name.
fn path(run: &str) -> Vec<usize> {
    let mut steps: Vec<[Best; STATES]> = vec![];
    for c in run.chars() {
        let (mut log_p, mut usual) = ([NEVER; STATES], [false; STATES]);
        for emission in MODEL.emissions.get(&c).into_iter().flatten() {
            (log_p[emission.state], usual[emission.state]) = (emission.log_p, emission.usual);
        }
        let mut best = match steps.last() {
            None => std::array::from_fn(|state| (MODEL.start[state] + log_p[state], state)),
            Some(before) => advance(before, &log_p),
        };
        if best.iter().zip(usual).any(|((score, _), usual)| usual && score.is_finite()) {
            best.iter_mut().zip(usual).filter(|(_, usual)| !usual).for_each(|(best, _)| best.0 = f64::NEG_INFINITY);
        }
        steps.push(best);
    }
    let likeliest = |step: &[Best; STATES]| (0..STATES).max_by(|a, b| step[*a].0.total_cmp(&step[*b].0));
    let mut state = steps.last().and_then(likeliest).unwrap_or_default();
    let mut path = vec![];
    for step in steps.iter().rev() {
        path.push(state);
        state = step[state].1;
    }
    path.reverse();
    path
}

/// The best paths one character further. `log_p`: of the character, from each state.
fn advance(before: &[Best; STATES], log_p: &[f64; STATES]) -> [Best; STATES] {
    let mut best = [(f64::NEG_INFINITY, 0); STATES];
    for (from, (so_far, _)) in before.iter().enumerate().filter(|(_, (score, _))| score.is_finite()) {
        for &(to, transition) in &MODEL.next[from] {
            let score = so_far + transition + log_p[to];
            if score >= best[to].0 {
                best[to] = (score, from);
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_has_one_tag_and_transitions_sum_to_one() {
        assert_eq!(MODEL.names.len(), STATES);
        for (from, next) in MODEL.names.iter().zip(&MODEL.next).filter(|(_, next)| !next.is_empty()) {
            let sum: f64 = next.iter().map(|(_, log_p)| log_p.exp()).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{from}: {sum}");
            for (to, _) in next {
                let (to, opens) = (MODEL.names[*to], from.starts_with(['B', 'M']));
                assert_eq!(opens, to.starts_with(['M', 'E']), "{from} {to}");
                assert!(!opens || from[1..] == to[1..], "{from} {to}");
            }
        }
    }
}
