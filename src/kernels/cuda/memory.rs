//! The memory of a card: the pool that tensors come from, and what is free beside it.

use crate::{
    error::{Error, Result},
    kernels::card::{CardMemory, Pool},
};
use candle_core::{
    Device,
    cuda_backend::cudarc::driver::{
        DriverError, result,
        sys::{self, CUgraphMem_attribute as OfGraphs, CUmemPool_attribute as Attribute},
    },
};

/// Keeps freed memory in the stream-ordered pool instead of handing it back at every synchronisation.
///
/// The pool's release threshold is 0 by default, so that each step would allocate its memory from the driver anew.
pub(super) fn keep_freed_memory(device: &Device) -> Result<()> {
    let kept =
        pool_of(device).map_or(Ok(()), |pool| set(pool?, Attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX));
    kept.map_err(|failed| Error::run(format!("cannot set the memory pool's release threshold: {failed}")))
}

/// What is free on the card of `device` now, and all it has. `None`: no card, or it does not say.
pub fn card_memory(device: &Device) -> Option<CardMemory> {
    let Device::Cuda(cuda) = device else { return None };
    let (free, total) = cuda.cuda_stream().context().mem_get_info().ok()?;
    Some(CardMemory { free: free as u64, total: total as u64 })
}

/// What this process has taken on the card of `device`. `None`: no card, or it has no such pool.
pub fn pool(device: &Device) -> Option<Pool> {
    let pool = pool_of(device)?.ok()?;
    // Recorded passes have a pool of their own. The peaks of both need not have been at the same time: at most their sum.
    let of_graphs = |which| graphs(device, which).unwrap_or(0);
    Some(Pool {
        used: get(pool, Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT).ok()?
            + of_graphs(OfGraphs::CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT),
        peak: get(pool, Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH).ok()?
            + of_graphs(OfGraphs::CU_GRAPH_MEM_ATTR_USED_MEM_HIGH),
        reserved: get(pool, Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT).ok()?
            + of_graphs(OfGraphs::CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT),
        peak_reserved: get(pool, Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH).ok()?
            + of_graphs(OfGraphs::CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH),
    })
}

/// Memory of recorded passes on the card of `device`.
fn graphs(device: &Device, which: OfGraphs) -> Option<u64> {
    let (card, mut value) = (number_of(device)?, 0u64);
    // SAFETY: the card is open, for as long as `device` lives; sizes are 64 bits wide, and `value` is written before the call
    // returns.
    unsafe { sys::cuDeviceGetGraphMemAttribute(card, which, (&raw mut value).cast()) }.result().ok().map(|()| value)
}

/// Both peaks of [`pool`] begin anew at what is taken now. A card without a pool has none to forget.
pub fn forget_peak(device: &Device) {
    let Some(Ok(pool)) = pool_of(device) else { return };
    for peak in [Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH] {
        // 0 is the only value that it takes.
        let _ = set(pool, peak, 0);
    }
    let Some(card) = number_of(device) else { return };
    for peak in [OfGraphs::CU_GRAPH_MEM_ATTR_USED_MEM_HIGH, OfGraphs::CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH] {
        let mut zero = 0u64;
        // SAFETY: as in `graphs`; `zero` is read before the call returns.
        let _ = unsafe { sys::cuDeviceSetGraphMemAttribute(card, peak, (&raw mut zero).cast()) };
    }
}

/// The driver's number for the card of `device`; `None`: no card.
fn number_of(device: &Device) -> Option<sys::CUdevice> {
    let Device::Cuda(cuda) = device else { return None };
    Some(cuda.cuda_stream().context().cu_device())
}

/// The pool of the card of `device`; `None`: no card.
fn pool_of(device: &Device) -> Option<std::result::Result<sys::CUmemoryPool, DriverError>> {
    // SAFETY: the number is that of a card that is open, for as long as `device` lives.
    number_of(device).map(|card| unsafe { result::device::get_default_mem_pool(card) })
}

fn get(pool: sys::CUmemoryPool, which: Attribute) -> std::result::Result<u64, DriverError> {
    let mut value = 0u64;
    // SAFETY: the pool is a card's own, which is never destroyed; sizes are 64 bits wide, and `value` is written before the
    // call returns.
    unsafe { sys::cuMemPoolGetAttribute(pool, which, (&raw mut value).cast()) }.result().map(|()| value)
}

fn set(pool: sys::CUmemoryPool, which: Attribute, mut value: u64) -> std::result::Result<(), DriverError> {
    // SAFETY: as in `get`; `value` is read before the call returns.
    unsafe { sys::cuMemPoolSetAttribute(pool, which, (&raw mut value).cast()) }.result()
}
