// RMSNorm of every head and its rotation (RoPE) in one pass: one warp a head of a row.
//
// Element i of a head is rotated against element i + E/2, so a lane holds both. Roundings are those of kernels/rms_norm.rs and
// kernels/rope.rs one after the other: in bf16 x/rms, its product with w, every product of the rotation and their sum.

#include "common.cuh"

namespace {

// The warp's number in the grid: a head of a row, `heads` of them to the row.
DEVICE unsigned head() { return blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP; }

// Calls f(i) for every group of N elements of the first half that this lane holds.
template <int N, class F>
DEVICE void elements(unsigned half, F f) {
    for (unsigned i = threadIdx.x % WARP * N; i < half; i += WARP * N) f(i);
}

template <class T, int N>
DEVICE void forward(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ cos,
                    const T* __restrict__ sin, const float* __restrict__ saved, T* __restrict__ y,
                    float* __restrict__ inv_rms, unsigned count, unsigned heads, unsigned half, float eps) {
    if (head() >= count) return;  // whole warps only
    const T* const lower = x + size_t{head()} * 2 * half;
    float inv;
    if (saved) {
        inv = load(saved + head());
    } else {
        float squares = 0;
        elements<N>(half, [&](unsigned i) {
            const Vec<T, N> a = load<N>(lower + i), b = load<N>(lower + half + i);
            for (int j = 0; j < N; ++j) {
                squares = fmaf(widen(a.at[j]), widen(a.at[j]), squares);
                squares = fmaf(widen(b.at[j]), widen(b.at[j]), squares);
            }
        });
        inv = 1.0f / sqrtf(warp_sum(squares) / (2 * half) + eps);
        if (threadIdx.x % WARP == 0) store(inv_rms + head(), inv);
    }
    const size_t angles = size_t{head() / heads} * half;
    T* const out = y + size_t{head()} * 2 * half;
    elements<N>(half, [&](unsigned i) {
        const Vec<T, N> a = load<N>(lower + i), b = load<N>(lower + half + i);
        const Vec<T, N> wa = load<N>(w + i), wb = load<N>(w + half + i);
        const Vec<T, N> c = load<N>(cos + angles + i), s = load<N>(sin + angles + i);
        Vec<T, N> ya, yb;
        for (int j = 0; j < N; ++j) {
            const float na = rounded<T>(rounded<T>(widen(a.at[j]) * inv) * widen(wa.at[j]));
            const float nb = rounded<T>(rounded<T>(widen(b.at[j]) * inv) * widen(wb.at[j]));
            const float cj = widen(c.at[j]), sj = widen(s.at[j]);
            ya.at[j] = round_to<T>(rounded<T>(na * cj) - rounded<T>(nb * sj));
            yb.at[j] = round_to<T>(rounded<T>(nb * cj) + rounded<T>(na * sj));
        }
        store(out + i, ya);
        store(out + half + i, yb);
    });
}

// The rotation back, then the norm's backward.
template <class T, int N>
DEVICE void backward(const T* __restrict__ dy, const T* __restrict__ x, const T* __restrict__ w,
                     const T* __restrict__ cos, const T* __restrict__ sin, const float* __restrict__ inv_rms,
                     T* __restrict__ dx, unsigned count, unsigned heads, unsigned half) {
    if (head() >= count) return;  // whole warps only
    const size_t first = size_t{head()} * 2 * half, angles = size_t{head() / heads} * half;
    const float r = load(inv_rms + head());
    // h = w · (dy rotated back), of both elements of a pair.
    const auto h = [&](unsigned i, float (&ha)[N], float (&hb)[N]) {
        const Vec<T, N> da = load<N>(dy + first + i), db = load<N>(dy + first + half + i);
        const Vec<T, N> wa = load<N>(w + i), wb = load<N>(w + half + i);
        const Vec<T, N> c = load<N>(cos + angles + i), s = load<N>(sin + angles + i);
        for (int j = 0; j < N; ++j) {
            const float a = widen(da.at[j]), b = widen(db.at[j]), cj = widen(c.at[j]), sj = widen(s.at[j]);
            ha[j] = rounded<T>(rounded<T>(rounded<T>(a * cj) + rounded<T>(b * sj)) * widen(wa.at[j]));
            hb[j] = rounded<T>(rounded<T>(rounded<T>(b * cj) - rounded<T>(a * sj)) * widen(wb.at[j]));
        }
    };
    float dot = 0;
    elements<N>(half, [&](unsigned i) {
        float ha[N], hb[N];
        h(i, ha, hb);
        const Vec<T, N> a = load<N>(x + first + i), b = load<N>(x + first + half + i);
        for (int j = 0; j < N; ++j) dot = fmaf(hb[j], widen(b.at[j]), fmaf(ha[j], widen(a.at[j]), dot));
    });
    const float mean = warp_sum(dot) * r / (2 * half);
    elements<N>(half, [&](unsigned i) {
        float ha[N], hb[N];
        h(i, ha, hb);
        const Vec<T, N> a = load<N>(x + first + i), b = load<N>(x + first + half + i);
        Vec<T, N> oa, ob;
        for (int j = 0; j < N; ++j) {
            oa.at[j] = round_to<T>((ha[j] - widen(a.at[j]) * r * mean) * r);
            ob.at[j] = round_to<T>((hb[j] - widen(b.at[j]) * r * mean) * r);
        }
        store(dx + first + i, oa);
        store(dx + first + half + i, ob);
    });
}

}  // namespace

#define NORM_ROPE(name, T, N)                                                                                            \
    KERNEL(norm_rope_forward_##name, 256,                                                                                \
           (const T* x, const T* w, const T* cos, const T* sin, const float* saved, T* y, float* inv_rms, unsigned count, \
            unsigned heads, unsigned half, float eps)) {                                                                 \
        forward<T, N>(x, w, cos, sin, saved, y, inv_rms, count, heads, half, eps);                                       \
    }                                                                                                                    \
    KERNEL(norm_rope_backward_##name, 256,                                                                               \
           (const T* dy, const T* x, const T* w, const T* cos, const T* sin, const float* inv_rms, T* dx, unsigned count, \
            unsigned heads, unsigned half)) {                                                                            \
        backward<T, N>(dy, x, w, cos, sin, inv_rms, dx, count, heads, half);                                             \
    }

// Pairs and not 16 bytes: the half of a head of 128 is then one access of 32 lanes.
NORM_ROPE(f32, float, 1)
NORM_ROPE(f32_wide, float, 2)
NORM_ROPE(bf16, bf16, 1)
NORM_ROPE(bf16_wide, bf16, 2)
