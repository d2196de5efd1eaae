// The words every kernel of this folder is written in, and the only file that knows which compiler reads it.
//
// nvcc makes the usual CUDA of them. A C++ compiler gets the host harness (host/harness.h) behind the same words, so that
// tests run the very same sources on the CPU, every access checked and counted.
//
// Rules of the sources: global memory is read and written by load and store, shared memory by SharedPtr, load_shared and
// store_shared; a product and a sum are one operation only where fmaf says so (nvcc gets -fmad=false), so both compilers
// compute the same; no atomics, and every reduction has a fixed order: the same input gives the same bytes.

#pragma once

#include <stdint.h>

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// A bf16 is the upper half of an f32.
struct bf16 {
    uint16_t bits;
};

// N neighbours, read or written by one instruction of at most 16 bytes.
template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
    T at[N];
};

// Elements in 16 bytes, the widest access of a thread.
template <class T>
constexpr int WIDE = 16 / sizeof(T);

#ifdef __CUDACC__

#define DEVICE __device__ __forceinline__

// A kernel of at most `threads` threads a block: KERNEL(name, threads, (parameters)) { body }
#define KERNEL(name, threads, parameters) extern "C" __global__ void __launch_bounds__(threads) name parameters
// `count` elements of static shared memory.
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
// The dynamic shared memory that the launch asks for.
#define DYNAMIC_SHARED(type, name)                                   \
    extern __shared__ __align__(128) unsigned char dynamic_shared[]; \
    type* const name = reinterpret_cast<type*>(dynamic_shared)

template <class T>
using SharedPtr = T*;

DEVICE float widen(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }

template <class T>
DEVICE T round_to(float x);
template <>
DEVICE bf16 round_to<bf16>(float x) {
    bf16 rounded;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(x));
    return rounded;
}

template <int BYTES>
struct Word;
template <>
struct Word<2> {
    using type = uint16_t;
};
template <>
struct Word<4> {
    using type = uint32_t;
};
template <>
struct Word<8> {
    using type = uint2;
};
template <>
struct Word<16> {
    using type = uint4;
};

template <int N, class T>
DEVICE Vec<T, N> load(const T* from) {
    const auto word = *reinterpret_cast<const typename Word<sizeof(T) * N>::type*>(from);
    Vec<T, N> v;
    memcpy(&v, &word, sizeof v);
    return v;
}

template <class T, int N>
DEVICE void store(T* to, Vec<T, N> v) {
    typename Word<sizeof(T) * N>::type word;
    memcpy(&word, &v, sizeof v);
    *reinterpret_cast<decltype(word)*>(to) = word;
}

template <class T>
DEVICE T load(const T* from) {
    return *from;
}

template <class T>
DEVICE void store(T* to, T value) {
    *to = value;
}

template <int N, class T>
DEVICE Vec<T, N> load_shared(const T* from) {
    return load<N>(from);
}

template <class T, int N>
DEVICE void store_shared(T* to, Vec<T, N> v) {
    store(to, v);
}

#else

#include "host/harness.h"

#endif

DEVICE float widen(float x) { return x; }

template <>
DEVICE float round_to<float>(float x) {
    return x;
}

// What bf16 arithmetic makes of a value that f32 arithmetic has.
template <class T>
DEVICE float rounded(float x) {
    return widen(round_to<T>(x));
}

// Σ over the lanes of a warp, in every lane; the same order always.
template <class T>
DEVICE T warp_sum(T x) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
    return x;
}

// Σ over the threads of a block (whole warps), in every thread; the same order always.
template <class T>
DEVICE T block_sum(T x) {
    SHARED(T, of_warps, WARP);
    x = warp_sum(x);
    __syncthreads();  // a block_sum before this one may still be read
    if (threadIdx.x % WARP == 0) of_warps[threadIdx.x / WARP] = x;
    __syncthreads();
    T sum = 0;
    for (unsigned warp = 0; warp < blockDim.x / WARP; ++warp) sum += of_warps[warp];
    return sum;
}
