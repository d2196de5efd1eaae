//! What a benchmark runs on, the CPU or a card: its peak, what it copies a second, its memory, and when its work is done.

use crate::common::{PEAK, fastest_path, median, peak_rss_bytes, random_weight, rss_bytes};
use candle_core::{DType, Device, Tensor};
use couplet_train::{
    config::DeviceChoice,
    device,
    error::Result,
    kernels::{self, ProductPath, peak},
    rng::Key,
};
use std::time::Instant;

/// Values that random weights on a card are cut from. A prime, so that no row of a weight repeats another.
const POOL: usize = 4_194_301;

/// A device, and what its peak is measured with.
pub struct Machine {
    pub device: Device,
    /// Which card, and its driver; `None`: the CPU.
    pub card: Option<String>,
    dtype: DType,
    on: On,
}

enum On {
    /// The path with the highest peak.
    Cpu(ProductPath),
    Card(Card),
}

struct Card {
    /// Random values, sent once.
    pool: Tensor,
    /// Rows and columns of the product that is the peak: as large as the matrix units like them.
    peak_size: usize,
    /// Values of the copy that is the bandwidth: many times the caches.
    copied: usize,
}

impl Machine {
    /// `quick`: a peak and a bandwidth that say nothing, for where a card is played by the CPU and real ones would take hours.
    pub fn open(choice: DeviceChoice, parameters: usize, dtype: DType, quick: bool) -> Result<Self> {
        let opened = device::open(choice, parameters)?;
        let (card, device) = (opened.describe(), opened.device);
        let on = match device.is_cpu() {
            true => On::Cpu(fastest_path(dtype)),
            false => {
                let (peak_size, bytes) = if quick { (64, 1 << 20) } else { (8192, 1 << 30) };
                On::Card(Card { pool: pool(dtype, &device)?, peak_size, copied: bytes / dtype.size_in_bytes() })
            }
        };
        Ok(Self { device, card, dtype, on })
    }

    /// A weight as an initialiser would draw it, by its name; norms are 1. For a card it is made there.
    pub fn weight(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        match &self.on {
            On::Cpu(_) => random_weight(name, shape, self.dtype),
            On::Card(_) if shape.len() == 1 => Ok(Tensor::ones(shape, self.dtype, &self.device)?),
            On::Card(card) => Ok(card.cut(name, shape.iter().product())?.reshape(shape)?),
        }
    }

    /// FLOP per second: on the CPU of the fastest multiply instruction on registers, all threads; on a card of a large
    /// product.
    pub fn peak(&self) -> Result<f64> {
        let card = match &self.on {
            On::Cpu(path) => return Ok(peak(*path, PEAK)),
            On::Card(card) => card,
        };
        let n = card.peak_size;
        let (a, b) = (card.cut("peak a", n * n)?.reshape((n, n))?, card.cut("peak b", n * n)?.reshape((n, n))?);
        Ok(2.0 * (n * n * n) as f64 / self.seconds(|| Ok(a.matmul(&b)?))?)
    }

    /// What that is the peak of.
    pub fn peak_of(&self) -> String {
        match &self.on {
            On::Cpu(path) => path.name().to_owned(),
            On::Card(card) => format!("a product of cuBLAS, {0} x {0} x {0}", card.peak_size),
        }
    }

    /// What multiplies with the weights.
    pub fn path(&self) -> Result<&'static str> {
        if let On::Card(_) = self.on { Ok("cublas") } else { ProductPath::chosen().map(ProductPath::name) }
    }

    /// Bytes read and bytes written a second by a copy on the card.
    pub fn bandwidth(&self) -> Result<Option<f64>> {
        let On::Card(card) = &self.on else { return Ok(None) };
        let from = card.cut("copy", card.copied)?;
        let bytes = 2 * card.copied * self.dtype.size_in_bytes();
        Ok(Some(bytes as f64 / self.seconds(|| Ok(from.force_contiguous()?))?))
    }

    /// Of a call: the median of five rounds of four, after a first call that loads what it needs.
    fn seconds(&self, call: impl Fn() -> Result<Tensor>) -> Result<f64> {
        call()?;
        let mut rounds = vec![];
        for _ in 0..5 {
            self.wait()?;
            let began = Instant::now();
            for _ in 0..4 {
                call()?;
            }
            self.wait()?;
            rounds.push(began.elapsed().as_secs_f64() / 4.0);
        }
        Ok(median(rounds))
    }

    /// Until everything that was asked for is done.
    #[expect(clippy::disallowed_methods, reason = "a clock is read before and after")]
    pub fn wait(&self) -> Result<()> {
        Ok(self.device.synchronize()?)
    }

    /// Bytes of tensors on the card now; on the CPU, of the process.
    pub fn used(&self) -> Option<u64> {
        if self.device.is_cpu() { rss_bytes() } else { kernels::pool(&self.device).map(|pool| pool.used) }
    }

    /// The most of it since [`Self::forget_peak`]; on the CPU, since the process began.
    pub fn peak_used(&self) -> Option<u64> {
        if self.device.is_cpu() { peak_rss_bytes() } else { kernels::pool(&self.device).map(|pool| pool.peak) }
    }

    pub fn forget_peak(&self) {
        kernels::forget_peak(&self.device);
    }
}

/// Uniform with the standard deviation 0.02 of Qwen3's initialiser.
fn pool(dtype: DType, device: &Device) -> Result<Tensor> {
    let key = Key::new(0, "pool");
    let values: Vec<f32> = (0..POOL as u64).map(|i| (key.uniform(i) - 0.5) * 0.069_282).collect();
    Ok(Tensor::from_vec(values, POOL, device)?.to_dtype(dtype)?)
}

impl Card {
    /// `n` values in memory of their own, from a place in the pool that the name gives, and on from its start where it ends.
    fn cut(&self, name: &str, n: usize) -> Result<Tensor> {
        let mut at = (Key::new(0, name).uniform(0) * POOL as f32) as usize % POOL;
        let (mut pieces, mut left) = (vec![], n);
        while left > 0 {
            let len = left.min(POOL - at);
            pieces.push(self.pool.narrow(0, at, len)?);
            (at, left) = (0, left - len);
        }
        match pieces.as_slice() {
            [one] => Ok(one.force_contiguous()?),
            several => Ok(Tensor::cat(several, 0)?),
        }
    }
}
