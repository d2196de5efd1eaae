//! Which rows are held out, and in which order the others are seen: LlamaFactory's own permutations.
//!
//! Two generators, because LlamaFactory stands on two libraries. The validation split is a NumPy permutation
//! (`default_rng(seed)`: `SeedSequence` → PCG64), the order of an epoch a PyTorch one (MT19937). Both are written out
//! here, so the same recipe visits the same rows without either library; the integration tests hold vectors of both.
//! Indices fit 32 bits: no data set comes near the sizes where the two libraries switch to wider draws.

/// LlamaFactory takes a `val_size` up to this for none.
const NO_VALIDATION: f64 = 1e-6;

/// How many of `n` rows `val_size` holds out: a share below 1 (rounded up), a count from 1. At most `n`.
pub fn validation_rows(n: usize, val_size: f64) -> usize {
    let rows = match val_size {
        share if share <= NO_VALIDATION => 0.0,
        share if share < 1.0 => (share * n as f64).ceil(),
        count => count.trunc(),
    };
    (rows as usize).min(n)
}

/// Splits rows `0..n` into (validation, training), each in the order LlamaFactory gives them.
///
/// Without validation the training rows keep their order; else both halves come out of one shuffle by `seed`.
pub fn split(n: usize, val_size: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    match validation_rows(n, val_size) {
        0 => (Vec::new(), (0..n).collect()),
        held_out => {
            let mut validation = Pcg64::new(seed).permutation(n);
            let training = validation.split_off(held_out);
            (validation, training)
        }
    }
}

/// The order in which epoch `epoch` (from 0) visits `n` training rows. With `disable_shuffling` it is `0..n` instead.
pub fn epoch_order(n: usize, seed: u64, epoch: usize) -> Vec<usize> {
    Mt19937::seeded(seed.wrapping_add(epoch as u64)).permutation(n)
}

/// The order of epoch `epoch` with samples of like length side by side; a step has `batch` of them.
///
/// Here transformers does not seed every epoch but draws from PyTorch's global generator, which it seeds once. Each epoch takes
/// 64 bits, for seeds of workers, and a permutation. An evaluation in between would draw too: LlamaFactory's later epochs then
/// have another order.
pub fn grouped_order(lengths: &[usize], batch: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut random = Mt19937::seeded(seed);
    let [seeds, permutation] = [2, lengths.len().saturating_sub(1)];
    for _ in 0..epoch * (seeds + permutation) + seeds {
        random.next_u32();
    }
    grouped(random.permutation(lengths.len()), lengths, batch)
}

/// At most so many steps' samples are sorted by length at once.
const GROUPED_STEPS: usize = 50;

/// As transformers groups: stretches of up to 50 steps are sorted, longest first, and the longest of all comes first.
fn grouped(mut order: Vec<usize>, lengths: &[usize], batch: usize) -> Vec<usize> {
    let stretch = (order.len() / (4 * batch)).clamp(1, GROUPED_STEPS) * batch;
    for rows in order.chunks_mut(stretch) {
        rows.sort_by_key(|&row| std::cmp::Reverse(lengths[row]));
    }
    // The first of equals.
    let longest = (0..order.len()).step_by(stretch).rev().max_by_key(|&first| lengths[order[first]]);
    if let Some(longest) = longest {
        order.swap(0, longest);
    }
    order
}

/// PCG XSL RR 128/64 as NumPy seeds and draws it. Constants: O'Neill, "PCG" (2014), and `numpy/random/src/pcg64`.
pub(super) struct Pcg64 {
    state: u128,
    increment: u128,
    /// The high half of the last 64-bit draw; 32-bit draws use the low half first.
    spare: Option<u32>,
}

impl Pcg64 {
    const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;

    pub(super) fn new(seed: u64) -> Self {
        let [state_high, state_low, stream_high, stream_low] = seed_words(seed).map(u128::from);
        let stream = stream_high << 64 | stream_low;
        let mut random = Self { state: 0, increment: stream << 1 | 1, spare: None };
        random.advance();
        random.state = random.state.wrapping_add(state_high << 64 | state_low);
        random.advance();
        random
    }

    fn advance(&mut self) {
        self.state = self.state.wrapping_mul(Self::MULTIPLIER).wrapping_add(self.increment);
    }

    fn next_u64(&mut self) -> u64 {
        self.advance();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    fn next_u32(&mut self) -> u32 {
        self.spare.take().unwrap_or_else(|| {
            let both = self.next_u64();
            self.spare = Some((both >> 32) as u32);
            both as u32
        })
    }

    /// Uniform in [0, 1).
    pub(super) fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..=max`: draws are cut to the bits of `max` and thrown away while too large.
    fn up_to(&mut self, max: u32) -> u32 {
        let mask = u32::MAX >> max.leading_zeros();
        loop {
            let draw = self.next_u32() & mask;
            if draw <= max {
                return draw;
            }
        }
    }

    /// Fisher–Yates from the top.
    fn permutation(mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.up_to(i as u32) as usize);
        }
        order
    }
}

/// NumPy's `SeedSequence(seed).generate_state(4, uint64)`: spreads a seed over 256 bits.
/// Constants and mixing: `numpy/random/bit_generator.pyx`, after O'Neill's `randutils`.
fn seed_words(seed: u64) -> [u64; 4] {
    const POOL: usize = 4;
    let entropy = [seed as u32, (seed >> 32) as u32, 0, 0];

    let mut hash = Hash { constant: 0x43b0_d7e5, multiplier: 0x931e_8875 };
    let mut pool = entropy.map(|word| hash.mix(word));
    for source in 0..POOL {
        for target in (0..POOL).filter(|&target| target != source) {
            let hashed = hash.mix(pool[source]);
            pool[target] = blend(pool[target], hashed);
        }
    }

    let mut hash = Hash { constant: 0x8b51_f9dd, multiplier: 0x58f3_8ded };
    let mut words = [0; 4];
    for (i, word) in words.iter_mut().enumerate() {
        let low = hash.mix(pool[2 * i % POOL]);
        let high = hash.mix(pool[(2 * i + 1) % POOL]);
        *word = u64::from(high) << 32 | u64::from(low);
    }
    words
}

/// The running hash of `SeedSequence`: its constant changes with every word.
struct Hash {
    constant: u32,
    multiplier: u32,
}

impl Hash {
    fn mix(&mut self, word: u32) -> u32 {
        let word = word ^ self.constant;
        self.constant = self.constant.wrapping_mul(self.multiplier);
        let word = word.wrapping_mul(self.constant);
        word ^ word >> 16
    }
}

fn blend(x: u32, y: u32) -> u32 {
    let mixed = x.wrapping_mul(0xca01_f9dd).wrapping_sub(y.wrapping_mul(0x4973_f715));
    mixed ^ mixed >> 16
}

/// The Mersenne Twister. Constants: Matsumoto and Nishimura (1998), seeding of 2002 (`init_genrand`).
pub(super) struct Mt19937 {
    state: [u32; Self::N],
    used: usize,
}

impl Mt19937 {
    const N: usize = 624;
    const M: usize = 397;

    pub(super) fn new(seed: u32) -> Self {
        let mut state = [seed; Self::N];
        for i in 1..Self::N {
            let last = state[i - 1];
            state[i] = (last ^ last >> 30).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, used: Self::N }
    }

    /// As PyTorch seeds it: with the low 32 bits.
    fn seeded(seed: u64) -> Self {
        Self::new(seed as u32)
    }

    /// PyTorch's `randperm`: Fisher–Yates from the bottom.
    fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in 0..n.saturating_sub(1) {
            let step = self.next_u32() as usize % (n - i);
            order.swap(i, i + step);
        }
        order
    }

    fn twist(&mut self) {
        for i in 0..Self::N {
            let joined = self.state[i] & 0x8000_0000 | self.state[(i + 1) % Self::N] & 0x7fff_ffff;
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + Self::M) % Self::N] ^ joined >> 1 ^ odd;
        }
        self.used = 0;
    }

    /// Uniform in `0..=max`, as NumPy's older generator has it: draws are cut to the bits of `max` and thrown away while too large.
    pub(super) fn up_to(&mut self, max: u32) -> u32 {
        let Some(mask) = u32::MAX.checked_shr(max.leading_zeros()) else { return 0 };
        loop {
            let draw = self.next_u32() & mask;
            if draw <= max {
                return draw;
            }
        }
    }

    fn next_u32(&mut self) -> u32 {
        if self.used == Self::N {
            self.twist();
        }
        let mut word = self.state[self.used];
        self.used += 1;
        word ^= word >> 11;
        word ^= word << 7 & 0x9d2c_5680;
        word ^= word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twister_gives_its_published_numbers() {
        // The C++ standard, [rand.predef]: the 10000th draw of mt19937 with seed 5489.
        let mut random = Mt19937::new(5489);
        assert_eq!((0..10_000).map(|_| random.next_u32()).last(), Some(4_123_659_995));
    }

    #[test]
    fn rows_of_like_length_stand_side_by_side() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/mix/vectors.json")).unwrap();
        let numbers = |value: &serde_json::Value| serde_json::from_value::<Vec<usize>>(value.clone()).unwrap();
        for case in vectors["grouped"].as_array().unwrap() {
            let (lengths, seed) = (numbers(&case["lengths"]), case["seed"].as_u64().unwrap());
            let order = epoch_order(lengths.len(), seed, 0);
            let got = grouped(order, &lengths, case["batch"].as_u64().unwrap() as usize);
            assert_eq!(got, numbers(&case["rows"]), "{case}");
        }
    }

    #[test]
    fn runs_of_llamafactory_grouped_their_epochs_like_this() {
        let runs: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/mix/lf_grouped.json")).unwrap();
        let numbers = |value: &serde_json::Value| serde_json::from_value::<Vec<usize>>(value.clone()).unwrap();
        for run in runs["runs"].as_array().unwrap() {
            let (lengths, seed) = (numbers(&runs["lengths"]), run["seed"].as_u64().unwrap());
            for (epoch, rows) in run["epochs"].as_array().unwrap().iter().enumerate() {
                let got = grouped_order(&lengths, run["batch"].as_u64().unwrap() as usize, seed, epoch);
                assert_eq!(got, numbers(rows), "seed {seed}, epoch {epoch}");
            }
        }
    }

    #[test]
    fn validation_rows_are_a_share_or_a_count() {
        for (n, val_size, want, why) in [
            (40, 0.0, 0, "none"),
            (40, 1e-7, 0, "LlamaFactory's threshold"),
            (40, 0.1, 4, "a share"),
            (33, 0.1, 4, "rounded up"),
            (100, 0.07, 8, "as the floating-point product rounds: 7.000000000000001"),
            (40, 1.0, 1, "from 1 on a count"),
            (40, 2.5, 2, "cut to a whole number"),
            (3, 9.0, 3, "never more than there are"),
        ] {
            assert_eq!(validation_rows(n, val_size), want, "{n} rows, val_size {val_size}: {why}");
        }
    }

    #[test]
    fn every_row_is_somewhere_exactly_once() {
        for (n, val_size, seed) in [(0, 0.5, 1), (1, 0.0, 0), (7, 0.3, 42), (1000, 17.0, u64::MAX)] {
            let (mut all, training) = split(n, val_size, seed);
            all.extend(epoch_order(training.len(), seed, 3).into_iter().map(|i| training[i]));
            all.sort_unstable();
            assert_eq!(all, (0..n).collect::<Vec<_>>(), "n {n}, val_size {val_size}, seed {seed}");
        }
    }
}
