// A CUDA driver for a machine without a card: what candle and cudarc ask of libcuda, done on the CPU. The memory of its card
// is memory of this process; our kernels run in the host harness, access by access checked against the allocations that
// their arguments point into; candle's run as loops (candle.cpp), products as well (libraries.cpp).
//
// So the whole program of `--features cuda` runs, launches, copies and frees as on a card, at a small fraction of a CPU's
// speed, and what it does wrong is said: memory used after it was freed or before it was written (it is poisoned, NaN in
// every float type), a kernel that candle does not have, a synchronisation inside a captured graph. What it cannot show:
// that work queued on two streams is in order, how long anything takes, and what the compiler makes of the kernels.
//
// Environment: STAND_IN_CARDS (1), STAND_IN_MEMORY in MiB (8192; of card i by the i-th number of a list a,b,c),
// STAND_IN_DRIVER (13000), STAND_IN_CAPABILITY (90), STAND_IN_FAIL_ALLOCATION=N (the N-th allocation finds no memory),
// STAND_IN_REPORT=FILE (what was done, as `name<TAB>count` lines, when the process ends).

#include "driver.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "../kernels.cpp"

namespace driver {

// Of cuda.h, CUresult: those that are returned here.
enum Result {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    NOT_FOUND = 500,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

// Of a live allocation, by its address.
struct Allocation {
    size_t bytes;
    bool of_graph;
};

struct Graph {
    std::vector<std::pair<std::string, std::function<void()>>> nodes;
    std::vector<void*> allocated;
    std::set<void*> live;  // what no node has freed so far
    bool invalid = false;  // something was done that cannot be captured
};

struct Function {
    std::string name;
    const harness::Kernel* ours;  // null: candle's
    CandleKernel candle;
    uint32_t shared_allowed = 0;
};

struct Card {
    size_t total, used = 0, high = 0;
    size_t graphs_used = 0, graphs_high = 0;  // graphs have a pool of their own
};

struct State {
    std::recursive_mutex lock;
    std::vector<Card> cards;
    std::map<uintptr_t, Allocation> allocations;
    std::map<std::string, uint64_t> counts;
    std::map<std::string, Function*> functions;
    std::map<void*, Graph*> captures;
    uint64_t allocated = 0;
    bool initialised = false;
};

long setting(const char* name, long absent) {
    const char* text = getenv(name);
    return text ? strtol(text, nullptr, 10) : absent;
}

void write_report();

State& state() {
    static State* const only = [] {
        auto* s = new State;  // never freed: threads may still call when the process ends
        const char* memory = getenv("STAND_IN_MEMORY");
        size_t mib = 8192;
        for (long i = 0; i < setting("STAND_IN_CARDS", 1); ++i) {
            if (memory && *memory) {
                char* rest;
                mib = strtoul(memory, &rest, 10);
                memory = *rest == ',' ? rest + 1 : rest;
            }
            s->cards.push_back({mib << 20});
        }
        if (getenv("STAND_IN_REPORT")) atexit(write_report);
        return s;
    }();
    return *only;
}

using Lock = std::lock_guard<std::recursive_mutex>;

void write_report() {
    State& s = state();
    Lock lock(s.lock);
    FILE* file = fopen(getenv("STAND_IN_REPORT"), "w");
    if (!file) return;
    for (const auto& [what, n] : s.counts) fprintf(file, "%s\t%llu\n", what.c_str(), static_cast<unsigned long long>(n));
    for (size_t i = 0; i < s.cards.size(); ++i) {
        fprintf(file, "most bytes of card %zu\t%zu\n", i, s.cards[i].high);
        fprintf(file, "bytes of card %zu never freed\t%zu\n", i, s.cards[i].used + s.cards[i].graphs_used);
    }
    fclose(file);
}

void give_up(const char* format, ...) {
    va_list list;
    va_start(list, format);
    fprintf(stderr, "stand-in driver: ");
    vfprintf(stderr, format, list);
    fprintf(stderr, "\n");
    va_end(list);
    abort();
}

void count(const char* what, uint64_t n) {
    State& s = state();
    Lock lock(s.lock);
    s.counts[what] += n;
}

// The allocation that holds the byte at `at`, or the end of the map.
std::map<uintptr_t, Allocation>::iterator holding(const void* at) {
    State& s = state();
    const auto address = reinterpret_cast<uintptr_t>(at);
    auto found = s.allocations.upper_bound(address);
    if (found == s.allocations.begin()) return s.allocations.end();
    --found;
    return address < found->first + found->second.bytes ? found : s.allocations.end();
}

void check_range(const char* what, const void* at, size_t bytes) {
    if (bytes == 0) return;
    const auto found = holding(at);
    if (found == state().allocations.end()) give_up("%s: %p is in no live allocation", what, at);
    const size_t behind = reinterpret_cast<uintptr_t>(at) - found->first;
    if (behind + bytes > found->second.bytes) give_up("%s: %zu bytes at byte %zu of an allocation of %zu", what, bytes, behind, found->second.bytes);
}

// Each thread has its own stream behind the one handle CU_STREAM_PER_THREAD.
void* own(void* stream) {
    static thread_local char of_this_thread;
    return stream == reinterpret_cast<void*>(2) ? &of_this_thread : stream;
}

Graph* captured(void* stream) {
    const auto found = state().captures.find(own(stream));
    return found == state().captures.end() ? nullptr : found->second;
}

void queue(void* stream, const char* what, std::function<void()> work) {
    State& s = state();
    Lock lock(s.lock);
    if (Graph* graph = captured(stream)) {
        graph->nodes.emplace_back(what, std::move(work));
        return;
    }
    ++s.counts[what];
    work();
}

// What must not happen while anything is captured, as it would wait for work that is not even queued.
Result outside_of_graphs(const char* what) {
    State& s = state();
    Lock lock(s.lock);
    if (!s.captures.empty()) {
        fprintf(stderr, "stand-in driver: %s while a graph is captured\n", what);
        for (auto& [stream, graph] : s.captures) graph->invalid = true;
        return CAPTURE_UNSUPPORTED;
    }
    ++s.counts[what];
    return SUCCESS;
}

constexpr int POISON = 0xff;  // NaN in f32, f64 and bf16; an index far out of bounds

Result allocate(void** at, size_t bytes, void* stream) {
    State& s = state();
    Lock lock(s.lock);
    if (bytes == 0) return INVALID_VALUE;
    Card& card = s.cards[0];
    Graph* const graph = captured(stream);
    if (graph && graph->invalid) return CAPTURE_INVALIDATED;
    if (long(++s.allocated) == setting("STAND_IN_FAIL_ALLOCATION", 0)) return OUT_OF_MEMORY;
    if (card.used + card.graphs_used + bytes > card.total) return OUT_OF_MEMORY;
    // As the real one: multiples of 512 bytes. One more lies poisoned behind, to be no one's.
    const size_t room = (bytes + 511) / 512 * 512;
    *at = aligned_alloc(512, room + 512);
    if (!*at) return OUT_OF_MEMORY;
    memset(*at, POISON, room + 512);
    if (graph) {
        graph->allocated.push_back(*at);
        graph->live.insert(*at);
        queue(stream, "allocations of graphs", [to = *at, bytes] { memset(to, POISON, bytes); });
    }
    s.allocations[reinterpret_cast<uintptr_t>(*at)] = {bytes, graph != nullptr};
    size_t& used = graph ? card.graphs_used : card.used;
    size_t& high = graph ? card.graphs_high : card.high;
    used += bytes;
    if (used > high) high = used;
    ++s.counts["allocations"];
    return SUCCESS;
}

void release(void* at) {
    State& s = state();
    const auto found = s.allocations.find(reinterpret_cast<uintptr_t>(at));
    if (found == s.allocations.end()) give_up("%p is freed, but it is no live allocation", at);
    (found->second.of_graph ? s.cards[0].graphs_used : s.cards[0].used) -= found->second.bytes;
    memset(at, POISON, found->second.bytes);
    s.allocations.erase(found);
    free(at);
}

// Every byte that a kernel of ours touches must lie in an allocation that one of its arguments points into.
void run_ours(const Function& function, HostLaunch launch) {
    const harness::Kernel& kernel = *function.ours;
    std::vector<HostBuffer> buffers;
    for (size_t i = 0; i < kernel.parameters; ++i) {
        if (kernel.sizes[i] != sizeof(void*)) continue;
        const auto found = holding(*static_cast<void**>(launch.arguments[i]));
        if (found == state().allocations.end()) continue;
        buffers.push_back({reinterpret_cast<void*>(found->first), found->second.bytes, 1});
    }
    launch.kernel = kernel.name;
    launch.sizes = kernel.sizes;
    launch.n_arguments = kernel.parameters;
    launch.buffers = buffers.data();
    launch.n_buffers = buffers.size();
    HostCounters counters{};
    char message[1024];
    if (couplet_train_host_launch(&launch, &counters, message, sizeof message) != 0) give_up("%s: %s", kernel.name, message);
}

// Copies of a launch's arguments, for a graph: the caller's are gone by then.
struct Arguments {
    std::vector<std::vector<unsigned char>> bytes;
    std::vector<void*> pointers;

    Arguments(void** from, size_t n, const size_t* sizes) {
        for (size_t i = 0; i < n; ++i) {
            const auto* start = static_cast<unsigned char*>(from[i]);
            bytes.emplace_back(start, start + sizes[i]);
        }
        for (auto& each : bytes) pointers.push_back(each.data());
    }
};

}  // namespace driver

using namespace driver;

#define API extern "C" __attribute__((visibility("default"))) int

API cuInit(unsigned) {
    State& s = state();
    if (s.cards.empty()) return NO_DEVICE;
    s.initialised = true;
    return SUCCESS;
}
API cuDriverGetVersion(int* version) {
    *version = static_cast<int>(setting("STAND_IN_DRIVER", 13000));
    return SUCCESS;
}
API cuDeviceGetCount(int* n) {
    if (!state().initialised) return NOT_INITIALIZED;
    *n = static_cast<int>(state().cards.size());
    return SUCCESS;
}
API cuDeviceGet(int* device, int ordinal) {
    if (!state().initialised) return NOT_INITIALIZED;
    if (ordinal < 0 || size_t(ordinal) >= state().cards.size()) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}
API cuDeviceGetName(char* name, int room, int device) {
    snprintf(name, size_t(room), "stand-in %d", device);
    return SUCCESS;
}
API cuDeviceTotalMem_v2(size_t* bytes, int device) {
    *bytes = state().cards[size_t(device)].total;
    return SUCCESS;
}
API cuDeviceGetAttribute(int* value, int attribute, int) {
    const int capability = static_cast<int>(setting("STAND_IN_CAPABILITY", 90));
    switch (attribute) {
        case 75: *value = capability / 10; break;   // COMPUTE_CAPABILITY_MAJOR
        case 76: *value = capability % 10; break;   // COMPUTE_CAPABILITY_MINOR
        case 16: *value = 132; break;               // MULTIPROCESSOR_COUNT
        case 115: *value = 1; break;                // MEMORY_POOLS_SUPPORTED
        default: *value = 0;
    }
    return SUCCESS;
}

namespace {
thread_local void* current = nullptr;
char contexts[64];
}  // namespace

API cuDevicePrimaryCtxRetain(void** context, int device) {
    *context = &contexts[device];
    return SUCCESS;
}
API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API cuCtxSetCurrent(void* context) {
    current = context;
    return SUCCESS;
}
API cuCtxGetCurrent(void** context) {
    *context = current;
    return SUCCESS;
}
API cuCtxGetDevice(int* device) {
    *device = static_cast<int>(static_cast<char*>(current) - contexts);
    return SUCCESS;
}
API cuCtxSynchronize() { return outside_of_graphs("cuCtxSynchronize"); }
API cuMemGetInfo_v2(size_t* free, size_t* total) {
    Lock lock(state().lock);
    const auto i = current ? static_cast<char*>(current) - contexts : 0;
    const Card& card = state().cards[size_t(i)];
    *free = card.total - card.used;
    *total = card.total;
    return SUCCESS;
}

API cuStreamCreate(void** stream, unsigned) {
    *stream = new char;
    return SUCCESS;
}
API cuStreamDestroy_v2(void* stream) {
    delete static_cast<char*>(stream);
    return SUCCESS;
}
API cuStreamSynchronize(void*) { return outside_of_graphs("cuStreamSynchronize"); }
API cuStreamWaitEvent(void*, void*, unsigned) { return SUCCESS; }
API cuStreamIsCapturing(void* stream, int* status) {
    Lock lock(state().lock);
    *status = captured(stream) ? 1 : 0;
    return SUCCESS;
}
API cuEventCreate(void** event, unsigned) {
    *event = new char;
    count("events");
    return SUCCESS;
}
API cuEventDestroy_v2(void* event) {
    delete static_cast<char*>(event);
    return SUCCESS;
}
API cuEventRecord(void*, void*) { return SUCCESS; }
API cuEventQuery(void*) { return outside_of_graphs("cuEventQuery"); }
API cuEventSynchronize(void*) { return outside_of_graphs("cuEventSynchronize"); }
API cuEventElapsedTime_v2(float* ms, void*, void*) {
    *ms = 0;
    return SUCCESS;
}

API cuMemAllocAsync(void** at, size_t bytes, void* stream) { return allocate(at, bytes, stream); }
API cuMemAlloc_v2(void** at, size_t bytes) { return allocate(at, bytes, nullptr); }
API cuMemFreeAsync(void* at, void* stream) {
    State& s = state();
    Lock lock(s.lock);
    if (Graph* graph = captured(stream)) {
        if (graph->invalid) return CAPTURE_INVALIDATED;
        if (graph->live.erase(at) == 0) {
            fprintf(stderr, "stand-in driver: a captured graph frees memory that is not its own\n");
            return INVALID_VALUE;
        }
        // Its address stays the graph's until that is destroyed; from here on no one may use it, which a launch shows.
        queue(stream, "frees", [at] {
            const auto found = holding(at);
            if (found != state().allocations.end()) memset(at, POISON, found->second.bytes);
        });
        return SUCCESS;
    }
    release(at);
    return SUCCESS;
}
API cuMemFree_v2(void* at) {
    Lock lock(state().lock);
    release(at);
    return SUCCESS;
}
API cuMemHostAlloc(void** at, size_t bytes, unsigned) {
    *at = malloc(bytes);
    return *at ? SUCCESS : OUT_OF_MEMORY;
}
API cuMemFreeHost(void* at) {
    free(at);
    return SUCCESS;
}
API cuMemcpyHtoDAsync_v2(void* to, const void* from, size_t bytes, void* stream) {
    Lock lock(state().lock);
    if (captured(stream)) return outside_of_graphs("copies to the card");
    check_range("a copy to the card", to, bytes);
    count("copies to the card");
    count("bytes to the card", bytes);
    memcpy(to, from, bytes);
    return SUCCESS;
}
API cuMemcpyHtoD_v2(void* to, const void* from, size_t bytes) { return cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr); }
API cuMemcpyDtoHAsync_v2(void* to, const void* from, size_t bytes, void* stream) {
    Lock lock(state().lock);
    if (captured(stream)) return outside_of_graphs("copies from the card");
    check_range("a copy from the card", from, bytes);
    count("copies from the card");
    count("bytes from the card", bytes);
    memcpy(to, from, bytes);
    return SUCCESS;
}
API cuMemcpyDtoH_v2(void* to, const void* from, size_t bytes) { return cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr); }
API cuMemcpyDtoDAsync_v2(void* to, const void* from, size_t bytes, void* stream) {
    queue(stream, "copies on the card", [=] {
        check_range("a copy on the card, to", to, bytes);
        check_range("a copy on the card, from", from, bytes);
        memmove(to, from, bytes);
    });
    return SUCCESS;
}
API cuMemsetD8Async(void* at, unsigned char value, size_t bytes, void* stream) {
    queue(stream, "fills", [=] {
        check_range("a fill", at, bytes);
        memset(at, value, bytes);
    });
    return SUCCESS;
}

API cuDeviceGetDefaultMemPool(void** pool, int device) {
    *pool = &state().cards[size_t(device)];
    return SUCCESS;
}
API cuMemPoolSetAttribute(void* pool, int attribute, void* value) {
    // USED_MEM_HIGH may be set to 0 alone, which makes it what is used now.
    auto* card = static_cast<Card*>(pool);
    if (attribute == 8 && *static_cast<uint64_t*>(value) == 0) card->high = card->used;
    return SUCCESS;
}
API cuMemPoolGetAttribute(void* pool, int attribute, void* value) {
    const auto* card = static_cast<Card*>(pool);
    auto* n = static_cast<uint64_t*>(value);
    switch (attribute) {
        case 5:            // RESERVED_MEM_CURRENT
        case 7: *n = card->used; return SUCCESS;  // USED_MEM_CURRENT
        case 6:            // RESERVED_MEM_HIGH
        case 8: *n = card->high; return SUCCESS;  // USED_MEM_HIGH
        default: return INVALID_VALUE;
    }
}
API cuDeviceGetGraphMemAttribute(int device, int attribute, uint64_t* value) {
    const Card& card = state().cards[size_t(device)];
    *value = attribute % 2 == 0 ? card.graphs_used : card.graphs_high;  // USED and RESERVED, each CURRENT and HIGH
    return SUCCESS;
}
API cuDeviceSetGraphMemAttribute(int device, int, uint64_t*) {
    Card& card = state().cards[size_t(device)];
    card.graphs_high = card.graphs_used;
    return SUCCESS;
}
API cuMemPoolTrimTo(void*, size_t) { return SUCCESS; }

API cuModuleLoadData(void** module, const void*) {
    *module = new char;
    count("modules");
    return SUCCESS;
}
API cuModuleUnload(void* module) {
    delete static_cast<char*>(module);
    return SUCCESS;
}
API cuModuleGetFunction(Function** function, void*, const char* name) {
    State& s = state();
    Lock lock(s.lock);
    Function*& known = s.functions[name];
    if (!known) {
        const harness::Kernel* kernel = harness::kernels;
        while (kernel && strcmp(kernel->name, name) != 0) kernel = kernel->next;
        auto candle = kernel ? std::optional(CandleKernel{}) : candle_kernel(name);
        if (!candle) {
            fprintf(stderr, "stand-in driver: there is no kernel %s\n", name);
            return NOT_FOUND;
        }
        known = new Function{name, kernel, *candle};
    }
    *function = known;
    return SUCCESS;
}
API cuFuncSetAttribute(Function* function, int attribute, int value) {
    if (attribute == 8) function->shared_allowed = static_cast<uint32_t>(value);  // MAX_DYNAMIC_SHARED_SIZE_BYTES
    return SUCCESS;
}
API cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared_bytes, void* stream, void** arguments, void**) {
    State& s = state();
    Lock lock(s.lock);
    if (!gx || !gy || !gz || !bx || !by || !bz) return INVALID_VALUE;
    const harness::Kernel* ours = function->ours;
    const size_t n = ours ? ours->parameters : function->candle.sizes.size();
    const auto kept = std::make_shared<Arguments>(arguments, n, ours ? ours->sizes : function->candle.sizes.data());
    HostLaunch launch{};
    launch.grid[0] = gx, launch.grid[1] = gy, launch.grid[2] = gz;
    launch.block[0] = bx, launch.block[1] = by, launch.block[2] = bz;
    launch.shared_bytes = shared_bytes;
    launch.shared_allowed = function->shared_allowed;
    launch.arguments = kept->pointers.data();
    queue(stream, function->name.c_str(), [=] {
        if (ours) run_ours(*function, launch);
        else function->candle.run(kept->pointers.data());
    });
    return SUCCESS;
}

API cuStreamBeginCapture_v2(void* stream, int) {
    Lock lock(state().lock);
    if (captured(stream)) return CAPTURE_UNSUPPORTED;
    state().captures[own(stream)] = new Graph;
    return SUCCESS;
}
API cuStreamEndCapture(void* stream, Graph** graph) {
    Lock lock(state().lock);
    *graph = captured(stream);
    state().captures.erase(own(stream));
    if (!*graph) return INVALID_VALUE;
    if ((*graph)->invalid) {
        for (void* at : (*graph)->allocated) release(at);
        delete *graph;
        *graph = nullptr;
        return CAPTURE_INVALIDATED;
    }
    // Allowed, but a second launch would fail or lose it.
    if (!(*graph)->live.empty()) give_up("a captured graph keeps %zu of its allocations", (*graph)->live.size());
    return SUCCESS;
}
API cuGraphInstantiateWithFlags(Graph** instance, Graph* graph, unsigned long long) {
    *instance = graph;
    return SUCCESS;
}
API cuGraphUpload(Graph*, void*) { return SUCCESS; }
API cuGraphLaunch(Graph* graph, void* stream) {
    State& s = state();
    Lock lock(s.lock);
    ++s.counts["graphs launched"];
    for (auto& [what, work] : graph->nodes) queue(stream, what.c_str(), work);
    return SUCCESS;
}
API cuGraphExecDestroy(Graph*) { return SUCCESS; }
API cuGraphDestroy(Graph* graph) {
    Lock lock(state().lock);
    for (void* at : graph->allocated) release(at);
    delete graph;
    return SUCCESS;
}

// Names and texts of the results that are returned here, as the real driver gives them.
struct Named {
    int result;
    const char *name, *text;
};
constexpr Named NAMED[] = {
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
};
static const Named* named(int result) {
    for (const Named& each : NAMED)
        if (each.result == result) return &each;
    return nullptr;
}
API cuGetErrorName(int result, const char** name) {
    const Named* found = named(result);
    *name = found ? found->name : nullptr;
    return found ? SUCCESS : INVALID_VALUE;
}
API cuGetErrorString(int result, const char** text) {
    const Named* found = named(result);
    *text = found ? found->text : nullptr;
    return found ? SUCCESS : INVALID_VALUE;
}
