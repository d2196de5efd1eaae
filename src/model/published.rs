//! The dense Qwen3 models by name: their geometry, as their published config.json files have it, for plans without a model.

use super::Qwen3Config;

/// Sizes, the smallest first.
pub const SIZES: [&str; 6] = ["0.6B", "1.7B", "4B", "8B", "14B", "32B"];

/// The geometry of a size.
pub fn of_size(size: &str) -> Option<Qwen3Config> {
    // D, F, blocks, H, and whether the head is the embedding.
    let (hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, tied) = match size {
        "0.6B" => (1024, 3072, 28, 16, true),
        "1.7B" => (2048, 6144, 28, 16, true),
        "4B" => (2560, 9728, 36, 32, true),
        "8B" => (4096, 12_288, 36, 32, false),
        "14B" => (5120, 17_408, 40, 40, false),
        "32B" => (5120, 25_600, 64, 64, false),
        _ => return None,
    };
    Some(Qwen3Config {
        vocab_size: 151_936,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: 8,
        head_dim: 128,
        rms_norm_eps: 1e-6,
        rope_theta: 1e6,
        tie_word_embeddings: tied,
        max_position_embeddings: 40_960,
        torch_dtype: None,
    })
}

/// The geometry of a model by the name it is published under, whoever keeps the copy: `Qwen/Qwen3-14B`, `Qwen3-4B-Instruct-2507`.
/// `None`: none of these, or one of experts or of another precision.
pub fn named(name: &str) -> Option<Qwen3Config> {
    let name = name.rsplit(['/', '\\']).next()?.to_ascii_lowercase();
    let mut parts = name.split('-');
    if parts.next() != Some("qwen3") {
        return None;
    }
    let size = parts.next()?;
    let known = |part: &str| matches!(part, "base" | "instruct" | "thinking" | "2507");
    if !parts.all(known) {
        return None;
    }
    of_size(SIZES.into_iter().find(|known| known.eq_ignore_ascii_case(size))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts of the published checkpoints.
    #[test]
    fn the_sizes_have_as_many_parameters_as_published() {
        let counts =
            [596_049_920, 1_720_574_976, 4_022_468_096, 8_190_735_360, 14_768_307_200, 32_762_123_264].map(Some);
        assert_eq!(SIZES.map(|size| of_size(size).map(|config| config.parameters())), counts);
        assert_eq!(of_size("7B"), None);
        let listed = |config: Qwen3Config| config.tensors().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        assert_eq!(SIZES.map(|size| of_size(size).map(listed)), counts, "all tensors are listed, each once");
    }

    #[test]
    fn names_as_people_write_them() {
        let hidden = |name: &str| named(name).map(|config| config.hidden_size);
        for (name, want) in [
            ("Qwen/Qwen3-14B", Some(5120)),
            ("models/qwen3-14b", Some(5120)),
            ("Qwen/Qwen3-4B-Instruct-2507", Some(2560)),
            ("Qwen/Qwen3-0.6B-Base", Some(1024)),
            ("Qwen/Qwen3-30B-A3B", None),
            ("Qwen/Qwen3-14B-AWQ", None),
            ("Qwen/Qwen2.5-14B", None),
            ("data/tiny_qwen3", None),
            ("", None),
        ] {
            assert_eq!(hidden(name), want, "{name}");
        }
    }
}
