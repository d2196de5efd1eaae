//! The characters a line may be written with, and what is known of them by their first bytes.

use crate::prosody::{System, Tone, is_break, tone};
use std::{collections::HashMap, sync::LazyLock};

/// A set of sounds: bit `s` stands for the characters whose [`sound`] is `s`.
pub type Sounds = u16;

/// Every sound.
pub const ANY: Sounds = u16::MAX;

/// What 平 sounds like beyond doubt: certain in one system, possible in the other. The tables count every reading that a
/// dictionary has, so a line could end in 去 or 不, which nobody reads as 平. Certain in both would be too much: 年 and 家 have a
/// rare second reading in modern speech, 花 and 三 in 平水.
pub const SURELY_LEVEL: Sounds = 1 << (LEVEL | LEVEL << 2) | 1 << (LEVEL | EITHER << 2) | 1 << (EITHER | LEVEL << 2);
const LEVEL: usize = Tone::Level as usize;
const EITHER: usize = Tone::Both as usize;

/// The tones of a character in both systems as one number below 16. 0: in neither table.
pub fn sound(c: char) -> usize {
    tone(c, System::Pingshui) as usize | (tone(c, System::Modern) as usize) << 2
}

/// The tone in `system` of a character that sounds like `sound`.
pub fn tone_of(sound: usize, system: System) -> Tone {
    let bits = match system {
        System::Pingshui => sound & 3,
        System::Modern => sound >> 2,
    };
    [Tone::Unknown, Tone::Level, Tone::Oblique, Tone::Both][bits]
}

/// Whether a line may be written with `c`: some table knows its tone, and normalisation (NFC) leaves it alone.
pub fn contains(c: char) -> bool {
    sound(c) != 0 && !is_break(c) && !('\u{f900}'..='\u{faff}').contains(&c)
}

/// All of them, in the order of their code points.
pub fn characters() -> impl Iterator<Item = char> {
    ('\u{3000}'..='\u{2ffff}').filter(|c| contains(*c))
}

/// How many characters of each sound begin with `bytes`, which are fewer than a whole character. `None`: none at all.
pub fn beginning_with(bytes: &[u8]) -> Option<&'static [u16; 16]> {
    BY_FIRST_BYTES.get(bytes)
}

static BY_FIRST_BYTES: LazyLock<HashMap<Vec<u8>, [u16; 16]>> = LazyLock::new(|| {
    let mut counts: HashMap<Vec<u8>, [u16; 16]> = HashMap::new();
    for c in characters() {
        let mut buffer = [0; 4];
        let bytes = c.encode_utf8(&mut buffer).as_bytes();
        for len in 1..bytes.len() {
            counts.entry(bytes[..len].to_vec()).or_default()[sound(c)] += 1;
        }
    }
    counts
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sounds_are_both_tones() {
        for c in "竹天地看这国〇".chars() {
            for system in System::ALL {
                assert_eq!(tone_of(sound(c), system), tone(c, system), "{c}");
            }
        }
        assert!(contains('山') && !contains('A') && !contains('，') && !contains('\u{f900}'));
    }

    #[test]
    fn nobody_doubts_these_ends() {
        for (c, want) in [('天', true), ('年', true), ('家', true), ('花', true), ('三', true)]
            .into_iter()
            .chain("去不看地国竹这".chars().map(|c| (c, false)))
        {
            assert_eq!(SURELY_LEVEL >> sound(c) & 1 == 1, want, "{c}");
        }
    }

    #[test]
    fn first_bytes_count_what_a_scan_finds() {
        for prefix in [&[0xe5][..], &[0xe6, 0xb2], &[0xf0], &[0xf0, 0xa0], &[0xf0, 0xa0, 0x80]] {
            let mut slow = [0u16; 16];
            characters().filter(|c| c.to_string().as_bytes().starts_with(prefix)).for_each(|c| slow[sound(c)] += 1);
            assert_eq!(beginning_with(prefix).copied().unwrap_or_default(), slow, "{prefix:x?}");
        }
        assert!(beginning_with(b"a").is_none() && beginning_with(&[0xe6, 0xb2, 0xb3]).is_none());
    }

    /// What makes every demand satisfiable, however many characters are in use already: see [`super::super::Plan`].
    #[test]
    fn even_the_strictest_demand_leaves_more_characters_than_can_be_in_use() {
        let mut counts = [0; 16];
        characters().for_each(|c| counts[sound(c)] += 1);
        let heard_as_neither = |tone| matches!(tone, Tone::Both | Tone::Unknown);
        for system in System::ALL {
            let fits = |s: &usize| tone_of(*s, system) == Tone::Both && heard_as_neither(tone_of(*s, System::Pingshui));
            let n: i32 = (0..16).filter(fits).map(|s| counts[s]).sum();
            assert!(n > 300, "{system:?}: {n}");
        }
        for s in (0..16).filter(|s| SURELY_LEVEL >> s & 1 == 1) {
            assert!(counts[s] > 300, "a preferred sound is never asked for in vain: {s} {}", counts[s]);
        }
    }
}
