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
// Before a loop whose counter picks registers.
#define UNROLL _Pragma("unroll")

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

// D = A·B + C, bf16 in, f32 out: A 16x16, B 16x8, C and D 16x8, spread over the warp as PTX says for mma.m16n8k16.
DEVICE void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8x8 matrices of bf16: lane l points to row l % 8 of matrix l / 8, 16 bytes. Lane l gets of every matrix the pair l % 4
// of row l / 4.
DEVICE void load_matrices(uint32_t (&m)[4], const bf16* row) {
    const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(at)
                 : "memory");
}

// The same of the transposed matrices.
DEVICE void load_matrices_transposed(uint32_t (&m)[4], const bf16* row) {
    const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(at)
                 : "memory");
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
