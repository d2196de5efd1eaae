// The host harness: CUDA's words for a C++ compiler. A block's threads are fibers on one thread of the CPU; harness.cpp
// schedules them and says what it checks. Include common.cuh, never this file.

#pragma once

#include <math.h>
#include <stddef.h>
#include <string.h>

#include <utility>

#define DEVICE inline
#define UNROLL
#define __restrict__ __restrict

struct dim3 {
    unsigned x, y, z;
};

// __thread and not thread_local: without a constructor to think of, a read is one instruction.
extern __thread dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace harness {

// Where a kernel says something; files and lines are those of its source.
struct Site {
    const char* file;
    int line;

    // As a default argument: the line of the caller.
    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

// What lanes of a warp do together.
enum class Together { Sync, Shuffle, Matrix, LoadMatrix, LoadMatrixTransposed };

// Ends the launch with a message; the fiber never runs again.
[[noreturn]] void fail(Site site, const char* format, ...) __attribute__((format(printf, 2, 3)));

void sync_block(Site site);
// Waits until every lane of `mask` says the same at the same place; `data` is this lane's part of it.
void together(Together what, unsigned mask, void* data, Site site);

// Alignment, bounds and counters of an access.
void global_access(const void* at, size_t bytes, bool write, Site site);
// As global_access; and whether it was written before it is read, and no race.
void shared_access(const void* at, size_t bytes, bool write, Site site);

void* static_shared(size_t bytes, Site site);
void* dynamic_shared();

struct Shuffle {
    uint64_t value, result;
    int source;
};

// D = A·B + C of one warp; fragments as PTX lays them out for mma.m16n8k16.
struct Matrix {
    const uint32_t* a;  // 4
    const uint32_t* b;  // 2
    float* c;           // 4, replaced by the result
};

struct LoadMatrix {
    const void* row;
    uint32_t* result;  // 4
};

// A kernel that a launch may name. `call` unpacks the arguments as cuLaunchKernel does.
struct Kernel {
    const char* name;
    unsigned most_threads;
    size_t parameters;
    const size_t* sizes;
    void (*call)(void (*kernel)(), void** arguments);
    void (*kernel)();
    const Kernel* next;
};

void add(Kernel* kernel);

template <class... P>
struct Unpacked {
    template <size_t... I>
    static void with(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
        kernel(*static_cast<P*>(arguments[I])...);
    }
    static void call(void (*kernel)(), void** arguments) {
        with(reinterpret_cast<void (*)(P...)>(kernel), arguments, std::index_sequence_for<P...>{});
    }
    static constexpr size_t sizes[] = {sizeof(P)...};
};

struct Registered {
    Kernel kernel;
    template <class... P>
    Registered(const char* name, unsigned most_threads, void (*body)(P...))
        : kernel{name,          most_threads, sizeof...(P), Unpacked<P...>::sizes, Unpacked<P...>::call,
                 reinterpret_cast<void (*)()>(body), nullptr} {
        add(&kernel);
    }
};

}  // namespace harness

#define KERNEL(name, threads, parameters)                                     \
    static void name parameters;                                              \
    static harness::Registered name##_registered{#name, threads, &name};      \
    static void name parameters

// A pointer into shared memory whose reads and writes are checked.
template <class T>
struct SharedPtr {
    T* at;

    struct Place {
        T* at;
        operator T() const {
            harness::shared_access(at, sizeof(T), false, {"", 0});
            return *at;
        }
        Place& operator=(T value) {
            harness::shared_access(at, sizeof(T), true, {"", 0});
            *at = value;
            return *this;
        }
        Place& operator=(const Place& other) { return *this = static_cast<T>(other); }
        Place& operator+=(T value) { return *this = static_cast<T>(*this) + value; }
    };

    Place operator[](ptrdiff_t i) const { return {at + i}; }
    SharedPtr operator+(ptrdiff_t i) const { return {at + i}; }
};

#define SHARED(type, name, count)                                                                           \
    const SharedPtr<type> name {                                                                            \
        static_cast<type*>(harness::static_shared(sizeof(type) * (count), harness::Site{__FILE__, __LINE__})) \
    }
#define DYNAMIC_SHARED(type, name) const SharedPtr<type> name{static_cast<type*>(harness::dynamic_shared())}

inline void __syncthreads(harness::Site site = harness::Site::here()) { harness::sync_block(site); }

inline void __syncwarp(unsigned mask = 0xffffffffu, harness::Site site = harness::Site::here()) {
    harness::together(harness::Together::Sync, mask, nullptr, site);
}

template <class T>
inline T shuffle(unsigned mask, T value, int source, harness::Site site) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves 4 or 8 bytes");
    harness::Shuffle data{0, 0, source};
    memcpy(&data.value, &value, sizeof value);
    harness::together(harness::Together::Shuffle, mask, &data, site);
    memcpy(&value, &data.result, sizeof value);
    return value;
}

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, harness::Site site = harness::Site::here()) {
    return shuffle(mask, value, source % WARP, site);
}

template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int distance, harness::Site site = harness::Site::here()) {
    return shuffle(mask, value, static_cast<int>(threadIdx.x % WARP) ^ distance, site);
}

template <class T>
inline T __shfl_down_sync(unsigned mask, T value, int distance, harness::Site site = harness::Site::here()) {
    const int lane = threadIdx.x % WARP;
    return shuffle(mask, value, lane + distance < WARP ? lane + distance : lane, site);
}

inline float __uint_as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

inline uint32_t __float_as_uint(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float widen(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }

template <class T>
inline T round_to(float x);

// To nearest, ties to even: half a step of the upper half, less one where its last bit is even; the carry rounds.
template <>
inline bf16 round_to<bf16>(float x) {
    const uint32_t bits = __float_as_uint(x);
    if (isnan(x)) return {0x7fff};  // as cvt.rn.bf16.f32 makes it
    return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

template <int N, class T>
inline Vec<T, N> load(const T* from, harness::Site site = harness::Site::here()) {
    static_assert(sizeof(Vec<T, N>) <= 16, "a thread reads at most 16 bytes at once");
    harness::global_access(from, sizeof(Vec<T, N>), false, site);
    Vec<T, N> v;
    memcpy(&v, from, sizeof v);
    return v;
}

template <class T, int N>
inline void store(T* to, Vec<T, N> v, harness::Site site = harness::Site::here()) {
    static_assert(sizeof v <= 16, "a thread writes at most 16 bytes at once");
    harness::global_access(to, sizeof v, true, site);
    memcpy(to, &v, sizeof v);
}

template <class T>
inline T load(const T* from, harness::Site site = harness::Site::here()) {
    return load<1>(from, site).at[0];
}

template <class T>
inline void store(T* to, T value, harness::Site site = harness::Site::here()) {
    store(to, Vec<T, 1>{{value}}, site);
}

template <int N, class T>
inline Vec<T, N> load_shared(SharedPtr<T> from, harness::Site site = harness::Site::here()) {
    harness::shared_access(from.at, sizeof(Vec<T, N>), false, site);
    Vec<T, N> v;
    memcpy(&v, from.at, sizeof v);
    return v;
}

template <class T, int N>
inline void store_shared(SharedPtr<T> to, Vec<T, N> v, harness::Site site = harness::Site::here()) {
    harness::shared_access(to.at, sizeof v, true, site);
    memcpy(to.at, &v, sizeof v);
}

inline void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         harness::Site site = harness::Site::here()) {
    harness::Matrix data{a, b, c};
    harness::together(harness::Together::Matrix, 0xffffffffu, &data, site);
}

inline void load_matrices(uint32_t (&m)[4], SharedPtr<bf16> row, harness::Site site = harness::Site::here()) {
    harness::LoadMatrix data{row.at, m};
    harness::together(harness::Together::LoadMatrix, 0xffffffffu, &data, site);
}

inline void load_matrices_transposed(uint32_t (&m)[4], SharedPtr<bf16> row,
                                     harness::Site site = harness::Site::here()) {
    harness::LoadMatrix data{row.at, m};
    harness::together(harness::Together::LoadMatrixTransposed, 0xffffffffu, &data, site);
}
