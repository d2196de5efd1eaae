//! How the console looks: chosen by flags and by the environment, once.

use super::lang::Lang;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A bar on a terminal, lines elsewhere.
    Auto,
    /// A line per log entry.
    Plain,
    /// Neither; evaluations are still told.
    None,
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only (`-q`).
    Quiet,
    /// The usual.
    Normal,
    /// Gradient norms, tokens per second and details as well (`-v`).
    Verbose,
}

/// How the console looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Language of everything said.
    pub lang: Lang,
    /// Bar, lines or nothing.
    pub progress: Progress,
    /// How much.
    pub verbosity: Verbosity,
    /// Whether the writer is a terminal that can move its cursor.
    pub terminal: bool,
    /// Whether words may be coloured; colour never carries a meaning of its own.
    pub color: bool,
}

impl Look {
    /// From the environment: language, `TERM=dumb`, `NO_COLOR` (any value but an empty one).
    pub fn detect(is_terminal: bool, env: impl Fn(&str) -> Option<String>) -> Self {
        let terminal = is_terminal && env("TERM").as_deref() != Some("dumb");
        let color = terminal && env("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { lang: Lang::detect(env), progress: Progress::Auto, verbosity: Verbosity::Normal, terminal, color }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_decides_about_colour() {
        for (is_terminal, env, terminal, color, why) in [
            (true, None, true, true, "a terminal"),
            (false, None, false, false, "a pipe"),
            (true, Some(("NO_COLOR", "1")), true, false, "colour is not wanted"),
            (true, Some(("NO_COLOR", "")), true, true, "an empty NO_COLOR does not count"),
            (true, Some(("TERM", "dumb")), false, false, "a terminal that cannot"),
        ] {
            let lookup = |name: &str| env.filter(|(n, _)| *n == name).map(|(_, v): (_, &str)| v.to_owned());
            let look = Look::detect(is_terminal, lookup);
            assert_eq!((look.terminal, look.color), (terminal, color), "{why}");
        }
    }
}
