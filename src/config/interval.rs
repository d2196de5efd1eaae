//! How often: a number of optimizer steps, or a share of all of them.

use serde::Serialize;
use std::fmt;

/// `logging_steps`, `eval_steps` and `save_steps`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Interval {
    /// Every so many steps, at least 1.
    Steps(usize),
    /// Every such share of all steps, above 0 and below 1.
    Share(f64),
}

impl Interval {
    /// In steps of a run that has `total`: a share is rounded up, as the Hugging Face trainer does.
    pub fn of(self, total: usize) -> usize {
        match self {
            Self::Steps(steps) => steps,
            Self::Share(share) => ((total as f64 * share).ceil() as usize).max(1),
        }
    }

    /// Whether it is a multiple of `other`, whatever the run's length; `None`: that depends on it. Shares are compared to
    /// six digits, as the Hugging Face trainer does.
    pub fn is_multiple_of(self, other: Self) -> Option<bool> {
        const DIGITS: f64 = 1e6;
        match (self, other) {
            (Self::Steps(this), Self::Steps(other)) => Some(this.is_multiple_of(other)),
            (Self::Share(this), Self::Share(other)) => Some((this * DIGITS) % (other * DIGITS) == 0.0),
            _ => None,
        }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => steps.fmt(f),
            Self::Share(share) => share.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_all_steps_is_rounded_up() {
        for (interval, total, want, why) in [
            (Interval::Steps(7), 100, 7, "a number stays"),
            (Interval::Share(0.1), 100, 10, "even"),
            (Interval::Share(0.1), 27, 3, "2.7"),
            (Interval::Share(0.07), 100, 8, "as the floating-point product rounds: 7.000000000000001"),
            (Interval::Share(0.001), 27, 1, "never 0"),
            (Interval::Share(0.5), 0, 1, "a run without steps"),
        ] {
            assert_eq!(interval.of(total), want, "{why}");
        }
    }

    #[test]
    fn multiples_are_of_the_same_kind() {
        for (this, other, want) in [
            (Interval::Steps(6), Interval::Steps(3), Some(true)),
            (Interval::Steps(6), Interval::Steps(4), Some(false)),
            (Interval::Share(0.3), Interval::Share(0.1), Some(true)),
            (Interval::Share(0.3), Interval::Share(0.2), Some(false)),
            (Interval::Share(0.5), Interval::Steps(1), None),
        ] {
            assert_eq!(this.is_multiple_of(other), want, "{this} {other}");
        }
    }
}
