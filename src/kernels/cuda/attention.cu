// Packed causal attention with a shared prefix on tensor cores: bf16 in and out, scores and sums in f32.
//
// Who sees whom comes as lists (attention.rs makes them). A span is a sample: its queries see the first `prefix` rows of all
// and of its own keys those up to their own place. The G query heads that share a key/value head stand as rows of one
// operand: row r of a span is head r % G of query r / G. So K and V are read once for all of them.
//
// Tiles lie in shared memory as rows of E elements, their 16-byte chunks swapped by chunk ^ (row % 8): ldmatrix and the
// stores of whole chunks are then free of bank conflicts. Scores never leave the registers: what the matrix instruction
// returns is, rounded, the left operand of the next.
//
// No atomics: dQ is summed by the block that owns the queries, dK and dV by the block that owns the keys. Only the prefix
// has more queries than a block should walk; its sums come in parts that attention_add_prefix adds in a fixed order.

#include "common.cuh"

namespace {

constexpr int WARPS = 4, THREADS = WARPS * WARP;
constexpr int ROWS = 16 * WARPS;  // rows of a block's own tile: 16 a warp
constexpr int STEP = 32;          // rows of the other operand at a time

// What a block of queries owns: `rows` rows of a span from `first` on, and what they see. As in attention.rs.
struct Queries {
    uint32_t prefix, keys, queries, first, rows, visible;
};

// What a block of keys owns: `count` key rows from `keys` on, and the rows `first`..`last` (of heads and queries, from query
// `queries` on) that look at them. `place`: of the first key among the own keys of its span, or all see all (EVERY).
// `part`: where in the partial sums of the prefix the result goes, or straight to dk and dv (NO_PART).
struct Keys {
    uint32_t keys, count, queries, first, last, place, part;
};

constexpr uint32_t EVERY = 0xffffffffu, NO_PART = 0xffffffffu;

// A tile of rows of E elements in shared memory.
template <int E>
struct Tile {
    SharedPtr<bf16> at;

    DEVICE SharedPtr<bf16> chunk(int row, int chunk) const { return at + (row * E + (chunk ^ (row % 8)) * 8); }

    // Fills rows 0..n (whole blocks of threads); from(row) is where a row lies, or null: zeros.
    template <class From>
    DEVICE void fill(int n, From from) const {
        for (int i = threadIdx.x; i < n * (E / 8); i += THREADS) {
            const int row = i / (E / 8), c = i % (E / 8);
            const bf16* const source = from(row);
            Vec<bf16, 8> v = {};
            if (source) v = load<8>(source + c * 8);
            store_shared(chunk(row, c), v);
        }
    }

    // Rows `row`..+16, columns 16·k..+16 as the left operand of a product.
    DEVICE void left(uint32_t (&a)[4], int row, int k) const {
        const int lane = threadIdx.x % WARP;
        load_matrices(a, chunk(row + lane % 16, 2 * k + lane / 16));
    }

    // Rows `row`..+16 as 16 columns of a right operand: their elements 16·k..+16 are what is summed over. b[0] for the first
    // 8 rows, b[1] for the others.
    DEVICE void right_of_rows(uint32_t (&b)[2][2], int row, int k) const {
        const int lane = threadIdx.x % WARP;
        uint32_t m[4];
        load_matrices(m, chunk(row + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
        b[0][0] = m[0], b[0][1] = m[1], b[1][0] = m[2], b[1][1] = m[3];
    }

    // Rows `row`..+16 as what is summed over, their elements 16·n..+16 as columns: b[0] for the first 8 columns.
    DEVICE void right_of_columns(uint32_t (&b)[2][2], int row, int n) const {
        const int lane = threadIdx.x % WARP;
        uint32_t m[4];
        load_matrices_transposed(m, chunk(row + lane % 16, 2 * n + lane / 16));
        b[0][0] = m[0], b[0][1] = m[1], b[1][0] = m[2], b[1][1] = m[3];
    }
};

DEVICE uint32_t pair(float low, float high) {
    return round_to<bf16>(low).bits | static_cast<uint32_t>(round_to<bf16>(high).bits) << 16;
}

// 16 rows of `own` from `row` on times all STEP rows of `other`, summed over E: s[n] holds columns 8n..8n+8.
template <int E>
DEVICE void scores(float (&s)[STEP / 8][4], Tile<E> own, int row, Tile<E> other) {
    for (int n = 0; n < STEP / 8; ++n)
        for (int i = 0; i < 4; ++i) s[n][i] = 0;
UNROLL
    for (int k = 0; k < E / 16; ++k) {
        uint32_t a[4];
        own.left(a, row, k);
UNROLL
        for (int n = 0; n < STEP / 16; ++n) {
            uint32_t b[2][2];
            other.right_of_rows(b, 16 * n, k);
            mma_m16n8k16(s[2 * n], a, b[0]);
            mma_m16n8k16(s[2 * n + 1], a, b[1]);
        }
    }
}

// acc += p·other: p 16 rows by STEP, rounded to bf16; acc[n] holds columns 8n..8n+8 of E.
template <int E>
DEVICE void add_product(float (&acc)[E / 8][4], const float (&p)[STEP / 8][4], Tile<E> other) {
UNROLL
    for (int k = 0; k < STEP / 16; ++k) {
        const uint32_t a[4] = {pair(p[2 * k][0], p[2 * k][1]), pair(p[2 * k][2], p[2 * k][3]),
                               pair(p[2 * k + 1][0], p[2 * k + 1][1]), pair(p[2 * k + 1][2], p[2 * k + 1][3])};
UNROLL
        for (int n = 0; n < E / 16; ++n) {
            uint32_t b[2][2];
            other.right_of_columns(b, 16 * k, n);
            mma_m16n8k16(acc[2 * n], a, b[0]);
            mma_m16n8k16(acc[2 * n + 1], a, b[1]);
        }
    }
}

// The four lanes that share a row of a product hold different columns of it.
DEVICE float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

DEVICE float row_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

// Row and column of element i of a fragment, within a warp's 16 rows and 8 columns.
DEVICE int fragment_row(int i) { return threadIdx.x % WARP / 4 + i / 2 * 8; }
DEVICE int fragment_column(int i) { return threadIdx.x % 4 * 2 + i % 2; }

// What the threads of a block of queries have in common.
template <int E>
struct QueryBlock {
    Queries of;
    uint32_t heads, groups, kv;
    const uint32_t* own;

    DEVICE QueryBlock(const uint32_t* lists, const uint32_t* own_, uint32_t heads_, uint32_t kv_heads)
        : heads(heads_), groups(heads_ / kv_heads), kv(blockIdx.y), own(own_) {
        const uint32_t* const list = lists + blockIdx.x * 6;
        of = {load(list), load(list + 1), load(list + 2), load(list + 3), load(list + 4), load(list + 5)};
    }

    // Row r of the block in q, o and their gradients, counted in heads of E elements.
    DEVICE size_t head(uint32_t r) const {
        const uint32_t row = of.first + r;
        return size_t{of.queries + row / groups} * heads + kv * groups + row % groups;
    }

    // How many keys row r sees.
    DEVICE uint32_t sees(uint32_t r) const {
        return r < of.rows ? of.prefix + load(own + of.queries + (of.first + r) / groups) + 1 : 0;
    }

    // Where key j of those that the block sees lies in k and v, counted in heads.
    DEVICE size_t key(uint32_t j, uint32_t kv_heads) const {
        return size_t{j < of.prefix ? j : of.keys + j - of.prefix} * kv_heads + kv;
    }
};

// S of this warp's rows against STEP keys from `start` on, in units of log2, −∞ where it is not seen.
template <int E>
DEVICE void masked_scores(float (&s)[STEP / 8][4], Tile<E> q, Tile<E> k, uint32_t start, const uint32_t (&sees)[2],
                          float scale) {
    scores<E>(s, q, threadIdx.x / WARP * 16, k);
    for (int n = 0; n < STEP / 8; ++n)
        for (int i = 0; i < 4; ++i)
            s[n][i] = start + 8 * n + fragment_column(i) < sees[i / 2] ? s[n][i] * scale : -INFINITY;
}

// `scale` is log2(e)/√E throughout: exponentials are powers of two.
template <int E>
DEVICE void forward(const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v,
                    const uint32_t* __restrict__ lists, const uint32_t* __restrict__ own, bf16* __restrict__ o,
                    unsigned heads, unsigned kv_heads, float scale) {
    DYNAMIC_SHARED(bf16, memory);
    const Tile<E> tq{memory}, tk{memory + ROWS * E}, tv{memory + (ROWS + STEP) * E};
    const QueryBlock<E> block(lists, own, heads, kv_heads);
    const int warp_row = threadIdx.x / WARP * 16;
    tq.fill(ROWS, [&](uint32_t r) { return r < block.of.rows ? q + block.head(r) * E : nullptr; });
    const uint32_t sees[2] = {block.sees(warp_row + fragment_row(0)), block.sees(warp_row + fragment_row(2))};

    float acc[E / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    for (uint32_t start = 0; start < block.of.visible; start += STEP) {
        const auto key = [&](uint32_t j) { return start + j < block.of.visible ? block.key(start + j, kv_heads) * E : 0; };
        __syncthreads();  // the last step's keys have been read
        tk.fill(STEP, [&](uint32_t j) { return start + j < block.of.visible ? k + key(j) : nullptr; });
        tv.fill(STEP, [&](uint32_t j) { return start + j < block.of.visible ? v + key(j) : nullptr; });
        __syncthreads();
        float s[STEP / 8][4];
        masked_scores<E>(s, tq, tk, start, sees, scale);
        for (int half = 0; half < 2; ++half) {
            float now = most[half];
            for (int n = 0; n < STEP / 8; ++n) now = fmaxf(now, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
            now = row_max(now);
            const float base = now == -INFINITY ? 0 : now;  // a row that sees nothing yet; −∞ − −∞ would be a NaN
            const float shrink = exp2f(most[half] - base);
            most[half] = now;
            float added = 0;
            for (int n = 0; n < STEP / 8; ++n)
                for (int i = 2 * half; i < 2 * half + 2; ++i) added += s[n][i] = exp2f(s[n][i] - base);
            sum[half] = sum[half] * shrink + row_sum(added);
            for (int n = 0; n < E / 8; ++n)
                for (int i = 2 * half; i < 2 * half + 2; ++i) acc[n][i] *= shrink;
        }
        add_product<E>(acc, s, tv);
    }
    for (int half = 0; half < 2; ++half) {
        const uint32_t r = warp_row + fragment_row(2 * half);
        if (r >= block.of.rows) continue;
        bf16* const out = o + block.head(r) * E + fragment_column(0);
        for (int n = 0; n < E / 8; ++n)
            store(out + 8 * n, Vec<bf16, 2>{{round_to<bf16>(acc[n][2 * half] / sum[half]),
                                             round_to<bf16>(acc[n][2 * half + 1] / sum[half])}});
    }
}

// dq; and of every row log2 Σ exp and D = Σ P·dP, which the keys' kernel needs. The first walk over the keys makes these two
// (online, as the softmax), the second dS = P·(dP − D) and dq.
template <int E>
DEVICE void backward_queries(const bf16* __restrict__ d_o, const bf16* __restrict__ q, const bf16* __restrict__ k,
                             const bf16* __restrict__ v, const uint32_t* __restrict__ lists,
                             const uint32_t* __restrict__ own, bf16* __restrict__ dq, float* __restrict__ log_sums,
                             float* __restrict__ dots, unsigned heads, unsigned kv_heads, float scale) {
    DYNAMIC_SHARED(bf16, memory);
    const Tile<E> tq{memory}, td{memory + ROWS * E}, tk{memory + 2 * ROWS * E}, tv{memory + (2 * ROWS + STEP) * E};
    const QueryBlock<E> block(lists, own, heads, kv_heads);
    const int warp_row = threadIdx.x / WARP * 16;
    tq.fill(ROWS, [&](uint32_t r) { return r < block.of.rows ? q + block.head(r) * E : nullptr; });
    td.fill(ROWS, [&](uint32_t r) { return r < block.of.rows ? d_o + block.head(r) * E : nullptr; });
    const uint32_t sees[2] = {block.sees(warp_row + fragment_row(0)), block.sees(warp_row + fragment_row(2))};

    // f(S, dP) for every step of keys.
    const auto walk = [&](auto f) {
        for (uint32_t start = 0; start < block.of.visible; start += STEP) {
            const auto key = [&](uint32_t j) { return start + j < block.of.visible ? block.key(start + j, kv_heads) * E : 0; };
            __syncthreads();
            tk.fill(STEP, [&](uint32_t j) { return start + j < block.of.visible ? k + key(j) : nullptr; });
            tv.fill(STEP, [&](uint32_t j) { return start + j < block.of.visible ? v + key(j) : nullptr; });
            __syncthreads();
            float s[STEP / 8][4], dp[STEP / 8][4];
            masked_scores<E>(s, tq, tk, start, sees, scale);
            scores<E>(dp, td, warp_row, tv);
            f(s, dp);
        }
    };

    float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, dot[2] = {0, 0};
    walk([&](float(&s)[STEP / 8][4], float(&dp)[STEP / 8][4]) {
        for (int half = 0; half < 2; ++half) {
            float now = most[half];
            for (int n = 0; n < STEP / 8; ++n) now = fmaxf(now, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
            now = row_max(now);
            const float base = now == -INFINITY ? 0 : now;
            const float shrink = exp2f(most[half] - base);
            most[half] = now;
            float added = 0, weighted = 0;
            for (int n = 0; n < STEP / 8; ++n)
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    const float p = exp2f(s[n][i] - base);
                    added += p;
                    weighted = fmaf(p, dp[n][i], weighted);
                }
            sum[half] = sum[half] * shrink + row_sum(added);
            dot[half] = dot[half] * shrink + row_sum(weighted);
        }
    });
    float log_sum[2];
    for (int half = 0; half < 2; ++half) {
        const uint32_t r = warp_row + fragment_row(2 * half);
        const bool there = r < block.of.rows;
        log_sum[half] = there ? most[half] + log2f(sum[half]) : 0;
        dot[half] = there ? dot[half] / sum[half] : 0;
        if (there && threadIdx.x % 4 == 0) {
            store(log_sums + block.head(r), log_sum[half]);
            store(dots + block.head(r), dot[half]);
        }
    }
    float acc[E / 8][4] = {};
    walk([&](float(&s)[STEP / 8][4], float(&dp)[STEP / 8][4]) {
        for (int n = 0; n < STEP / 8; ++n)
            for (int i = 0; i < 4; ++i) s[n][i] = exp2f(s[n][i] - log_sum[i / 2]) * (dp[n][i] - dot[i / 2]);
        add_product<E>(acc, s, tk);
    });
    const float by = scale * 0.6931471805599453f;  // 1/√E
    for (int half = 0; half < 2; ++half) {
        const uint32_t r = warp_row + fragment_row(2 * half);
        if (r >= block.of.rows) continue;
        bf16* const out = dq + block.head(r) * E + fragment_column(0);
        for (int n = 0; n < E / 8; ++n)
            store(out + 8 * n,
                  Vec<bf16, 2>{{round_to<bf16>(acc[n][2 * half] * by), round_to<bf16>(acc[n][2 * half + 1] * by)}});
    }
}

// dk and dv of a block of keys. Everything is transposed: the rows of a product are keys, its columns rows of queries.
template <int E>
DEVICE void backward_keys(const bf16* __restrict__ d_o, const bf16* __restrict__ q, const bf16* __restrict__ k,
                          const bf16* __restrict__ v, const uint32_t* __restrict__ lists,
                          const uint32_t* __restrict__ own, const float* __restrict__ log_sums,
                          const float* __restrict__ dots, bf16* __restrict__ dk, bf16* __restrict__ dv,
                          float* __restrict__ parts, unsigned heads, unsigned kv_heads, float scale) {
    DYNAMIC_SHARED(bf16, memory);
    const Tile<E> tk{memory}, tv{memory + ROWS * E}, tq{memory + 2 * ROWS * E}, td{memory + (2 * ROWS + STEP) * E};
    SHARED(float, log_sum, STEP);
    SHARED(float, dot, STEP);
    SHARED(uint32_t, last_seen, STEP);  // of the own keys, by a row of queries

    const uint32_t* const list = lists + blockIdx.x * 7;
    const Keys of = {load(list),     load(list + 1), load(list + 2), load(list + 3),
                     load(list + 4), load(list + 5), load(list + 6)};
    const uint32_t groups = heads / kv_heads, kv = blockIdx.y;
    const int warp_row = threadIdx.x / WARP * 16;
    const auto head = [&](uint32_t row) { return size_t{of.queries + row / groups} * heads + kv * groups + row % groups; };
    const auto key = [&](uint32_t r) { return (size_t{of.keys + r} * kv_heads + kv) * E; };
    tk.fill(ROWS, [&](uint32_t r) { return r < of.count ? k + key(r) : nullptr; });
    tv.fill(ROWS, [&](uint32_t r) { return r < of.count ? v + key(r) : nullptr; });

    float acc_k[E / 8][4] = {}, acc_v[E / 8][4] = {};
    for (uint32_t start = of.first; start < of.last; start += STEP) {
        __syncthreads();
        tq.fill(STEP, [&](uint32_t r) { return start + r < of.last ? q + head(start + r) * E : nullptr; });
        td.fill(STEP, [&](uint32_t r) { return start + r < of.last ? d_o + head(start + r) * E : nullptr; });
        if (threadIdx.x < STEP) {
            const uint32_t row = start + threadIdx.x;
            const bool there = row < of.last;
            log_sum[threadIdx.x] = there ? load(log_sums + head(row)) : 0;
            dot[threadIdx.x] = there ? load(dots + head(row)) : 0;
            last_seen[threadIdx.x] = !there ? 0 : of.place == EVERY ? EVERY : load(own + of.queries + row / groups) + 1;
        }
        __syncthreads();
        float s[STEP / 8][4], dp[STEP / 8][4];
        scores<E>(s, tk, warp_row, tq);
        scores<E>(dp, tv, warp_row, td);
        for (int n = 0; n < STEP / 8; ++n)
            for (int i = 0; i < 4; ++i) {
                const int column = 8 * n + fragment_column(i);
                const uint32_t place = of.place == EVERY ? 0 : of.place + warp_row + fragment_row(i);
                const bool seen = place < last_seen[column];
                const float p = seen ? exp2f(s[n][i] * scale - log_sum[column]) : 0;
                s[n][i] = p;
                dp[n][i] = p * (dp[n][i] - dot[column]);
            }
        add_product<E>(acc_v, s, td);
        add_product<E>(acc_k, dp, tq);
    }
    const float by = scale * 0.6931471805599453f;  // 1/√E
    for (int half = 0; half < 2; ++half) {
        const uint32_t r = warp_row + fragment_row(2 * half);
        if (r >= of.count) continue;
        for (int n = 0; n < E / 8; ++n) {
            const Vec<float, 2> to_k = {{acc_k[n][2 * half] * by, acc_k[n][2 * half + 1] * by}};
            const Vec<float, 2> to_v = {{acc_v[n][2 * half], acc_v[n][2 * half + 1]}};
            const int column = 8 * n + fragment_column(0);
            if (of.part != NO_PART) {
                float* const part = parts + ((size_t{of.part} * kv_heads + kv) * ROWS + r) * 2 * E + column;
                store(part, to_k);
                store(part + E, to_v);
            } else {
                store(dk + key(r) + column, Vec<bf16, 2>{{round_to<bf16>(to_k.at[0]), round_to<bf16>(to_k.at[1])}});
                store(dv + key(r) + column, Vec<bf16, 2>{{round_to<bf16>(to_v.at[0]), round_to<bf16>(to_v.at[1])}});
            }
        }
    }
}

}  // namespace

#define ATTENTION(E)                                                                                                     \
    KERNEL(attention_forward_##E, THREADS,                                                                               \
           (const bf16* q, const bf16* k, const bf16* v, const uint32_t* lists, const uint32_t* own, bf16* o,            \
            unsigned heads, unsigned kv_heads, float scale)) {                                                           \
        forward<E>(q, k, v, lists, own, o, heads, kv_heads, scale);                                                      \
    }                                                                                                                    \
    KERNEL(attention_backward_queries_##E, THREADS,                                                                      \
           (const bf16* d_o, const bf16* q, const bf16* k, const bf16* v, const uint32_t* lists, const uint32_t* own,    \
            bf16* dq, float* log_sums, float* dots, unsigned heads, unsigned kv_heads, float scale)) {                   \
        backward_queries<E>(d_o, q, k, v, lists, own, dq, log_sums, dots, heads, kv_heads, scale);                       \
    }                                                                                                                    \
    KERNEL(attention_backward_keys_##E, THREADS,                                                                         \
           (const bf16* d_o, const bf16* q, const bf16* k, const bf16* v, const uint32_t* lists, const uint32_t* own,    \
            const float* log_sums, const float* dots, bf16* dk, bf16* dv, float* parts, unsigned heads,                  \
            unsigned kv_heads, float scale)) {                                                                           \
        backward_keys<E>(d_o, q, k, v, lists, own, log_sums, dots, dk, dv, parts, heads, kv_heads, scale);               \
    }

ATTENTION(64)
ATTENTION(128)

// dk and dv of the prefix: of every block of ROWS keys the parts in their order. One block a key row and key/value head; the
// parts of key block b are `parts_each`, from part b·parts_each on.
KERNEL(attention_add_prefix, 256, (const float* __restrict__ parts, bf16* __restrict__ dk, bf16* __restrict__ dv,
                                   unsigned parts_each, unsigned kv_heads, unsigned width)) {
    const unsigned row = blockIdx.x, kv = blockIdx.y;
    for (unsigned i = threadIdx.x; i < 2 * width; i += blockDim.x) {
        float sum = 0;
        for (unsigned part = 0; part < parts_each; ++part) {
            const size_t of = size_t{row / ROWS} * parts_each + part;
            sum += load(parts + ((of * kv_heads + kv) * ROWS + row % ROWS) * 2 * width + i);
        }
        bf16* const to = i < width ? dk : dv;
        store(to + (size_t{row} * kv_heads + kv) * width + i % width, round_to<bf16>(sum));
    }
}
