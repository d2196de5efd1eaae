//! Carries launches out on a card: on candle's stream, on the memory of candle's tensors.

use super::launch::{Address, Launch, Real};
use crate::error::{Error, Result};
use candle_core::{
    CudaDevice, CudaStorage, DType, Layout, Shape, Storage, StorageRef, Tensor,
    cuda_backend::{
        CudaStorageSlice,
        cudarc::{
            driver::{
                CudaFunction, CudaModule, DevicePtr, DevicePtrMut, DeviceRepr, DriverError, LaunchConfig,
                PushKernelArg, sys::CUfunction_attribute,
            },
            nvrtc::Ptx,
        },
    },
    op::BackpropOp,
};
use half::bf16;
use std::{
    collections::{BTreeSet, HashMap},
    panic::Location,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

/// Machine code of every `.cu` file for sm_80 and sm_90, and PTX for what comes after.
macro_rules! compiled {
    ($($source:literal),*) => {
        [$(($source, include_bytes!(concat!(env!("OUT_DIR"), "/", $source, ".fatbin")).as_slice())),*]
    };
}
const COMPILED: [(&str, &[u8]); 6] =
    compiled!["adamw", "attention", "cross_entropy", "norm_rope", "rms_norm", "swiglu"];

/// What has been loaded: by card and name.
#[derive(Default)]
struct Loaded {
    modules: HashMap<(usize, &'static str), Arc<CudaModule>>,
    functions: HashMap<(usize, String), CudaFunction>,
}

static LOADED: LazyLock<Mutex<Loaded>> = LazyLock::new(Mutex::default);

impl Loaded {
    fn function(&mut self, device: &CudaDevice, launch: &Launch) -> std::result::Result<CudaFunction, DriverError> {
        let context = device.cuda_stream().context().clone();
        let card = context.ordinal();
        let key = (card, launch.kernel.clone());
        if let Some(function) = self.functions.get(&key) {
            return Ok(function.clone());
        }
        let module = match self.modules.get(&(card, launch.source)) {
            Some(module) => module.clone(),
            None => {
                let code = COMPILED.iter().find(|(name, _)| *name == launch.source).map_or(&[][..], |(_, code)| code);
                let module = context.load_module(Ptx::from_binary(code.to_vec()))?;
                self.modules.insert((card, launch.source), module.clone());
                module
            }
        };
        let function = module.load_function(&launch.kernel)?;
        if launch.shared_to_allow() > 0 {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // The same amount at every launch of a kernel, so once is enough.
            function.set_attribute(attribute, launch.shared_to_allow() as i32)?;
        }
        self.functions.insert(key, function.clone());
        Ok(function)
    }
}

/// The bytes of a parameter; the driver copies as many as the kernel declares.
#[repr(transparent)]
struct Bytes([u64; 4]);

// SAFETY: plain numbers, read by the driver and by nobody else.
unsafe impl DeviceRepr for Bytes {}

#[cfg(test)]
thread_local! {
    /// Launches of this thread so far.
    pub(super) static LAUNCHED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Queues `launches` on the stream of `device`, one after the other.
///
/// Errors: the driver refuses the code or a launch. What a kernel does wrong shows at a later synchronisation.
pub(super) fn run(device: &CudaDevice, launches: &[Launch]) -> Result<()> {
    #[cfg(test)]
    LAUNCHED.set(LAUNCHED.get() + launches.len());
    launches.iter().filter(|launch| launch.grid[0] > 0).try_for_each(|launch| {
        let failed = |why: DriverError| Error::run(format!("kernel {} cannot be launched: {why}", launch.kernel));
        let mut loaded = LOADED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let function = loaded.function(device, launch).map_err(failed)?;
        drop(loaded);
        let stream = device.cuda_stream();
        let arguments: Vec<Bytes> = launch.arguments.iter().map(|a| Bytes(a.words)).collect();
        let mut builder = stream.launch_builder(&function);
        for argument in &arguments {
            builder.arg(argument);
        }
        let [grid_dim, block_dim] = [launch.grid, launch.block].map(|[x, y, z]| (x, y, z));
        let config = LaunchConfig { grid_dim, block_dim, shared_mem_bytes: launch.shared_bytes };
        // SAFETY: the arguments are in number and size those of the kernel, and the kernel stays within the operands that
        // these launches are described for: the tests run the same launches on the host harness, which checks both.
        unsafe { builder.launch(config) }.map(drop).map_err(failed)
    })
}

/// Why kernels were not used where they might have been.
static DECLINED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// What kernels could not take of tensors on a card, and where, each once: candle's operations computed it, on the card.
pub fn declined() -> Vec<String> {
    DECLINED.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}

/// A kernel is not used. `why` names no size, so that there are few of them.
pub(super) fn decline(why: String) {
    DECLINED.lock().unwrap_or_else(PoisonError::into_inner).insert(why);
}

/// A tensor that a launch reads, locked until it is queued.
pub(super) struct Input<'a> {
    at: Address,
    elements: usize,
    _held: StorageRef<'a>,
}

impl Input<'_> {
    pub fn at(&self) -> Address {
        self.at
    }
}

/// Kernels read as many elements as their launch says, whatever an operand has: each must have so many.
pub(super) fn sizes<const N: usize>(kernel: &str, operands: [(&Input, usize); N]) -> Result<()> {
    match operands.iter().position(|(operand, want)| operand.elements != *want) {
        None => Ok(()),
        Some(i) => {
            let (got, want) = (operands[i].0.elements, operands[i].1);
            Err(Error::run(format!("internal error: {kernel}: operand {i} has {got} elements, not {want}")))
        }
    }
}

/// `None` where `t` is not on a card; or not contiguous, or of another type than `dtype`, which is noted.
#[track_caller]
pub(super) fn input(t: &Tensor, dtype: DType) -> Option<Input<'_>> {
    input_at(t, dtype, Location::caller())
}

/// All of `ts` as [`input`].
#[track_caller]
pub(super) fn inputs<'a, const N: usize>(ts: [&'a Tensor; N], dtype: DType) -> Option<[Input<'a>; N]> {
    let asked = Location::caller();
    let all: Vec<Input<'a>> = ts.into_iter().map(|t| input_at(t, dtype, asked)).collect::<Option<_>>()?;
    all.try_into().ok()
}

fn input_at<'a>(t: &'a Tensor, dtype: DType, asked: &Location) -> Option<Input<'a>> {
    let (storage, layout) = t.storage_and_layout();
    let Storage::Cuda(cuda) = &*storage else { return None };
    let stream = cuda.device.cuda_stream();
    // The address outlives the guard that comes with it: all work is queued on one stream, in order.
    let base = match (&cuda.slice, dtype) {
        (CudaStorageSlice::F32(slice), DType::F32) => Some(slice.device_ptr(&stream).0),
        (CudaStorageSlice::BF16(slice), DType::BF16) => Some(slice.device_ptr(&stream).0),
        (CudaStorageSlice::U32(slice), DType::U32) => Some(slice.device_ptr(&stream).0),
        _ => None,
    };
    let (Some(base), Some((start, _))) = (base, layout.contiguous_offsets()) else {
        let is = if base.is_none() { "of another type" } else { "not contiguous" };
        decline(format!("line {} of ops.rs: {:?} {is}, {dtype:?} in one piece expected", asked.line(), t.dtype()));
        return None;
    };
    let at = Address(base + (start * dtype.size_in_bytes()) as u64);
    Some(Input { at, elements: layout.shape().elem_count(), _held: storage })
}

/// The card of `t`, and its element type where kernels have it.
pub(super) fn place(t: &Tensor) -> Option<(CudaDevice, Real)> {
    let real = match t.dtype() {
        DType::F32 => Real::F32,
        DType::BF16 => Real::Bf16,
        _ => return None,
    };
    t.device().as_cuda_device().ok().map(|device| (device.clone(), real))
}

/// Room for a tensor that a launch writes, every element of it.
pub(super) fn output(device: &CudaDevice, dtype: DType, shape: impl Into<Shape>) -> Result<(Tensor, Address)> {
    let shape = shape.into();
    let n = shape.elem_count();
    let stream = device.cuda_stream();
    macro_rules! room {
        ($type:ty) => {{
            // SAFETY: whoever asks writes every element before anyone reads.
            let mut slice = unsafe { device.alloc::<$type>(n) }?;
            let at = slice.device_ptr_mut(&stream).0;
            (CudaStorage::wrap_cuda_slice(slice, device.clone()), at)
        }};
    }
    let (storage, at) = match dtype {
        DType::F32 => room!(f32),
        DType::BF16 => room!(bf16),
        DType::F64 => room!(f64),
        other => return Err(Error::run(format!("no kernel writes {other:?}"))),
    };
    Ok((Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false), Address(at)))
}

/// The type and address of what an in-place operation is to change.
///
/// Errors: another type than kernels have, or no contiguous memory.
pub(super) fn in_place(storage: &mut CudaStorage, layout: &Layout) -> Result<(Real, Address)> {
    let Some((start, _)) = layout.contiguous_offsets() else { return Err(Error::run("contiguous memory expected")) };
    let stream = storage.device.cuda_stream();
    let (real, base) = match &mut storage.slice {
        CudaStorageSlice::F32(slice) => (Real::F32, slice.device_ptr_mut(&stream).0),
        CudaStorageSlice::BF16(slice) => (Real::Bf16, slice.device_ptr_mut(&stream).0),
        _ => return Err(Error::run("f32 or bf16 expected")),
    };
    Ok((real, Address(base + (start * real.bytes()) as u64)))
}
