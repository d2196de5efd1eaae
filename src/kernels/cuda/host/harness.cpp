// The scheduler, the checks and the counters of the host harness.
//
// A launch runs block after block on the calling thread. A warp runs until all its lanes wait or have ended, then the next
// warp: between two barriers warps are as far apart as they can be. `backwards` turns the order of blocks, warps and lanes
// round; what differs between the two orders is a race.

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <string_view>
#include <tuple>
#include <vector>

#include "../common.cuh"

__thread dim3 threadIdx, blockIdx, blockDim, gridDim;

// Saves the registers that a call keeps, changes stacks, restores them: swapcontext without its system call.
extern "C" void switch_stack(void** from, void* to) __asm__("couplet_train_switch_stack");
#if defined(__x86_64__)
__asm__(R"(
.text
.globl couplet_train_switch_stack
couplet_train_switch_stack:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
)");
constexpr size_t FRAME = 8, RETURN = 6;  // words on the stack of a fiber that has not run yet; the one where it begins
#elif defined(__aarch64__)
__asm__(R"(
.text
.globl couplet_train_switch_stack
couplet_train_switch_stack:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
)");
constexpr size_t FRAME = 20, RETURN = 11;
#else
#error "the host harness switches stacks on x86_64 and aarch64"
#endif

// What a launch gives and gets; the same layout in host.rs.
extern "C" {
struct HostBuffer {
    const void* at;
    uint64_t bytes;
    uint32_t writable;
};

struct HostLaunch {
    const char* kernel;
    uint32_t grid[3], block[3];
    uint32_t shared_bytes, shared_allowed;  // dynamic; what the kernel was allowed beyond 48 KB, else 0
    void** arguments;
    const uint64_t* sizes;
    uint64_t n_arguments;
    const HostBuffer* buffers;
    uint64_t n_buffers;
    uint32_t backwards, count;
};

// Sectors are 32 bytes of global memory, wavefronts passes through shared memory's 32 banks; the ideal moves each byte
// once. Of warps in step: the n-th execution of a line by every lane counts as one instruction.
struct HostCounters {
    uint64_t load_sectors, load_ideal, store_sectors, store_ideal;
    uint64_t shared_wavefronts, shared_ideal;
    uint64_t matrix_products, block_barriers;
};
}

namespace harness {
namespace {

constexpr unsigned MOST_THREADS = 1024, MOST_GRID_YZ = 65535, SECTOR = 32, BANKS = 32;
constexpr size_t STATIC_SHARED = 64 << 10, FREE_SHARED = 48 << 10, MOST_SHARED = 227 << 10, STACK = 128 << 10, PAGE = 4096;
constexpr size_t GUARD = 1 << 10;  // between regions of shared memory; nothing may touch it
constexpr unsigned char POISON = 0xff;  // a NaN as f32 and as bf16, -1 as an integer
constexpr size_t UNIT = 2;              // bytes that the race detector tells apart: a bf16

Kernel* kernels = nullptr;

enum class State { Ready, AtBlock, AtWarp, Done };

enum Memory { Load, Store, Shared };

struct Access {
    Memory memory;
    Site site;
    uintptr_t at;
    size_t bytes;
};

struct Fiber {
    void* sp = nullptr;
    unsigned char* stack = nullptr;
    State state = State::Done;
    Site site{};
    Together what{};
    unsigned mask = 0;
    void* data = nullptr;
    dim3 thread;
    std::vector<Access> log;
};

// Who touched a unit of shared memory last, and when: barriers of the block, then of the warp.
struct Shadow {
    int writer = -1, reader = -1;  // threads
    unsigned write_block = 0, write_warp = 0, read_block = 0, read_warp = 0;
    bool several_lanes = false, several_warps = false;  // read by more than `reader`
};

struct Region {
    size_t start, bytes;
};

// The state of one launch. One per thread of the CPU: tests run side by side.
struct Machine {
    const HostLaunch* launch = nullptr;
    const Kernel* kernel = nullptr;
    HostCounters counters{};
    std::vector<Fiber> fibers;
    void* scheduler = nullptr;
    unsigned threads = 0, current = 0;
    unsigned block_epoch = 0;
    std::vector<unsigned> warp_epoch;
    unsigned char* shared = nullptr;  // [guard][dynamic][guard][static …]
    std::vector<Shadow> shadow;
    std::vector<Region> regions;  // dynamic first
    std::map<std::tuple<std::string_view, int, size_t>, size_t> statics;
    size_t static_used = 0, static_bytes = 0;
    bool failed = false;
    char message[1024];

    ~Machine() {
        for (Fiber& fiber : fibers) munmap(fiber.stack, STACK);
        free(shared);
    }
};

// As threadIdx: the launch sets it.
__thread Machine* running;
#define machine (*running)

bool here(Site a, Site b) { return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0); }

const char* file_name(const char* path) {
    const char* slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

void record(Site site, const char* format, va_list arguments) {
    if (machine.failed) return;
    machine.failed = true;
    const size_t most = sizeof machine.message;
    size_t at = snprintf(machine.message, most, "%s", machine.kernel ? machine.kernel->name : machine.launch->kernel);
    if (site.file && *site.file && at < most)
        at += snprintf(machine.message + at, most - at, ", %s:%d", file_name(site.file), site.line);
    if (machine.threads && at < most)
        at += snprintf(machine.message + at, most - at, ", block (%u,%u,%u)", blockIdx.x, blockIdx.y, blockIdx.z);
    if (at < most) at += snprintf(machine.message + at, most - at, ": ");
    if (at < most) vsnprintf(machine.message + at, most - at, format, arguments);
}

__attribute__((format(printf, 2, 3))) void refuse(Site site, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    record(site, format, arguments);
    va_end(arguments);
}

void yield() { switch_stack(&machine.fibers[machine.current].sp, machine.scheduler); }

[[noreturn]] void fiber_main() {
    machine.kernel->call(machine.kernel->kernel, machine.launch->arguments);
    machine.fibers[machine.current].state = State::Done;
    yield();
    abort();
}

void prepare(Fiber& fiber, dim3 thread) {
    if (!fiber.stack) {
        void* stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack == MAP_FAILED) abort();
        fiber.stack = static_cast<unsigned char*>(stack);
        mprotect(stack, PAGE, PROT_NONE);  // an overflow faults instead of reaching the next stack
    }
    // What switch_stack pops; on x86_64 one word more, so that the stack is aligned as after a call.
    void** const end = reinterpret_cast<void**>(fiber.stack + STACK) - 2;
    void** const frame = end - FRAME;
    std::fill(frame, end, nullptr);
    frame[RETURN] = reinterpret_cast<void*>(&fiber_main);
    fiber.sp = frame;
    fiber.state = State::Ready;
    fiber.thread = thread;
    fiber.log.clear();
}

void resume(unsigned thread) {
    machine.current = thread;
    threadIdx = machine.fibers[thread].thread;
    switch_stack(&machine.scheduler, machine.fibers[thread].sp);
}

// ---------------------------------------------------------------------------------------------------- what lanes do together

void multiply(Fiber* lanes) {
    float a[16][16], b[16][8], c[16][8];
    for (int lane = 0; lane < WARP; ++lane) {
        const auto* fragment = static_cast<const Matrix*>(lanes[lane].data);
        const int group = lane / 4, pair = lane % 4 * 2;
        for (int i = 0; i < 2; ++i) {
            const auto half = [i](uint32_t word) { return widen(bf16{static_cast<uint16_t>(word >> (16 * i))}); };
            for (int part = 0; part < 4; ++part)
                a[group + part % 2 * 8][pair + part / 2 * 8 + i] = half(fragment->a[part]);
            for (int part = 0; part < 2; ++part) b[pair + part * 8 + i][group] = half(fragment->b[part]);
            for (int part = 0; part < 2; ++part) c[group + part * 8][pair + i] = fragment->c[part * 2 + i];
        }
    }
    for (auto& row : c) {
        const auto& left = a[&row - c];
        for (int n = 0; n < 8; ++n) {
            double sum = 0;  // the hardware adds in an order of its own, with more bits than an f32
            for (int k = 0; k < 16; ++k) sum += static_cast<double>(left[k]) * b[k][n];
            row[n] = static_cast<float>(row[n] + sum);
        }
    }
    for (int lane = 0; lane < WARP; ++lane) {
        auto* fragment = static_cast<Matrix*>(lanes[lane].data);
        for (int part = 0; part < 4; ++part) fragment->c[part] = c[lane / 4 + part / 2 * 8][lane % 4 * 2 + part % 2];
    }
    ++machine.counters.matrix_products;
}

// ldmatrix .x4: lane l gives row l % 8 of matrix l / 8; it gets of every matrix the pair l % 4 of row l / 4, or of the
// transposed matrix.
void load_matrices(Fiber* lanes, bool transposed) {
    for (int matrix = 0; matrix < 4; ++matrix) {
        uint16_t values[8][8];
        for (int row = 0; row < 8; ++row)
            memcpy(values[row], static_cast<const LoadMatrix*>(lanes[matrix * 8 + row].data)->row, sizeof values[row]);
        for (int lane = 0; lane < WARP; ++lane) {
            const int row = lane / 4, pair = lane % 4 * 2;
            const uint32_t low = transposed ? values[pair][row] : values[row][pair];
            const uint32_t high = transposed ? values[pair + 1][row] : values[row][pair + 1];
            static_cast<LoadMatrix*>(lanes[lane].data)->result[matrix] = low | high << 16;
        }
    }
}

void act(Fiber* lanes, Together what, unsigned mask) {
    switch (what) {
        case Together::Sync: break;
        case Together::Shuffle:
            for (int lane = 0; lane < WARP; ++lane) {
                if (!(mask >> lane & 1)) continue;
                auto* data = static_cast<Shuffle*>(lanes[lane].data);
                if (data->source < 0 || data->source >= WARP || !(mask >> data->source & 1))
                    return refuse(lanes[lane].site, "lane %d asks lane %d, which does not take part", lane, data->source);
                data->result = static_cast<Shuffle*>(lanes[data->source].data)->value;
            }
            break;
        case Together::Matrix: multiply(lanes); break;
        case Together::LoadMatrix: load_matrices(lanes, false); break;
        case Together::LoadMatrixTransposed: load_matrices(lanes, true); break;
    }
}

bool same(const Fiber& a, const Fiber& b) {
    return b.state == State::AtWarp && a.what == b.what && a.mask == b.mask && here(a.site, b.site);
}

// Lets the lanes go on that have all arrived; whether any has.
bool release_warp(unsigned first) {
    const unsigned lanes = std::min<unsigned>(WARP, machine.threads - first);
    Fiber* const warp = &machine.fibers[first];
    for (unsigned i = 0; i < lanes; ++i) {
        if (warp[i].state != State::AtWarp) continue;
        bool all = true;
        for (unsigned lane = 0; lane < WARP && all; ++lane)
            if (warp[i].mask >> lane & 1) all = lane < lanes && same(warp[i], warp[lane]);
        if (!all) continue;
        const unsigned mask = warp[i].mask;
        act(warp, warp[i].what, mask);
        for (unsigned lane = 0; lane < lanes; ++lane)
            if (mask >> lane & 1) warp[lane].state = State::Ready;
        if (mask == ALL_LANES) ++machine.warp_epoch[first / WARP];
        return true;
    }
    return false;
}

void refuse_warp(unsigned first) {
    const unsigned lanes = std::min<unsigned>(WARP, machine.threads - first);
    const Fiber* const warp = &machine.fibers[first];
    for (unsigned i = 0; i < lanes; ++i) {
        if (warp[i].state != State::AtWarp) continue;
        for (unsigned lane = 0; lane < WARP; ++lane) {
            if (!(warp[i].mask >> lane & 1) || (lane < lanes && same(warp[i], warp[lane]))) continue;
            const char* where = lane >= lanes                          ? "does not exist"
                                : warp[lane].state == State::Done      ? "has left the kernel"
                                : warp[lane].state == State::AtBlock   ? "waits at __syncthreads"
                                                                       : "is elsewhere";
            return refuse(warp[i].site, "lanes diverge: lane %u of warp %u waits for mask %08x, but lane %u %s", i,
                          first / WARP, warp[i].mask, lane, where);
        }
    }
}

// ------------------------------------------------------------------------------------------------------------------ counters

void count_global(const std::vector<Access>& warp, uint64_t& sectors, uint64_t& ideal) {
    std::vector<uintptr_t> touched;
    std::vector<std::pair<uintptr_t, uintptr_t>> spans;
    for (const Access& a : warp) {
        for (uintptr_t s = a.at / SECTOR; s <= (a.at + a.bytes - 1) / SECTOR; ++s) touched.push_back(s);
        spans.push_back({a.at, a.at + a.bytes});
    }
    std::sort(touched.begin(), touched.end());
    sectors += std::unique(touched.begin(), touched.end()) - touched.begin();
    std::sort(spans.begin(), spans.end());
    uintptr_t end = 0, bytes = 0;
    for (const auto& span : spans) {
        bytes += span.second > std::max(end, span.first) ? span.second - std::max(end, span.first) : 0;
        end = std::max(end, span.second);
    }
    ideal += (bytes + SECTOR - 1) / SECTOR;
}

// 4 bytes a lane: one pass for the warp; 8: two half warps; 16: four quarters. In a pass every bank serves one word.
void count_shared(const std::vector<Access>& warp, uint64_t& wavefronts, uint64_t& ideal) {
    const size_t lanes_a_pass = std::max<size_t>(1, std::min<size_t>(WARP, 4 * BANKS / std::max<size_t>(4, warp[0].bytes)));
    for (size_t first = 0; first < warp.size(); first += lanes_a_pass) {
        std::vector<uintptr_t> words;
        for (size_t i = first; i < std::min(warp.size(), first + lanes_a_pass); ++i)
            for (uintptr_t w = warp[i].at / 4; w <= (warp[i].at + warp[i].bytes - 1) / 4; ++w) words.push_back(w);
        std::sort(words.begin(), words.end());
        words.erase(std::unique(words.begin(), words.end()), words.end());
        unsigned of_bank[BANKS] = {}, most = 0;
        for (uintptr_t w : words) most = std::max(most, ++of_bank[w % BANKS]);
        wavefronts += most;
        ideal += (words.size() + BANKS - 1) / BANKS;
    }
}

void count(unsigned first) {
    if (!machine.launch->count) return;
    struct Key {
        Memory memory;
        std::string_view file;
        int line, nth;
        size_t bytes;
        bool operator<(const Key& o) const {
            return std::tie(memory, file, line, nth, bytes) < std::tie(o.memory, o.file, o.line, o.nth, o.bytes);
        }
    };
    std::map<Key, std::vector<Access>> warp;
    for (unsigned t = first; t < std::min(machine.threads, first + WARP); ++t) {
        std::map<Key, int> seen;
        for (const Access& a : machine.fibers[t].log) {
            Key key{a.memory, a.site.file, a.site.line, 0, a.bytes};
            key.nth = seen[key]++;
            warp[key].push_back(a);
        }
        machine.fibers[t].log.clear();
    }
    for (const auto& [key, accesses] : warp) {
        HostCounters& c = machine.counters;
        if (key.memory == Load) count_global(accesses, c.load_sectors, c.load_ideal);
        if (key.memory == Store) count_global(accesses, c.store_sectors, c.store_ideal);
        if (key.memory == Shared) count_shared(accesses, c.shared_wavefronts, c.shared_ideal);
    }
}

// ------------------------------------------------------------------------------------------------------------------ schedule

template <class F>
void in_order(unsigned n, F f) {
    for (unsigned i = 0; i < n && !machine.failed; ++i) f(machine.launch->backwards ? n - 1 - i : i);
}

// Runs a warp until all its lanes wait for other warps or have ended; whether any lane ran.
bool run_warp(unsigned first) {
    const unsigned lanes = std::min<unsigned>(WARP, machine.threads - first);
    bool any = false;
    do {
        in_order(lanes, [&](unsigned lane) {
            if (machine.fibers[first + lane].state != State::Ready) return;
            resume(first + lane);
            any = true;
        });
    } while (!machine.failed && release_warp(first));
    bool stuck = false;
    for (unsigned t = first; t < first + lanes; ++t) stuck |= machine.fibers[t].state == State::AtWarp;
    if (stuck && !machine.failed) refuse_warp(first);
    count(first);
    return any;
}

void release_block() {
    const Fiber& first = machine.fibers[0];
    for (unsigned t = 0; t < machine.threads; ++t) {
        const Fiber& fiber = machine.fibers[t];
        if (fiber.state == first.state && here(fiber.site, first.site)) continue;
        const Fiber& waiting = first.state == State::AtBlock ? first : fiber;
        return refuse(waiting.site, "threads diverge: not every thread of the block comes to this __syncthreads (%u)", t);
    }
    for (unsigned t = 0; t < machine.threads; ++t) machine.fibers[t].state = State::Ready;
    ++machine.block_epoch;
    ++machine.counters.block_barriers;
}

void run_block() {
    Machine& m = machine;
    m.block_epoch = 1;
    m.warp_epoch.assign((m.threads + WARP - 1) / WARP, 1);
    m.statics.clear();
    m.static_used = m.static_bytes = 0;
    m.regions.assign(1, {GUARD, m.launch->shared_bytes});
    for (unsigned t = 0; t < m.threads; ++t)
        prepare(m.fibers[t], {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y});
    while (!m.failed) {
        bool any = false;
        in_order(m.warp_epoch.size(), [&](unsigned warp) { any |= run_warp(warp * WARP); });
        if (m.failed || !any) return;
        bool done = true;
        for (unsigned t = 0; t < m.threads; ++t) done &= m.fibers[t].state == State::Done;
        if (done) break;
        release_block();
    }
    // What lies around the regions is still poison; the regions become it again.
    for (Region& r : m.regions) {
        unsigned char* const start = m.shared + r.start;
        memset(start, POISON, r.bytes);
        std::fill_n(m.shadow.begin() + r.start / UNIT, (r.bytes + UNIT - 1) / UNIT, Shadow{});
        const auto poisoned = [](const unsigned char* p) { return std::all_of(p, p + GUARD / 4, [](auto c) { return c == POISON; }); };
        if (!poisoned(start - GUARD / 4) || !poisoned(start + r.bytes))
            return refuse({}, "something was written beside a region of shared memory");
    }
}

// Poison everywhere: at first, and after a launch that ended in the middle of a block.
void poison_shared() {
    Machine& m = machine;
    constexpr size_t all = GUARD + MOST_SHARED + GUARD + STATIC_SHARED + GUARD;
    static_assert(all % 1024 == 0, "aligned_alloc wants whole units");
    if (!m.shared) m.shared = static_cast<unsigned char*>(aligned_alloc(1024, all));
    memset(m.shared, POISON, all);
    m.shadow.assign(all / UNIT, Shadow{});
}

bool acceptable(const HostLaunch& l) {
    const Kernel* k = machine.kernel;
    const uint64_t threads = uint64_t{l.block[0]} * l.block[1] * l.block[2];
    if (threads == 0 || threads > MOST_THREADS)
        return refuse({}, "%llu threads a block, 1 to %u are possible", (unsigned long long)threads, MOST_THREADS), false;
    if (threads > k->most_threads)
        return refuse({}, "%llu threads a block, but KERNEL says at most %u", (unsigned long long)threads, k->most_threads), false;
    if (l.grid[0] == 0 || l.grid[1] == 0 || l.grid[2] == 0) return refuse({}, "an empty grid"), false;
    if (l.grid[0] > 0x7fffffff || l.grid[1] > MOST_GRID_YZ || l.grid[2] > MOST_GRID_YZ)
        return refuse({}, "grid (%u, %u, %u) is over the limits", l.grid[0], l.grid[1], l.grid[2]), false;
    if (l.shared_bytes > std::max<size_t>(FREE_SHARED, l.shared_allowed) || l.shared_bytes > MOST_SHARED)
        return refuse({}, "%u bytes of dynamic shared memory are more than allowed", l.shared_bytes), false;
    if (l.n_arguments != k->parameters)
        return refuse({}, "%llu arguments for %zu parameters", (unsigned long long)l.n_arguments, k->parameters), false;
    for (size_t i = 0; i < k->parameters; ++i)
        if (l.sizes[i] != k->sizes[i])
            return refuse({}, "argument %zu has %llu bytes, its parameter %zu", i, (unsigned long long)l.sizes[i], k->sizes[i]),
                   false;
    return true;
}

void shared_unit(Shadow& s, int thread, bool write, const void* at, Site site) {
    const Machine& m = machine;
    const int warp = thread / WARP;
    const unsigned block_epoch = m.block_epoch, warp_epoch = m.warp_epoch[warp];
    // Whether an earlier access by `other` at these times is ordered before this one.
    const auto before = [&](int other, unsigned block, unsigned in_warp) {
        return other == thread || block < block_epoch || (other / WARP == warp && in_warp < warp_epoch);
    };
    const size_t offset = static_cast<const unsigned char*>(at) - m.shared;
    if (s.writer >= 0 && !before(s.writer, s.write_block, s.write_warp))
        fail(site, "race: thread %d %s byte %zu of shared memory, which thread %d wrote with no barrier between", thread,
             write ? "writes" : "reads", offset, s.writer);
    const bool fresh = s.reader < 0 || s.read_block < block_epoch ||
                       (!s.several_warps && s.reader / WARP == warp && s.read_warp < warp_epoch);
    if (write) {
        if (!fresh && (s.several_warps || s.several_lanes || s.reader != thread))
            fail(site, "race: thread %d writes byte %zu of shared memory, which thread %d read with no barrier between",
                 thread, offset, s.reader);
        s.writer = thread, s.write_block = block_epoch, s.write_warp = warp_epoch;
    } else if (fresh) {
        s.reader = thread, s.read_block = block_epoch, s.read_warp = warp_epoch;
        s.several_lanes = s.several_warps = false;
    } else {
        s.several_lanes |= s.reader != thread;
        s.several_warps |= s.reader / WARP != warp;
        s.read_warp = std::max(s.read_warp, warp_epoch);
    }
}

}  // namespace

void add(Kernel* kernel) {
    kernel->next = kernels;
    kernels = kernel;
}

void fail(Site site, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    record(site, format, arguments);
    va_end(arguments);
    yield();
    abort();
}

void sync_block(Site site) {
    Fiber& fiber = machine.fibers[machine.current];
    fiber.state = State::AtBlock, fiber.site = site;
    yield();
}

void together(Together what, unsigned mask, void* data, Site site) {
    const unsigned lane = machine.current % WARP;
    if (!(mask >> lane & 1)) fail(site, "lane %u is not in its own mask %08x", lane, mask);
    if (what >= Together::Matrix && mask != ALL_LANES) fail(site, "a matrix instruction needs the whole warp");
    if (what >= Together::LoadMatrix) shared_access(static_cast<LoadMatrix*>(data)->row, 16, false, site);
    Fiber& fiber = machine.fibers[machine.current];
    fiber.state = State::AtWarp, fiber.site = site, fiber.what = what, fiber.mask = mask, fiber.data = data;
    yield();
}

void global_access(const void* at, size_t bytes, bool write, Site site) {
    Machine& m = machine;
    const auto address = reinterpret_cast<uintptr_t>(at);
    const char* const what = write ? "write" : "read";
    if (address % bytes) fail(site, "misaligned: a %s of %zu bytes at an address that is no multiple of them", what, bytes);
    const HostBuffer* in = nullptr;
    for (uint64_t i = 0; i < m.launch->n_buffers; ++i) {
        const HostBuffer& buffer = m.launch->buffers[i];
        const auto start = reinterpret_cast<uintptr_t>(buffer.at);
        if (address >= start && address + bytes <= start + buffer.bytes) in = &buffer;
    }
    if (!in) fail(site, "out of bounds: thread %u %ss %zu bytes outside every buffer", m.current, what, bytes);
    if (write && !in->writable) fail(site, "thread %u writes into a buffer that is only read", m.current);
    if (m.launch->count) m.fibers[m.current].log.push_back({write ? Store : Load, site, address, bytes});
}

void shared_access(const void* at, size_t bytes, bool write, Site site) {
    Machine& m = machine;
    const size_t offset = static_cast<const unsigned char*>(at) - m.shared;
    if (offset % bytes) fail(site, "misaligned: %zu bytes at byte %zu of shared memory", bytes, offset);
    bool allowed = false;
    for (const Region& r : m.regions) allowed |= offset >= r.start && offset + bytes <= r.start + r.bytes;
    if (!allowed) fail(site, "out of bounds: thread %u leaves the block's shared memory", m.current);
    for (size_t i = 0; i < bytes; i += UNIT) {
        Shadow& unit = m.shadow[(offset + i) / UNIT];
        if (!write && unit.writer < 0) fail(site, "thread %u reads shared memory that no one has written", m.current);
        shared_unit(unit, m.current, write, static_cast<const unsigned char*>(at) + i, site);
    }
    if (m.launch->count) m.fibers[m.current].log.push_back({Shared, site, offset, bytes});
}

void* static_shared(size_t bytes, Site site) {
    Machine& m = machine;
    const size_t base = GUARD + MOST_SHARED + GUARD;
    const auto key = std::make_tuple(std::string_view(site.file), site.line, bytes);
    const auto found = m.statics.find(key);
    if (found != m.statics.end()) return m.shared + base + found->second;
    const size_t at = (m.static_used + 15) / 16 * 16;
    if (at + bytes + GUARD > STATIC_SHARED) fail(site, "more static shared memory than the harness holds");
    m.static_bytes += bytes;
    // The two kinds of shared memory share the 48 KB that every kernel has.
    if (m.launch->shared_bytes + m.static_bytes > (m.launch->shared_allowed ? MOST_SHARED : FREE_SHARED))
        fail(site, "%u bytes of dynamic and %zu of static shared memory are more than allowed", m.launch->shared_bytes,
             m.static_bytes);
    m.static_used = at + bytes + GUARD;
    m.statics[key] = at;
    m.regions.push_back({base + at, bytes});
    return m.shared + base + at;
}

void* dynamic_shared() { return machine.shared + GUARD; }

}  // namespace harness

// Runs one launch. 0, or 1 and what is wrong in `message`.
extern "C" int couplet_train_host_launch(const HostLaunch* launch, HostCounters* counters, char* message, uint64_t room) {
    using namespace harness;
    static thread_local Machine own;
    running = &own;
    Machine& m = own;
    m.launch = launch;
    if (!m.shared || m.failed) poison_shared();
    m.failed = false;
    m.threads = 0;
    m.counters = {};
    m.kernel = kernels;
    while (m.kernel && strcmp(m.kernel->name, launch->kernel) != 0) m.kernel = m.kernel->next;
    if (!m.kernel) refuse({}, "no such kernel");
    if (m.kernel && acceptable(*launch)) {
        gridDim = {launch->grid[0], launch->grid[1], launch->grid[2]};
        blockDim = {launch->block[0], launch->block[1], launch->block[2]};
        m.threads = blockDim.x * blockDim.y * blockDim.z;
        if (m.fibers.size() < m.threads) m.fibers.resize(m.threads);
        in_order(gridDim.x * gridDim.y * gridDim.z, [&](unsigned block) {
            blockIdx = {block % gridDim.x, block / gridDim.x % gridDim.y, block / gridDim.x / gridDim.y};
            run_block();
        });
    }
    *counters = m.counters;
    if (m.failed) snprintf(message, room, "%s", m.message);
    return m.failed;
}

// The name of the i-th kernel and the most threads its block may have; null behind the last one.
extern "C" const char* couplet_train_host_kernel(uint64_t i, uint32_t* most_threads) {
    const harness::Kernel* kernel = harness::kernels;
    while (kernel && i--) kernel = kernel->next;
    if (!kernel) return nullptr;
    *most_threads = kernel->most_threads;
    return kernel->name;
}
