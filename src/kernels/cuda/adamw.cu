// The update of all parameters, and the gradient norm that clips it: flat f32 buffers, no value leaves the device between.
//
// Formulas and their order are those of kernels/adamw.rs and optim/clip.rs; with IEEE roots and divisions (nvcc's default) and
// without contraction the update has the same bits as on the CPU.

#include "common.cuh"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned A_BLOCK = 16 * THREADS;  // values that one block of the first stage sums

// Scalars of one update; the struct of the same name in adamw.rs.
struct Step {
    float beta1, keep1, beta2, keep2, eps, decay, step_size, root_correction;
};

template <int N>
DEVICE void update(const float* x, const float* g, const float* m, const float* v, float* new_x, float* new_m, float* new_v,
                   float factor, const Step& s, uint64_t i) {
    Vec<float, N> xs = load<N>(x + i), ms = load<N>(m + i), vs = load<N>(v + i);
    const Vec<float, N> gs = load<N>(g + i);
    for (int j = 0; j < N; ++j) {
        const float gj = gs.at[j] * factor;
        ms.at[j] = s.beta1 * ms.at[j] + s.keep1 * gj;
        vs.at[j] = s.beta2 * vs.at[j] + s.keep2 * gj * gj;
        xs.at[j] = xs.at[j] * s.decay - s.step_size * (ms.at[j] / (sqrtf(vs.at[j]) / s.root_correction + s.eps));
    }
    store(new_x + i, xs);
    store(new_m + i, ms);
    store(new_v + i, vs);
}

}  // namespace

// Σ x² of A_BLOCK values a block: f32 within a thread, f64 from there on.
KERNEL(adamw_squares, THREADS, (const float* __restrict__ x, double* __restrict__ sums, uint64_t n)) {
    float sum = 0;
    for (unsigned k = 0; k < A_BLOCK / THREADS / 4; ++k) {
        const uint64_t i = uint64_t{blockIdx.x} * A_BLOCK + (k * THREADS + threadIdx.x) * 4;
        if (i + 4 <= n) {
            const Vec<float, 4> v = load<4>(x + i);
            for (int j = 0; j < 4; ++j) sum = fmaf(v.at[j], v.at[j], sum);
        } else {
            for (uint64_t j = i; j < n; ++j) sum = fmaf(load(x + j), load(x + j), sum);
        }
    }
    const double all = block_sum(static_cast<double>(sum));
    if (threadIdx.x == 0) store(sums + blockIdx.x, all);
}

// One block: total = Σ sums, and factor = min(1, most/(√total + 1e-6)), or 1 where `most` is 0.
KERNEL(adamw_norm, THREADS, (const double* __restrict__ sums, double* __restrict__ total, float* __restrict__ factor,
                             unsigned n, double most)) {
    double sum = 0;
    for (unsigned i = threadIdx.x; i < n; i += THREADS) sum += load(sums + i);
    const double all = block_sum(sum);
    if (threadIdx.x == 0) {
        store(total, all);
        // Not fmin, which would turn a NaN into 1: an update by NaN is seen.
        const double ratio = most / (sqrt(all) + 1e-6);
        store(factor, static_cast<float>(most > 0 && !(ratio >= 1) ? ratio : 1.0));
    }
}

// The new values may lie where the old ones do: a thread reads its own before it writes them.
KERNEL(adamw_step, THREADS, (const float* x, const float* g, const float* m, const float* v, float* new_x, float* new_m,
                             float* new_v, const float* factor, Step step, uint64_t n)) {
    const uint64_t i = (uint64_t{blockIdx.x} * THREADS + threadIdx.x) * 4;
    const float f = load(factor);
    if (i + 4 <= n) {
        update<4>(x, g, m, v, new_x, new_m, new_v, f, step, i);
    } else {
        for (uint64_t j = i; j < n; ++j) update<1>(x, g, m, v, new_x, new_m, new_v, f, step, j);
    }
}
