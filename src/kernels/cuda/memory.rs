//! What a CUDA device needs once, before the first tensor.

use crate::error::{Error, Result};
use candle_core::{Device, cuda_backend::cudarc::driver::sys};

/// Keeps freed memory in the stream-ordered pool instead of handing it back at every synchronisation.
///
/// The pool's release threshold is 0 by default, so that each step would allocate its memory from the driver anew.
pub fn keep_freed_memory(device: &Device) -> Result<()> {
    let Device::Cuda(cuda) = device else { return Ok(()) };
    let ordinal = cuda.cuda_stream().context().ordinal() as sys::CUdevice;
    let mut pool: sys::CUmemoryPool = std::ptr::null_mut();
    let mut threshold = u64::MAX;
    // SAFETY: the context of `ordinal` is alive (`device` holds it); both pointers live through the calls and have the
    // types the driver documents for them (a pool handle; a u64 for the release threshold).
    let status = unsafe {
        match sys::cuDeviceGetDefaultMemPool(&mut pool, ordinal) {
            sys::CUresult::CUDA_SUCCESS => sys::cuMemPoolSetAttribute(
                pool,
                sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                (&raw mut threshold).cast(),
            ),
            failed => failed,
        }
    };
    match status {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        failed => Err(Error::run(format!("cannot set the memory pool's release threshold: {failed:?}"))),
    }
}
