//! The verdict on a finished run, in words: was training stable, did it overfit and since when, how far are new rows from
//! rows that were trained on.

use super::{Outcome, lang::Lang, plot::smooth};
use crate::trainer::event::EvalPhase;
use serde::Serialize;

/// Losses a curve must have before anything is said of it.
const FEWEST: usize = 8;
/// The smoothed training loss may rise again by this share of all it has fallen, and by this many standard deviations of
/// the noise around it.
const RISE: (f64, f64) = (0.25, 3.0);
/// A held-out loss this much above its lowest is worse and not noise. All evaluations see the same rows, so their noise
/// is that of the parameters alone.
const WORSE: f64 = 1.01;
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
    /// Epoch of the lowest held-out loss, where it has risen since by more than 1 %.
    pub overfits_from_epoch: Option<f64>,
    /// Held-out loss at that epoch and at the last step, of evaluations during training.
    pub held_out_rose: Option<(f64, f64)>,
    /// The adapter is that of the best evaluation, not of the last step.
    pub best_was_kept: bool,
    /// Held-out minus training loss, and its standard error.
    pub gap: (f64, f64),
    /// The losses behind it.
    pub scores: Scores,
}

impl Verdict {
    /// `outcome` of a finished run whose final adapter has these `scores`.
    pub fn new(outcome: &Outcome, scores: Scores) -> Self {
        let during: Vec<(f64, f64)> = outcome
            .evaluations
            .iter()
            .filter(|e| e.when != EvalPhase::Final && e.loss_per_token.is_finite())
            .map(|e| (e.epoch, e.loss_per_token))
            .collect();
        let best = during.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
        let rose = match (best, during.last()) {
            (Some(best), Some(last)) if last.1 > best.1 * WORSE => Some((best, last.1)),
            _ => None,
        };
        Self {
            stable: is_stable(&outcome.losses),
            overfits_from_epoch: rose.map(|((epoch, _), _)| epoch),
            held_out_rose: rose.map(|((_, lowest), last)| (lowest, last)),
            best_was_kept: outcome.finished.as_ref().is_some_and(|f| f.best.is_some_and(|(step, _)| step != f.step)),
            gap: (scores.held_out.loss - scores.train.loss, scores.held_out.error.hypot(scores.train.error)),
            scores,
        }
    }

    /// Three lines.
    pub fn lines(&self, lang: Lang) -> Vec<String> {
        vec![self.stability(lang), self.overfitting(lang), self.generalisation(lang)]
    }

    fn stability(&self, lang: Lang) -> String {
        let words = match self.stable {
            Some(true) => ("stable: the training loss fell without rising again", "稳定：训练损失持续下降，未见回升"),
            Some(false) => (
                "unstable: the training loss rose again; try a lower learning_rate or a longer warmup",
                "不稳定：训练损失出现明显回升；可降低 learning_rate 或延长预热",
            ),
            None => (
                "stability unknown: fewer than 8 log lines; set a smaller logging_steps",
                "稳定性未知：日志不足 8 行；请减小 logging_steps",
            ),
        };
        lang.pick(words.0, words.1).to_owned()
    }

    fn overfitting(&self, lang: Lang) -> String {
        let (Some(epoch), Some((lowest, last))) = (self.overfits_from_epoch, self.held_out_rose) else {
            return lang
                .pick("no overfitting: the held-out loss did not rise", "未过拟合：留出集损失没有回升")
                .to_owned();
        };
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

fn is_stable(losses: &[f64]) -> Option<bool> {
    if losses.len() < FEWEST {
        return None;
    }
    let smoothed = smooth(losses);
    let noise = losses.iter().zip(&smoothed).map(|(loss, smooth)| (loss - smooth).powi(2)).sum::<f64>();
    let noise = (noise / losses.len() as f64).sqrt();
    let (mut lowest, mut rise) = (f64::INFINITY, 0f64);
    for &loss in &smoothed {
        lowest = lowest.min(loss);
        rise = rise.max(loss - lowest);
    }
    let fell = smoothed[0] - lowest;
    Some(rise <= (RISE.0 * fell).max(RISE.1 * noise))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing::{evaluated, finished};

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

    #[test]
    fn a_curve_that_rises_again_is_unstable() {
        let falling = |n: usize| (0..n).map(|i| 2.0 + 5.0 / (1.0 + i as f64)).collect::<Vec<f64>>();
        let noisy = |n: usize| (0..n).map(|i| 2.0 + 5.0 / (1.0 + i as f64) + 0.3 * ((i * 7) as f64).sin()).collect();
        let mut diverged = falling(40);
        diverged.extend((0..40).map(|i| 2.5 + 0.1 * f64::from(i)));
        for (losses, want, why) in [
            (falling(5), None, "too few to tell"),
            (falling(50), Some(true), "falls"),
            (noisy(50), Some(true), "falls with noise"),
            (vec![3.0; 20], Some(true), "stays"),
            (diverged, Some(false), "rises for half the run"),
        ] {
            assert_eq!(is_stable(&losses), want, "{why}");
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
            let verdict = Verdict::new(&outcome(vec![], held_out), scores(3.0, 3.2, 0.01));
            assert_eq!(verdict.overfits_from_epoch, want, "{why}");
            assert_eq!(verdict.overfitting(Lang::En).starts_with("overfitting from"), want.is_some(), "{why}");
        }
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
            let verdict = Verdict::new(&outcome(vec![], &[5.0]), scores(train, held_out, error));
            let line = verdict.generalisation(Lang::En);
            assert!(line.contains(&format!("({want})")), "{line}");
        }
        let mut all = scores(2.8, 3.0, 0.02);
        all.test = Some(Score { loss: 3.05, error: 0.02, rows: 9 });
        let verdict = Verdict::new(&outcome(vec![], &[5.0]), all);
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
