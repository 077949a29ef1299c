// Runs CUDA kernels on the CPU, from the same source and to the same bits as a device would, but for
// approximate functions, which are correctly rounded here.
//
// A thread of a block is a fiber; barriers and shuffles are where it gives way. One warp runs until
// all its threads wait at a barrier or are done, then the next; blocks run one after the other. A
// thread that neither waits nor shuffles never leaves the first fiber, so plain kernels cost a call a
// thread. Every thread of the host has a machine of its own.
//
// Checked: a shuffle that some lane of its mask never reaches, and a barrier that some threads wait
// for while others wait for a shuffle, end the process. A lane that reads from one that is not in the
// mask or is done gets NaN. Not modelled: dynamic shared memory, and races between barriers.
//
// x86-64 and AArch64 with the GNU C library; build with -ffp-contract=off.
#pragma once

#include "half.hpp"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <ucontext.h>
#include <vector>

namespace simt {

struct Dim {
    unsigned x = 1, y = 1, z = 1;
};

// CUDA's names, for kernels to find: those of a device come before those of the host.
namespace device {
inline thread_local Dim threadIdx, blockIdx, blockDim, gridDim;
}

[[noreturn]] inline void die(const char* what) {
    std::fprintf(stderr, "simt: %s\n", what);
    std::abort();
}

// ---- fibers

// The compiler's own pair: five words and no system call, where ucontext's switch makes two. A
// context is made by ucontext once, and switched to by these from then on.
using Place = void* [5];

[[noreturn, gnu::noinline]] inline void jump(Place& to) { __builtin_longjmp(to, 1); }

[[gnu::noinline]] inline void swap(Place& from, Place& to) {
    if (__builtin_setjmp(from) == 0) jump(to);
}

struct Fiber {
    static constexpr size_t STACK = 64 << 10;
    ucontext_t context;
    Place here;
    bool started = false;
    std::unique_ptr<char[]> stack{new char[STACK]};
};

// ---- a block

constexpr int LANES = 32;

enum class State { READY, AT_SHUFFLE, AT_BARRIER, DONE };

struct Thread {
    Dim index;
    State state;
    Fiber* fiber;
    uint32_t mask;
    uint64_t posted;
};

// What the lanes of a warp gave at the last shuffle, kept while they read it: the first to go on may
// be at its next shuffle before the last has read.
struct Warp {
    uint64_t given[LANES];
    uint32_t valid;
};

class Machine {
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Fiber*> idle;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    const std::function<void()>* body = nullptr;
    size_t current = 0;
    Place scheduler;

    static void enter();

    [[gnu::noinline]] void resume(size_t at) {
        Thread& thread = threads[at];
        if (!thread.fiber) {
            if (idle.empty()) idle.push_back(fibers.emplace_back(new Fiber).get());
            thread.fiber = idle.back();
            idle.pop_back();
        }
        current = at;
        device::threadIdx = thread.index;
        go(*thread.fiber);
        if (threads[at].state == State::DONE) {
            idle.push_back(threads[at].fiber);
            threads[at].fiber = nullptr;
        }
    }

    [[gnu::noinline]] void go(Fiber& fiber) {
        if (fiber.started) return swap(scheduler, fiber.here);
        fiber.started = true;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = Fiber::STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, enter, 0);
        start(fiber);
    }

    [[gnu::noinline]] void start(Fiber& fiber) {
        if (__builtin_setjmp(scheduler) == 0) setcontext(&fiber.context);
    }

    // Lets the lanes go on whose shuffle all lanes of the mask have reached.
    bool exchange(size_t warp) {
        const size_t first = warp * LANES, count = std::min<size_t>(LANES, threads.size() - first);
        bool released = false;
        for (size_t lane = 0; lane < count; ++lane) {
            if (threads[first + lane].state != State::AT_SHUFFLE) continue;
            const uint32_t mask = threads[first + lane].mask;
            uint32_t arrived = 0, awaited = 0;
            for (size_t other = 0; other < count; ++other) {
                const Thread& thread = threads[first + other];
                if (!(mask >> other & 1) || thread.state == State::DONE) continue;
                awaited |= 1u << other;
                if (thread.state == State::AT_SHUFFLE && thread.mask == mask) arrived |= 1u << other;
            }
            if (arrived != awaited) continue;
            warps[warp].valid = arrived;
            for (size_t other = 0; other < count; ++other)
                if (arrived >> other & 1) {
                    warps[warp].given[other] = threads[first + other].posted;
                    threads[first + other].state = State::READY;
                }
            // Lanes of another mask could shuffle at once, but then would share `given`.
            released = true;
            break;
        }
        return released;
    }

    void run_warp(size_t warp) {
        const size_t first = warp * LANES, end = std::min(first + LANES, threads.size());
        do {
            for (size_t at = first; at < end; ++at)
                if (threads[at].state == State::READY) resume(at);
        } while (exchange(warp));
        for (size_t at = first; at < end; ++at)
            if (threads[at].state == State::AT_SHUFFLE) die("a lane waits for a shuffle that others never reach");
    }

    void run_block() {
        for (;;) {
            for (size_t warp = 0; warp < warps.size(); ++warp) run_warp(warp);
            bool waiting = false;
            for (Thread& thread : threads)
                if (thread.state == State::AT_BARRIER) thread.state = State::READY, waiting = true;
            if (!waiting) return;
        }
    }

    void give_way(State state) {
        threads[current].state = state;
        const size_t at = current;
        swap(threads[at].fiber->here, scheduler);
    }

public:
    void launch(Dim grid, Dim block, const std::function<void()>& of_thread) {
        body = &of_thread;
        device::gridDim = grid;
        device::blockDim = block;
        threads.resize(size_t(block.x) * block.y * block.z);
        warps.resize((threads.size() + LANES - 1) / LANES);
        for (unsigned z = 0; z < grid.z; ++z)
            for (unsigned y = 0; y < grid.y; ++y)
                for (unsigned x = 0; x < grid.x; ++x) {
                    device::blockIdx = {x, y, z};
                    for (size_t at = 0; at < threads.size(); ++at) {
                        const unsigned row = unsigned(at) / block.x;
                        threads[at] = {{unsigned(at) % block.x, row % block.y, row / block.y}, State::READY, nullptr, 0, 0};
                    }
                    run_block();
                }
    }

    void barrier() { give_way(State::AT_BARRIER); }

    int lane() const { return int(current % LANES); }

    uint64_t shuffle(uint32_t mask, uint64_t value, int source) {
        threads[current].posted = value;
        threads[current].mask = mask;
        give_way(State::AT_SHUFFLE);
        const Warp& warp = warps[current / LANES];
        return warp.valid >> source & 1 ? warp.given[source] : 0x7ff8dead7fc0deadull;
    }
};

inline Machine& machine() {
    static thread_local Machine machine;
    return machine;
}

inline void Machine::enter() {
    Machine& machine = simt::machine();
    for (;;) {
        (*machine.body)();
        machine.give_way(State::DONE);
    }
}

template <class Body>
void launch(Dim grid, Dim block, size_t dynamic_shared_bytes, Body body) {
    if (dynamic_shared_bytes != 0) die("no kernel has dynamic shared memory");
    machine().launch(grid, block, body);
}

// ---- what kernels call

namespace device {

inline void __syncthreads() { machine().barrier(); }
inline void __syncwarp(unsigned mask = ~0u) { machine().shuffle(mask, 0, machine().lane()); }

template <class T>
T shuffled(unsigned mask, T value, int source) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = machine().shuffle(mask, bits, source);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// A source beyond the segment of `width` lanes is the lane itself.
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned offset, int width = LANES) {
    const int lane = machine().lane(), last = lane | (width - 1), source = lane + int(offset);
    return shuffled(mask, value, source > last ? lane : source);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int offset, int width = LANES) {
    const int lane = machine().lane(), last = lane | (width - 1), source = lane ^ offset;
    return shuffled(mask, value, source > last ? lane : source);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = LANES) {
    return shuffled(mask, value, (machine().lane() & ~(width - 1)) | (source & (width - 1)));
}

inline float __int_as_float(int bits) { return fake::from_bits(uint32_t(bits)); }
inline int __float_as_int(float value) { return int(fake::bits(value)); }

inline long long __double_as_longlong(double value) {
    long long bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline double __longlong_as_double(long long bits) {
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __frcp_rn(float x) { return 1.0f / x; }

// Evaluated in fp64 and rounded, which is correctly rounded but for one value in about 10^8.
inline float rsqrtf(float x) { return float(1.0 / std::sqrt(double(x))); }
inline float expf(float x) { return float(std::exp(double(x))); }
inline float tanhf(float x) { return float(std::tanh(double(x))); }
inline float erff(float x) { return float(std::erf(double(x))); }
inline float sinf(float x) { return float(std::sin(double(x))); }
inline float cosf(float x) { return float(std::cos(double(x))); }

inline float f16_value(unsigned short bits) { return fake::f16_to_float(bits); }
inline unsigned short f16_bits(float value) { return fake::float_to_f16(value); }
inline unsigned short bf16_bits(float value) { return fake::float_to_bf16(value); }

// Subnormal operands and results are zeros of their sign.
namespace fast {
inline float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }

inline float exp2(float x) { return flushed(float(std::exp2(double(flushed(x))))); }
inline float reciprocal(float x) { return flushed(1.0f / flushed(x)); }
inline float inverse_root(float x) { return rsqrtf(flushed(x)); }
inline float sum(float a, float b) { return flushed(flushed(a) + flushed(b)); }
inline float difference(float a, float b) { return flushed(flushed(a) - flushed(b)); }
inline float product(float a, float b) { return flushed(flushed(a) * flushed(b)); }
inline float fused(float a, float b, float c) { return flushed(std::fma(flushed(a), flushed(b), flushed(c))); }
}  // namespace fast

}  // namespace device
}  // namespace simt
