//! The kernels as functions of tensors. Each returns `None` where its tensors are not what the kernel is written for: f32 or
//! bf16 throughout, contiguous, on a card.

use super::{
    adamw,
    attention::{Attention, Lists},
    cross_entropy,
    device::{self, input, inputs, output, place, sizes},
    launch::Address,
    norm_rope, rms_norm, swiglu,
};
use crate::{
    error::{Error, Result},
    kernels::{AdamWStep, Segments, cross_entropy::NO_TARGET, norm_rope::NormRope},
};
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, DType, Device, InplaceOp1, Layout, Tensor,
    backend::{BackendDevice, BackendStorage},
    bail,
};
use std::{cell::RefCell, rc::Rc, sync::Mutex};

/// As `rms_norm::forward`.
pub(in crate::kernels) fn rms_norm_forward(x: &Tensor, w: &Tensor, eps: f64) -> Result<Option<(Tensor, Tensor)>> {
    let (Some((card, real)), Some([xs, ws])) = (place(x), inputs([x, w], x.dtype())) else { return Ok(None) };
    let (rows, width) = x.dims2()?;
    sizes("rms_norm", [(&ws, width)])?;
    let (y, to_y) = output(&card, x.dtype(), (rows, width))?;
    let (inv, to_inv) = output(&card, DType::F32, (rows, 1))?;
    let of = rms_norm::Rows { real, rows, width };
    let operands = [xs.at(), Address::NULL, ws.at(), Address::NULL];
    device::run(&card, &[of.forward(operands, [to_y, to_inv], eps as f32)])?;
    Ok(Some((y, inv)))
}

/// As `rms_norm::forward_sum`.
pub(in crate::kernels) fn rms_norm_forward_sum(
    x: &Tensor,
    more: &Tensor,
    w: &Tensor,
    eps: f64,
) -> Result<Option<(Tensor, (Tensor, Tensor))>> {
    let (Some((card, real)), Some([xs, others, ws])) = (place(x), inputs([x, more, w], x.dtype())) else {
        return Ok(None);
    };
    let (rows, width) = x.dims2()?;
    sizes("rms_norm", [(&others, rows * width), (&ws, width)])?;
    let [(sum, to_sum), (y, to_y)] = [output(&card, x.dtype(), x.shape())?, output(&card, x.dtype(), x.shape())?];
    let (inv, to_inv) = output(&card, DType::F32, (rows, 1))?;
    let of = rms_norm::Rows { real, rows, width };
    let operands = [xs.at(), others.at(), ws.at(), to_sum];
    device::run(&card, &[of.forward(operands, [to_y, to_inv], eps as f32)])?;
    Ok(Some((sum, (y, inv))))
}

/// As `rms_norm::rebuild`.
pub(in crate::kernels) fn rms_norm_rebuild(x: &Tensor, w: &Tensor, inv_rms: &Tensor) -> Result<Option<Tensor>> {
    let (Some((card, real)), Some([xs, ws])) = (place(x), inputs([x, w], x.dtype())) else { return Ok(None) };
    let Some(inv) = input(inv_rms, DType::F32) else { return Ok(None) };
    let (rows, width) = x.dims2()?;
    sizes("rms_norm", [(&ws, width), (&inv, rows)])?;
    let (y, to_y) = output(&card, x.dtype(), (rows, width))?;
    let of = rms_norm::Rows { real, rows, width };
    device::run(&card, &[of.rebuild([xs.at(), ws.at(), inv.at()], to_y)])?;
    Ok(Some(y))
}

/// As `rms_norm::backward`, or with a gradient past the norm as `rms_norm::backward_sum`.
pub(in crate::kernels) fn rms_norm_backward(
    dy: &Tensor,
    x: &Tensor,
    w: &Tensor,
    inv_rms: &Tensor,
    past: Option<&Tensor>,
) -> Result<Option<Tensor>> {
    let (Some((card, real)), Some([dys, xs, ws])) = (place(x), inputs([dy, x, w], x.dtype())) else { return Ok(None) };
    let Some(inv) = input(inv_rms, DType::F32) else { return Ok(None) };
    let past = match past.map(|past| input(past, x.dtype())) {
        Some(None) => return Ok(None),
        known => known.flatten(),
    };
    let at_past = past.as_ref().map_or(Address::NULL, |past| past.at());
    let (rows, width) = x.dims2()?;
    sizes("rms_norm", [(&dys, rows * width), (&ws, width), (&inv, rows)])?;
    if let Some(past) = &past {
        sizes("rms_norm", [(past, rows * width)])?;
    }
    let (dx, to_dx) = output(&card, x.dtype(), (rows, width))?;
    let of = rms_norm::Rows { real, rows, width };
    device::run(&card, &[of.backward([dys.at(), xs.at(), ws.at(), inv.at(), at_past], to_dx)])?;
    Ok(Some(dx))
}

/// As `NormRope::forward`, or with the saved 1/rms as `NormRope::rebuild` and that 1/rms.
pub(in crate::kernels) fn norm_rope_forward(
    x: &Tensor,
    by: NormRope,
    saved: Option<&Tensor>,
    eps: f64,
) -> Result<Option<(Tensor, Tensor)>> {
    let Some((card, real)) = place(x) else { return Ok(None) };
    let Some([xs, w, cos, sin]) = inputs([x, by.w, by.cos, by.sin], x.dtype()) else { return Ok(None) };
    let ((rows, all), width) = (x.dims2()?, by.w.dim(0)?);
    let of = norm_rope::Heads { real, rows, heads: all / width, width };
    sizes("norm_rope", [(&xs, rows * of.heads * width), (&cos, rows * width / 2), (&sin, rows * width / 2)])?;
    let (y, to_y) = output(&card, x.dtype(), (rows, of.heads, width))?;
    let (inv, from, to) = match saved {
        None => {
            let (inv, to) = output(&card, DType::F32, (rows * of.heads, 1))?;
            (inv, Address::NULL, to)
        }
        Some(saved) => {
            let Some(from) = input(saved, DType::F32) else { return Ok(None) };
            sizes("norm_rope", [(&from, rows * of.heads)])?;
            (saved.clone(), from.at(), Address::NULL)
        }
    };
    device::run(&card, &[of.forward([xs.at(), w.at(), cos.at(), sin.at(), from], [to_y, to], eps as f32)])?;
    Ok(Some((y, inv)))
}

/// As `NormRope::backward`.
pub(in crate::kernels) fn norm_rope_backward(
    dy: &Tensor,
    x: &Tensor,
    by: NormRope,
    inv_rms: &Tensor,
) -> Result<Option<Tensor>> {
    let (Some((card, real)), Some(inv)) = (place(x), input(inv_rms, DType::F32)) else { return Ok(None) };
    let Some([dys, xs, w, cos, sin]) = inputs([dy, x, by.w, by.cos, by.sin], x.dtype()) else { return Ok(None) };
    let ((rows, all), width) = (x.dims2()?, by.w.dim(0)?);
    let of = norm_rope::Heads { real, rows, heads: all / width, width };
    let (values, angles) = (rows * of.heads * width, rows * width / 2);
    sizes("norm_rope", [(&dys, values), (&xs, values), (&cos, angles), (&sin, angles), (&inv, rows * of.heads)])?;
    let (dx, to_dx) = output(&card, x.dtype(), (rows, all))?;
    let operands = [dys.at(), xs.at(), w.at(), cos.at(), sin.at(), inv.at()];
    device::run(&card, &[of.backward(operands, to_dx)])?;
    Ok(Some(dx))
}

/// As `swiglu::forward`.
pub(in crate::kernels) fn swiglu_forward(gate: &Tensor, up: &Tensor) -> Result<Option<Tensor>> {
    let Some((card, real)) = place(gate) else { return Ok(None) };
    let Some([g, u]) = inputs([gate, up], gate.dtype()) else { return Ok(None) };
    let of = swiglu::Elements { real, n: gate.elem_count() };
    sizes("swiglu", [(&u, of.n)])?;
    let (y, to_y) = output(&card, gate.dtype(), gate.shape())?;
    device::run(&card, &[of.forward([g.at(), u.at()], to_y)])?;
    Ok(Some(y))
}

/// As `swiglu::backward`.
pub(in crate::kernels) fn swiglu_backward(
    dy: &Tensor,
    gate: &Tensor,
    up: &Tensor,
) -> Result<Option<(Tensor, Tensor, Tensor)>> {
    let Some((card, real)) = place(gate) else { return Ok(None) };
    let Some([d, g, u]) = inputs([dy, gate, up], gate.dtype()) else { return Ok(None) };
    let of = swiglu::Elements { real, n: gate.elem_count() };
    sizes("swiglu", [(&d, of.n), (&u, of.n)])?;
    let result = || output(&card, gate.dtype(), gate.shape());
    let [(dgate, to_gate), (dup, to_up), (y, to_y)] = [result()?, result()?, result()?];
    device::run(&card, &[of.backward([d.at(), g.at(), u.at()], [to_gate, to_up, to_y])])?;
    Ok(Some((dgate, dup, y)))
}

/// As `cross_entropy::nll`.
pub(in crate::kernels) fn nll(logits: &Tensor, targets: &[u32]) -> Result<Option<Tensor>> {
    let (Some((card, real)), Some(x)) = (place(logits), input(logits, logits.dtype())) else { return Ok(None) };
    let (rows, width) = logits.dims2()?;
    refuse_beyond(targets, (rows, width))?;
    let targets = Tensor::new(targets, logits.device())?;
    let ids = input(&targets, DType::U32).expect("made on this card, of u32");
    let (losses, to) = output(&card, DType::F32, rows)?;
    let of = cross_entropy::Logits { real, rows, width };
    device::run(&card, &[of.nll(x.at(), ids.at(), to)])?;
    Ok(Some(losses))
}

/// As `cross_entropy::nll_and_grad`, of labels that are on the card, `[L]` u32 and `[1]` f32: the losses; `logits` becomes its
/// gradient.
pub(in crate::kernels) fn nll_and_grad(
    logits: &Tensor,
    targets: &[u32],
    placed: Option<&(Tensor, Tensor)>,
) -> Result<Option<Tensor>> {
    let Some((ids, scale)) = placed else { return Ok(None) };
    if place(logits).is_none() {
        return Ok(None);
    }
    if !logits.is_contiguous() {
        device::decline("nll_and_grad: not contiguous".into());
        return Ok(None);
    }
    let (rows, width) = logits.dims2()?;
    refuse_beyond(targets, (rows, width))?;
    sizes("cross_entropy", [(&input(ids, DType::U32).ok_or_else(|| Error::run("internal error: ids of u32"))?, rows)])?;
    let op = NllAndGrad { ids, scale, losses: Mutex::new(None) };
    logits.inplace_op1(&op)?;
    Ok(op.losses.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// One target a row of logits, each one of its columns or none: the kernel reads where they say.
fn refuse_beyond(targets: &[u32], (rows, width): (usize, usize)) -> Result<()> {
    let beyond = |&target: &u32| target as usize >= width && target != NO_TARGET;
    if targets.len() != rows || targets.iter().any(beyond) {
        let count = targets.len();
        return Err(Error::run(format!(
            "internal error: {count} targets for {rows} rows, or one beyond {width} logits"
        )));
    }
    Ok(())
}

struct NllAndGrad<'a> {
    ids: &'a Tensor,
    scale: &'a Tensor,
    losses: Mutex<Option<Tensor>>,
}

impl NllAndGrad<'_> {
    fn run(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<Tensor> {
        let (rows, width) = layout.shape().dims2()?;
        let (real, logits) = device::in_place(storage, layout)?;
        let card = storage.device().clone();
        let (Some(ids), Some(scale)) = (input(self.ids, DType::U32), input(self.scale, DType::F32)) else {
            return Err(Error::run("internal error: labels on the card expected"));
        };
        let (losses, to) = output(&card, DType::F32, rows)?;
        let of = cross_entropy::Logits { real, rows, width };
        device::run(&card, &[of.nll_and_grad(logits, ids.at(), to, scale.at())])?;
        Ok(losses)
    }
}

impl InplaceOp1 for NllAndGrad<'_> {
    fn name(&self) -> &'static str {
        "nll_and_grad"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        bail!("nll_and_grad: logits on a card expected")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        let losses = self.run(storage, layout).map_err(candle_core::Error::wrap)?;
        *self.losses.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(losses);
        Ok(())
    }
}

/// As `adamw_step`: new parameters and moments, a launch for every part.
pub(in crate::kernels) fn adamw_step(
    [x, g, m, v]: [&Tensor; 4],
    parts: &[(usize, AdamWStep)],
) -> Result<Option<(Tensor, Tensor, Tensor)>> {
    let Some((_, AdamWStep { grad_factor, .. })) = parts.first() else { return Ok(None) };
    let (Some((card, _)), Some(operands)) = (place(x), inputs([x, g, m, v], DType::F32)) else { return Ok(None) };
    let n = x.elem_count();
    sizes("adamw", operands.each_ref().map(|operand| (operand, n)))?;
    let operands = operands.each_ref().map(|operand| operand.at());
    // A launch reads four values at once.
    let begin_wide = parts.iter().rev().skip(1).all(|(n, _)| n.is_multiple_of(4));
    if !begin_wide || !operands.iter().all(|a| a.is_wide()) {
        device::decline("adamw: not aligned to 16 bytes".into());
        return Ok(None);
    }
    let factor = Tensor::new(&[*grad_factor as f32], x.device())?;
    let at_factor = input(&factor, DType::F32).expect("made on this card, of f32");
    let [new_x, new_m, new_v] =
        [output(&card, DType::F32, n)?, output(&card, DType::F32, n)?, output(&card, DType::F32, n)?];
    let mut start = 0;
    let launch = |(n, step): &(usize, AdamWStep)| {
        let from = |at: Address| Address(at.0 + 4 * start as u64);
        let (operands, results) = (operands.map(from), [new_x.1, new_m.1, new_v.1].map(from));
        start += n;
        adamw::update(operands, results, at_factor.at(), step, *n)
    };
    device::run(&card, &parts.iter().map(launch).collect::<Vec<_>>())?;
    Ok(Some((new_x.0, new_m.0, new_v.0)))
}

/// As `reduce::sum_of_squares`: a scalar in f64.
pub(in crate::kernels) fn sum_of_squares(x: &Tensor) -> Result<Option<Tensor>> {
    let (Some((card, _)), Some(xs)) = (place(x), input(x, DType::F32)) else { return Ok(None) };
    let n = x.elem_count();
    if n == 0 {
        return Ok(None);
    }
    if !xs.at().is_wide() {
        device::decline("sum_of_squares: not aligned to 16 bytes".into());
        return Ok(None);
    }
    let (_sums, to_sums) = output(&card, DType::F64, adamw::partial_sums(n))?;
    let (total, to_total) = output(&card, DType::F64, ())?;
    let (_factor, to_factor) = output(&card, DType::F32, ())?;
    device::run(&card, &adamw::norm(xs.at(), to_sums, [to_total, to_factor], n, 0.0))?;
    Ok(Some(total))
}

/// [`Lists`] of a micro-batch in the memory of a card.
struct Placed {
    segments: Segments,
    groups: usize,
    card: CudaDevice,
    lists: Lists,
    /// Blocks of queries, blocks of keys, own places.
    tensors: [Tensor; 3],
}

/// How many lists a thread keeps. A micro-batch needs two, generation two for each of its sequences.
const KEPT: usize = 64;

thread_local! {
    /// The lists last used come first: every layer asks for the same, the last one for others. Of this thread: nobody waits.
    static PLACED: RefCell<Vec<Rc<Placed>>> = const { RefCell::new(vec![]) };
}

fn lists(segments: &Segments, groups: usize, card: &CudaDevice) -> Result<Rc<Placed>> {
    PLACED.with_borrow_mut(|kept| {
        // Of the same opening of a card: another one has another stream, which does not wait for what this one has queued.
        let same = |p: &Rc<Placed>| p.groups == groups && p.card.same_device(card) && p.segments == *segments;
        let placed = match kept.iter().position(same) {
            Some(found) => kept.remove(found),
            None => Rc::new(Placed::new(segments, groups, card)?),
        };
        kept.truncate(KEPT - 1);
        kept.insert(0, placed.clone());
        Ok(placed)
    })
}

/// The lists that attention takes for some segments, from outside: to change them where a recorded pass reads them.
pub struct AttentionLists(Rc<Placed>);

impl AttentionLists {
    /// For `groups` query heads to a key/value head.
    pub fn new(segments: &Segments, groups: usize, device: &Device) -> Result<Self> {
        Ok(Self(lists(segments, groups, device.as_cuda_device()?)?))
    }

    /// What launches are made of besides [these lists](Self::tensors): rows of the prefix, and parts of their sums.
    pub fn counts(&self) -> [usize; 2] {
        [self.0.lists.prefix, self.0.lists.parts_each]
    }

    /// The lists, u32.
    pub fn tensors(&self) -> &[Tensor] {
        &self.0.tensors
    }

    /// Attention no longer takes these for their segments, so that they may be changed.
    pub fn claim(&self) {
        PLACED.with_borrow_mut(|kept| kept.retain(|placed| !Rc::ptr_eq(placed, &self.0)));
    }
}

impl Placed {
    fn new(segments: &Segments, groups: usize, card: &CudaDevice) -> Result<Self> {
        let (lists, device) = (Lists::new(segments, groups).filled_up(), Device::Cuda(card.clone()));
        let tensor = |list: &[u32]| Tensor::new(list, &device);
        let tensors = [tensor(&lists.queries.concat())?, tensor(&lists.keys.concat())?, tensor(&segments.own)?];
        Ok(Self { segments: segments.clone(), groups, card: card.clone(), lists, tensors })
    }
}

/// As `attention::forward`, for bf16 and heads of 64 or 128.
pub(in crate::kernels) fn attention_forward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &Segments,
) -> Result<Option<Tensor>> {
    let ((_, heads, width), kv_heads) = (q.dims3()?, k.dim(1)?);
    // Other types and widths have no kernel, which the header of a run says (`card::has_attention`).
    if q.dtype() != DType::BF16 || !Attention::is_for(width) || segments.queries() == 0 {
        return Ok(None);
    }
    let (Some((card, _)), Some(operands)) = (place(q), inputs([q, k, v], DType::BF16)) else { return Ok(None) };
    // Rows are read sixteen bytes at a time.
    if !operands.iter().all(|t| t.at().is_wide()) {
        device::decline("attention: not aligned to 16 bytes".into());
        return Ok(None);
    }
    let (keys, queries) = (segments.keys() * kv_heads * width, segments.queries() * heads * width);
    sizes("attention", [(&operands[0], queries), (&operands[1], keys), (&operands[2], keys)])?;
    let placed = lists(segments, heads / kv_heads, &card)?;
    let held = inputs(placed.tensors.each_ref(), DType::U32).expect("made on this card, of u32");
    let (o, to_o) = output(&card, DType::BF16, q.shape())?;
    let at = held.each_ref().map(|list| list.at());
    let of = Attention { lists: &placed.lists, at, heads, kv_heads, width };
    device::run(&card, &[of.forward(operands.each_ref().map(|t| t.at()), to_o)])?;
    Ok(Some(o))
}

/// As `attention::backward`, for bf16 and heads of 64 or 128.
pub(in crate::kernels) fn attention_backward(
    d_o: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &Segments,
) -> Result<Option<(Tensor, Tensor, Tensor)>> {
    let ((queries, heads, width), kv_heads) = (q.dims3()?, k.dim(1)?);
    // Other types and widths have no kernel, which the header of a run says (`card::has_attention`).
    if q.dtype() != DType::BF16 || !Attention::is_for(width) || segments.queries() == 0 {
        return Ok(None);
    }
    let (Some((card, _)), Some(operands)) = (place(q), inputs([d_o, q, k, v], DType::BF16)) else { return Ok(None) };
    // Rows are read sixteen bytes at a time.
    if !operands.iter().all(|t| t.at().is_wide()) {
        device::decline("attention: not aligned to 16 bytes".into());
        return Ok(None);
    }
    let (of_keys, of_queries) = (segments.keys() * kv_heads * width, segments.queries() * heads * width);
    let [d_os, qs, ks, vs] = &operands;
    sizes("attention", [(d_os, of_queries), (qs, of_queries), (ks, of_keys), (vs, of_keys)])?;
    let placed = lists(segments, heads / kv_heads, &card)?;
    let held = inputs(placed.tensors.each_ref(), DType::U32).expect("made on this card, of u32");
    let [(dq, to_q), (dk, to_k), (dv, to_v)] = [
        output(&card, DType::BF16, q.shape())?,
        output(&card, DType::BF16, k.shape())?,
        output(&card, DType::BF16, v.shape())?,
    ];
    let at = held.each_ref().map(|list| list.at());
    let of = Attention { lists: &placed.lists, at, heads, kv_heads, width };
    let (_log_sums, to_sums) = output(&card, DType::F32, queries * heads)?;
    let (_dots, to_dots) = output(&card, DType::F32, queries * heads)?;
    let (_parts, to_parts) = output(&card, DType::F32, placed.lists.room_for_parts(kv_heads, width).max(1))?;
    let operands = operands.each_ref().map(|t| t.at());
    device::run(&card, &of.backward(operands, [to_q, to_k, to_v], [to_sums, to_dots, to_parts]))?;
    Ok(Some((dq, dk, dv)))
}

/// On a card, where there is one, what the CPU computes, and the same bytes twice. What proves the kernels without a card is
/// the host harness.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernels::{self, attention, cross_entropy, rms_norm, rope, swiglu},
        testing::{assert_close, devices, wave},
    };

    fn tensor(device: &Device, dtype: DType, shape: impl Into<candle_core::Shape>, phase: f64) -> Result<Tensor> {
        Ok(wave(shape, phase, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?)
    }

    const BOTH: [DType; 2] = [DType::F32, DType::BF16];

    #[test]
    fn a_run_is_told_for_which_heads_there_is_a_kernel() {
        for width in 1..=256 {
            assert_eq!(Attention::is_for(width), kernels::card::has_attention(DType::BF16, width), "{width}");
        }
    }

    /// `kernels`: the types that kernels are for. An operation that declines falls back without a word, and would agree.
    fn same_on_every_device(kernels: &[DType], op: fn(&Device, DType) -> Result<Vec<Tensor>>) -> Result<()> {
        for device in devices() {
            for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 1.0 / 32.0)] {
                let want = op(&Device::Cpu, dtype)?;
                let before = device::LAUNCHED.get();
                let (got, again) = (op(&device, dtype)?, op(&device, dtype)?);
                let launched = device::LAUNCHED.get() > before;
                assert_eq!(launched, device.is_cuda() && kernels.contains(&dtype), "{dtype:?}: kernels were launched");
                for ((want, got), again) in want.iter().zip(&got).zip(&again) {
                    let on_cpu = got.to_device(&Device::Cpu)?;
                    assert_close(&on_cpu, want, tolerance);
                    assert!(
                        distance(&on_cpu, want)? <= tolerance,
                        "{dtype:?}, whole tensor: {}",
                        distance(&on_cpu, want)?
                    );
                    assert_close(again, got, 0.0);
                }
            }
        }
        Ok(())
    }

    /// ‖got − want‖/‖want‖: where all values are small, an error of one is small as well.
    #[expect(clippy::disallowed_methods, reason = "a test looks at values")]
    fn distance(got: &Tensor, want: &Tensor) -> Result<f64> {
        let norm = |t: &Tensor| t.to_dtype(DType::F64)?.sqr()?.sum_all()?.sqrt()?.to_scalar::<f64>();
        let off = (got.to_dtype(DType::F64)? - want.to_dtype(DType::F64)?)?;
        Ok(norm(&off)? / norm(want)?.max(f64::MIN_POSITIVE))
    }

    #[test]
    fn norm_of_rows() -> Result<()> {
        same_on_every_device(&BOTH, |device, dtype| {
            let of = |phase| tensor(device, dtype, (37, 5120), phase);
            let (x, dy, w) = (of(0.0)?, of(5.0)?, tensor(device, dtype, 5120, 1.0)?);
            let (y, inv) = rms_norm::forward(&x, &w, 1e-6)?;
            Ok(vec![y, rms_norm::rebuild(&x, &w, &inv)?, rms_norm::backward(&dy, &x, &w, &inv)?, inv])
        })
    }

    #[test]
    fn norm_and_rotation_of_heads() -> Result<()> {
        same_on_every_device(&BOTH, |device, dtype| {
            let (cos, sin) = rope::tables(&[0, 1, 2, 40, 41], 128, 1e6, dtype, device)?;
            let (x, w) = (tensor(device, dtype, (5, 8 * 128), 0.0)?, tensor(device, dtype, 128, 1.0)?);
            let by = NormRope { w: &w, cos: &cos, sin: &sin };
            let (y, inv) = by.forward(&x, 1e-6)?;
            let dx = by.backward(&tensor(device, dtype, (5, 8, 128), 5.0)?, &x, &inv)?;
            Ok(vec![y, by.rebuild(&x, &inv)?, dx, inv])
        })
    }

    #[test]
    fn activation() -> Result<()> {
        same_on_every_device(&BOTH, |device, dtype| {
            let of = |phase| tensor(device, dtype, (11, 3071), phase);
            let (dgate, dup, y) = swiglu::backward(&of(5.0)?, &of(0.0)?, &of(1.0)?)?;
            Ok(vec![swiglu::forward(&of(0.0)?, &of(1.0)?)?, dgate, dup, y])
        })
    }

    #[test]
    fn loss() -> Result<()> {
        same_on_every_device(&BOTH, |device, dtype| {
            let logits = || tensor(device, dtype, (3, 151_936), 0.0);
            let targets = [0, 77, 151_935];
            let (losses, grad) =
                cross_entropy::nll_and_grad(logits()?, &cross_entropy::Labels::new(&targets, 1e4, device)?)?;
            Ok(vec![cross_entropy::nll(&logits()?, &targets)?, losses, grad])
        })
    }

    #[test]
    fn update() -> Result<()> {
        same_on_every_device(&BOTH, |device, _| {
            let of = |phase| tensor(device, DType::F32, 100_003, phase);
            let step = AdamWStep::example();
            let faster = AdamWStep { step_size: 16.0 * step.step_size, ..step };
            let parts = [(60_000, step), (40_003, faster)];
            let (x, m, v) = kernels::adamw_step(&of(0.0)?, &of(1.0)?, &of(2.0)?, &of(3.0)?.sqr()?, &parts)?;
            let squares = kernels::reduce::sum_of_squares(&x)?.to_dtype(DType::F32)?;
            Ok(vec![x, m, v, squares])
        })
    }

    #[test]
    fn packed_attention() -> Result<()> {
        same_on_every_device(&[DType::BF16], |device, dtype| {
            let segments = Segments::new(29, &[28; 40]);
            let of = |heads, phase| tensor(device, dtype, (29 + 28 * 40, heads, 128), phase);
            let (q, k, v) = (of(10, 0.0)?, of(2, 1.0)?, of(2, 2.0)?);
            let (dq, dk, dv) = attention::backward(&of(10, 5.0)?, &q, &k, &v, &segments)?;
            Ok(vec![attention::forward(&q, &k, &v, &segments)?, dq, dk, dv])
        })
    }
}
