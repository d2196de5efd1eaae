//! Keyed random numbers: a pure function of (seed, purpose, place), never a stream.
//!
//! Nothing has to be saved to continue a run, and a number does not depend on how the work was cut.

/// A key from which any number of independent values can be drawn by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    /// The key of `purpose` under `seed`.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let key = Self(mix(seed));
        purpose.bytes().fold(key, |key, byte| key.with(u64::from(byte)))
    }

    /// The key of a place below this one (a step, a sample, a layer, …).
    #[must_use]
    pub fn with(self, part: u64) -> Self {
        Self(mix(self.0 ^ mix(part)))
    }

    /// 64 random bits: the place of something in a drawing.
    pub fn bits(self) -> u64 {
        mix(self.0)
    }

    /// Value number `index`, uniform on [0, 1) with 24 random bits.
    pub fn uniform(self, index: u64) -> f32 {
        let bits = mix(self.0.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        (bits >> 40) as f32 * (1.0 / (1 << 24) as f32)
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_has_the_right_moments_and_no_correlation_between_neighbours() {
        for key in [Key::new(0, "a"), Key::new(42, "dropout").with(3).with(7)] {
            let n = 100_000u64;
            let x: Vec<f64> = (0..n).map(|i| f64::from(key.uniform(i))).collect();
            let mean = x.iter().sum::<f64>() / n as f64;
            let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
            let lag1 = x.windows(2).map(|w| (w[0] - mean) * (w[1] - mean)).sum::<f64>() / n as f64;
            assert!(x.iter().all(|x| (0.0..1.0).contains(x)));
            assert!((mean - 0.5).abs() < 5e-3, "mean {mean}");
            assert!((var - 1.0 / 12.0).abs() < 1e-3, "variance {var}");
            assert!(lag1.abs() < 1e-3, "lag-1 covariance {lag1}");
        }
    }

    #[test]
    fn keys_differ_by_every_part() {
        let keys = [
            Key::new(0, "a"),
            Key::new(1, "a"),
            Key::new(0, "b"),
            Key::new(0, "a").with(0),
            Key::new(0, "a").with(1),
            Key::new(0, "a").with(0).with(1),
            Key::new(0, "a").with(1).with(0),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a.uniform(0) != b.uniform(0)), "key {i} is repeated");
        }
    }
}
