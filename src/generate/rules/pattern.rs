//! `--pattern "-河-海"`: characters of 下联 that the user gives.

use super::{
    alphabet::sound,
    plan::{Plan, Slot, is_writable},
    state::State,
};
use crate::{
    error::{Error, Result},
    prosody::{self, System},
};

/// Puts the given characters into the plan. Breaks may be written or left out.
///
/// Errors: another length or shape, a character no line can have, a character against the rules of the plan.
pub(super) fn fix(plan: &mut Plan, upper: &str, pattern: &str) -> Result<()> {
    let given: Vec<char> = prosody::characters(pattern).collect();
    let wanted = plan.characters();
    let other_shape = prosody::shape(pattern).len() > 1 && prosody::shape(pattern) != prosody::shape(upper);
    if given.len() != wanted || other_shape {
        let found = given.len();
        let free = free_pattern(plan);
        return Err(Error::input(format!(
            "the pattern \"{pattern}\" has {found} places in {} clause(s), the line has {wanted} in {}",
            prosody::shape(pattern).len(),
            prosody::shape(upper).len(),
        ))
        .hint(format!("one sign for each character of the first line, `-` where it is free: \"{free}\""))
        .hint_zh(format!("每个字一个符号，不限定处写 `-`：\"{free}\"")));
    }
    let classes: Vec<usize> = plan.slots.iter().filter_map(class_of).collect();
    for (at, (c, class)) in given.into_iter().zip(classes).enumerate() {
        if !matches!(c, '-' | '－') {
            put(plan, class, c).map_err(|(en, zh)| against(pattern, at, c, en, &zh))?;
        }
    }
    possible(plan, pattern)
}

fn class_of(slot: &Slot) -> Option<usize> {
    match slot {
        Slot::Character(class) => Some(*class),
        Slot::Break(_) => None,
    }
}

fn free_pattern(plan: &Plan) -> String {
    let sign = |slot: &Slot| match slot {
        Slot::Break(mark) => *mark,
        Slot::Character(_) => '-',
    };
    plan.slots.iter().map(sign).collect()
}

/// Fixes a class, or says why it cannot be so.
fn put(plan: &mut Plan, class: usize, c: char) -> Result<(), (String, String)> {
    let no = |en: &str, zh: &str| Err((en.to_owned(), zh.to_owned()));
    if !is_writable(c) {
        return no("is not a Chinese character", "不是汉字");
    }
    if plan.avoided.contains(&c) {
        return no("stands in the first line", "已见于上联");
    }
    if let Some(other) = plan.classes[class].fixed.filter(|other| *other != c) {
        return Err((
            format!("must be 「{other}」 again, because the first line repeats a character there"),
            format!("应与「{other}」同字，因上联此处重字"),
        ));
    }
    let elsewhere = plan.classes.iter().enumerate().any(|(i, other)| i != class && other.fixed == Some(c));
    if plan.distinct && elsewhere {
        return no("stands twice where the first line repeats nothing", "重复出现，而上联此处不重字");
    }
    plan.classes[class].fixed = Some(c);
    Ok(())
}

/// Whether the given characters can stand together in some system; those in which they cannot are left out.
fn possible(plan: &mut Plan, pattern: &str) -> Result<()> {
    let fixed = |plan: &Plan| -> Vec<(usize, char)> {
        plan.classes.iter().enumerate().filter_map(|(i, class)| Some((i, class.fixed?))).collect()
    };
    let mut systems = plan.systems;
    for (class, c) in fixed(plan) {
        let fits = |i: usize| plan.classes[class].wanted[i] >> sound(c) & 1 == 1;
        let left = (0..2).filter(|i| systems >> i & 1 == 1 && fits(*i)).map(|i| 1 << i).sum();
        if left == 0 {
            let at = plan.slots.iter().filter_map(class_of).position(|other| other == class).unwrap_or(0);
            let (en, zh) = tone_reason(systems);
            return Err(against(pattern, at, c, en, &zh));
        }
        systems = left;
    }
    let tails_kept = State::start(plan).tails_of_fixed(plan, systems);
    if tails_kept == 0 {
        return Err(Error::input(format!("the pattern \"{pattern}\" ends a clause in three equal tones"))
            .hint("free one of its last three characters, or use rules=shape")
            .hint_zh("末三字同声；请将其中一字改为 `-`，或用 rules=shape"));
    }
    plan.systems = tails_kept;
    Ok(())
}

fn tone_reason(systems: u8) -> (String, String) {
    let names = |chinese| {
        let alive = System::ALL.into_iter().enumerate().filter(|(i, _)| systems >> i & 1 == 1);
        alive.map(|(_, system)| system.name(chinese)).collect::<Vec<_>>()
    };
    (
        format!("has the wrong tone there ({})", names(false).join(" and ")),
        format!("此处平仄不合（{}）", names(true).join("、")),
    )
}

fn against(pattern: &str, at: usize, c: char, en: String, zh: &str) -> Error {
    Error::input(format!("the pattern \"{pattern}\": character {} 「{c}」 {en}", at + 1))
        .hint("give another character or `-` there, or use rules=shape")
        .hint_zh(format!("第{}字「{c}」{zh}；请换字或写 `-`，或用 rules=shape", at + 1))
}

#[cfg(test)]
mod tests {
    use super::super::Rules;
    use super::*;

    #[test]
    fn a_pattern_fixes_characters_or_says_what_is_wrong() {
        use Rules::{Shape, Strict};
        for (upper, pattern, rules, want, why) in [
            ("白日依山尽", "-河-海流", Strict, None, "fits"),
            ("白日依山尽", "－－－－流", Strict, None, "full width"),
            ("白日，依山尽", "-河-海流", Strict, None, "the break is left out"),
            ("白日，依山尽", "-河，-海流", Strict, None, "or written"),
            ("白日，依山尽", "-河-，海流", Strict, Some("has 5 places in 2 clause(s)"), "at another place"),
            ("白日依山尽", "-河-海", Strict, Some("has 4 places in 1 clause(s), the line has 5"), "too short"),
            ("白日依山尽", "-A---", Shape, Some("character 2 「A」 is not a Chinese character"), "a letter"),
            ("白日依山尽", "-水----", Shape, Some("has 6 places"), "too long"),
            ("白日依山尽", "-树---", Strict, Some("character 2 「树」 has the wrong tone there"), "日 and 树 are 仄"),
            ("白日依山尽", "-树---", Shape, None, "shape knows no tones"),
            ("白日依山尽", "山----", Strict, Some("character 1 「山」 stands in the first line"), "shared"),
            ("山山水水尽", "明暗---", Strict, Some("character 2 「暗」 must be 「明」 again"), "not mirrored"),
            ("白日依山尽", "花-花--", Strict, Some("character 3 「花」 stands twice"), "a new repeat"),
            ("白日依水尽", "--天天天", Strict, Some("stands twice"), "and no three of them"),
            ("白日依水尽", "--天高天", Strict, Some("stands twice"), "told before the tail"),
            ("白日依水尽", "--天高山", Strict, Some("three equal tones"), "三平尾"),
        ] {
            let got = Plan::new(upper, rules, Some(pattern));
            match (got, want) {
                (Ok(_), None) => {}
                (Err(err), Some(want)) => {
                    assert!(err.to_string().contains(want), "{why}: {err}");
                    assert!(err.hint_text(false).is_some() && err.hint_text(true).is_some(), "{why}");
                }
                (got, _) => panic!("{why}: {:?}", got.map(|_| ()).map_err(|err| err.to_string())),
            }
        }
    }
}
