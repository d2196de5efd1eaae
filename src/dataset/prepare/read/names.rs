//! What people call the columns of 上联 and 下联.

/// Pairs of names, the surest first. Compared without regard to case.
const KNOWN: [[&str; 2]; 22] = [
    ["上联", "下联"],
    ["上聯", "下聯"],
    ["出句", "对句"],
    ["上句", "下句"],
    ["出联", "对联"],
    ["upper", "lower"],
    ["first", "second"],
    ["first_line", "second_line"],
    ["shanglian", "xialian"],
    ["shang", "xia"],
    ["up", "down"],
    ["input", "output"],
    ["instruction", "output"],
    ["question", "answer"],
    ["prompt", "response"],
    ["prompt", "completion"],
    ["query", "response"],
    ["source", "target"],
    ["src", "tgt"],
    ["in", "out"],
    ["left", "right"],
    ["a", "b"],
];

/// The columns of 上联 and 下联 among `names`, as indices.
pub(super) fn known<S: AsRef<str>>(names: &[S]) -> Option<[usize; 2]> {
    let at = |wanted: &str| names.iter().position(|name| name.as_ref().trim().eq_ignore_ascii_case(wanted));
    KNOWN.iter().find_map(|[upper, lower]| Some([at(upper)?, at(lower)?]))
}

#[cfg(test)]
mod tests {
    use super::known;

    #[test]
    fn the_surest_names_win() {
        for (names, want, why) in [
            (&["下联", "上联"][..], Some([1, 0]), "in any order"),
            (&["instruction", "input", "output"], Some([1, 2]), "Alpaca"),
            (&["Input", "OUTPUT "], Some([0, 1]), "in any case"),
            (&["input", "上联", "下联", "output"], Some([1, 2]), "the surest"),
            (&["上联", "x"], None, "one alone"),
            (&[], None, "none"),
        ] {
            assert_eq!(known(names), want, "{why}");
        }
    }
}
