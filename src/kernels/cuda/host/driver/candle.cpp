// candle's kernels that the program uses, as loops. Their parameters are those of candle-kernels 0.11.1; arithmetic is done
// in f64 and rounded once, so that f32 and bf16 get the nearest value.

#include "driver.h"

#include <math.h>
#include <string.h>

#include <limits>
#include <map>

namespace driver {
namespace {

enum class Type { F32, F64, BF16, U8, U32, I64 };

const std::map<std::string, Type> TYPES = {{"f32", Type::F32}, {"f64", Type::F64}, {"bf16", Type::BF16},
                                           {"u8", Type::U8},   {"u32", Type::U32}, {"i64", Type::I64}};

size_t bytes_of(Type type) {
    switch (type) {
        case Type::F64: case Type::I64: return 8;
        case Type::F32: case Type::U32: return 4;
        case Type::BF16: return 2;
        case Type::U8: return 1;
    }
    return 0;
}

template <class T>
T read(const void* at, size_t i) {
    T x;
    memcpy(&x, static_cast<const char*>(at) + i * sizeof(T), sizeof x);
    return x;
}

// Integers of 64 bits here are lengths and ids, far below 2^53.
double get(Type type, const void* at, size_t i) {
    switch (type) {
        case Type::F32: return read<float>(at, i);
        case Type::F64: return read<double>(at, i);
        case Type::U8: return read<uint8_t>(at, i);
        case Type::U32: return read<uint32_t>(at, i);
        case Type::I64: return double(read<int64_t>(at, i));
        case Type::BF16: {
            const uint32_t bits = uint32_t{read<uint16_t>(at, i)} << 16;
            float x;
            memcpy(&x, &bits, sizeof x);
            return x;
        }
    }
    return 0;
}

template <class T>
void write(void* at, size_t i, T x) {
    memcpy(static_cast<char*>(at) + i * sizeof(T), &x, sizeof x);
}

void set(Type type, void* at, size_t i, double x) {
    switch (type) {
        case Type::F32: return write(at, i, float(x));
        case Type::F64: return write(at, i, x);
        case Type::U8: return write(at, i, uint8_t(x));
        case Type::U32: return write(at, i, uint32_t(x));
        case Type::I64: return write(at, i, int64_t(x));
        case Type::BF16: {
            const float narrow = float(x);
            uint32_t bits;
            memcpy(&bits, &narrow, sizeof bits);
            const uint32_t up = isnan(narrow) ? 0 : 0x7fff + ((bits >> 16) & 1);
            return write(at, i, uint16_t((bits + up) >> 16));
        }
    }
}

size_t number(void* argument) { return read<size_t>(argument, 0); }
void* pointer(void* argument) { return read<void*>(argument, 0); }

// Dimensions with strides behind them, one set for each operand; none: everything is contiguous.
struct Shape {
    size_t dims;
    const size_t* info;

    Shape(void* dims, void* info) : dims(number(dims)), info(static_cast<const size_t*>(pointer(info))) {}

    // Where the operand with the n-th strides has element `i`.
    size_t at(size_t i, size_t n = 0) const {
        if (!info) return i;
        size_t place = 0;
        for (size_t d = dims; d-- > 0; i /= info[d]) place += i % info[d] * info[dims * (n + 1) + d];
        return place;
    }

    // Elements from the first to the last that the n-th operand has.
    size_t span(size_t elements, size_t n = 0) const { return elements == 0 ? 0 : extent(elements, n) + 1; }

  private:
    size_t extent(size_t elements, size_t n) const {
        if (!info) return elements - 1;
        size_t last = 0;
        for (size_t d = 0; d < dims; ++d) last += (info[d] - 1) * info[dims * (n + 1) + d];
        return last;
    }
};

constexpr size_t WORD = 8;
using Unary = double (*)(double);
using Binary = double (*)(double, double);

const std::map<std::string, Unary> UNARY = {
    {"ucopy", [](double x) { return x; }},         {"uneg", [](double x) { return -x; }},
    {"uexp", [](double x) { return exp(x); }},     {"ulog", [](double x) { return log(x); }},
    {"usqr", [](double x) { return x * x; }},      {"usqrt", [](double x) { return sqrt(x); }},
    {"urecip", [](double x) { return 1 / x; }},    {"uabs", [](double x) { return fabs(x); }},
    {"usin", [](double x) { return sin(x); }},     {"ucos", [](double x) { return cos(x); }},
    {"usilu", [](double x) { return x / (1 + exp(-x)); }},
    {"usigmoid", [](double x) { return 1 / (1 + exp(-x)); }},
};

const std::map<std::string, Binary> BINARY = {
    {"badd", [](double x, double y) { return x + y; }},
    {"bsub", [](double x, double y) { return x - y; }},
    {"bmul", [](double x, double y) { return x * y; }},
    {"bdiv", [](double x, double y) { return x / y; }},
    {"bmaximum", [](double x, double y) { return x > y || isnan(x) ? x : y; }},
    {"bminimum", [](double x, double y) { return x < y || isnan(x) ? x : y; }},
};

const std::map<std::string, Binary> COMPARISONS = {
    {"eq", [](double x, double y) { return double(x == y); }}, {"ne", [](double x, double y) { return double(x != y); }},
    {"lt", [](double x, double y) { return double(x < y); }},  {"le", [](double x, double y) { return double(x <= y); }},
    {"gt", [](double x, double y) { return double(x > y); }},  {"ge", [](double x, double y) { return double(x >= y); }},
};

CandleKernel unary(const std::string& name, Type from, Type to, Unary f) {
    return {{WORD, WORD, WORD, WORD, WORD}, [=](void** a) {
                const size_t n = number(a[0]);
                const Shape shape(a[1], a[2]);
                void *x = pointer(a[3]), *y = pointer(a[4]);
                check_range(name.c_str(), x, shape.span(n) * bytes_of(from));
                check_range(name.c_str(), y, n * bytes_of(to));
                for (size_t i = 0; i < n; ++i) set(to, y, i, f(get(from, x, shape.at(i))));
            }};
}

CandleKernel binary(const std::string& name, Type from, Type to, Binary f) {
    return {{WORD, WORD, WORD, WORD, WORD, WORD}, [=](void** a) {
                const size_t n = number(a[0]);
                const Shape shape(a[1], a[2]);
                void *x = pointer(a[3]), *y = pointer(a[4]), *z = pointer(a[5]);
                check_range(name.c_str(), x, shape.span(n) * bytes_of(from));
                check_range(name.c_str(), y, shape.span(n, 1) * bytes_of(from));
                check_range(name.c_str(), z, n * bytes_of(to));
                for (size_t i = 0; i < n; ++i) set(to, z, i, f(get(from, x, shape.at(i)), get(from, y, shape.at(i, 1))));
            }};
}

CandleKernel affine(const std::string& name, Type type) {
    const size_t one = bytes_of(type);
    return {{WORD, WORD, WORD, WORD, WORD, one, one}, [=](void** a) {
                const size_t n = number(a[0]);
                const Shape shape(a[1], a[2]);
                void *x = pointer(a[3]), *y = pointer(a[4]);
                check_range(name.c_str(), x, shape.span(n) * one);
                check_range(name.c_str(), y, n * one);
                const double factor = get(type, a[5], 0), summand = get(type, a[6], 0);
                for (size_t i = 0; i < n; ++i) set(type, y, i, get(type, x, shape.at(i)) * factor + summand);
            }};
}

CandleKernel power(const std::string& name, Type type) {
    const size_t one = bytes_of(type);
    return {{WORD, WORD, WORD, one, WORD, WORD}, [=](void** a) {
                const size_t n = number(a[0]);
                const Shape shape(a[1], a[2]);
                void *x = pointer(a[4]), *y = pointer(a[5]);
                check_range(name.c_str(), x, shape.span(n) * one);
                check_range(name.c_str(), y, n * one);
                const double exponent = get(type, a[3], 0);
                for (size_t i = 0; i < n; ++i) set(type, y, i, pow(get(type, x, shape.at(i)), exponent));
            }};
}

CandleKernel constant(const std::string& name, Type type) {
    const size_t one = bytes_of(type);
    return {{WORD, WORD, WORD, one, WORD}, [=](void** a) {
                const size_t n = number(a[0]);
                const Shape shape(a[1], a[2]);
                void* to = pointer(a[4]);
                check_range(name.c_str(), to, shape.span(n) * one);
                for (size_t i = 0; i < n; ++i) set(type, to, shape.at(i), get(type, a[3], 0));
            }};
}

CandleKernel copy2d(const std::string& name, Type type) {
    return {{WORD, WORD, 4, 4, 4, 4}, [=](void** a) {
                const size_t one = bytes_of(type);
                auto *from = static_cast<char*>(pointer(a[0])), *to = static_cast<char*>(pointer(a[1]));
                const size_t rows = read<uint32_t>(a[2], 0), width = read<uint32_t>(a[3], 0);
                const size_t step_from = read<uint32_t>(a[4], 0), step_to = read<uint32_t>(a[5], 0);
                check_range(name.c_str(), from, ((rows - 1) * step_from + width) * one);
                check_range(name.c_str(), to, ((rows - 1) * step_to + width) * one);
                for (size_t i = 0; i < rows; ++i) memmove(to + i * step_to * one, from + i * step_from * one, width * one);
            }};
}

CandleKernel where(const std::string& name, Type condition, Type type) {
    return {{WORD, WORD, WORD, WORD, WORD, WORD, WORD}, [=](void** a) {
                const size_t n = number(a[0]);
                const Shape shape(a[1], a[2]);
                void *which = pointer(a[3]), *yes = pointer(a[4]), *no = pointer(a[5]), *to = pointer(a[6]);
                check_range(name.c_str(), which, shape.span(n) * bytes_of(condition));
                check_range(name.c_str(), yes, shape.span(n, 1) * bytes_of(type));
                check_range(name.c_str(), no, shape.span(n, 2) * bytes_of(type));
                check_range(name.c_str(), to, n * bytes_of(type));
                for (size_t i = 0; i < n; ++i) {
                    const bool is = get(condition, which, shape.at(i)) != 0;
                    set(type, to, i, is ? get(type, yes, shape.at(i, 1)) : get(type, no, shape.at(i, 2)));
                }
            }};
}

CandleKernel index_select(const std::string& name, Type ids, Type type) {
    return {{WORD, WORD, WORD, WORD, WORD, WORD, WORD, WORD, WORD, WORD}, [=](void** a) {
                const size_t n = number(a[0]), one = bytes_of(type);
                void *which = pointer(a[3]), *from = pointer(a[4]), *to = pointer(a[5]);
                const size_t left = number(a[6]), rows = number(a[7]), chosen = number(a[8]), right = number(a[9]);
                check_range(name.c_str(), which, chosen * bytes_of(ids));
                check_range(name.c_str(), from, left * rows * right * one);
                check_range(name.c_str(), to, n * one);
                for (size_t i = 0; i < n; ++i) {
                    const size_t row = size_t(get(ids, which, i / right % chosen));
                    if (row >= rows) give_up("%s: row %zu of %zu", name.c_str(), row, rows);
                    const size_t at = (i / (chosen * right) * rows + row) * right + i % right;
                    memcpy(static_cast<char*>(to) + i * one, static_cast<char*>(from) + at * one, one);
                }
            }};
}

CandleKernel index_add(const std::string& name, Type ids, Type type) {
    return {{WORD, WORD, WORD, WORD, WORD, WORD, WORD, WORD}, [=](void** a) {
                void *which = pointer(a[0]), *from = pointer(a[2]), *to = pointer(a[3]);
                const size_t chosen = number(a[1]), left = number(a[4]), from_rows = number(a[5]), rows = number(a[6]),
                             right = number(a[7]);
                check_range(name.c_str(), which, chosen * bytes_of(ids));
                check_range(name.c_str(), from, left * from_rows * right * bytes_of(type));
                check_range(name.c_str(), to, left * rows * right * bytes_of(type));
                for (size_t l = 0; l < left; ++l)
                    for (size_t i = 0; i < chosen; ++i) {
                        const size_t row = size_t(get(ids, which, i));
                        if (row >= rows) give_up("%s: row %zu of %zu", name.c_str(), row, rows);
                        for (size_t r = 0; r < right; ++r) {
                            const size_t at = (l * rows + row) * right + r;
                            set(type, to, at, get(type, to, at) + get(type, from, (l * from_rows + i) * right + r));
                        }
                    }
            }};
}

CandleKernel scatter_add(const std::string& name, Type ids, Type type) {
    return {{WORD, WORD, WORD, WORD, WORD, WORD, WORD}, [=](void** a) {
                void *which = pointer(a[0]), *from = pointer(a[1]), *to = pointer(a[2]);
                const size_t left = number(a[3]), from_rows = number(a[4]), rows = number(a[5]), right = number(a[6]);
                check_range(name.c_str(), which, left * from_rows * right * bytes_of(ids));
                check_range(name.c_str(), from, left * from_rows * right * bytes_of(type));
                check_range(name.c_str(), to, left * rows * right * bytes_of(type));
                for (size_t i = 0; i < left * from_rows * right; ++i) {
                    const size_t row = size_t(get(ids, which, i));
                    if (row >= rows) give_up("%s: row %zu of %zu", name.c_str(), row, rows);
                    const size_t at = (i / (from_rows * right) * rows + row) * right + i % right;
                    set(type, to, at, get(type, to, at) + get(type, from, i));
                }
            }};
}

CandleKernel gather(const std::string& name, Type ids, Type type) {
    return {{WORD, WORD, WORD, WORD, WORD, WORD, WORD, WORD}, [=](void** a) {
                const size_t n = number(a[0]);
                void *which = pointer(a[1]), *from = pointer(a[2]), *to = pointer(a[3]);
                const size_t left = number(a[4]), rows = number(a[5]), chosen = number(a[6]), right = number(a[7]);
                check_range(name.c_str(), which, n * bytes_of(ids));
                check_range(name.c_str(), from, left * rows * right * bytes_of(type));
                check_range(name.c_str(), to, n * bytes_of(type));
                for (size_t i = 0; i < n; ++i) {
                    const size_t row = size_t(get(ids, which, i));
                    if (row >= rows) give_up("%s: row %zu of %zu", name.c_str(), row, rows);
                    set(type, to, i, get(type, from, (i / (right * chosen) * rows + row) * right + i % right));
                }
            }};
}

// The dimensions that are reduced come last in the shape.
CandleKernel reduce(const std::string& name, Type type, Type to, double start, double (*step)(double, double), bool index) {
    return {{WORD, WORD, WORD, WORD, WORD, WORD}, [=](void** a) {
                const bool small = name.find("_small") != std::string::npos;
                const size_t each = number(a[1]), n = small ? number(a[0]) * each : number(a[0]);
                const Shape shape(a[2], a[3]);
                void *x = pointer(a[4]), *y = pointer(a[5]);
                check_range(name.c_str(), x, shape.span(n) * bytes_of(type));
                check_range(name.c_str(), y, n / each * bytes_of(to));
                for (size_t i = 0; i < n / each; ++i) {
                    double sum = start;
                    size_t best = 0;
                    for (size_t j = 0; j < each; ++j) {
                        const double next = step(sum, get(type, x, shape.at(i * each + j)));
                        if (next != sum) best = j;
                        sum = next;
                    }
                    set(to, y, i, index ? double(best) : sum);
                }
            }};
}

double add(double x, double y) { return x + y; }
double larger(double x, double y) { return y > x ? y : x; }
double smaller(double x, double y) { return y < x ? y : x; }

}  // namespace

std::optional<CandleKernel> candle_kernel(const std::string& name) {
    const size_t last = name.rfind('_');
    if (last == std::string::npos || !TYPES.count(name.substr(last + 1))) return {};
    const Type type = TYPES.at(name.substr(last + 1));
    const std::string root = name.substr(0, last);
    if (UNARY.count(root)) return unary(name, type, type, UNARY.at(root));
    if (BINARY.count(root)) return binary(name, type, type, BINARY.at(root));
    if (COMPARISONS.count(root)) return binary(name, type, Type::U8, COMPARISONS.at(root));
    if (root == "affine") return affine(name, type);
    if (root == "upowf") return power(name, type);
    if (root == "const_set") return constant(name, type);
    if (root == "copy2d") return copy2d(name, type);
    constexpr double INFINITE = std::numeric_limits<double>::infinity();
    if (root == "fast_sum" || root == "fast_sum_small") return reduce(name, type, type, 0, add, false);
    if (root == "fast_max") return reduce(name, type, type, -INFINITE, larger, false);
    if (root == "fast_min") return reduce(name, type, type, INFINITE, smaller, false);
    if (root == "fast_argmax") return reduce(name, type, Type::U32, -INFINITE, larger, true);
    if (root == "fast_argmin") return reduce(name, type, Type::U32, INFINITE, smaller, true);
    // The others name two types.
    const size_t middle = root.rfind('_');
    if (middle == std::string::npos || !TYPES.count(root.substr(middle + 1))) return {};
    const Type first = TYPES.at(root.substr(middle + 1));
    const std::string of_two = root.substr(0, middle);
    if (of_two == "cast") return unary(name, first, type, UNARY.at("ucopy"));
    if (of_two == "where") return where(name, first, type);
    if (of_two == "is") return index_select(name, first, type);
    if (of_two == "ia") return index_add(name, first, type);
    if (of_two == "sa") return scatter_add(name, first, type);
    if (of_two == "gather") return gather(name, first, type);
    return {};
}

}  // namespace driver
