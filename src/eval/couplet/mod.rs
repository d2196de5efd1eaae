//! Judges a couplet: what a program can check of the rules (联律通则), with a reason for each fault.
//!
//! Not judged, because no program can: whether the lines share one theme (意联), synonymous lines (合掌), beauty.
//! A verdict is worth little without the same numbers for real couplets and for re-paired lines: see
//! [`super::metrics`]. 领字 and 衬字, which the rules exempt from tone opposition, are not recognised.

mod clean;
mod extract;
mod kinds;
mod reason;

pub use clean::{CleanUpper, Comma, Note, clean_upper};
pub use extract::extract;
pub use kinds::{Kind, Tally};
pub use reason::{Fault, Place};

use super::words;
use crate::prosody::{self, System, Tail, Tones};
use serde::Serialize;

/// What is true of a couplet. Lines of different shape cannot be compared: then `opp`, `pos`, `seg`
/// and `parallel` are 0.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// 字数: the same clauses with the same number of characters.
    pub shape: bool,
    /// Tones by 平水韵.
    pub pingshui: Tones,
    /// Tones by modern Putonghua.
    pub modern: Tones,
    /// Whether the lines repeat characters at the same places; `None` where neither repeats any.
    pub repeat: Option<bool>,
    /// Whether no character stands in both lines.
    pub no_shared: bool,
    /// Whether some place has the same character in both lines.
    pub same_place: bool,
    /// Whether 下联 is 上联.
    pub copied: bool,
    /// 三平尾 or 三仄尾 in 下联, in the system it follows.
    pub tail: Option<Tail>,
    /// Share of characters whose word is of the same class (词性), words as Python's `jieba.posseg` cuts and tags them.
    pub pos: f64,
    /// Share of characters that agree in whether a word begins there (节律), cut the same way.
    pub seg: f64,
    /// 对仗 as one number: the mean of both shares with words of the dictionary alone. It tells real couplets from
    /// re-paired lines better than either, because the guesses are noise in verse.
    pub parallel: f64,
    /// Closed classes: how many of 上联's characters ask for their kind, and how many are answered. See [`Kind`].
    pub kinds: [Tally; Kind::ALL.len()],
    /// What is wrong, in the order of the line.
    pub faults: Vec<Fault>,
}

impl Verdict {
    /// The system the couplet follows: the one in which it does better, never a mixture.
    pub fn system(&self) -> System {
        if self.modern > self.pingshui { System::Modern } else { System::Pingshui }
    }

    /// The tones in that system.
    pub fn tones(&self) -> Tones {
        match self.system() {
            System::Pingshui => self.pingshui,
            System::Modern => self.modern,
        }
    }

    /// 合格: shape, both ends, every node, repeats, no shared character. Whether the model finished, or had learned
    /// the line by heart, is for the caller to add.
    pub fn passes(&self) -> bool {
        self.shape && self.tones().all() && self.repeat != Some(false) && self.no_shared
    }

    /// One line, such as `字数✓ 平仄✗(平水，第4字「秋」应仄) 对仗0.57 重字✓`.
    pub fn line(&self, chinese: bool) -> String {
        reason::line(self, chinese)
    }
}

/// Judges `lower` as the answer to `upper`. Both without the words around them: see [`extract`] and [`clean_upper`].
pub fn judge(upper: &str, lower: &str) -> Verdict {
    let shape = prosody::same_shape(upper, lower);
    let a: Vec<char> = prosody::characters(upper).collect();
    let b: Vec<char> = prosody::characters(lower).collect();
    let [pingshui, modern] = System::ALL.map(|system| prosody::tones(upper, lower, system));
    let classes = [prosody::repeat_classes(upper), prosody::repeat_classes(lower)];
    let repeats = classes.iter().any(|line| line.iter().enumerate().any(|(at, first)| at != *first));
    let shares = |guess| if shape { parallel(&a, &b, guess) } else { (0.0, 0.0) };
    let ((pos, seg), (class, rhythm)) = (shares(true), shares(false));
    let mut verdict = Verdict {
        shape,
        pingshui,
        modern,
        repeat: repeats.then(|| classes[0] == classes[1]),
        no_shared: !a.iter().any(|c| b.contains(c)),
        same_place: a.iter().zip(&b).any(|(x, y)| x == y),
        copied: !a.is_empty() && a == b,
        tail: None,
        pos,
        seg,
        parallel: (class + rhythm) / 2.0,
        kinds: kinds::tallies(&a, &b),
        faults: vec![],
    };
    verdict.tail = prosody::clauses(lower).find_map(|clause| prosody::tail(clause, verdict.system()));
    verdict.faults = reason::faults(upper, lower, &verdict);
    verdict
}

/// Shares of characters that agree in the class of their word, and in whether a word begins. Equally long lines.
fn parallel(upper: &[char], lower: &[char], guess: bool) -> (f64, f64) {
    let roles = |line: &[char]| words::roles(&line.iter().collect::<String>(), guess);
    let pairs: Vec<_> = roles(upper).into_iter().zip(roles(lower)).collect();
    let share = |agrees: fn(&(words::Role, words::Role)) -> bool| {
        pairs.iter().filter(|pair| agrees(pair)).count() as f64 / pairs.len() as f64
    };
    (share(|(a, b)| a.class == b.class), share(|(a, b)| a.begins == b.begins))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_couplet_passes() {
        let verdict = judge("白日依山尽", "黄河入海流");
        assert!(verdict.passes(), "{verdict:?}");
        assert_eq!(verdict.system(), System::Pingshui);
        assert_eq!(verdict.repeat, None);
    }

    #[test]
    fn each_rule_fails_by_itself() {
        let upper = "白日依山尽";
        for (lower, failing, why) in [
            ("黄河入海", "shape", "a character short"),
            ("", "shape", "nothing"),
            ("黄河，入海", "shape", "other clauses"),
            ("黄河入海口", "end", "口 is 仄"),
            ("绿树入海流", "opp", "日 and 树 are both 仄"),
            ("白河入海流", "shared", "白 in both"),
            ("河河入海流", "repeat", "a repeat that 上联 has not"),
            (upper, "copied", "the same line"),
        ] {
            let v = judge(upper, lower);
            let fails = match failing {
                "shape" => !v.shape && v.opp_and_words() == (0.0, 0.0, 0.0),
                "end" => !v.tones().end && v.shape,
                "opp" => v.tones().opp < 1.0 && v.tones().end,
                "shared" => !v.no_shared && v.same_place && v.tones().all(),
                "repeat" => v.repeat == Some(false),
                _ => v.copied && v.pos == 1.0 && v.seg == 1.0 && v.same_place,
            };
            assert!(fails, "{why}: {v:?}");
            assert!(!v.passes(), "{why}");
            assert!(!v.faults.is_empty(), "{why}");
        }
    }

    impl Verdict {
        fn opp_and_words(&self) -> (f64, f64, f64) {
            (self.tones().opp, self.pos, self.seg)
        }
    }

    #[test]
    fn a_couplet_follows_one_system_and_never_mixes_them() {
        // 竹: 仄 in 平水, 平 now. 学: 仄 in 平水, 平 now.
        let both_needed = judge("高竹地", "大学天");
        assert!(both_needed.tones().opp < 1.0, "竹 and 学 agree in either system: {both_needed:?}");
        let modern = judge("清竹静", "碧树香");
        assert_eq!(modern.system(), System::Modern, "{modern:?}");
        assert!(modern.modern.all() && !modern.pingshui.all());
    }

    #[test]
    fn unknown_tones_are_left_out() {
        let verdict = judge("天这地", "地做天");
        assert_eq!(verdict.pingshui.opp, 1.0, "这 and 做 are not in 平水; only the ends count");
    }

    #[test]
    fn repeats_at_the_same_places_are_right() {
        let verdict = judge("山山水水处处秀", "明明暗暗重重天");
        assert_eq!(verdict.repeat, Some(true));
        assert_eq!(verdict.kinds[Kind::Doubled as usize], Tally { asked: 3, answered: 3 });
    }
}
