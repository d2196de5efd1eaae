//! 繁体 → 简体, as OpenCC's `t2s` has it: phrases first (乾坤 stays, 乾燥 becomes 干燥), then single characters.
//!
//! Unlike there no character leaves the basic plane: for some rare ones the simplified form would be known to no font and no tokenizer.

use super::words::Words;
use std::sync::LazyLock;

/// The text in simplified characters; what has no simplified form stays.
pub(super) fn simplify(text: &str) -> String {
    SIMPLIFIED.pieces(text).map(|(piece, simplified)| simplified.unwrap_or(piece)).collect()
}

/// Pairs of characters up to the empty line, then phrases, each followed by what it becomes.
static SIMPLIFIED: LazyLock<Words<&'static str>> = LazyLock::new(|| {
    let (characters, phrases) =
        include_str!("tables/simplified.txt").split_once("\n\n").expect("the table has an empty line");
    // All of the basic plane beyond U+07FF: three bytes each.
    let pairs = characters
        .lines()
        .flat_map(|line| (0..line.len()).step_by(6).map(|at| (&line[at..at + 3], &line[at + 3..at + 6])));
    Words::new(pairs.chain(phrases.lines().map(|line| line.split_at(line.len() / 2))))
});

#[cfg(test)]
mod tests {
    use super::*;

    /// Second of each pair: what OpenCC 1.4.2 makes of it.
    #[test]
    fn it_simplifies_as_opencc() {
        for (traditional, want) in [
            ("國泰民安風調雨順", "国泰民安风调雨顺"),
            ("萬里長城穿地脈", "万里长城穿地脉"),
            ("乾坤一擲乾燥乾隆", "乾坤一掷干燥乾隆"),
            ("後來居上皇后", "后来居上皇后"),
            ("於乎徵調宮商角徵羽", "於乎徵调宫商角徵羽"),
            ("酒逢知己千鍾少，藉口慰藉", "酒逢知己千锺少，借口慰藉"),
            ("頭髮發財麵粉面子", "头发发财面粉面子"),
            ("老態龍鍾瞭望瞭然", "老态龙钟瞭望了然"),
            ("海内存知己", "海内存知己"),
            ("abc，", "abc，"),
            ("", ""),
        ] {
            assert_eq!(simplify(traditional), want, "{traditional}");
        }
    }

    #[test]
    fn the_whole_table_is_read() {
        let traditional: String = include_str!("../../prosody/tables/traditional.txt").split_whitespace().collect();
        let changed = traditional.chars().filter(|c| simplify(&c.to_string()) != c.to_string()).count();
        assert_eq!(
            (traditional.chars().count(), changed),
            (2501, 2237),
            "the others have no simplified form in the basic plane"
        );
        assert_eq!(simplify(&traditional).chars().filter(|c| *c as u32 > 0xffff).count(), 0);
    }
}
