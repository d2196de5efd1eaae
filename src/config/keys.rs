//! Looking keys up in the table: by name, by an older spelling, or by what was probably meant.

use super::sections::Dialect;
use super::table::{Absent, Answer, Command, Key, RENAMED, Read, TABLE};

/// Every key, group by group.
pub fn all() -> impl Iterator<Item = &'static Key> {
    TABLE.iter().flat_map(|(_, keys)| keys.iter())
}

/// The key of a name; older spellings are found under their present one.
pub fn find(name: &str) -> Option<&'static Key> {
    let name = present_name(name);
    all().find(|key| key.name == name)
}

/// The spelling in use for a name that Hugging Face has renamed.
pub fn present_name(name: &str) -> &str {
    RENAMED.iter().find(|(old, _)| *old == name).map_or(name, |(_, new)| new)
}

/// How training reads the key of this name, which must be one that it reads.
pub fn read(name: &str) -> &'static Read {
    find(name).and_then(|key| key.read_by(Command::Train)).expect("only keys that are read are asked for")
}

/// The known name closest to a misspelt one, if any is close. One that is not read must be closer to be what was meant.
pub fn nearest(name: &str) -> Option<&'static str> {
    let (read, rest): (Vec<&Key>, Vec<&Key>) = all().partition(|key| matches!(key.answer, Answer::Read(_)));
    let read = || read.iter().map(|key| key.name);
    let near = closest(name, read().chain(rest.iter().map(|key| key.name)))?;
    let is_meant = read().any(|name| name == near) || strsim::damerau_levenshtein(name, near) <= 2;
    if is_meant { Some(near) } else { closest(name, read()) }
}

/// Bytes of a word that may be a slip of another; comparing takes time with the square of it.
const LONGEST_SLIP: usize = 100;

/// The candidate closest to `word`, if it is close enough to be what was meant.
pub fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST_SLIP {
        return None;
    }
    let word = word.to_lowercase();
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (1 + candidate.len().min(word.len()) / 4).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

impl Absent {
    /// The default in a dialect, as YAML.
    pub fn of(self, dialect: Dialect) -> Option<&'static str> {
        match (self, dialect) {
            (Self::Same(text), _) => Some(text),
            (Self::By { llamafactory, .. }, Dialect::LlamaFactory) => llamafactory,
            (Self::By { toml, .. }, Dialect::Toml) => toml,
            (Self::Required | Self::Unset, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        table::{OURS, V1},
        value::{Value, scalar},
    };
    use std::collections::{BTreeMap, HashSet};

    type Arguments = BTreeMap<String, serde_json::Value>;

    /// LlamaFactory's own list, by class.
    fn arguments() -> BTreeMap<String, serde_json::Value> {
        serde_json::from_str(include_str!("../../tests/fixtures/keys/arguments.json")).unwrap()
    }

    fn of_llamafactory() -> Arguments {
        let classes = arguments().into_values().filter_map(|class| class.as_object().cloned());
        classes.flatten().collect()
    }

    fn names(list: &str) -> Vec<String> {
        serde_json::from_value(arguments()[list].clone()).unwrap()
    }

    #[test]
    fn each_key_stands_once_and_says_what_it_is() {
        let mut seen = HashSet::new();
        for name in all().map(|key| key.name).chain(RENAMED.iter().map(|(old, _)| *old)) {
            assert!(seen.insert(name), "{name} stands twice");
            assert!(find(name).is_some(), "{name} is found");
        }
        for key in all() {
            assert!(
                key.about.en.is_ascii() || key.about.en.contains(['β', 'ε', '√', '×', 'Σ', '−', '下', '上']),
                "{}",
                key.name
            );
            assert!(!key.about.en.is_empty() && !key.about.zh.is_ascii(), "{}", key.name);
            assert!(!key.about.en.ends_with('.') && !key.about.zh.ends_with('。'), "{}: half a sentence", key.name);
        }
    }

    #[test]
    fn every_argument_of_llamafactory_has_an_answer_and_nothing_else_does() {
        let theirs = of_llamafactory();
        assert!(theirs.len() > 340, "{}", theirs.len());
        for name in theirs.keys().chain(&names("older")) {
            assert!(find(name).is_some(), "{name} is in no group of the table");
        }
        for name in names("v1") {
            assert!(V1.iter().any(|(v1, _)| *v1 == name) && find(&name).is_none(), "{name} of the v1 dialect");
        }
        let older = names("older");
        for key in all().filter(|key| !theirs.contains_key(key.name) && !older.iter().any(|name| name == key.name)) {
            assert!(key.is_ours(), "{} is no argument of LlamaFactory", key.name);
        }
        assert!(OURS.iter().all(|name| find(name).is_some() && !theirs.contains_key(*name)));
    }

    /// Ours where nothing is said: they differ in words only, or the key means more here.
    const OTHER_DEFAULT: &[(&str, &str)] = &[
        ("optim", "both are AdamW"),
        ("gradient_checkpointing", "LlamaFactory's switch is disable_gradient_checkpointing"),
        ("metric_for_best_model", "Hugging Face fills it in"),
        ("do_train", "told from do_eval and do_predict"),
        ("do_eval", "told from the held-out rows"),
        ("do_predict", "told from do_train"),
        ("predict_with_generate", "not said"),
        ("max_steps", "no limit, which is -1 there"),
        ("warmup_ratio", "no warmup, which is null there"),
        ("output_dir", "must be given"),
        ("do_sample", "not in `evaluate`, nor on the command line"),
        ("max_new_tokens", "less on the command line"),
    ];

    #[test]
    fn defaults_of_the_dialect_are_llamafactorys() {
        for (name, theirs) in of_llamafactory() {
            let Answer::Read(read) = find(&name).unwrap().answer else { continue };
            if OTHER_DEFAULT.iter().any(|(other, _)| *other == name) {
                continue;
            }
            let ours =
                read.default.of(Dialect::LlamaFactory).map_or(Value::Null, |text| read.kind.loosen(scalar(text)));
            let theirs = match &theirs {
                serde_json::Value::Null => Value::Null,
                serde_json::Value::String(word) => read.kind.loosen(scalar(word)),
                other => read.kind.loosen(scalar(&other.to_string())),
            };
            assert!(ours.same(&theirs), "{name}: {ours} here, {theirs} there");
        }
    }

    #[test]
    fn each_default_fits_its_kind() {
        for key in all() {
            let Answer::Read(read) = key.answer else { continue };
            for dialect in [Dialect::LlamaFactory, Dialect::Toml] {
                let Some(text) = read.default.of(dialect) else { continue };
                assert!(read.kind.admits(&read.kind.loosen(scalar(text))), "{}: default {text}", key.name);
            }
        }
    }

    #[test]
    fn a_refused_keys_default_is_off() {
        for (name, theirs) in of_llamafactory() {
            let Answer::Refused(off) = find(&name).unwrap().answer else { continue };
            let theirs = match &theirs {
                serde_json::Value::String(word) => Value::Text(word.clone()),
                other => scalar(&other.to_string()),
            };
            let is_off = theirs == Value::Null || off.iter().any(|off| scalar(off).same(&theirs));
            assert!(is_off, "{name}: its default {theirs} would be refused");
        }
    }

    #[test]
    fn a_typo_finds_its_key() {
        for (given, want, why) in [
            ("lora_rnak", Some("lora_rank"), "two letters swapped"),
            ("learning_rat", Some("learning_rate"), "a letter missing"),
            ("Lora_Alpha", Some("lora_alpha"), "capitals"),
            ("num_epochs", None, "too far from anything"),
            ("lr", None, "short words are close to nothing"),
            ("per_device_batch_size", None, "could be two keys"),
        ] {
            assert_eq!(nearest(given), want, "{given}: {why}");
        }
    }

    #[test]
    fn old_spellings_are_known() {
        assert_eq!(find("evaluation_strategy"), find("eval_strategy"));
        assert_eq!(find("nonsense"), None);
    }
}
