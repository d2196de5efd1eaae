// RMSNorm, y = x/rms(x)·w, with or without the residual sum before it: one block a row.
//
// Memory-bound. A row is read twice (for its mean square, then to be scaled), the second time from L1: at 5,120 columns of
// bf16 a block's row is 10 KB. Roundings are those of kernels/rms_norm.rs: in bf16 x/rms is rounded before w.

#include "common.cuh"

namespace {

// Calls f(first column) for every group of N columns of this thread.
template <int N, class F>
DEVICE void columns(unsigned width, F f) {
    for (unsigned i = threadIdx.x * N; i < width; i += blockDim.x * N) f(i);
}

// x·inv·w
template <class T, int N>
DEVICE Vec<T, N> scaled(Vec<T, N> x, float inv, Vec<T, N> w) {
    Vec<T, N> y;
    for (int i = 0; i < N; ++i) y.at[i] = round_to<T>(rounded<T>(widen(x.at[i]) * inv) * widen(w.at[i]));
    return y;
}

// Rows of x, or of sum = x + more where `more` is there; then y, and 1/rms a row.
template <class T, int N>
DEVICE void forward(const T* __restrict__ x, const T* __restrict__ more, const T* __restrict__ w, T* __restrict__ sum,
                    T* __restrict__ y, float* __restrict__ inv_rms, unsigned width, float eps) {
    const size_t row = size_t{blockIdx.x} * width;
    float squares = 0;
    columns<N>(width, [&](unsigned i) {
        Vec<T, N> v = load<N>(x + row + i);
        if (more) {
            const Vec<T, N> other = load<N>(more + row + i);
            for (int j = 0; j < N; ++j) v.at[j] = round_to<T>(widen(v.at[j]) + widen(other.at[j]));
            store(sum + row + i, v);
        }
        for (int j = 0; j < N; ++j) squares = fmaf(widen(v.at[j]), widen(v.at[j]), squares);
    });
    const float inv = 1.0f / sqrtf(block_sum(squares) / width + eps);
    const T* const normed = more ? sum : x;  // what this thread itself has written, where it is a sum
    columns<N>(width, [&](unsigned i) { store(y + row + i, scaled(load<N>(normed + row + i), inv, load<N>(w + i))); });
    if (threadIdx.x == 0) store(inv_rms + blockIdx.x, inv);
}

template <class T, int N>
DEVICE void rebuild(const T* __restrict__ x, const T* __restrict__ w, const float* __restrict__ inv_rms,
                    T* __restrict__ y, unsigned width) {
    const size_t row = size_t{blockIdx.x} * width;
    const float inv = load(inv_rms + blockIdx.x);
    columns<N>(width, [&](unsigned i) { store(y + row + i, scaled(load<N>(x + row + i), inv, load<N>(w + i))); });
}

// With h = dy·w: dx = (h − x·r·mean(h·x·r))·r, and the gradient that goes past the norm added where `past` is there.
template <class T, int N>
DEVICE void backward(const T* __restrict__ dy, const T* __restrict__ x, const T* __restrict__ w,
                     const float* __restrict__ inv_rms, const T* __restrict__ past, T* __restrict__ dx, unsigned width) {
    const size_t row = size_t{blockIdx.x} * width;
    const float r = load(inv_rms + blockIdx.x);
    float dot = 0;
    columns<N>(width, [&](unsigned i) {
        const Vec<T, N> d = load<N>(dy + row + i), v = load<N>(x + row + i), scale = load<N>(w + i);
        for (int j = 0; j < N; ++j) dot = fmaf(rounded<T>(widen(d.at[j]) * widen(scale.at[j])), widen(v.at[j]), dot);
    });
    const float mean = block_sum(dot) * r / width;
    columns<N>(width, [&](unsigned i) {
        const Vec<T, N> d = load<N>(dy + row + i), v = load<N>(x + row + i), scale = load<N>(w + i);
        Vec<T, N> out, other = {};
        if (past) other = load<N>(past + row + i);
        for (int j = 0; j < N; ++j) {
            const float h = rounded<T>(widen(d.at[j]) * widen(scale.at[j]));
            const float through = rounded<T>((h - widen(v.at[j]) * r * mean) * r);
            out.at[j] = round_to<T>(past ? through + widen(other.at[j]) : through);
        }
        store(dx + row + i, out);
    });
}

}  // namespace

#define RMS_NORM(name, T, N)                                                                                            \
    KERNEL(rms_norm_forward_##name, 512,                                                                                \
           (const T* x, const T* more, const T* w, T* sum, T* y, float* inv_rms, unsigned width, float eps)) {          \
        forward<T, N>(x, more, w, sum, y, inv_rms, width, eps);                                                         \
    }                                                                                                                   \
    KERNEL(rms_norm_rebuild_##name, 512, (const T* x, const T* w, const float* inv_rms, T* y, unsigned width)) {        \
        rebuild<T, N>(x, w, inv_rms, y, width);                                                                         \
    }                                                                                                                   \
    KERNEL(rms_norm_backward_##name, 512,                                                                               \
           (const T* dy, const T* x, const T* w, const float* inv_rms, const T* past, T* dx, unsigned width)) {         \
        backward<T, N>(dy, x, w, inv_rms, past, dx, width);                                                             \
    }

RMS_NORM(f32, float, 1)
RMS_NORM(f32_wide, float, WIDE<float>)
RMS_NORM(bf16, bf16, 1)
RMS_NORM(bf16_wide, bf16, WIDE<bf16>)
