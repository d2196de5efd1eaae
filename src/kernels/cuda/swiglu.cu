// SwiGLU, y = silu(gate)·up, silu(g) = g·σ(g): 16 bytes of each operand a thread, the last thread takes what is left over.
//
// Roundings are those of kernels/swiglu.rs: in bf16 silu(gate) is rounded before the product.

#include "common.cuh"

namespace {

// Calls f(first element, whether N of them are there) once a thread; elements one by one at the end of the tensor.
template <int N, class One, class Many>
DEVICE void elements(uint64_t n, Many many, One one) {
    const uint64_t first = (uint64_t{blockIdx.x} * blockDim.x + threadIdx.x) * N;
    if (first + N <= n) {
        many(first);
    } else {
        for (uint64_t i = first; i < n; ++i) one(i);
    }
}

template <class T, int N>
DEVICE void forward_at(const T* gate, const T* up, T* y, uint64_t i) {
    const Vec<T, N> g = load<N>(gate + i), u = load<N>(up + i);
    Vec<T, N> out;
    for (int j = 0; j < N; ++j) {
        const float x = widen(g.at[j]);
        out.at[j] = round_to<T>(rounded<T>(x / (1.0f + expf(-x))) * widen(u.at[j]));
    }
    store(y + i, out);
}

// With σ = σ(g): dgate = dy·up·σ·(1 + g·(1 − σ)), dup = dy·g·σ; and y once more, the bits of the forward.
template <class T, int N>
DEVICE void backward_at(const T* dy, const T* gate, const T* up, T* dgate, T* dup, T* y, uint64_t i) {
    const Vec<T, N> d = load<N>(dy + i), g = load<N>(gate + i), u = load<N>(up + i);
    Vec<T, N> dg, du, out;
    for (int j = 0; j < N; ++j) {
        const float x = widen(g.at[j]), dyj = widen(d.at[j]), uj = widen(u.at[j]), e = 1.0f + expf(-x);
        const float s = 1.0f / e;
        dg.at[j] = round_to<T>(rounded<T>(dyj * uj) * (s * (1.0f + x * (1.0f - s))));
        du.at[j] = round_to<T>(dyj * rounded<T>(x * s));
        out.at[j] = round_to<T>(rounded<T>(x / e) * uj);
    }
    store(dgate + i, dg);
    store(dup + i, du);
    store(y + i, out);
}

}  // namespace

// Nothing is __restrict__ in the backward: gradients may lie where the operands do, and a thread reads its own first.
#define SWIGLU(name, T, N)                                                                                              \
    KERNEL(swiglu_forward_##name, 256,                                                                                  \
           (const T* __restrict__ gate, const T* __restrict__ up, T* __restrict__ y, uint64_t n)) {                     \
        elements<N>(                                                                                                    \
            n, [&](uint64_t i) { forward_at<T, N>(gate, up, y, i); },                                                   \
            [&](uint64_t i) { forward_at<T, 1>(gate, up, y, i); });                                                     \
    }                                                                                                                   \
    KERNEL(swiglu_backward_##name, 256, (const T* dy, const T* gate, const T* up, T* dgate, T* dup, T* y, uint64_t n)) {  \
        elements<N>(                                                                                                    \
            n, [&](uint64_t i) { backward_at<T, N>(dy, gate, up, dgate, dup, y, i); },                                    \
            [&](uint64_t i) { backward_at<T, 1>(dy, gate, up, dgate, dup, y, i); });                                      \
    }

SWIGLU(f32, float, 1)
SWIGLU(f32_wide, float, WIDE<float>)
SWIGLU(bf16, bf16, 1)
SWIGLU(bf16_wide, bf16, WIDE<bf16>)
