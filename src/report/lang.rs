//! Which language the user reads, and numbers as he reads them.

/// The language of everything printed; file formats have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lang {
    /// English.
    En,
    /// Chinese (simplified).
    Zh,
}

impl Lang {
    /// From the environment: `COUPLET_TRAIN_LANG`, then the locale as POSIX orders it. The first one set decides.
    pub fn detect(env: impl Fn(&str) -> Option<String>) -> Self {
        let names = ["COUPLET_TRAIN_LANG", "LC_ALL", "LC_MESSAGES", "LANG"];
        let locale = names.into_iter().find_map(|name| env(name).filter(|value| !value.is_empty()));
        match locale {
            Some(value) if value.to_ascii_lowercase().starts_with("zh") => Self::Zh,
            _ => Self::En,
        }
    }

    /// The one of two texts that is in this language.
    pub fn pick<'a>(self, en: &'a str, zh: &'a str) -> &'a str {
        match self {
            Self::En => en,
            Self::Zh => zh,
        }
    }

    /// Seconds as he reads them: [`duration`], in Chinese with `天` for days.
    pub fn duration(self, seconds: f64) -> String {
        match (self, duration(seconds).split_once(", ")) {
            (Self::Zh, Some((days, clock))) => {
                format!("{} 天 {clock}", days.split(' ').next().unwrap_or_default())
            }
            _ => duration(seconds),
        }
    }

    /// `1 step`, `2 steps`: a number and what it counts, with its plural in English and its measure word in Chinese.
    pub fn count(self, n: usize, one: &str, zh: &str) -> String {
        match self {
            Self::En => format!("{n} {one}{}", if n == 1 { "" } else { "s" }),
            Self::Zh => format!("{n} {zh}"),
        }
    }
}

/// Seconds as `H:MM:SS`, from a day on `1 day, H:MM:SS`: the text of Python's `timedelta` with whole seconds.
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64; // NaN becomes 0
    let clock = format!("{}:{:02}:{:02}", s / 3600 % 24, s / 60 % 60, s % 60);
    match s / 86_400 {
        0 => clock,
        1 => format!("1 day, {clock}"),
        days => format!("{days} days, {clock}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_variable_set_decides() {
        for (env, want, why) in [
            (&[][..], Lang::En, "nothing set"),
            (&[("LANG", "zh_CN.UTF-8")], Lang::Zh, "the usual place"),
            (&[("LANG", "zh_CN.UTF-8"), ("LC_ALL", "C")], Lang::En, "LC_ALL wins over LANG"),
            (&[("LANG", "zh_CN.UTF-8"), ("LC_ALL", "")], Lang::Zh, "an empty one is not set"),
            (&[("LC_MESSAGES", "ZH"), ("LANG", "de_DE")], Lang::Zh, "before LANG, in any case"),
            (&[("LC_ALL", "zh_TW"), ("COUPLET_TRAIN_LANG", "en")], Lang::En, "our own wins over all"),
        ] {
            let lookup = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
            assert_eq!(Lang::detect(lookup), want, "{why}");
        }
    }

    #[test]
    fn counts_and_days_are_said_in_the_readers_language() {
        for (lang, days, steps) in
            [(Lang::En, "2 days, 7:33:20", ["1 step", "2 steps"]), (Lang::Zh, "2 天 7:33:20", ["1 步", "2 步"])]
        {
            assert_eq!(lang.duration(200_000.0), days);
            assert_eq!(lang.duration(59.9), "0:00:59", "a clock needs no words");
            assert_eq!([1, 2].map(|n| lang.count(n, "step", "步")), steps);
        }
    }

    #[test]
    fn durations_read_as_pythons_timedelta() {
        for (seconds, want) in [
            (0.0, "0:00:00"),
            (59.99, "0:00:59"),
            (3661.0, "1:01:01"),
            (86_400.0, "1 day, 0:00:00"),
            (200_000.0, "2 days, 7:33:20"),
            (-1.0, "0:00:00"),
            (f64::NAN, "0:00:00"),
        ] {
            assert_eq!(duration(seconds), want);
        }
    }
}
