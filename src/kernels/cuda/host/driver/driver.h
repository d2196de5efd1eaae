// What the parts of the stand-in driver share.

#pragma once

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace driver {

// Ends the process: what was found is a fault of ours, and on a card it might go unseen.
[[noreturn]] void give_up(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Gives up unless these bytes lie in one live allocation. Nothing is asked of 0 bytes.
void check_range(const char* what, const void* at, size_t bytes);

// Does `work` now; while `stream` is captured, whenever the graph is launched instead.
void queue(void* stream, const char* what, std::function<void()> work);

// A kernel of candle's: the bytes of its parameters, and what it does with arguments as cuLaunchKernel gets them.
struct CandleKernel {
    std::vector<size_t> sizes;
    std::function<void(void** arguments)> run;
};
// None where there is none of this name.
std::optional<CandleKernel> candle_kernel(const std::string& name);

// A line of the report that is written at the end.
void count(const char* what, uint64_t n = 1);

}  // namespace driver
