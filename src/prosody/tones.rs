//! The tone of a character: 平 or 仄, by 平水韵 or by modern Putonghua.

use serde::Serialize;
use std::{collections::HashSet, sync::LazyLock};

/// Which readings count. A couplet may follow either, but one of them throughout (联律通则, article 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// 平水韵: the tones of classical verse, where 入声 is 仄.
    Pingshui,
    /// Putonghua: first and second tone 平, third and fourth 仄; any reading a dictionary has.
    Modern,
}

impl System {
    /// Both, the classical one first.
    pub const ALL: [Self; 2] = [Self::Pingshui, Self::Modern];

    /// What the system is called, in Chinese or English.
    pub fn name(self, chinese: bool) -> &'static str {
        match (self, chinese) {
            (Self::Pingshui, true) => "平水",
            (Self::Pingshui, false) => "Pingshui",
            (Self::Modern, true) => "新韵",
            (Self::Modern, false) => "modern",
        }
    }
}

/// What is known about the tone of a character: a set of readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Tone {
    /// Not in the tables. It says nothing, for or against.
    Unknown = 0,
    /// 平.
    Level = 1,
    /// 仄.
    Oblique = 2,
    /// Read either way (看, 过, 中): it may stand wherever one of them is asked for.
    Both = 3,
}

impl Tone {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Unknown,
            1 => Self::Level,
            2 => Self::Oblique,
            _ => Self::Both,
        }
    }

    /// Whether `wanted` (one of the two tones) is among the readings. An unknown tone is neither.
    pub fn may_be(self, wanted: Self) -> bool {
        self as u8 & wanted as u8 != 0
    }

    /// Whether a character of this tone may face one of `other`: `None` where either is unknown.
    pub fn opposes(self, other: Self) -> Option<bool> {
        match (self, other) {
            (Self::Unknown, _) | (_, Self::Unknown) => None,
            _ => Some(self != other || self == Self::Both),
        }
    }

    /// The tone that must face this one; `None` where any may.
    pub fn opposite(self) -> Option<Self> {
        match self {
            Self::Level => Some(Self::Oblique),
            Self::Oblique => Some(Self::Level),
            Self::Both | Self::Unknown => None,
        }
    }

    /// Whether a character of this tone may stand where [`super::demands`] asks for `demand`.
    pub fn satisfies(self, demand: Option<Self>) -> bool {
        demand.is_none_or(|wanted| self.may_be(wanted))
    }

    /// 平 or 仄 where the tone is certain.
    pub fn name(self) -> &'static str {
        match self {
            Self::Level => "平",
            Self::Oblique => "仄",
            Self::Both => "平/仄",
            Self::Unknown => "?",
        }
    }
}

/// The tone of a character in one system. A look-up in a table: no allocation.
pub fn tone(character: char, system: System) -> Tone {
    let bits = TONES.get(character as usize).copied().unwrap_or(0);
    Tone::from_bits(match system {
        System::Pingshui => bits,
        System::Modern => bits >> 2,
    })
}

/// Whether a character is written so only in traditional script (繁体).
pub fn is_traditional(character: char) -> bool {
    TRADITIONAL.contains(&character)
}

/// By code point: two bits of 平水, then two of modern. 180 KB, filled at the first question.
static TONES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let bits = |letter: u8| match letter {
        b'P' => 1,
        b'Z' => 2,
        b'B' => 3,
        _ => 0,
    };
    let mut table = vec![];
    for line in include_str!("tables/tones.txt").lines() {
        let (class, characters) = line.split_once('\t').expect("each line of the table has a tab");
        let tones = bits(class.as_bytes()[0]) | bits(class.as_bytes()[1]) << 2;
        for at in characters.chars().map(|c| c as usize) {
            if table.len() <= at {
                table.resize(at + 1, 0);
            }
            table[at] = tones;
        }
    }
    table
});

static TRADITIONAL: LazyLock<HashSet<char>> =
    LazyLock::new(|| include_str!("tables/traditional.txt").chars().filter(|c| !c.is_whitespace()).collect());

#[cfg(test)]
mod tests {
    use super::*;
    use Tone::{Both, Level, Oblique, Unknown};

    #[test]
    fn characters_have_their_tones() {
        for (character, pingshui, modern, why) in [
            ('天', Level, Level, "平 in both"),
            ('地', Oblique, Oblique, "仄 in both"),
            ('竹', Oblique, Level, "入声: 仄 then, 平 now"),
            ('国', Oblique, Level, "as well"),
            ('看', Both, Both, "read either way"),
            ('这', Unknown, Oblique, "a late character"),
            ('A', Unknown, Unknown, "no character at all"),
            ('𫓧', tone('𫓧', System::Pingshui), tone('𫓧', System::Modern), "beyond the basic plane: no panic"),
        ] {
            let got = (tone(character, System::Pingshui), tone(character, System::Modern));
            assert_eq!(got, (pingshui, modern), "{character}: {why}");
        }
    }

    #[test]
    fn the_whole_table_is_read() {
        let known = TONES.iter().filter(|bits| **bits != 0).count();
        assert_eq!(known, 21_031);
        assert_eq!(TRADITIONAL.len(), 2_501);
    }

    #[test]
    fn opposition() {
        for (upper, lower, want) in [
            (Level, Oblique, Some(true)),
            (Oblique, Oblique, Some(false)),
            (Level, Level, Some(false)),
            (Both, Both, Some(true)),
            (Level, Both, Some(true)),
            (Both, Oblique, Some(true)),
            (Unknown, Level, None),
            (Level, Unknown, None),
        ] {
            assert_eq!(upper.opposes(lower), want, "{upper:?} {lower:?}");
            assert_eq!(lower.opposes(upper), want, "opposition has no direction");
        }
        assert!(Level.satisfies(None) && Both.satisfies(Some(Level)) && !Unknown.satisfies(Some(Level)));
    }

    #[test]
    fn traditional_characters_are_noticed() {
        for (character, want) in [('風', true), ('风', false), ('國', true), ('山', false), ('学', false)] {
            assert_eq!(is_traditional(character), want, "{character}");
        }
    }
}
