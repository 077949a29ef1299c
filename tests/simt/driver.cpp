// A fake libcuda.so.1: the part of the driver API that the backend uses, on the CPU.
//
// Modelled: one memory, whose addresses are the host's; streams, events, modules and pinned memory
// as handles that are checked; which calls need a current context; limits of launches; the order
// that events ask for (timeline.hpp). Kernels are the project's own, run by the SIMT shim.
//
// Work runs when it is called, which is one of the orders that a device could choose. What another
// order would change ends the process with a message, or shows in results:
//   - copies, fills, products, kernels and frees of two streams on the same bytes need a wait between
//     them; a kernel is taken to access the first byte of each pointer, reading where it is const;
//   - the host may change or free pinned memory only after waiting for the copies from it, and reads
//     what was copied to it only after waiting;
//     (both are checked until a fault is injected into the driver, memory that runs out aside: after
//     others, nobody can wait)
//   - memory is filled with 0xff before it is first written and when it is freed: NaN in every float
//     type, and no token;
//   - a write beyond an allocation's end is found when it is freed.
//
// Not modelled: time (events read the host's clock), the default stream's waiting for others, pools
// (reserved is what is used, in steps of 512 bytes), several devices (they differ in their number
// alone), a chain of copies through pinned memory that the host never waits for.
//
// The device, through the environment: PARITY_FAKE_NAME, _CAPABILITY (9.0), _MEMORY (bytes; 4 GiB),
// _DEVICES (1), _POOLS (1: asynchronous allocations), _DRIVER (13000).
#include "device.hpp"
#include "registry.hpp"
#include "timeline.hpp"

#include <chrono>
#include <memory>
#include <mutex>

namespace {

using namespace fake;

enum Status {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_FAILED = 719,
};

constexpr size_t ALIGNMENT = 512;
constexpr int UNWRITTEN = 0xff;
constexpr unsigned SHARED = 48 << 10, SHARED_OPT_IN = 99 << 10;

struct Stream {
    int number;
};

struct Event {
    int number;
    bool timed;
    bool recorded = false;
    Clock clock{};
    std::chrono::steady_clock::time_point at{};
};

struct Function {
    std::string name;
    simt::Kernel run;
    unsigned shared_limit = SHARED;
};

struct Module {
    std::string dtype;
    std::map<std::string, Function> functions{};
};

// Objects that the caller has pointers to.
template <class T> class Handles {
    std::map<const void*, std::unique_ptr<T>> alive;

public:
    T* add(T object) {
        auto owned = std::make_unique<T>(std::move(object));
        T* handle = owned.get();
        alive[handle] = std::move(owned);
        return handle;
    }
    T* get(const void* handle) const {
        auto found = alive.find(handle);
        return found == alive.end() ? nullptr : found->second.get();
    }
    bool remove(const void* handle) { return alive.erase(handle); }
    size_t size() const { return alive.size(); }
};

struct Allocation {
    int number;
    size_t bytes;
    bool pooled;
    Accesses accesses{};

    size_t used() const { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }
};

// A copy between the device and pinned memory that the host has not waited for.
struct Transfer {
    char* host;
    std::string bytes;
    bool upload;
    int stream;
    uint64_t tick;
};

struct Device {
    std::mutex mutex{};
    bool initialized = false, lost = false;
    bool broken = false;  // a fault was injected that leaves nobody able to wait
    int contexts = 0;
    size_t launches = 0;

    std::map<char*, Allocation> memory{};
    std::map<char*, size_t> pinned{};
    size_t used = 0, pooled = 0, pooled_high = 0;
    uint64_t release_threshold = 0;
    int allocations = 0, streams_made = 0, events_made = 0;

    Handles<Stream> streams{};
    Handles<Event> events{};
    Handles<Module> modules{};
    Timeline timeline{};
    std::vector<Transfer> transfers{};

    const size_t total = number("PARITY_FAKE_MEMORY", size_t(4) << 30);

    // The number of a stream, -1 if there is none.
    int stream(const void* handle) const {
        if (uintptr_t(handle) <= 2) return 0;  // default, legacy, per thread
        const Stream* stream = streams.get(handle);
        return stream ? stream->number : -1;
    }

    // The allocation that holds these bytes, and what it starts at.
    std::pair<char* const, Allocation>* find(const void* at, size_t bytes) {
        auto after = memory.upper_bound((char*)at);
        if (after == memory.begin()) return nullptr;
        auto& [begin, allocation] = *--after;
        size_t offset = (char*)at - begin;
        return offset <= allocation.bytes && bytes <= allocation.bytes - offset ? &*after : nullptr;
    }

    Status access(const char* call, int stream, uint64_t tick, Access access) {
        if (access.bytes == 0) return SUCCESS;
        auto found = find(access.at, access.bytes);
        if (!found) {
            log("outside call=%s bytes=%zu", call, access.bytes);
            return INVALID_VALUE;
        }
        size_t begin = (char*)access.at - found->first;
        if (broken) return SUCCESS;
        found->second.accesses.add(timeline, call, stream, tick, begin, begin + access.bytes, access.write);
        return SUCCESS;
    }

    Status allocate(const char* call, uint64_t* at, size_t bytes, int stream, bool pool) {
        if (!bytes) return INVALID_VALUE;
        if (stream < 0) return INVALID_HANDLE;
        Allocation allocation{allocations, bytes, pool};
        if (allocation.used() < bytes || allocation.used() > total - used) return OUT_OF_MEMORY;
        // What follows the allocation shows writes beyond its end.
        char* begin = (char*)std::aligned_alloc(ALIGNMENT, allocation.used() + ALIGNMENT);
        if (!begin) return OUT_OF_MEMORY;
        std::memset(begin, UNWRITTEN, allocation.used() + ALIGNMENT);
        used += allocation.used();
        if (pool) {
            pooled += allocation.used();
            pooled_high = std::max(pooled_high, pooled);
            // Other streams have to wait for the allocation.
            allocation.accesses.add(timeline, call, stream, timeline.enqueue(stream), 0, bytes, true);
        }
        log("alloc id=%d bytes=%zu stream=%d call=%s", allocations++, bytes, stream, call);
        memory.emplace(begin, std::move(allocation));
        *at = (uint64_t)begin;
        return SUCCESS;
    }

    Status release(const char* call, uint64_t at) {
        auto found = memory.find((char*)at);
        if (found == memory.end()) return INVALID_VALUE;
        auto& [begin, allocation] = *found;
        for (size_t i = allocation.bytes; i < allocation.used() + ALIGNMENT; i++)
            if ((unsigned char)begin[i] != UNWRITTEN)
                race("something wrote beyond the end of allocation " + std::to_string(allocation.number));
        log("free id=%d bytes=%zu call=%s", allocation.number, allocation.bytes, call);
        used -= allocation.used();
        if (allocation.pooled) pooled -= allocation.used();
        std::memset(begin, UNWRITTEN, allocation.used());
        std::free(begin);
        memory.erase(found);
        return SUCCESS;
    }

    // Whether host memory is pinned: 1, 0, or -1 where it is only in part.
    int is_pinned(const void* host, size_t bytes) const {
        for (auto [begin, size] : pinned) {
            if ((char*)host < begin || (char*)host >= begin + size) continue;
            return (char*)host + bytes <= begin + size ? 1 : -1;
        }
        return 0;
    }

    Status upload(const char* call, uint64_t to, const void* from, size_t bytes, int stream) {
        if (stream < 0) return INVALID_HANDLE;
        uint64_t tick = timeline.enqueue(stream);
        int pinned = is_pinned(from, bytes);
        if (pinned < 0 || access(call, stream, tick, {(void*)to, bytes, true})) return INVALID_VALUE;
        log("h2d to=%s bytes=%zu pinned=%d stream=%d", address(to).c_str(), bytes, pinned, stream);
        std::memcpy((void*)to, from, bytes);
        if (pinned) transfers.push_back({(char*)from, std::string((char*)from, bytes), true, stream, tick});
        return SUCCESS;
    }

    Status download(const char* call, void* to, uint64_t from, size_t bytes, int stream) {
        if (stream < 0) return INVALID_HANDLE;
        uint64_t tick = timeline.enqueue(stream);
        int pinned = is_pinned(to, bytes);
        if (pinned < 0 || access(call, stream, tick, {(void*)from, bytes, false})) return INVALID_VALUE;
        log("d2h from=%s bytes=%zu pinned=%d stream=%d", address(from).c_str(), bytes, pinned, stream);
        if (pinned) {
            transfers.push_back({(char*)to, std::string((char*)from, bytes), false, stream, tick});
            std::memset(to, UNWRITTEN, bytes);
        } else {
            std::memcpy(to, (void*)from, bytes);
            host_waits(timeline.now(stream));  // pageable memory: the call returns when it is there
        }
        return SUCCESS;
    }

    void host_waits(const Clock& clock) {
        timeline.host_waits(clock);
        drain();
    }
    void host_waits_for_all() {
        timeline.host_waits_for_all();
        drain();
    }

    // Transfers that the host now knows to have finished.
    void drain() {
        auto finished = [&](const Transfer& transfer) {
            if (!timeline.host_knows(transfer.stream, transfer.tick)) return false;
            if (!transfer.upload)
                std::memcpy(transfer.host, transfer.bytes.data(), transfer.bytes.size());
            else if (!broken && std::memcmp(transfer.host, transfer.bytes.data(), transfer.bytes.size()))
                race("the host changed pinned memory before waiting for the copy from it on stream " +
                     std::to_string(transfer.stream));
            return true;
        };
        transfers.erase(std::remove_if(transfers.begin(), transfers.end(), finished), transfers.end());
    }

    Status unpin(void* host) {
        auto found = pinned.find((char*)host);
        if (found == pinned.end()) return INVALID_VALUE;
        auto [begin, bytes] = *found;
        auto ends = [&](const Transfer& transfer) {
            if (transfer.host < begin || transfer.host >= begin + bytes) return false;
            if (!broken)
                race("the host freed pinned memory before waiting for a copy on stream " +
                     std::to_string(transfer.stream));
            return true;
        };
        transfers.erase(std::remove_if(transfers.begin(), transfers.end(), ends), transfers.end());
        log("unpin bytes=%zu", bytes);
        std::free(begin);
        pinned.erase(found);
        return SUCCESS;
    }

    Status launch() {
        if (fault().symbol == "lost" && launches++ >= fault().after) lost = true;
        return health();
    }
    Status health() const { return !lost ? SUCCESS : fault().code ? Status(fault().code) : LAUNCH_FAILED; }

    std::string address(uint64_t at) {
        auto found = find((void*)at, 0);
        if (!found) return at ? "host" : "null";
        return std::to_string(found->second.number) + "+" + std::to_string(at - (uint64_t)found->first);
    }
};

Device& device() {
    static Device& device = *new Device;  // outlives whatever is dropped at exit
    return device;
}

thread_local void* current = nullptr;

int contexts_of_devices[16];  // a context is the address of its device's element

size_t device_count() { return std::min(number("PARITY_FAKE_DEVICES", 1), std::size(contexts_of_devices)); }

bool is_allocation(const char* call) {
    return !std::strncmp(call, "cuMemAlloc", 10) || !std::strcmp(call, "cuMemHostAlloc");
}

int usual(const char* call) { return is_allocation(call) ? OUT_OF_MEMORY : LAUNCH_FAILED; }

// A call that any thread can make once the driver is initialized.
template <class Body> int anywhere(const char* call, Body body) {
    std::lock_guard lock(device().mutex);
    if (int code = injected(call, usual(call))) {
        device().broken |= !is_allocation(call);
        return code;
    }
    return device().initialized ? body(device()) : NOT_INITIALIZED;
}

// A call on objects of a context: fails once the device is lost.
template <class Body> int in_context(const char* call, Body body) {
    return anywhere(call, [&](Device& device) -> int {
        if (Status status = device.health()) return status;
        return body(device);
    });
}

// A call on the current context.
template <class Body> int in_current(const char* call, Body body) {
    return in_context(call, [&](Device& device) -> int { return current ? body(device) : INVALID_CONTEXT; });
}

std::pair<int, int> capability() {
    int major = 0, minor = 0;
    std::sscanf(setting("PARITY_FAKE_CAPABILITY", "9.0").c_str(), "%d.%d", &major, &minor);
    return {major, minor};
}

}  // namespace

// ---- errors, the driver, devices

API int cuGetErrorName(int status, const char** name) {
    static const std::map<int, const char*> names = {
        {0, "CUDA_SUCCESS"}, {1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"},
        {3, "CUDA_ERROR_NOT_INITIALIZED"}, {4, "CUDA_ERROR_DEINITIALIZED"}, {46, "CUDA_ERROR_DEVICE_UNAVAILABLE"},
        {100, "CUDA_ERROR_NO_DEVICE"}, {101, "CUDA_ERROR_INVALID_DEVICE"}, {200, "CUDA_ERROR_INVALID_IMAGE"},
        {201, "CUDA_ERROR_INVALID_CONTEXT"}, {209, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
        {214, "CUDA_ERROR_ECC_UNCORRECTABLE"}, {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"},
        {400, "CUDA_ERROR_INVALID_HANDLE"}, {500, "CUDA_ERROR_NOT_FOUND"}, {600, "CUDA_ERROR_NOT_READY"},
        {700, "CUDA_ERROR_ILLEGAL_ADDRESS"}, {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"},
        {719, "CUDA_ERROR_LAUNCH_FAILED"}, {801, "CUDA_ERROR_NOT_SUPPORTED"},
        {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"}, {999, "CUDA_ERROR_UNKNOWN"},
    };
    auto found = names.find(status);
    *name = found == names.end() ? nullptr : found->second;
    return *name ? SUCCESS : INVALID_VALUE;
}

API int cuGetErrorString(int status, const char** text) {
    static const std::map<int, const char*> texts = {
        {0, "no error"}, {1, "invalid argument"}, {2, "out of memory"}, {100, "no CUDA-capable device is detected"},
        {700, "an illegal memory access was encountered"}, {719, "unspecified launch failure"},
    };
    auto found = texts.find(status);
    if (found == texts.end()) return cuGetErrorName(status, text);
    *text = found->second;
    return SUCCESS;
}

API int cuInit(unsigned) {
    std::lock_guard lock(device().mutex);
    if (int code = injected(__func__, LAUNCH_FAILED)) return code;
    device().initialized = true;
    return SUCCESS;
}

API int cuDriverGetVersion(int* version) {
    if (int code = injected(__func__, LAUNCH_FAILED)) return code;
    *version = int(number("PARITY_FAKE_DRIVER", 13000));
    return SUCCESS;
}

API int cuDeviceGetCount(int* count) {
    return anywhere(__func__, [&](Device&) { return *count = int(device_count()), SUCCESS; });
}

API int cuDeviceGet(int* device, int ordinal) {
    return anywhere(__func__, [&](Device&) {
        if (ordinal < 0 || size_t(ordinal) >= device_count()) return INVALID_DEVICE;
        return *device = ordinal, SUCCESS;
    });
}

API int cuDeviceGetName(char* name, int length, int) {
    return anywhere(__func__, [&](Device&) {
        std::snprintf(name, length, "%s", setting("PARITY_FAKE_NAME", "Fake GPU").c_str());
        return SUCCESS;
    });
}

API int cuDeviceGetUuid_v2(char* uuid, int ordinal) {
    return anywhere(__func__, [&](Device&) { return std::memset(uuid, ordinal, 16), SUCCESS; });
}

API int cuDeviceTotalMem_v2(size_t* bytes, int) {
    return anywhere(__func__, [&](Device& device) { return *bytes = device.total, SUCCESS; });
}

API int cuDeviceGetAttribute(int* value, int attribute, int) {
    return anywhere(__func__, [&](Device&) {
        switch (attribute) {
        case 1: case 2: case 3: *value = attribute == 3 ? 64 : 1024; break;  // threads of a block; its x, y, z
        case 4: *value = 64; break;
        case 5: *value = 0x7fffffff; break;                                  // x, y, z of a grid
        case 6: case 7: *value = 65535; break;
        case 8: *value = SHARED; break;                                      // of a block
        case 10: *value = 32; break;                                         // a warp
        case 12: case 82: *value = 65536; break;                             // registers of a block, multiprocessor
        case 13: *value = 1'500'000; break;                                  // kHz
        case 16: *value = 4; break;                                          // multiprocessors
        case 18: case 20: *value = 0; break;                                 // integrated; exclusive
        case 31: case 40: case 41: *value = 1; break;  // concurrent kernels; copy engines; one address space
        case 32: case 33: case 34: case 50: *value = 0; break;               // ECC; PCI
        case 36: *value = 5'000'000; break;                                  // memory: kHz
        case 37: *value = 256; break;                                        // memory: bits
        case 38: *value = 4 << 20; break;                                    // L2
        case 39: *value = 2048; break;                                       // threads of a multiprocessor
        case 75: *value = capability().first; break;
        case 76: *value = capability().second; break;
        case 81: *value = SHARED_OPT_IN + 1024; break;                       // shared of a multiprocessor
        case 97: *value = SHARED_OPT_IN; break;
        case 115: *value = int(number("PARITY_FAKE_POOLS", 1)); break;
        default: return INVALID_VALUE;
        }
        return SUCCESS;
    });
}

// ---- contexts

API int cuDevicePrimaryCtxRetain(void** context, int ordinal) {
    return anywhere(__func__, [&](Device& device) {
        if (ordinal < 0 || size_t(ordinal) >= device_count()) return INVALID_DEVICE;
        device.contexts++;
        return *context = &contexts_of_devices[ordinal], SUCCESS;
    });
}

API int cuDevicePrimaryCtxRelease_v2(int) {
    return in_context(__func__, [&](Device& device) {
        if (device.contexts == 0) return INVALID_CONTEXT;
        if (--device.contexts == 0)
            log("release allocations=%zu pinned=%zu streams=%zu events=%zu modules=%zu", device.memory.size(),
                device.pinned.size(), device.streams.size(), device.events.size(), device.modules.size());
        return SUCCESS;
    });
}

API int cuCtxSetCurrent(void* context) {
    return anywhere(__func__, [&](Device&) { return current = context, SUCCESS; });
}

API int cuCtxGetCurrent(void** context) {
    return anywhere(__func__, [&](Device&) { return *context = current, SUCCESS; });
}

API int cuCtxSynchronize() {
    return in_current(__func__, [&](Device& device) {
        log("sync context");
        return device.host_waits_for_all(), SUCCESS;
    });
}

// ---- memory

API int cuMemGetInfo_v2(size_t* free, size_t* total) {
    return in_current(__func__, [&](Device& device) {
        *free = device.total - device.used;
        *total = device.total;
        return SUCCESS;
    });
}

API int cuMemAlloc_v2(uint64_t* at, size_t bytes) {
    return in_current(__func__, [&](Device& device) { return device.allocate("cuMemAlloc_v2", at, bytes, 0, false); });
}

API int cuMemAllocAsync(uint64_t* at, size_t bytes, void* stream) {
    return in_current(__func__, [&](Device& device) {
        return device.allocate("cuMemAllocAsync", at, bytes, device.stream(stream), true);
    });
}

API int cuMemFree_v2(uint64_t at) {
    return in_current(__func__, [&](Device& device) {
        if (at == 0) return SUCCESS;
        device.host_waits_for_all();
        return device.release("cuMemFree_v2", at);
    });
}

API int cuMemFreeAsync(uint64_t at, void* stream) {
    return in_context(__func__, [&](Device& device) {
        auto found = device.memory.find((char*)at);
        int number = device.stream(stream);
        if (number < 0) return INVALID_HANDLE;
        if (found == device.memory.end()) return INVALID_VALUE;
        uint64_t tick = device.timeline.enqueue(number);
        device.access("cuMemFreeAsync", number, tick, {found->first, found->second.bytes, true});
        return device.release("cuMemFreeAsync", at);
    });
}

API int cuMemHostAlloc(void** host, size_t bytes, unsigned) {
    return in_current(__func__, [&](Device& device) {
        if (!bytes) return INVALID_VALUE;
        char* begin = (char*)std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
        if (!begin) return OUT_OF_MEMORY;
        std::memset(begin, UNWRITTEN, bytes);
        device.pinned[begin] = bytes;
        log("pin bytes=%zu", bytes);
        return *host = begin, SUCCESS;
    });
}

API int cuMemFreeHost(void* host) {
    return in_current(__func__, [&](Device& device) { return device.unpin(host); });
}

API int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
    return in_current(__func__, [&](Device& device) {
        return device.upload("cuMemcpyHtoDAsync_v2", to, from, bytes, device.stream(stream));
    });
}

API int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
    return in_current(__func__, [&](Device& device) {
        return device.download("cuMemcpyDtoHAsync_v2", to, from, bytes, device.stream(stream));
    });
}

API int cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t bytes) {
    return in_current(__func__, [&](Device& device) {
        Status status = device.upload("cuMemcpyHtoD_v2", to, from, bytes, 0);
        return device.host_waits(device.timeline.now(0)), status;
    });
}

API int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t bytes) {
    return in_current(__func__, [&](Device& device) {
        Status status = device.download("cuMemcpyDtoH_v2", to, from, bytes, 0);
        return device.host_waits(device.timeline.now(0)), status;
    });
}

API int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
    return in_current(__func__, [&](Device& device) {
        int number = device.stream(stream);
        if (number < 0) return INVALID_HANDLE;
        uint64_t tick = device.timeline.enqueue(number);
        if (device.access("cuMemcpyDtoDAsync_v2", number, tick, {(void*)from, bytes, false}) ||
            device.access("cuMemcpyDtoDAsync_v2", number, tick, {(void*)to, bytes, true}))
            return INVALID_VALUE;
        log("d2d to=%s from=%s bytes=%zu stream=%d", device.address(to).c_str(), device.address(from).c_str(), bytes,
            number);
        return std::memmove((void*)to, (void*)from, bytes), SUCCESS;
    });
}

API int cuMemsetD8Async(uint64_t at, unsigned char value, size_t bytes, void* stream) {
    return in_current(__func__, [&](Device& device) {
        int number = device.stream(stream);
        if (number < 0) return INVALID_HANDLE;
        if (device.access("cuMemsetD8Async", number, device.timeline.enqueue(number), {(void*)at, bytes, true}))
            return INVALID_VALUE;
        log("memset to=%s value=%d bytes=%zu stream=%d", device.address(at).c_str(), value, bytes, number);
        return std::memset((void*)at, value, bytes), SUCCESS;
    });
}

// ---- the memory pool: there is one, the device itself

API int cuDeviceGetDefaultMemPool(void** pool, int) {
    return anywhere(__func__, [&](Device& device) { return *pool = &device, SUCCESS; });
}

API int cuDeviceGetMemPool(void** pool, int) {
    return anywhere(__func__, [&](Device& device) { return *pool = &device, SUCCESS; });
}

API int cuMemPoolTrimTo(void* pool, size_t) {
    return in_context(__func__, [&](Device& device) { return pool == &device ? SUCCESS : INVALID_VALUE; });
}

API int cuMemPoolGetAttribute(void* pool, int attribute, void* value) {
    return in_context(__func__, [&](Device& device) {
        if (pool != &device) return INVALID_VALUE;
        switch (attribute) {
        case 4: *(uint64_t*)value = device.release_threshold; break;
        case 5: case 7: *(uint64_t*)value = device.pooled; break;       // reserved, used: now
        case 6: case 8: *(uint64_t*)value = device.pooled_high; break;  // reserved, used: at most
        default: return INVALID_VALUE;
        }
        return SUCCESS;
    });
}

API int cuMemPoolSetAttribute(void* pool, int attribute, void* value) {
    return in_context(__func__, [&](Device& device) {
        if (pool != &device) return INVALID_VALUE;
        switch (attribute) {
        case 1: case 2: case 3: break;  // reuse
        case 4: device.release_threshold = *(uint64_t*)value; break;
        case 6: case 8:
            if (*(uint64_t*)value != 0) return INVALID_VALUE;
            device.pooled_high = device.pooled;
            break;
        default: return INVALID_VALUE;
        }
        return SUCCESS;
    });
}

// ---- streams and events

API int cuStreamCreate(void** stream, unsigned) {
    return in_current(__func__, [&](Device& device) {
        return *stream = device.streams.add({++device.streams_made}), SUCCESS;
    });
}

API int cuStreamDestroy_v2(void* stream) {
    return in_context(__func__,
                      [&](Device& device) { return device.streams.remove(stream) ? SUCCESS : INVALID_HANDLE; });
}

API int cuStreamSynchronize(void* stream) {
    return in_context(__func__, [&](Device& device) {
        int number = device.stream(stream);
        if (number < 0) return INVALID_HANDLE;
        log("sync stream=%d", number);
        return device.host_waits(device.timeline.now(number)), SUCCESS;
    });
}

API int cuStreamQuery(void* stream) {
    return in_context(__func__, [&](Device& device) {
        int number = device.stream(stream);
        if (number < 0) return INVALID_HANDLE;
        return device.host_waits(device.timeline.now(number)), SUCCESS;
    });
}

API int cuStreamWaitEvent(void* stream, void* handle, unsigned) {
    return in_context(__func__, [&](Device& device) {
        int number = device.stream(stream);
        Event* event = device.events.get(handle);
        if (number < 0 || !event) return INVALID_HANDLE;
        log("wait stream=%d event=%d", number, event->number);
        return device.timeline.wait(number, event->clock), SUCCESS;
    });
}

API int cuEventCreate(void** event, unsigned flags) {
    return in_current(__func__, [&](Device& device) {
        return *event = device.events.add({device.events_made++, !(flags & 2)}), SUCCESS;
    });
}

API int cuEventDestroy_v2(void* event) {
    return in_context(__func__, [&](Device& device) { return device.events.remove(event) ? SUCCESS : INVALID_HANDLE; });
}

API int cuEventRecord(void* handle, void* stream) {
    return in_context(__func__, [&](Device& device) {
        int number = device.stream(stream);
        Event* event = device.events.get(handle);
        if (number < 0 || !event) return INVALID_HANDLE;
        log("record stream=%d event=%d", number, event->number);
        event->recorded = true;
        event->clock = device.timeline.now(number);
        event->at = std::chrono::steady_clock::now();
        return SUCCESS;
    });
}

API int cuEventSynchronize(void* handle) {
    return in_context(__func__, [&](Device& device) {
        Event* event = device.events.get(handle);
        if (!event) return INVALID_HANDLE;
        log("sync event=%d", event->number);
        return device.host_waits(event->clock), SUCCESS;
    });
}

API int cuEventQuery(void* handle) {
    return in_context(__func__, [&](Device& device) {
        Event* event = device.events.get(handle);
        if (!event) return INVALID_HANDLE;
        return device.host_waits(event->clock), SUCCESS;
    });
}

API int cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) {
    return in_context(__func__, [&](Device& device) {
        Event *from = device.events.get(start), *to = device.events.get(end);
        if (!from || !to || !from->timed || !to->timed || !from->recorded || !to->recorded) return INVALID_HANDLE;
        *milliseconds = std::chrono::duration<float, std::milli>(to->at - from->at).count();
        return SUCCESS;
    });
}

API int cuEventElapsedTime(float* milliseconds, void* start, void* end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}

// ---- modules and kernels

namespace {

// What a CUBIN was compiled for. Text of the fake NVRTC says it; an ELF file of a compiler has the
// name of one of three symbols in it (numbers.cuh), and is taken to be for this architecture.
Status inspect(const char* image, std::string& dtype, int& architecture) {
    static const char MAGIC[] = "PARITY-FAKE-CUBIN";
    if (!std::strncmp(image, MAGIC, sizeof MAGIC - 1)) {
        char type[8] = "";
        if (std::sscanf(image + sizeof MAGIC, "arch=sm_%d dtype=%7s", &architecture, type) != 2) return INVALID_IMAGE;
        dtype = type;
        return SUCCESS;
    }
    if (std::memcmp(image, "\177ELF\2", 5)) return INVALID_IMAGE;
    uint64_t sections;
    uint16_t size, count;
    std::memcpy(&sections, image + 40, sizeof sections);
    std::memcpy(&size, image + 58, sizeof size);
    std::memcpy(&count, image + 60, sizeof count);
    std::string bytes(image, sections + size * count);
    for (const char* candidate : {"f32", "f16", "bf16"}) {
        if (bytes.find(std::string("stored_") + candidate) == bytes.npos) continue;
        if (!dtype.empty()) return INVALID_IMAGE;
        dtype = candidate;
    }
    return dtype.empty() ? INVALID_IMAGE : SUCCESS;
}

}  // namespace

API int cuModuleLoadData(void** module, const void* image) {
    return in_current(__func__, [&](Device& device) {
        auto [major, minor] = capability();
        int architecture = major * 10 + minor;
        std::string dtype;
        if (Status status = inspect((const char*)image, dtype, architecture)) return status;
        if (architecture / 10 != major || architecture % 10 > minor) return NO_BINARY_FOR_GPU;
        log("module dtype=%s arch=sm_%d", dtype.c_str(), architecture);
        return *module = device.modules.add({dtype}), SUCCESS;
    });
}

API int cuModuleLoadDataEx(void** module, const void* image, unsigned, void*, void**) {
    return cuModuleLoadData(module, image);
}

API int cuModuleUnload(void* module) {
    return in_context(__func__,
                      [&](Device& device) { return device.modules.remove(module) ? SUCCESS : INVALID_HANDLE; });
}

API int cuModuleGetFunction(void** function, void* handle, const char* name) {
    return in_context(__func__, [&](Device& device) {
        Module* module = device.modules.get(handle);
        if (!module) return INVALID_HANDLE;
        simt::Kernel run = simt::find(module->dtype.c_str(), name);
        if (!run) return NOT_FOUND;
        return *function = &module->functions.try_emplace(name, Function{name, run}).first->second, SUCCESS;
    });
}

API int cuFuncGetAttribute(int* value, int attribute, void* function) {
    return in_context(__func__, [&](Device&) {
        switch (attribute) {
        case 0: *value = 1024; break;                                 // threads of a block
        case 1: case 2: case 3: *value = 0; break;                    // static shared, constant, local bytes
        case 4: *value = 32; break;                                   // registers
        case 5: case 6: *value = capability().first * 10 + capability().second; break;
        case 8: *value = int(((Function*)function)->shared_limit); break;
        default: return INVALID_VALUE;
        }
        return SUCCESS;
    });
}

API int cuFuncSetAttribute(void* function, int attribute, int value) {
    return in_context(__func__, [&](Device&) {
        if (attribute != 8 || value < 0 || unsigned(value) > SHARED_OPT_IN) return INVALID_VALUE;
        return ((Function*)function)->shared_limit = unsigned(value), SUCCESS;
    });
}

API int cuLaunchKernel(void* handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                       unsigned shared, void* stream, void** parameters, void**) {
    return in_current(__func__, [&](Device& device) {
        const Function& function = *(Function*)handle;
        int number = device.stream(stream);
        if (number < 0) return INVALID_HANDLE;
        bool grid = gx && gy && gz && gx <= 0x7fffffff && gy <= 65535 && gz <= 65535;
        bool block = bx && by && bz && bz <= 64 && uint64_t(bx) * by * bz <= 1024;
        if (!grid || !block || shared > std::max(function.shared_limit, SHARED)) return INVALID_VALUE;
        if (Status status = device.launch()) return status;
        log("launch kernel=%s grid=%u,%u,%u block=%u,%u,%u shared=%u stream=%d", function.name.c_str(), gx, gy, gz, bx,
            by, bz, shared, number);
        uint64_t tick = device.timeline.enqueue(number);
        Status status = SUCCESS;
        simt::on_pointer = [&](const void* at, bool writes) {
            if (at && device.access(function.name.c_str(), number, tick, {at, 1, writes})) status = ILLEGAL_ADDRESS;
            return status == SUCCESS;
        };
        function.run({gx, gy, gz}, {bx, by, bz}, shared, parameters);
        simt::on_pointer = nullptr;
        return status;
    });
}

// ---- for the other libraries

API int fakeContext() {
    std::lock_guard lock(device().mutex);
    if (Status status = device().health()) return status;
    return current ? SUCCESS : INVALID_CONTEXT;
}

API int fakeStream(void* stream) {
    std::lock_guard lock(device().mutex);
    return device().stream(stream);
}

API void fakeAddress(const void* at, char* text, size_t length) {
    std::lock_guard lock(device().mutex);
    std::snprintf(text, length, "%s", device().address((uint64_t)at).c_str());
}

API int fakeLaunch(const char* call, void* stream, const Access* accesses, size_t count) {
    std::lock_guard lock(device().mutex);
    if (Status status = device().launch()) return status;
    int number = device().stream(stream);
    if (number < 0) return INVALID_HANDLE;
    uint64_t tick = device().timeline.enqueue(number);
    for (size_t i = 0; i < count; i++)
        if (Status status = device().access(call, number, tick, accesses[i])) return status;
    return SUCCESS;
}
