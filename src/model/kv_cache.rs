//! Keys and values of sequences that generation goes on with.
//!
//! A sequence is a list of blocks in every layer. Blocks are shared: forking a sequence copies pointers, and the first
//! token that two forks disagree on copies the one block it is written into. A common prefix lies in memory once.

use crate::{
    error::Result,
    kernels::cached_attention::{BLOCK, KvBlock},
};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// Sequences of any lengths over one model.
#[derive(Debug, Clone)]
pub struct KvCache {
    sequences: Vec<Sequence>,
    layers: usize,
    shape: (usize, usize, usize),
    dtype: DType,
    device: Device,
}

#[derive(Debug, Clone)]
struct Sequence {
    /// Tokens that every layer holds.
    len: usize,
    layers: Vec<Vec<Arc<KvBlock>>>,
}

impl KvCache {
    /// No sequence yet. A token takes `K·E` values for keys and as many for values in each of `layers`.
    pub(super) fn new(layers: usize, (kv_heads, head_dim): (usize, usize), dtype: DType, device: &Device) -> Self {
        let shape = (BLOCK, kv_heads, head_dim);
        Self { sequences: vec![], layers, shape, dtype, device: device.clone() }
    }

    /// Adds an empty sequence, the last.
    pub fn open(&mut self) {
        self.sequences.push(Sequence { len: 0, layers: vec![vec![]; self.layers] });
    }

    /// How many sequences.
    pub fn sequences(&self) -> usize {
        self.sequences.len()
    }

    /// Tokens of a sequence.
    pub fn len(&self, sequence: usize) -> usize {
        self.sequences[sequence].len
    }

    /// Whether there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Sequence `i` becomes what `from[i]` was: forks (an index twice), reorders, and drops (an index not named).
    pub fn select(&mut self, from: &[usize]) {
        self.sequences = from.iter().map(|&i| self.sequences[i].clone()).collect();
    }

    /// Forgets all tokens of a sequence but the first `len`.
    pub fn truncate(&mut self, sequence: usize, len: usize) {
        let sequence = &mut self.sequences[sequence];
        sequence.len = sequence.len.min(len);
        let blocks = sequence.len.div_ceil(BLOCK);
        sequence.layers.iter_mut().for_each(|layer| layer.truncate(blocks));
    }

    /// Writes `k`, `v` `[n, K, E]` behind the tokens of a sequence in one layer; [`Self::advance`] makes them its own.
    pub(super) fn append(&mut self, layer: usize, sequence: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        let Sequence { len, layers } = &mut self.sequences[sequence];
        let blocks = &mut layers[layer];
        blocks.truncate(len.div_ceil(BLOCK)); // a pass that failed half-way may have left more
        let (n, mut done) = (k.dim(0)?, 0);
        while done < n {
            let at = (*len + done) % BLOCK;
            if at == 0 {
                let empty = || Tensor::zeros(self.shape, self.dtype, &self.device);
                blocks.push(Arc::new(KvBlock { k: empty()?, v: empty()? }));
            }
            let block = blocks.last_mut().expect("pushed where a block begins");
            if Arc::get_mut(block).is_none() {
                *block = Arc::new(KvBlock { k: block.k.copy()?, v: block.v.copy()? });
            }
            let part = (BLOCK - at).min(n - done);
            block.k.slice_set(&k.narrow(0, done, part)?.contiguous()?, 0, at)?;
            block.v.slice_set(&v.narrow(0, done, part)?.contiguous()?, 0, at)?;
            done += part;
        }
        Ok(())
    }

    /// Counts `n` tokens that every layer has been given.
    pub(super) fn advance(&mut self, sequence: usize, n: usize) {
        self.sequences[sequence].len += n;
    }

    /// The blocks of every sequence in one layer.
    pub(super) fn layer(&self, layer: usize) -> Vec<&[Arc<KvBlock>]> {
        self.sequences.iter().map(|sequence| sequence.layers[layer].as_slice()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, wave};

    fn tokens(n: usize, phase: f64) -> Tensor {
        wave((n, 1, 2), phase, &Device::Cpu).unwrap()
    }

    fn push(cache: &mut KvCache, sequence: usize, n: usize, phase: f64) {
        cache.append(0, sequence, &tokens(n, phase), &tokens(n, phase + 1.0)).unwrap();
        cache.advance(sequence, n);
    }

    /// Keys of a sequence, `[len, 1, 2]`.
    fn keys(cache: &KvCache, sequence: usize) -> Tensor {
        let blocks: Vec<Tensor> = cache.layer(0)[sequence].iter().map(|block| block.k.clone()).collect();
        Tensor::cat(&blocks, 0).unwrap().narrow(0, 0, cache.len(sequence)).unwrap()
    }

    fn cache() -> KvCache {
        let mut cache = KvCache::new(1, (1, 2), DType::F32, &Device::Cpu);
        cache.open();
        cache
    }

    #[test]
    fn pieces_of_any_size_make_the_same_sequence() {
        let all = tokens(3 * BLOCK + 5, 0.0);
        for step in [1, 7, BLOCK, 2 * BLOCK + 3, 3 * BLOCK + 5] {
            let mut cache = cache();
            let mut done = 0;
            while done < 3 * BLOCK + 5 {
                let n = step.min(3 * BLOCK + 5 - done);
                let part = all.narrow(0, done, n).unwrap();
                cache.append(0, 0, &part, &part).unwrap();
                cache.advance(0, n);
                done += n;
            }
            assert_close(&keys(&cache, 0), &all, 0.0);
        }
    }

    #[test]
    fn forks_share_what_they_have_in_common_and_nothing_else() {
        let mut cache = cache();
        push(&mut cache, 0, BLOCK + 3, 0.0);
        let before = keys(&cache, 0);
        cache.select(&[0, 0]);
        push(&mut cache, 0, 1, 5.0);
        push(&mut cache, 1, 2, 9.0);
        assert!(Arc::ptr_eq(&cache.layer(0)[0][0], &cache.layer(0)[1][0]), "the full block lies in memory once");
        for (sequence, phase, n) in [(0, 5.0, 1), (1, 9.0, 2)] {
            assert_close(&keys(&cache, sequence).narrow(0, 0, BLOCK + 3).unwrap(), &before, 0.0);
            assert_close(&keys(&cache, sequence).narrow(0, BLOCK + 3, n).unwrap(), &tokens(n, phase), 0.0);
        }
        cache.select(&[1]);
        assert_eq!((cache.sequences(), cache.len(0)), (1, BLOCK + 5));
    }

    #[test]
    fn what_is_forgotten_can_be_written_again() {
        let mut cache = cache();
        push(&mut cache, 0, 2 * BLOCK, 0.0);
        cache.truncate(0, BLOCK - 1);
        push(&mut cache, 0, 3, 4.0);
        assert_close(&keys(&cache, 0).narrow(0, 0, BLOCK - 1).unwrap(), &tokens(BLOCK - 1, 0.0), 0.0);
        assert_close(&keys(&cache, 0).narrow(0, BLOCK - 1, 3).unwrap(), &tokens(3, 4.0), 0.0);
        cache.append(0, 0, &tokens(BLOCK, 1.0), &tokens(BLOCK, 1.0)).unwrap(); // a pass that failed before it advanced
        push(&mut cache, 0, 1, 7.0);
        assert_eq!(cache.len(0), BLOCK + 3);
        assert_close(&keys(&cache, 0).narrow(0, BLOCK + 2, 1).unwrap(), &tokens(1, 7.0), 0.0);
    }
}
