// Kernels that are wrong in one way each: what the harness is there to catch. And a few that are right, to count with.

#include "../common.cuh"

// Right: reverses 64 values through shared memory.
KERNEL(reverse, 64, (const float* x, float* y)) {
    SHARED(float, all, 64);
    all[threadIdx.x] = load(x + threadIdx.x);
    __syncthreads();
    store(y + threadIdx.x, static_cast<float>(all[63 - threadIdx.x]));
}

KERNEL(missing_barrier, 64, (const float* x, float* y)) {
    SHARED(float, all, 64);
    all[threadIdx.x] = load(x + threadIdx.x);
    store(y + threadIdx.x, static_cast<float>(all[63 - threadIdx.x]));
}

// A second round overwrites what slower threads of the first still read.
KERNEL(missing_second_barrier, 64, (const float* x, float* y)) {
    SHARED(float, all, 64);
    for (int round = 0; round < 2; ++round) {
        all[threadIdx.x] = load(x + threadIdx.x);
        __syncthreads();
        store(y + threadIdx.x, static_cast<float>(all[63 - threadIdx.x]));
    }
}

KERNEL(missing_warp_barrier, 32, (const float* x, float* y)) {
    SHARED(float, all, 32);
    all[threadIdx.x] = load(x + threadIdx.x);
    store(y + threadIdx.x, static_cast<float>(all[threadIdx.x ^ 1]));
}

KERNEL(divergent_barrier, 64, (const float* x, float* y)) {
    if (threadIdx.x < 48) __syncthreads();
    store(y + threadIdx.x, load(x + threadIdx.x));
}

KERNEL(two_barriers_for_one, 64, (const float* x, float* y)) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    store(y + threadIdx.x, load(x + threadIdx.x));
}

KERNEL(divergent_shuffle, 32, (const float* x, float* y)) {
    float value = load(x + threadIdx.x);
    if (threadIdx.x < 16) value = warp_sum(value);
    store(y + threadIdx.x, value);
}

KERNEL(shuffle_from_outside, 32, (const float* x, float* y)) {
    float value = load(x + threadIdx.x);
    if (threadIdx.x < 16) value = __shfl_sync(0xffffu, value, 20);
    store(y + threadIdx.x, value);
}

KERNEL(misaligned_load, 32, (const float* x, float* y)) {
    store(y + threadIdx.x, load<4>(x + 1).at[threadIdx.x % 4]);
}

KERNEL(read_out_of_bounds, 64, (const float* x, float* y)) { store(y + threadIdx.x, load(x + threadIdx.x + 1)); }

KERNEL(write_out_of_bounds, 64, (const float* x, float* y)) { store(y + threadIdx.x + 1, load(x + threadIdx.x)); }

// Past store's own check: only the guard bytes behind the buffer see it.
KERNEL(write_past_the_checks, 64, (const float* x, float* y)) { y[threadIdx.x + 1] = load(x + threadIdx.x); }

KERNEL(write_into_an_input, 64, (const float* x, float* y)) {
    store(const_cast<float*>(x) + threadIdx.x, 0.0f);
    store(y + threadIdx.x, 0.0f);
}

KERNEL(unwritten_shared_memory, 64, (const float* x, float* y)) {
    SHARED(float, all, 65);
    all[threadIdx.x] = load(x + threadIdx.x);
    __syncthreads();
    store(y + threadIdx.x, static_cast<float>(all[threadIdx.x + 1]));
}

KERNEL(shared_out_of_bounds, 64, (const float* x, float* y)) {
    SHARED(float, all, 63);
    all[threadIdx.x] = load(x + threadIdx.x);
    store(y + threadIdx.x, 0.0f);
}

KERNEL(half_of_dynamic, 64, (const float* x, float* y)) {
    DYNAMIC_SHARED(float, all);
    all[threadIdx.x] = load(x + threadIdx.x);
    store(y + threadIdx.x, static_cast<float>(all[threadIdx.x]));
}

// Whoever comes last wins: no access is wrong, but the two schedules end differently.
KERNEL(last_one_wins, 64, (const float* x, float* y)) { store(y + threadIdx.x / 64, load(x + threadIdx.x)); }

// Right: 64 values with `stride` between neighbours, read and sent through shared memory.
KERNEL(strided, 64, (const float* x, float* y, int stride)) {
    SHARED(float, all, 64 * 32);
    const float value = load(x + threadIdx.x * stride);
    store_shared(all + threadIdx.x * stride, Vec<float, 1>{{value}});
    store(y + threadIdx.x, load_shared<1>(all + threadIdx.x * stride).at[0]);
}
