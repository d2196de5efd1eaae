//! What must stand at each place of 下联.

use super::{
    alphabet::{self, ANY, Sounds, tone_of},
    pattern,
};
use crate::{
    config::Rules,
    error::{Error, Result},
    prosody::{self, System, Tone, is_break},
};

/// The most characters of an 上联 under strict rules: so many can be avoided and there are always others.
const MOST: usize = 100;

/// A place of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// Exactly this mark.
    Break(char),
    /// A character; those of one class are the same.
    Character(usize),
}

/// Characters of the line that are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Class {
    /// What it may sound like, in each of [`System::ALL`].
    pub wanted: [Sounds; 2],
    /// Given by the user.
    pub fixed: Option<char>,
}

/// A rule that no line can keep after this 上联, and what is done instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relaxed {
    /// 上联 ends in 平, or in a character of unknown tone, in both systems. 下联 ends in 平 all the same (下联收平) and
    /// opposes every other node.
    UpperEnd(char),
}

impl Relaxed {
    /// In a few words.
    pub fn text(&self, chinese: bool) -> String {
        match (self, chinese) {
            (Self::UpperEnd(last), true) => format!("上联末字「{last}」非仄声，下联仍以平声收"),
            (Self::UpperEnd(last), false) => {
                format!("the first line's last 「{last}」 is not oblique; the second ends level all the same")
            }
        }
    }
}

/// What must stand at each place of 下联, under one set of rules.
///
/// Under `shape`: the clauses of 上联, its breaks, and a character at every other place. Under `strict` also, in 平水 or
/// in modern tones throughout:
/// - a node opposes that of 上联, the last is 平 ([`prosody::demands`]);
/// - places that are the same in 上联 are the same here, and no others are;
/// - no character of 上联;
/// - no clause of five or more ends in three equal tones, as far as they are certain;
/// - the last character is 平 beyond doubt, if any such is left.
///
/// A line can always be finished: a class of equal characters is never asked for less than `Both`, whose characters
/// can stand wherever 平 or 仄 is wanted and are no third equal tone, and there are more of these than can be in use.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) slots: Vec<Slot>,
    pub(super) classes: Vec<Class>,
    /// Classes of the last three places of every clause of five or more.
    pub(super) tails: Vec<[usize; 3]>,
    /// Characters that must not stand in the line.
    pub(super) avoided: Vec<char>,
    /// Whether classes have different characters.
    pub(super) distinct: bool,
    /// The class of the last place, where its character should sound 平 to everyone ([`alphabet::SURELY_LEVEL`]).
    pub(super) end: Option<usize>,
    /// Systems that the line may follow, one bit for each of [`System::ALL`].
    pub(super) systems: u8,
    relaxed: Vec<Relaxed>,
}

impl Plan {
    /// The plan of the answer to `upper` under `rules`; `Rules::Off` is planned as `shape`.
    ///
    /// `pattern`: given characters, such as `-河-海-`; `-` is free. Breaks are those of `upper`, which is expected in the
    /// punctuation of the training data.
    ///
    /// Errors: no character in `upper`; a pattern of another length or against the rules.
    pub fn new(upper: &str, rules: Rules, pattern: Option<&str>) -> Result<Self> {
        let characters: Vec<char> = prosody::characters(upper).collect();
        if characters.is_empty() {
            return Err(Error::input("no characters in the first line")
                .hint("give an 上联, e.g. 海内存知己")
                .hint_zh("请给出上联，例如 海内存知己"));
        }
        let mut plan = match rules {
            Rules::Strict => Self::strict(upper, &characters)?,
            Rules::Shape | Rules::Off => Self::free(characters.len()),
        };
        plan.slots = slots(upper, &plan.slots);
        if let Some(given) = pattern {
            pattern::fix(&mut plan, upper, given)?;
        }
        Ok(plan)
    }

    /// Rules that had to give way.
    pub fn relaxed(&self) -> &[Relaxed] {
        &self.relaxed
    }

    /// Characters of the line, without breaks.
    pub fn characters(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(slot, Slot::Character(_))).count()
    }

    fn free(len: usize) -> Self {
        Self {
            slots: (0..len).map(Slot::Character).collect(),
            classes: vec![Class { wanted: [ANY; 2], fixed: None }; len],
            tails: vec![],
            avoided: vec![],
            distinct: false,
            end: None,
            systems: 0b11,
            relaxed: vec![],
        }
    }

    fn strict(upper: &str, characters: &[char]) -> Result<Self> {
        if characters.len() > MOST {
            let found = characters.len();
            return Err(Error::input(format!("a first line of {found} characters; strict rules take at most {MOST}"))
                .hint("use rules=shape, or split the line")
                .hint_zh("请改用 rules=shape，或将上联分开"));
        }
        let first = prosody::repeat_classes(upper);
        let mut places: Vec<usize> = first.iter().enumerate().filter(|(at, f)| at == *f).map(|(at, _)| at).collect();
        places.sort_unstable();
        let class = |at: usize| places.binary_search(&first[at]).expect("its first place is among them");
        let mut plan = Self::free(places.len());
        plan.slots = (0..characters.len()).map(|at| Slot::Character(class(at))).collect();
        plan.avoided = characters.to_vec();
        plan.distinct = true;
        plan.end = Some(class(characters.len() - 1));
        for (i, system) in System::ALL.into_iter().enumerate() {
            for (at, demand) in prosody::demands(upper, system).into_iter().enumerate() {
                plan.classes[class(at)].wanted[i] &= sounds(demand, system);
            }
        }
        plan.tails = tails(upper).map(|trio| trio.map(class)).collect();
        plan.choose_systems(characters[characters.len() - 1]);
        Ok(plan)
    }

    /// Leaves out the system in which 上联 does not end in 仄, if there is one in which it does.
    fn choose_systems(&mut self, last: char) {
        let right = |(i, system): (usize, System)| u8::from(prosody::tone(last, system).may_be(Tone::Oblique)) << i;
        match System::ALL.into_iter().enumerate().map(right).sum() {
            0 => self.relaxed.push(Relaxed::UpperEnd(last)),
            systems => self.systems = systems,
        }
    }
}

/// What a character may sound like to satisfy a demand.
fn sounds(demand: Option<Tone>, system: System) -> Sounds {
    (0..16).filter(|sound| tone_of(*sound, system).satisfies(demand)).map(|sound| 1 << sound).sum()
}

/// The places of the last three characters of every clause of five or more.
fn tails(upper: &str) -> impl Iterator<Item = [usize; 3]> {
    let mut end = 0;
    prosody::shape(upper).into_iter().filter_map(move |len| {
        end += len;
        (len >= 5).then(|| [end - 3, end - 2, end - 1])
    })
}

/// The characters with the breaks of `upper` between its clauses; those at its ends are not part of a line.
fn slots(upper: &str, characters: &[Slot]) -> Vec<Slot> {
    let mut slots = Vec::with_capacity(characters.len() + 1);
    let (mut next, mut mark) = (characters.iter(), None);
    for c in upper.chars() {
        if is_break(c) {
            mark = mark.or(Some(c));
            continue;
        }
        if let Some(mark) = mark.take().filter(|_| !slots.is_empty()) {
            slots.push(Slot::Break(mark));
        }
        slots.extend(next.next());
    }
    slots
}

/// Whether a character may be asked for.
pub(super) fn is_writable(c: char) -> bool {
    alphabet::contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_breaks_are_those_of_the_upper_line() {
        let shape = |upper: &str| {
            let plan = Plan::new(upper, Rules::Shape, None).unwrap();
            let sign = |slot: &Slot| match slot {
                Slot::Break(mark) => *mark,
                Slot::Character(_) => 'x',
            };
            plan.slots.iter().map(sign).collect::<String>()
        };
        for (upper, want, why) in [
            ("春风得意", "xxxx", "no break"),
            ("春风，得意、人", "xx，xx、x", "as they stand"),
            ("春风, 得意。", "xx,xx", "once, and none at the end"),
            ("，春风", "xx", "none at the start"),
        ] {
            assert_eq!(shape(upper), want, "{why}");
        }
        assert!(Plan::new("，。", Rules::Shape, None).is_err());
    }

    #[test]
    fn repeats_are_classes_and_tails_are_found() {
        let plan = Plan::new("山山水水尽，看山", Rules::Strict, None).unwrap();
        let classes = plan.slots.iter().filter_map(|slot| match slot {
            Slot::Character(class) => Some(*class),
            Slot::Break(_) => None,
        });
        assert_eq!(classes.collect::<Vec<_>>(), [0, 0, 1, 1, 2, 3, 0]);
        assert_eq!(plan.tails, [[1, 1, 2]]);
        assert_eq!(plan.characters(), 7);
    }

    #[test]
    fn a_wrong_end_is_said_and_a_system_that_cannot_be_right_is_left_out() {
        for (upper, systems, relaxed, why) in [
            ("白日依山尽", 0b11, vec![], "仄 in both"),
            ("清风动竹", 0b01, vec![], "竹 is 仄 in 平水 only"),
            ("白日依山天", 0b11, vec![Relaxed::UpperEnd('天')], "平 in both"),
        ] {
            let plan = Plan::new(upper, Rules::Strict, None).unwrap();
            assert_eq!((plan.systems, plan.relaxed()), (systems, relaxed.as_slice()), "{why}");
        }
    }
}
