//! Cards through the driver's own interface: which there are, one of them opened, and what this binary holds for them.

use super::{gemm::give_workspace, memory::keep_freed_memory};
use crate::{
    error::{Error, Result},
    kernels::card::{Built, Capability, Card, CardMemory, Code, CudaVersion, Driver, own_code},
};
use candle_core::{
    Device, Tensor,
    cuda_backend::{
        cudarc::driver::{DriverError, result, sys},
        kernels,
    },
};

/// What this binary holds for cards; `None` only in a build without CUDA.
pub fn built() -> Option<Built> {
    Some(Built {
        toolkit: env!("COUPLET_TRAIN_CUDA").parse().expect("build.rs has it from nvcc"),
        own: own_code(),
        candle: Code::of_ptx(kernels::AFFINE.ptx()),
    })
}

/// What the driver says. `memory`: also how much is free on each card, for which each is entered for a moment.
///
/// `None` only in a build without CUDA.
pub fn driver(memory: bool) -> Option<Driver> {
    let cards = cards(memory).map_err(|DriverError(code)| format!("{code:?}"));
    Some(Driver { version: version(), cards })
}

fn version() -> Option<CudaVersion> {
    let mut version = 0;
    // SAFETY: the driver writes one int, and may be asked before it is initialised.
    let status = unsafe { sys::cuDriverGetVersion(&mut version) };
    status.result().ok()?;
    u32::try_from(version).ok().map(CudaVersion)
}

fn cards(memory: bool) -> std::result::Result<Vec<Card>, DriverError> {
    result::init()?;
    (0..result::device::get_count()?).map(|index| card(index, memory)).collect()
}

fn card(index: i32, memory: bool) -> std::result::Result<Card, DriverError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let device = result::device::get(index)?;
    // SAFETY: `device` is the driver's.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) };
    let [major, minor] = [attribute(MAJOR)?, attribute(MINOR)?].map(|number| number.unsigned_abs());
    Ok(Card {
        index: index.unsigned_abs() as usize,
        name: result::device::get_name(device)?,
        capability: Capability { major, minor },
        memory: if memory { memory_inside(device) } else { None },
    })
}

/// The memory of a card that need not be open. `None`: it lets nobody in, as where another process has it for itself.
fn memory_inside(device: sys::CUdevice) -> Option<CardMemory> {
    let before = result::ctx::get_current().ok()?;
    // SAFETY: `device` is the driver's. Its primary context is released as often as it is retained, and this thread is in the
    // context it was in before (null: in none) when that happens.
    let seen = unsafe {
        let context = result::primary_ctx::retain(device).ok()?;
        let seen = result::ctx::set_current(context).and_then(|()| result::mem_get_info());
        let left = result::ctx::set_current(before.unwrap_or(std::ptr::null_mut()));
        let released = result::primary_ctx::release(device);
        left.and(released).and(seen)
    };
    seen.ok().map(|(free, total)| CardMemory { free: free as u64, total: total as u64 })
}

/// Opens card `index`, with one stream for all threads, and looks whether it computes.
///
/// Not `Device::new_cuda`: its stream is that of whatever thread uses it, and nothing orders what two threads do with one
/// tensor; dropping the last handle on a thread that never entered the card would even fail, and the memory be lost.
///
/// Errors: the card does not open, or has no code for a first kernel, or computes nonsense.
pub fn open_card(index: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(index)?;
    if let Device::Cuda(cuda) = &device {
        // Without events: two would be made and destroyed with every tensor, which only other streams would wait for.
        // SAFETY: there is one stream, and all there is goes to it: candle's kernels, copies and allocations, cuBLAS's products
        // (its handle is bound to it), our launches (`device::run`), and the freeing of a tensor, on whatever thread. A thread
        // that gets a tensor from another got it after that other queued its work, and a stream works in the order of queueing.
        // So nothing is read before it is written, nor freed before it was read.
        unsafe { cuda.disable_event_tracking() };
        give_workspace(cuda)?;
    }
    keep_freed_memory(&device)?;
    refuse_nonsense(&device)?;
    Ok(device)
}

/// A first kernel of candle's: where the driver cannot compile or run them, that is found here and not while gigabytes are read.
#[expect(clippy::disallowed_methods, reason = "once, before there is anything to hold up")]
fn refuse_nonsense(device: &Device) -> Result<()> {
    let got: Vec<f32> = Tensor::new(&[1f32, 2.0, 3.0], device)?.affine(2.0, 1.0)?.to_vec1()?;
    match got[..] == [3.0, 5.0, 7.0] {
        true => Ok(()),
        false => Err(Error::run(format!("2·[1, 2, 3] + 1 is {got:?} there"))),
    }
}
