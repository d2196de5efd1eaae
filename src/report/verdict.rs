//! The verdict on a finished run, in words: did it diverge; was training stable, did it overfit and since when, how far are new
//! rows from rows that were trained on.

use super::{Outcome, lang::Lang};
use crate::trainer::event::EvalPhase;
use serde::Serialize;

/// Losses a curve must have before anything is said of it.
const FEWEST: usize = 12;
/// Means of the training loss are taken over this share of the curve, and over so many losses at least: of fewer the noise of
/// their batches is most of what they say.
const WINDOW: (usize, usize) = (4, 4);
/// These means may rise again by this share of all they have fallen, by this share of the lowest, and by this many times their
/// own noise. Of 10,000 healthy curves (falling or flat; normal noise, noise with heavy tails, skewed noise) about one in a
/// thousand rises by more.
const RISE: (f64, f64, f64) = (0.25, 0.05, 6.0);
/// A held-out loss this much above its lowest is worse and not noise. All evaluations see the same rows, so their noise
/// is that of the parameters alone.
pub const WORSE: f64 = 1.01;
/// A training loss of this share of what guessing costs is that of a model that guesses. Rates that are far too high end there:
/// all logits become equal.
const GUESSES: f64 = 0.98;
/// Gaps below these shares of the training loss are called small and moderate.
const GAPS: [f64; 2] = [0.1, 0.3];

/// A mean loss over rows, in nats per supervised token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Score {
    /// Σ nll / Σ labels.
    pub loss: f64,
    /// Its standard error: how far another draw of as many rows would move it.
    pub error: f64,
    /// Rows scored.
    pub rows: usize,
}

/// The final adapter on rows of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scores {
    /// Rows it was trained on.
    pub train: Score,
    /// Rows it was watched on.
    pub held_out: Score,
    /// Rows it has never met.
    pub test: Option<Score>,
}

/// What can be said of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether the smoothed training loss went down without rising much again; `None`: too few log lines to tell.
    pub stable: Option<bool>,
    /// Where a run ended that made its model worse than it was, also on the rows it was trained on.
    pub diverged: Option<Divergence>,
    /// Epoch of the lowest held-out loss, where it has risen since by more than 1 %; 0: before the first step.
    pub overfits_from_epoch: Option<f64>,
    /// Held-out loss at that epoch and at the last step.
    pub held_out_rose: Option<(f64, f64)>,
    /// Held-out losses that were measured: of one nothing is known to rise.
    pub evaluations: usize,
    /// The adapter is that of the best evaluation, not of the last step.
    pub best_was_kept: bool,
    /// Held-out minus training loss, and its standard error.
    pub gap: (f64, f64),
    /// The losses behind it.
    pub scores: Scores,
}

/// Losses of a run that diverged, in nats per supervised token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Divergence {
    /// Of held-out rows before the first step.
    pub began: Option<f64>,
    /// Of held-out rows at the end of training.
    pub held_out: f64,
    /// Of training rows at the end of training.
    pub train: f64,
    /// What guessing costs that takes all tokens for equally likely: ln of their number.
    pub guessing: f64,
}

impl Divergence {
    /// `start`: the training loss before anything was learned. `None`: it did not diverge, because held-out rows got no worse, or
    /// training rows got no worse (that is overfitting).
    fn found(self, start: Option<f64>) -> Option<Self> {
        let Self { began, held_out, train, guessing } = self;
        let is_worse = began.is_none_or(|began| held_out > began * WORSE);
        let is_lost = train > guessing * GUESSES || start.is_some_and(|start| train > start * WORSE);
        (!held_out.is_finite() || !train.is_finite() || is_worse && is_lost).then_some(self)
    }
}

impl Verdict {
    /// `outcome` of a finished run whose final adapter has these `scores`, over a model of so many tokens.
    pub fn new(outcome: &Outcome, scores: Scores, vocabulary: usize) -> Self {
        let best_was_kept = outcome.finished.as_ref().is_some_and(|f| f.best.is_some_and(|(step, _)| step != f.step));
        // The final evaluation is of the adapter that is kept, and training may have gone on behind it.
        let of_training = |when| !(best_was_kept && when == EvalPhase::Final);
        let measured: Vec<_> = outcome.evaluations.iter().filter(|e| of_training(e.when)).collect();
        let mut finite = measured.iter().map(|e| (e.epoch, e.loss_per_token)).filter(|(_, loss)| loss.is_finite());
        let best = finite.clone().min_by(|a, b| a.1.total_cmp(&b.1));
        let rose = match (best, finite.next_back()) {
            (Some(best), Some(last)) if last.1 > best.1 * WORSE => Some((best, last.1)),
            _ => None,
        };
        let end_of_training = Divergence {
            began: measured.first().filter(|e| e.when == EvalPhase::Before).map(|e| e.loss_per_token),
            held_out: measured.last().map_or(scores.held_out.loss, |e| e.loss_per_token),
            train: outcome.losses.last().copied().filter(|_| best_was_kept).unwrap_or(scores.train.loss),
            guessing: (vocabulary as f64).ln(),
        };
        let gap = (scores.held_out.loss - scores.train.loss, scores.held_out.error.hypot(scores.train.error));
        // Rows of one kind begin alike. Of two kinds only the first step tells, of few rows, which may happen to be easy ones.
        let of_one_kind = end_of_training.began.filter(|_| gap.0.abs() < 2.0 * gap.1).map(|began| began + 2.0 * gap.1);
        let first = outcome.first_loss.or(outcome.losses.first().copied());
        let start = of_one_kind.or(end_of_training.began.into_iter().chain(first).reduce(f64::max));
        Self {
            stable: is_stable(&outcome.losses, of_one_kind),
            diverged: end_of_training.found(start),
            overfits_from_epoch: rose.map(|((epoch, _), _)| epoch),
            held_out_rose: rose.map(|((_, lowest), last)| (lowest, last)),
            evaluations: measured.len(),
            best_was_kept,
            gap,
            scores,
        }
    }

    /// Stability, overfitting and generalisation, a line each. Of a run that diverged only that: the rest says nothing there,
    /// unless an earlier adapter was kept.
    pub fn lines(&self, lang: Lang) -> Vec<String> {
        match &self.diverged {
            None => vec![self.stability(lang), self.overfitting(lang), self.generalisation(lang)],
            Some(losses) if !self.best_was_kept => vec![self.divergence(losses, lang)],
            Some(losses) => vec![self.divergence(losses, lang), self.generalisation(lang)],
        }
    }

    fn divergence(&self, losses: &Divergence, lang: Lang) -> String {
        let Divergence { began, held_out, train, guessing } = losses;
        let kept = match self.best_was_kept {
            true => lang.pick("; the adapter of the best evaluation was kept", "；已保留最好一次评估的适配器"),
            false => "",
        };
        match lang {
            Lang::En => {
                let began = began.map_or(String::new(), |began| format!(" from {began:.3} before training"));
                format!(
                    "diverged: the held-out loss went{began} to {held_out:.3}, that of training rows to {train:.3} (guessing costs \
                     {guessing:.3}); train again with a smaller learning_rate, or a longer warmup{kept}"
                )
            }
            Lang::Zh => {
                let began = began.map_or(String::new(), |began| format!("由训练前的 {began:.3} "));
                format!(
                    "发散：留出集损失{began}变为 {held_out:.3}，训练集损失为 {train:.3}（随机猜测为 {guessing:.3}）；请降低 \
                     learning_rate 或延长预热后重新训练{kept}"
                )
            }
        }
    }

    fn stability(&self, lang: Lang) -> String {
        let words = match self.stable {
            Some(true) => ("stable: the training loss fell without rising again", "稳定：训练损失持续下降，未见回升"),
            Some(false) => (
                "unstable: the training loss rose again; try a lower learning_rate or a longer warmup",
                "不稳定：训练损失出现明显回升；可降低 learning_rate 或延长预热",
            ),
            None => (
                "stability unknown: fewer than 12 log lines; set a smaller logging_steps",
                "稳定性未知：日志不足 12 行；请减小 logging_steps",
            ),
        };
        lang.pick(words.0, words.1).to_owned()
    }

    fn overfitting(&self, lang: Lang) -> String {
        let (Some(epoch), Some((lowest, last))) = (self.overfits_from_epoch, self.held_out_rose) else {
            let words = match self.evaluations {
                0 | 1 => (
                    "overfitting unknown: the held-out loss was measured only once",
                    "是否过拟合未知：留出集损失只测过一次",
                ),
                _ => ("no overfitting: the held-out loss did not rise", "未过拟合：留出集损失没有回升"),
            };
            return lang.pick(words.0, words.1).to_owned();
        };
        if epoch == 0.0 {
            return match lang {
                Lang::En => format!(
                    "overfitting from the start: the held-out loss rose from {lowest:.3} before training to {last:.3}; set a \
                     smaller learning_rate, or train less"
                ),
                Lang::Zh => format!(
                    "自训练开始即过拟合：留出集损失由训练前的 {lowest:.3} 升至 {last:.3}；可降低 learning_rate，或减少训练"
                ),
            };
        }
        let kept = match (self.best_was_kept, lang) {
            (true, Lang::En) => "; the adapter of that evaluation was kept",
            (true, Lang::Zh) => "；已保留该次评估的适配器",
            (false, Lang::En) => "; train less, or set load_best_model_at_end",
            (false, Lang::Zh) => "；可减少训练轮数，或设置 load_best_model_at_end",
        };
        match lang {
            Lang::En => {
                format!("overfitting from epoch {epoch:.2}: the held-out loss rose from {lowest:.3} to {last:.3}{kept}")
            }
            Lang::Zh => format!("自第 {epoch:.2} 轮起过拟合：留出集损失由 {lowest:.3} 升至 {last:.3}{kept}"),
        }
    }

    fn generalisation(&self, lang: Lang) -> String {
        let ((gap, error), Scores { train, held_out, test }) = (self.gap, &self.scores);
        let share = gap / train.loss.max(f64::MIN_POSITIVE);
        let word = match (gap.abs() < 2.0 * error, share) {
            (true, _) => lang.pick("none to be seen", "未见"),
            (false, ..0.0) => lang.pick("none", "无"),
            (false, share) if share < GAPS[0] => lang.pick("small", "小"),
            (false, share) if share < GAPS[1] => lang.pick("moderate", "中等"),
            (false, _) => lang.pick("large", "大"),
        };
        let test = test.map_or(String::new(), |t| match lang {
            Lang::En => format!(", test {:.3}", t.loss),
            Lang::Zh => format!("，测试集 {:.3}", t.loss),
        });
        match lang {
            Lang::En => format!(
                "generalisation gap {gap:+.3} ± {error:.3} nats per token ({word}): training rows {:.3}, held-out {:.3}{test}",
                train.loss, held_out.loss
            ),
            Lang::Zh => format!(
                "泛化差距 {gap:+.3} ± {error:.3}（{word}）：训练集 {:.3}，留出集 {:.3}{test}",
                train.loss, held_out.loss
            ),
        }
    }
}

/// `start`: the loss before the first step, where it is known well.
///
/// The noise of a mean is what losses differ by from their neighbours, which no trend moves much; what they differ by from a
/// smoothed curve is too little where that curve is short and follows them.
fn is_stable(losses: &[f64], start: Option<f64>) -> Option<bool> {
    if losses.len() < FEWEST {
        return None;
    }
    let window = (losses.len() / WINDOW.0).max(WINDOW.1);
    let steps: f64 = losses.windows(2).map(|pair| (pair[1] - pair[0]).abs()).sum();
    // Of independent normal losses the mean distance is 2σ/√π.
    let noise = 0.5 * std::f64::consts::PI.sqrt() * steps / (losses.len() - 1) as f64 / (window as f64).sqrt();
    let means: Vec<f64> = losses.windows(window).map(|part| part.iter().sum::<f64>() / window as f64).collect();
    let start = start.unwrap_or(means[0]);
    let (mut lowest, mut rise) = (start, 0f64);
    for &mean in &means {
        lowest = lowest.min(mean);
        rise = rise.max(mean - lowest);
    }
    let fell = start - lowest;
    Some(rise <= (RISE.0 * fell).max(RISE.1 * lowest).max(RISE.2 * noise))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::testing::{evaluated, finished},
        rng::Key,
        trainer::event::Evaluated,
    };

    fn scores(train: f64, held_out: f64, error: f64) -> Scores {
        let score = |loss| Score { loss, error, rows: 100 };
        Scores { train: score(train), held_out: score(held_out), test: None }
    }

    fn outcome(losses: Vec<f64>, held_out: &[f64]) -> Outcome {
        let n = held_out.len();
        let when = |i| if i == 0 { EvalPhase::Before } else { EvalPhase::During };
        let evaluations = held_out.iter().enumerate().map(|(i, &loss)| evaluated(i * 10, 10 * n, loss, when(i)));
        Outcome {
            losses,
            evaluations: evaluations.collect(),
            finished: Some(finished(10 * n, 1.0)),
            ..Outcome::default()
        }
    }

    /// Losses of `n` log lines as a healthy run has them: `level` of the way done, and the noise of small batches.
    fn healthy(n: usize, seed: u64, noise: f64, level: impl Fn(f64) -> f64) -> Vec<f64> {
        let key = Key::new(seed, "losses");
        // The sum of twelve is nearly normal.
        let normal = |i: usize| (0..12).map(|j| f64::from(key.uniform((12 * i + j) as u64))).sum::<f64>() - 6.0;
        (0..n).map(|i| level(i as f64 / (n - 1) as f64) + noise * normal(i)).collect()
    }

    #[test]
    fn a_curve_that_rises_again_is_unstable() {
        let falling = |n: usize| (0..n).map(|i| 2.0 + 5.0 / (1.0 + i as f64)).collect::<Vec<f64>>();
        let mut diverged = falling(40);
        diverged.extend((0..40).map(|i| 2.5 + 0.1 * f64::from(i)));
        let jumps = |n| healthy(n, 1, 0.3, |t| if t < 0.5 { 7.0 - 8.0 * t } else { 9.0 });
        let returns = |n| healthy(n, 1, 0.3, |t| if t < 0.5 { 7.0 - 8.0 * t } else { 3.0 + 6.0 * (t - 0.5) });
        for (losses, want, why) in [
            (falling(11), None, "too few to tell"),
            (falling(50), Some(true), "falls"),
            (vec![3.0; 20], Some(true), "stays"),
            (diverged, Some(false), "rises for half the run"),
            (jumps(12), Some(false), "jumps up and stays there"),
            (jumps(200), Some(false), "jumps up and stays there, a long run"),
            (returns(25), Some(false), "half way back"),
        ] {
            assert_eq!(is_stable(&losses, None), want, "{why}");
        }
        let jumped = healthy(40, 1, 0.3, |t| 7.0 + 6.0 * (-5.0 * t).exp());
        assert_eq!(is_stable(&jumped, None), Some(true), "falls, as far as one can see");
        assert_eq!(is_stable(&jumped, Some(7.0)), Some(false), "but from where it jumped to at once");
        assert_eq!(is_stable(&falling(40), Some(7.0)), Some(true));
    }

    /// Few lines, each the mean of few rows: the noise of a line is then much of all that the loss falls by.
    #[test]
    fn the_noise_of_a_healthy_run_is_no_instability() {
        let shapes = [
            ("falls quickly", (|t| 3.0 + 4.0 * (-4.0 * t).exp()) as fn(f64) -> f64),
            ("falls after a warmup", |t| if t < 0.1 { 7.0 } else { 3.0 + 4.0 * (-5.0 * (t - 0.1)).exp() }),
            ("falls a little", |t| 3.0 - 0.3 * t),
            ("stays", |_| 3.0),
        ];
        for (name, shape) in shapes {
            for n in [12, 16, 25, 50, 200] {
                for noise in [0.05, 0.3, 0.8] {
                    let is_unstable = |seed: &u64| {
                        let losses = healthy(n, *seed, noise, shape);
                        [None, Some(shape(0.0))].iter().any(|start| is_stable(&losses, *start) == Some(false))
                    };
                    let unstable = (0..200).filter(is_unstable).count();
                    assert!(unstable <= 6, "{name}, {n} lines, noise {noise}: {unstable} of 200");
                }
            }
        }
    }

    #[test]
    fn overfitting_is_dated_by_the_lowest_held_out_loss() {
        for (held_out, want, why) in [
            (&[5.0, 4.0, 3.0][..], None, "falls to the end"),
            (&[5.0, 3.0, 3.01], None, "half a per cent is noise"),
            (&[5.0, 3.0, 3.4, 3.9], Some(1.0), "rises from the second evaluation on"),
            (&[5.0, 6.0], Some(0.0), "training only made it worse"),
            (&[], None, "never evaluated"),
        ] {
            let verdict = Verdict::new(&outcome(vec![], held_out), scores(3.0, 3.2, 0.01), 6670);
            assert_eq!(verdict.overfits_from_epoch, want, "{why}");
            assert_eq!(verdict.overfitting(Lang::En).starts_with("overfitting from"), want.is_some(), "{why}");
            let is_known = held_out.len() > 1;
            assert_eq!(verdict.overfitting(Lang::En).starts_with("overfitting unknown"), !is_known, "{why}");
        }
    }

    /// `eval_strategy=no`: only before and after.
    #[test]
    fn without_evaluations_on_the_way_the_first_and_the_last_tell() {
        for (before, after, want) in [
            (5.0, 4.0, "no overfitting: the held-out loss did not rise"),
            (
                4.0,
                5.0,
                "overfitting from the start: the held-out loss rose from 4.000 before training to 5.000; set a smaller \
                 learning_rate, or train less",
            ),
        ] {
            let mut outcome = outcome(vec![3.9], &[before]);
            outcome.evaluations.push(Evaluated { loss_per_token: after, ..evaluated(10, 10, 0.0, EvalPhase::Final) });
            outcome.evaluations[0].loss_per_token = before;
            let verdict = Verdict::new(&outcome, scores(2.0, after, 0.01), 6670);
            assert_eq!(verdict.lines(Lang::En)[1], want);
        }
    }

    #[test]
    fn a_run_that_made_its_model_worse_has_diverged() {
        // The loss of the first step and the logged ones, held-out losses before and after, training rows after.
        for (first, losses, held_out, train, want, why) in [
            (6.9, &[9.3][..], [7.05, 8.8], 8.8, true, "ten steps of rate 1000: all tokens are equally likely"),
            (7.2, &[9.1], [7.05, 7.31], 7.38, true, "of rate 0.1: it jumped up, and has not come back"),
            (7.5, &[9.1], [7.05, 7.31], 7.32, true, "and its first step was of difficult rows"),
            (6.9, &[400.0], [7.05, 812.3], 790.0, true, "far beyond guessing"),
            (7.0, &[7.0, f64::NAN], [7.05, f64::NAN], f64::NAN, true, "no numbers"),
            (7.0, &[10.2, 7.3, 6.8], [7.05, 6.65], 6.69, false, "it jumped up, and came back"),
            (7.0, &[7.0, 4.0], [7.05, 4.2], 3.9, false, "it learned"),
            (3.0, &[3.0, 0.4], [3.1, 4.9], 0.3, false, "overfitting: the training loss fell"),
            (2.6, &[2.9, 2.8], [3.0, 3.05], 2.8, false, "a first step of easy rows"),
            (5.1, &[5.0, 4.5], [3.0, 3.4], 4.5, false, "held-out rows of another kind, easier than those of training"),
            (11.0, &[11.0, 9.5], [11.2, 9.6], 9.4, false, "a base that was worse than guessing, and got better"),
        ] {
            let mut outcome = Outcome { first_loss: Some(first), ..outcome(losses.to_vec(), &held_out) };
            outcome.evaluations.iter_mut().zip(held_out).for_each(|(e, loss)| e.loss_per_token = loss);
            let verdict = Verdict::new(&outcome, scores(train, held_out[1], 0.01), 6670);
            assert_eq!(verdict.diverged.is_some(), want, "{why}");
            let lines = verdict.lines(Lang::En);
            assert_eq!((lines.len(), lines[0].starts_with("diverged: ")), (if want { 1 } else { 3 }, want), "{why}");
        }

        let mut outcome = outcome(vec![7.0, 5.0, 900.0], &[7.05, 5.1, 812.3]);
        outcome.finished.as_mut().unwrap().best = Some((10, 5.1));
        outcome.evaluations.push(evaluated(10, 30, 5.1, EvalPhase::Final));
        let verdict = Verdict::new(&outcome, scores(5.0, 5.1, 0.01), 6670);
        let lines = verdict.lines(Lang::En);
        assert_eq!(
            lines[0],
            "diverged: the held-out loss went from 7.060 before training to 812.310, that of training rows to 900.000 \
             (guessing costs 8.805); train again with a smaller learning_rate, or a longer warmup; the adapter of the best \
             evaluation was kept"
        );
        assert!(lines[1].starts_with("generalisation gap "), "{lines:?}");
        assert_eq!(
            verdict.lines(Lang::Zh)[0],
            "发散：留出集损失由训练前的 7.060 变为 812.310，训练集损失为 900.000（随机猜测为 8.805）；请降低 learning_rate \
             或延长预热后重新训练；已保留最好一次评估的适配器"
        );
    }

    #[test]
    fn a_gap_is_named_by_its_size_and_its_noise() {
        for (train, held_out, error, want) in [
            (3.0, 3.01, 0.01, "none to be seen"),
            (3.0, 2.5, 0.01, "none"),
            (3.0, 3.2, 0.01, "small"),
            (3.0, 3.6, 0.01, "moderate"),
            (1.0, 3.0, 0.01, "large"),
        ] {
            let verdict = Verdict::new(&outcome(vec![], &[5.0]), scores(train, held_out, error), 6670);
            let line = verdict.generalisation(Lang::En);
            assert!(line.contains(&format!("({want})")), "{line}");
        }
        let mut all = scores(2.8, 3.0, 0.02);
        all.test = Some(Score { loss: 3.05, error: 0.02, rows: 9 });
        let verdict = Verdict::new(&outcome(vec![], &[5.0]), all, 6670);
        assert_eq!(
            verdict.generalisation(Lang::En),
            "generalisation gap +0.200 ± 0.028 nats per token (small): training rows 2.800, held-out 3.000, test 3.050"
        );
        assert_eq!(
            verdict.generalisation(Lang::Zh),
            "泛化差距 +0.200 ± 0.028（小）：训练集 2.800，留出集 3.000，测试集 3.050"
        );
    }
}
