// What a test asks of the fake CUDA libraries, through the environment, and what it sees of them.
//
//   PARITY_FAKE_FAULT=SYMBOL[:after=N][:code=C]
//       The function SYMBOL fails from its N-th call on (counted from 0) with status C. Without a
//       code: out of memory for allocations, launch failed for the rest of the driver, execution
//       failed for cuBLAS, a compilation error with a log for NVRTC. Callers read a status as an
//       enum: C has to be one that the library documents.
//   PARITY_FAKE_FAULT=lost[:after=N][:code=C]
//       From the N-th launch on (a kernel or a product), whatever needs the device fails, releases
//       included, as after a fault that corrupts a context.
//   PARITY_FAKE_LOG=PATH
//       A line for every call that puts work on the device or waits for it is appended to PATH:
//       a word, then `key=value`s.
//   Others say what device there is; see driver.cpp.
#pragma once

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <unistd.h>

// Libraries are built with -fvisibility=hidden; these are what they export.
#define API extern "C" __attribute__((visibility("default")))

namespace fake {

inline std::string setting(const char* name, const char* otherwise) {
    const char* value = std::getenv(name);
    return value ? value : otherwise;
}

inline size_t number(const char* name, size_t otherwise) {
    const char* value = std::getenv(name);
    return value ? std::strtoull(value, nullptr, 10) : otherwise;
}

__attribute__((format(printf, 1, 2))) inline void log(const char* format, ...) {
    static const std::string path = setting("PARITY_FAKE_LOG", "");
    static const int file = path.empty() ? -1 : open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file < 0) return;
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    int length = std::vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    length = length < int(sizeof line) - 1 ? length : int(sizeof line) - 2;
    line[length++] = '\n';
    if (write(file, line, length) != length) std::abort();
}

struct Fault {
    std::string symbol;
    size_t after = 0;
    int code = 0;  // 0: what is usual for the symbol
};

inline const Fault& fault() {
    static const Fault fault = [] {
        std::string text = setting("PARITY_FAKE_FAULT", "");
        Fault fault;
        fault.symbol = text.substr(0, text.find(':'));
        if (size_t at = text.find(":after="); at != text.npos) fault.after = std::stoul(text.substr(at + 7));
        if (size_t at = text.find(":code="); at != text.npos) fault.code = std::stoi(text.substr(at + 6));
        return fault;
    }();
    return fault;
}

// The status with which this call of `symbol` has to fail, or 0.
inline int injected(const char* symbol, int usual) {
    static std::atomic<size_t> calls{0};
    if (fault().symbol != symbol || calls++ < fault().after) return 0;
    int code = fault().code ? fault().code : usual;
    log("fault call=%s code=%d", symbol, code);
    return code;
}

}  // namespace fake
