//! A line begun by a plan: takes bytes, and refuses what could no longer become a right line.

use super::{
    alphabet::{self, ANY, SURELY_LEVEL, Sounds, sound, tone_of},
    plan::{Plan, Slot},
};
use crate::prosody::{System, Tone};

/// How far a line has come. Small: a beam copies it for every token it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The next place.
    slot: usize,
    /// The first bytes of a character that is not whole yet.
    pending: [u8; 4],
    pending_len: u8,
    /// What each class is, once it is known; NUL before.
    chosen: Vec<char>,
    /// Systems in which the line is right so far, one bit for each of [`System::ALL`].
    systems: u8,
}

const NOT_YET: char = '\0';

impl State {
    /// Before the first character. What the user gave is already chosen.
    pub fn start(plan: &Plan) -> Self {
        let chosen = plan.classes.iter().map(|class| class.fixed.unwrap_or(NOT_YET)).collect();
        Self { slot: 0, pending: [0; 4], pending_len: 0, chosen, systems: plan.systems }
    }

    /// Whether the line is complete: nothing but the end may follow.
    pub fn is_full(&self, plan: &Plan) -> bool {
        self.slot == plan.slots.len()
    }

    /// Places behind it, a begun one counted by its bytes. To compare lines that are not equally long.
    pub fn progress(&self) -> f64 {
        self.slot as f64 + f64::from(self.pending_len) / 3.0
    }

    /// Whether a character is begun and not whole.
    pub(super) fn is_torn(&self) -> bool {
        self.pending_len > 0
    }

    /// What must come next; `None` at the end.
    pub(super) fn wants(&self, plan: &Plan) -> Option<Wants> {
        Some(match *plan.slots.get(self.slot)? {
            Slot::Break(mark) => Wants::Break(mark),
            Slot::Character(class) if self.chosen[class] != NOT_YET => Wants::Character(self.chosen[class]),
            Slot::Character(class) => Wants::Sounds(self.sounds(plan, class)),
        })
    }

    /// The state after `bytes`, if they can be the next part of a right line.
    pub fn after(&self, plan: &Plan, bytes: &[u8]) -> Option<Self> {
        let mut next = self.clone();
        for byte in bytes {
            if next.pending_len == 4 {
                return None;
            }
            next.pending[usize::from(next.pending_len)] = *byte;
            next.pending_len += 1;
            if let Ok(text) = std::str::from_utf8(&next.pending[..usize::from(next.pending_len)]) {
                let c = text.chars().next()?;
                next.pending_len = 0;
                next.put(plan, c)?;
            }
        }
        (next.pending_len == 0 || next.can_complete(plan)).then_some(next)
    }

    /// Takes a whole character or break.
    fn put(&mut self, plan: &Plan, c: char) -> Option<()> {
        match *plan.slots.get(self.slot)? {
            Slot::Break(mark) => (c == mark).then_some(())?,
            Slot::Character(class) if self.chosen[class] != NOT_YET => (c == self.chosen[class]).then_some(())?,
            Slot::Character(class) => {
                let systems = self.systems_with(plan, class, sound(c));
                let best = plan.end != Some(class) || self.sounds(plan, class) >> sound(c) & 1 == 1;
                (alphabet::contains(c) && systems != 0 && best && !self.is_excluded(plan, c)).then_some(())?;
                self.systems = systems;
                // Without rules on repeats a place is a class of its own, and nothing depends on what it is.
                self.chosen[class] = c;
            }
        }
        self.slot += 1;
        Some(())
    }

    fn is_excluded(&self, plan: &Plan, c: char) -> bool {
        plan.distinct && (plan.avoided.contains(&c) || self.chosen.contains(&c))
    }

    /// Whether some character that is wanted begins with the pending bytes.
    fn can_complete(&self, plan: &Plan) -> bool {
        let pending = &self.pending[..usize::from(self.pending_len)];
        let begins = |c: char| c.encode_utf8(&mut [0; 4]).as_bytes().starts_with(pending);
        match self.wants(plan) {
            None => false,
            Some(Wants::Break(c) | Wants::Character(c)) => begins(c),
            Some(Wants::Sounds(sounds)) => {
                let Some(counts) = alphabet::beginning_with(pending) else { return false };
                let all: usize = (0..16).filter(|s| sounds >> s & 1 == 1).map(|s| usize::from(counts[s])).sum();
                // Counted more than once where it is both avoided and repeated: that only makes the answer stricter.
                let excluded = plan.avoided.iter().chain(&self.chosen).copied().filter(|_| plan.distinct);
                let lost = excluded.filter(|c| alphabet::contains(*c) && sounds >> sound(*c) & 1 == 1 && begins(*c));
                all > lost.count()
            }
        }
    }

    /// What `class` may sound like, in one of the systems that are left; at the end of the line the best of it.
    fn sounds(&self, plan: &Plan, class: usize) -> Sounds {
        if !plan.distinct {
            return ANY;
        }
        let all = (1..16).filter(|sound| self.systems_with(plan, class, *sound) != 0).map(|sound| 1 << sound).sum();
        match all & SURELY_LEVEL {
            best if best != 0 && plan.end == Some(class) => best,
            _ => all,
        }
    }

    /// The systems that are left when `class` sounds like `sound`.
    fn systems_with(&self, plan: &Plan, class: usize, sound: usize) -> u8 {
        let fits = |i: &usize| {
            self.systems >> i & 1 == 1
                && plan.classes[class].wanted[*i] >> sound & 1 == 1
                && self.ends_differ(plan, *i, class, sound)
        };
        (0..2).filter(fits).map(|i| 1 << i).sum()
    }

    /// Whether no clause ends in three equal tones when `class` sounds like `sound`.
    fn ends_differ(&self, plan: &Plan, system: usize, class: usize, sound: usize) -> bool {
        let trios = plan.tails.iter().filter(|trio| trio.contains(&class));
        let mut pairs = trios.flat_map(|trio| heard(system).map(move |heard| (trio, heard)));
        !pairs.any(|(trio, heard)| {
            let tone = tone_of(sound, System::ALL[heard]);
            let same = |other: &usize| *other == class || self.will_be(plan, *other, system, heard, tone);
            is_certain(tone) && trio.iter().all(same)
        })
    }

    /// Whether `class` is `tone` when heard in the system `heard`, or has to be as good as that because of its demand.
    fn will_be(&self, plan: &Plan, class: usize, system: usize, heard: usize, tone: Tone) -> bool {
        match self.chosen[class] {
            NOT_YET => heard == system && !has_opposite(plan.classes[class].wanted[system], system, tone),
            c => tone_of(sound(c), System::ALL[heard]) == tone,
        }
    }

    /// Those of `systems` in which the characters given beforehand make no three equal tones by themselves.
    pub(super) fn tails_of_fixed(&self, plan: &Plan, systems: u8) -> u8 {
        let equal = |system: usize, trio: &[usize; 3]| {
            heard(system).any(|heard| {
                let tones = trio.map(|class| match self.chosen[class] {
                    NOT_YET => Tone::Unknown,
                    c => tone_of(sound(c), System::ALL[heard]),
                });
                is_certain(tones[0]) && tones.iter().all(|tone| *tone == tones[0])
            })
        };
        let kept = |i: &usize| systems >> i & 1 == 1 && !plan.tails.iter().any(|trio| equal(*i, trio));
        (0..2).filter(kept).map(|i| 1 << i).sum()
    }
}

/// What must come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    /// This mark.
    Break(char),
    /// This character.
    Character(char),
    /// Any character that sounds like this and is not excluded.
    Sounds(Sounds),
}

/// The systems in which the end of a clause is heard. A line that follows modern tones is also heard in 平水, because it
/// may be right in both but for characters that 平水 does not know.
fn heard(system: usize) -> std::ops::RangeInclusive<usize> {
    0..=system
}

fn is_certain(tone: Tone) -> bool {
    matches!(tone, Tone::Level | Tone::Oblique)
}

/// Whether a class may sound certainly other than `tone`, or be of unknown tone.
fn has_opposite(wanted: Sounds, system: usize, tone: Tone) -> bool {
    let other =
        |s: &usize| !matches!(tone_of(*s, System::ALL[system]), Tone::Both) && tone_of(*s, System::ALL[system]) != tone;
    (1..16).filter(|s| wanted >> s & 1 == 1).any(|s| other(&s))
}

#[cfg(test)]
mod tests {
    use super::super::Rules;
    use super::*;

    fn takes(upper: &str, rules: Rules, pattern: Option<&str>, lower: &str) -> bool {
        let plan = Plan::new(upper, rules, pattern).unwrap();
        State::start(&plan).after(&plan, lower.as_bytes()).is_some()
    }

    #[test]
    fn each_rule_refuses_by_itself() {
        use Rules::{Shape, Strict};
        for (upper, lower, rules, want, why) in [
            ("白日依山尽", "黄河入海流", Strict, true, "a good line"),
            ("白日依山尽", "黄河", Strict, true, "its beginning"),
            ("白日依山尽", "黄河入海流天", Shape, false, "too long"),
            ("白日，依山尽", "黄河，入海流", Strict, true, "the same break"),
            ("白日，依山尽", "黄河入", Shape, false, "a character across the break"),
            ("白日，依山尽", "黄河,", Shape, false, "another mark"),
            ("白日依山尽", "黄A", Shape, false, "a letter"),
            ("白日依山尽", "白日依山尽", Shape, true, "shape knows no copying"),
            ("白日依山尽", "黄日", Strict, false, "shared, and the tone"),
            ("白日依山尽", "山", Strict, false, "shared"),
            ("白日依山尽", "绿树", Strict, false, "日 and 树 are both 仄"),
            ("白日依山尽", "黄河黄", Strict, false, "a repeat that 上联 has not"),
            ("山山水水尽", "明暗", Strict, false, "the repeat is missing"),
            ("白日依山尽", "黄河入海口", Strict, false, "口 is 仄"),
            ("大地依山水尽", "", Strict, true, "nothing yet"),
        ] {
            assert_eq!(takes(upper, rules, None, lower), want, "{upper} {lower}: {why}");
        }
    }

    #[test]
    fn given_characters_are_kept_and_used_nowhere_else() {
        for (lower, want, why) in
            [("黄河入海流", true, "given"), ("黄江", false, "another"), ("流河", false, "流 is given for the end")]
        {
            assert_eq!(takes("白日依山尽", Rules::Strict, Some("-河--流"), lower), want, "{why}");
        }
    }

    #[test]
    fn a_character_comes_in_parts() {
        let plan = Plan::new("白日依山尽", Rules::Strict, None).unwrap();
        let bytes = "黄河".as_bytes();
        let mut state = State::start(&plan);
        for at in 0..bytes.len() {
            state = state.after(&plan, &bytes[at..=at]).expect("a part of a good line");
            assert_eq!(state.is_torn(), at % 3 != 2);
        }
        assert_eq!(state, State::start(&plan).after(&plan, bytes).unwrap());
        let start = State::start(&plan);
        for (bytes, why) in [(&b"a"[..], "no character begins so"), (&[0xe2], "nor so"), (&[0x80], "nor so")] {
            assert!(start.after(&plan, bytes).is_none(), "{why}");
        }
        assert!(state.after(&plan, &[0xf0, 0xa0]).is_some(), "a rare character, any tone");
    }

    #[test]
    fn the_end_of_a_clause_looks_ahead() {
        // Nodes 2, 4, 5 of 上联 are 仄 仄 仄: 4 and 5 must be 平, so 3 must not be.
        assert!(!takes("大地日水月", Rules::Strict, None, "江山天"), "天 would end in 平平平");
        assert!(takes("大地日水月", Rules::Strict, None, "江山古"), "古 does not");
    }

    #[test]
    fn one_system_throughout() {
        // 竹 is 仄 in 平水 and 平 now; 国 and 学 as well.
        let plan = Plan::new("地国看", Rules::Strict, None).unwrap();
        let start = State::start(&plan);
        assert_eq!(start.after(&plan, "人天".as_bytes()).map(|s| s.systems), Some(0b01), "国 is 仄 in 平水 only");
        assert_eq!(start.after(&plan, "人月".as_bytes()).map(|s| s.systems), Some(0b10), "and 平 now");
        assert!(start.after(&plan, "人天竹".as_bytes()).is_none(), "竹 would be 平 only in the other system");
        assert!(start.after(&plan, "人月年".as_bytes()).is_some());
    }

    #[test]
    fn the_end_is_level_beyond_doubt_if_it_can_be() {
        for (upper, lower, want, why) in [
            ("春暖花开地", "日长鸟语香", true, "香 is 平 in both"),
            ("春暖花开地", "日长鸟语去", false, "去 has a reading in 平 that nobody means"),
            ("国泰民安地", "天高海阔不", false, "不 as well"),
            ("国泰民安地", "天高海阔年", true, "年 is 平, whatever a dictionary adds"),
            ("国泰民安地", "天高海阔竹", false, "竹 is 仄 to half of the readers"),
        ] {
            assert_eq!(takes(upper, Rules::Strict, None, lower), want, "{upper} {lower}: {why}");
        }
        assert!(takes("国泰民安地", Rules::Strict, Some("----中"), "天高海阔中"), "what is given is not doubted");
        // Given 平平 before it, in modern tones alone: only a character of both readings makes no 三平尾.
        let plan = Plan::new("大地水看月", Rules::Strict, Some("--人天-")).unwrap();
        let state = State { systems: 0b10, ..State::start(&plan) };
        let left = state.sounds(&plan, plan.end.unwrap());
        assert!(left != 0 && left & SURELY_LEVEL == 0, "{left:#b}");
    }
}
