// What candle asks of cuBLAS and cuRAND, done on the CPU: products in plain loops over f32 (over f64 for f64), sums of one
// element in the order of k.

#include "driver.h"

#include <string.h>

#include <thread>
#include <vector>

namespace driver {
namespace {

struct Blas {
    void* stream = nullptr;
};

// cudaDataType of library_types.h.
constexpr int R_32F = 0, R_64F = 1, R_16BF = 14;

size_t bytes_of(int type) { return type == R_64F ? 8 : type == R_32F ? 4 : 2; }

template <class S>
S get(int type, const char* at, size_t i) {
    if (type == R_64F) {
        double x;
        memcpy(&x, at + 8 * i, sizeof x);
        return S(x);
    }
    uint32_t bits = 0;
    if (type == R_32F) memcpy(&bits, at + 4 * i, 4);
    else memcpy(reinterpret_cast<char*>(&bits) + 2, at + 2 * i, 2);
    float x;
    memcpy(&x, &bits, sizeof x);
    return S(x);
}

template <class S>
void set(int type, char* at, size_t i, S x) {
    if (type == R_64F) {
        const auto wide = double(x);
        memcpy(at + 8 * i, &wide, 8);
        return;
    }
    const auto narrow = float(x);
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    if (type == R_32F) return void(memcpy(at + 4 * i, &bits, 4));
    const bool nan = narrow != narrow;
    const auto half = uint16_t((bits + (nan ? 0 : 0x7fff + ((bits >> 16) & 1))) >> 16);
    memcpy(at + 2 * i, &half, 2);
}

// A column-major matrix that is read rows by `k`: of A the rows, of B the columns.
template <class S>
std::vector<S> lines(const char* from, int type, bool along_k, size_t n, size_t k, size_t ld) {
    std::vector<S> all(n * k);
    for (size_t i = 0; i < n; ++i)
        for (size_t j = 0; j < k; ++j) all[i * k + j] = get<S>(type, from, along_k ? j + i * ld : i + j * ld);
    return all;
}

template <class S>
S dot(const S* x, const S* y, size_t k) {
    S sums[16] = {};
    size_t i = 0;
    for (; i + 16 <= k; i += 16)
        for (size_t lane = 0; lane < 16; ++lane) sums[lane] += x[i + lane] * y[i + lane];
    S sum = 0;
    for (const S part : sums) sum += part;
    for (; i < k; ++i) sum += x[i] * y[i];
    return sum;
}

// C = alpha · op(A)·op(B) + beta · C, column-major, as cuBLAS documents it.
struct Product {
    bool transpose_a, transpose_b;
    size_t m, n, k;
    double alpha, beta;
    const char *a, *b;
    char* c;
    int type_a, type_b, type_c;
    size_t ld_a, ld_b, ld_c;

    template <class S>
    void run() const {
        check("A", a, type_a, transpose_a ? k : m, transpose_a ? m : k, ld_a);
        check("B", b, type_b, transpose_b ? n : k, transpose_b ? k : n, ld_b);
        check("C", c, type_c, m, n, ld_c);
        const auto rows = lines<S>(a, type_a, transpose_a, m, k, ld_a);
        const auto columns = lines<S>(b, type_b, !transpose_b, n, k, ld_b);
        for (size_t j = 0; j < n; ++j)
            for (size_t i = 0; i < m; ++i) {
                S sum = S(alpha) * dot(&rows[i * k], &columns[j * k], k);
                if (beta != 0) sum += S(beta) * get<S>(type_c, c, i + j * ld_c);
                set(type_c, c, i + j * ld_c, sum);
            }
    }

    static void check(const char* what, const char* at, int type, size_t rows, size_t columns, size_t ld) {
        if (rows == 0 || columns == 0) return;
        if (ld < rows) give_up("a product: columns of %s have %zu elements, but lie %zu apart", what, rows, ld);
        check_range(what, at, ((columns - 1) * ld + rows) * bytes_of(type));
    }
};

int batch(void* handle, Product product, int64_t stride_a, int64_t stride_b, int64_t stride_c, int batches) {
    queue(static_cast<Blas*>(handle)->stream, "products", [=]() mutable {
        for (int i = 0; i < batches; ++i) {
            if (product.type_c == R_64F) product.run<double>();
            else product.run<float>();
            product.a += stride_a * int64_t(bytes_of(product.type_a));
            product.b += stride_b * int64_t(bytes_of(product.type_b));
            product.c += stride_c * int64_t(bytes_of(product.type_c));
        }
    });
    return 0;
}

}  // namespace
}  // namespace driver

using namespace driver;

#define API extern "C" __attribute__((visibility("default"))) int

API cublasCreate_v2(void** handle) {
    *handle = new Blas;
    return 0;
}
API cublasDestroy_v2(void* handle) {
    delete static_cast<Blas*>(handle);
    return 0;
}
API cublasSetStream_v2(void* handle, void* stream) {
    static_cast<Blas*>(handle)->stream = stream;
    return 0;
}
API cublasSetWorkspace_v2(void*, void* at, size_t bytes) {
    check_range("cuBLAS's workspace", at, bytes);
    return 0;
}
API cublasGemmStridedBatchedEx(void* handle, int op_a, int op_b, int m, int n, int k, const float* alpha, const void* a,
                               int type_a, int ld_a, long long stride_a, const void* b, int type_b, int ld_b,
                               long long stride_b, const float* beta, void* c, int type_c, int ld_c, long long stride_c,
                               int batches, int compute, int) {
    // CUBLAS_COMPUTE_32F, and with tensor cores on shortened operands, _FAST_TF32: factors are f32 in both.
    if (compute != 68 && compute != 77) give_up("a product computed as %d: not f32", compute);
    const Product product{op_a != 0, op_b != 0, size_t(m), size_t(n), size_t(k), *alpha, *beta, static_cast<const char*>(a),
                          static_cast<const char*>(b), static_cast<char*>(c), type_a, type_b, type_c, size_t(ld_a),
                          size_t(ld_b), size_t(ld_c)};
    return batch(handle, product, stride_a, stride_b, stride_c, batches);
}
API cublasGemmEx(void* handle, int op_a, int op_b, int m, int n, int k, const float* alpha, const void* a, int type_a,
                 int ld_a, const void* b, int type_b, int ld_b, const float* beta, void* c, int type_c, int ld_c, int compute,
                 int algorithm) {
    return cublasGemmStridedBatchedEx(handle, op_a, op_b, m, n, k, alpha, a, type_a, ld_a, 0, b, type_b, ld_b, 0, beta, c,
                                      type_c, ld_c, 0, 1, compute, algorithm);
}
API cublasDgemmStridedBatched(void* handle, int op_a, int op_b, int m, int n, int k, const double* alpha, const double* a,
                              int ld_a, long long stride_a, const double* b, int ld_b, long long stride_b,
                              const double* beta, double* c, int ld_c, long long stride_c, int batches) {
    const auto bytes = [](const double* at) { return reinterpret_cast<const char*>(at); };
    const Product product{op_a != 0, op_b != 0, size_t(m), size_t(n), size_t(k), *alpha, *beta, bytes(a), bytes(b),
                          reinterpret_cast<char*>(c), R_64F, R_64F, R_64F, size_t(ld_a), size_t(ld_b), size_t(ld_c)};
    return batch(handle, product, stride_a, stride_b, stride_c, batches);
}

// candle makes a generator for every device and asks it for numbers only in functions that are not used here.
API curandCreateGenerator(void** generator, int) {
    *generator = new char;
    return 0;
}
API curandDestroyGenerator(void* generator) {
    delete static_cast<char*>(generator);
    return 0;
}
API curandSetStream(void*, void*) { return 0; }
API curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return 0; }
