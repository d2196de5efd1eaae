//! Work that a card does again and again, recorded once: one call queues all its launches.

use crate::error::{Error, Result};
use candle_core::{
    Device,
    cuda_backend::cudarc::driver::{
        CudaGraph, DriverError,
        sys::{CUgraphInstantiate_flags, CUstreamCaptureMode},
    },
};

/// Recorded work, to be [launched](Graph::launch) as often as one likes.
///
/// It reads and writes the memory that it was recorded with, whatever is in there then: who keeps it keeps those tensors.
pub struct Graph(CudaGraph);

impl Graph {
    /// Records what `work` queues on the stream of `device`, which is not done. Tensors that `work` makes live in memory of
    /// the graph and must be gone when it returns. candle's parameters of strided operands must have been seen before, under
    /// [`remembered`], as nothing can be uploaded in between.
    ///
    /// Errors: those of `work`; something in it cannot be recorded, such as looking at a value.
    pub fn record(device: &Device, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let stream = device.as_cuda_device()?.cuda_stream();
        let failed = |what: &str, why: DriverError| Error::run(format!("a pass cannot be recorded: {what}: {why}"));
        stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(|why| failed("begin", why))?;
        let done = remembered(device, work);
        // Also where `work` failed: the stream must not go on recording. What could not be freed meanwhile was the recording's
        // own, but cudarc keeps that failure and would return it instead of ending.
        let context = stream.context();
        let _of_what_was_dropped = context.check_err();
        let graph = stream.end_capture(CUgraphInstantiate_flags(0));
        let _of_what_was_dropped = context.check_err();
        done?;
        let graph = graph.map_err(|why| failed("end", why))?;
        graph.map(Self).ok_or_else(|| Error::run("a pass cannot be recorded: nothing was queued"))
    }

    /// Queues all of it.
    pub fn launch(&self) -> Result<()> {
        self.0.launch().map_err(|why| Error::run(format!("a recorded pass cannot be launched: {why}")))
    }
}

/// Does `work`, and keeps the small uploads that candle makes in it, so that the same work can be recorded afterwards.
pub fn remembered<T>(device: &Device, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let _kept = device.as_cuda_device()?.enable_cuda_graph_htod_cache();
    work()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::devices;
    use candle_core::Tensor;

    #[test]
    fn what_is_recorded_is_done_at_every_launch_and_a_failed_recording_leaves_no_trace() -> Result<()> {
        for device in devices().into_iter().filter(Device::is_cuda) {
            let (sum, x) =
                (Tensor::zeros(3, candle_core::DType::F32, &device)?, Tensor::new(&[1f32, 2.0, 3.0], &device)?);
            let add = || Ok(sum.slice_set(&(&sum + &x)?, 0, 0)?);
            let graph = Graph::record(&device, add)?;
            assert_eq!(sum.to_vec1::<f32>()?, [0.0; 3], "recorded, not done");
            graph.launch()?;
            x.slice_set(&Tensor::new(&[10f32, 20.0, 30.0], &device)?, 0, 0)?;
            graph.launch()?;
            assert_eq!(sum.to_vec1::<f32>()?, [11.0, 22.0, 33.0]);
            let looks = || {
                let y = (&x * 2.0)?;
                Ok(drop(y.to_vec1::<f32>()?))
            };
            assert!(Graph::record(&device, looks).is_err(), "a value cannot be looked at");
            assert_eq!((&x + &x)?.to_vec1::<f32>()?, [20.0, 40.0, 60.0], "the card goes on");
        }
        Ok(())
    }
}
