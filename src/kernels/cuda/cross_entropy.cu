// Cross entropy of labelled rows, and the gradient of the logits in their place: one block a row of V logits.
//
// The first pass keeps a maximum and Σ exp(x − maximum) a thread, both at once (online softmax), so a row is read twice in
// all; at V = 151,936 in bf16 the second time mostly from L2: two blocks of 1,024 threads fit an SM, and the 264 rows of
// 300 KB that are under way on an H100 are 80 MB, of which its L2 holds 50.

#include "common.cuh"

namespace {

// The target of a row that only fills up a micro-batch.
constexpr uint32_t NONE = 0xffffffffu;

// Σ exp(x − most) over some logits. Empty: most = −∞, sum = 0.
struct ExpSum {
    float most, sum;
};

DEVICE ExpSum joined(ExpSum a, ExpSum b) {
    const float most = fmaxf(a.most, b.most);
    // A sum without terms adds nothing, and −∞ − −∞ would be a NaN.
    const float of_a = a.sum == 0 ? 0 : a.sum * expf(a.most - most);
    const float of_b = b.sum == 0 ? 0 : b.sum * expf(b.most - most);
    return {most, of_a + of_b};
}

template <int N, class T>
DEVICE ExpSum of(Vec<T, N> x, ExpSum so_far) {
    float most = so_far.most;
    for (int j = 0; j < N; ++j) most = fmaxf(most, widen(x.at[j]));
    float sum = so_far.sum == 0 ? 0 : so_far.sum * expf(so_far.most - most);
    // Compared first: where all so far is −∞, −∞ − most would be a NaN; a NaN stays one.
    for (int j = 0; j < N; ++j) sum += widen(x.at[j]) == -INFINITY ? 0 : expf(widen(x.at[j]) - most);
    return {most, sum};
}

DEVICE ExpSum of_block(ExpSum mine) {
    SHARED(float, mosts, WARP);
    SHARED(float, sums, WARP);
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        mine = joined(mine, {__shfl_xor_sync(ALL_LANES, mine.most, distance), __shfl_xor_sync(ALL_LANES, mine.sum, distance)});
    if (threadIdx.x % WARP == 0) {
        mosts[threadIdx.x / WARP] = mine.most;
        sums[threadIdx.x / WARP] = mine.sum;
    }
    __syncthreads();
    ExpSum all = {-INFINITY, 0};
    for (unsigned warp = 0; warp < blockDim.x / WARP; ++warp) all = joined(all, {mosts[warp], sums[warp]});
    return all;
}

template <class T, int N>
DEVICE ExpSum of_row(const T* row, unsigned width) {
    ExpSum mine = {-INFINITY, 0};
    for (unsigned i = threadIdx.x * N; i < width; i += blockDim.x * N) mine = of(load<N>(row + i), mine);
    return of_block(mine);
}

template <class T, int N>
DEVICE void nll(const T* __restrict__ logits, const uint32_t* __restrict__ targets, float* __restrict__ losses,
                unsigned width) {
    const T* const row = logits + size_t{blockIdx.x} * width;
    const ExpSum all = of_row<T, N>(row, width);
    if (threadIdx.x == 0) store(losses + blockIdx.x, all.most + logf(all.sum) - widen(load(row + load(targets + blockIdx.x))));
}

// ∂(scale·Σ nll)/∂logits = scale·(softmax − onehot). A row whose target is NONE has neither loss nor gradient.
template <class T, int N>
DEVICE void nll_and_grad(T* logits, const uint32_t* __restrict__ targets, float* __restrict__ losses, unsigned width,
                         const float* __restrict__ scales) {
    T* const row = logits + size_t{blockIdx.x} * width;
    const unsigned target = load(targets + blockIdx.x);
    if (target == NONE) {
        for (unsigned i = threadIdx.x * N; i < width; i += blockDim.x * N) store(row + i, Vec<T, N>{});
        if (threadIdx.x == 0) store(losses + blockIdx.x, 0.0f);
        return;
    }
    const float scale = load(scales);
    const float right = widen(load(row + target));  // of_row's barrier stands between this and the writing below
    const ExpSum all = of_row<T, N>(row, width);
    const float factor = scale / all.sum;
    for (unsigned i = threadIdx.x * N; i < width; i += blockDim.x * N) {
        Vec<T, N> x = load<N>(row + i);
        for (int j = 0; j < N; ++j) {
            const float p = expf(widen(x.at[j]) - all.most) * factor;
            x.at[j] = round_to<T>(i + j == target ? p - scale : p);
        }
        store(row + i, x);
    }
    if (threadIdx.x == 0) store(losses + blockIdx.x, all.most + logf(all.sum) - right);
}

}  // namespace

#define CROSS_ENTROPY(name, T, N)                                                                                    \
    KERNEL(cross_entropy_nll_##name, 1024, (const T* logits, const uint32_t* targets, float* losses, unsigned width)) { \
        nll<T, N>(logits, targets, losses, width);                                                                   \
    }                                                                                                                \
    KERNEL(cross_entropy_grad_##name, 1024,                                                                          \
           (T* logits, const uint32_t* targets, float* losses, unsigned width, const float* scales)) {               \
        nll_and_grad<T, N>(logits, targets, losses, width, scales);                                                  \
    }

CROSS_ENTROPY(f32, float, 1)
CROSS_ENTROPY(f32_wide, float, WIDE<float>)
CROSS_ENTROPY(bf16, bf16, 1)
CROSS_ENTROPY(bf16_wide, bf16, WIDE<bf16>)
