// The project's kernels by storage type and name, to be launched as cuLaunchKernel launches them.
#pragma once

#include "simt.hpp"

#include <tuple>
#include <utility>

namespace simt {

// `parameters` points to each argument in turn.
using Kernel = void (*)(Dim grid, Dim block, size_t shared, void** parameters);

struct Named {
    const char* name;
    Kernel kernel;
};

template <class... Arguments, size_t... I>
std::tuple<Arguments...> arguments(void (*)(Arguments...), void** parameters, std::index_sequence<I...>) {
    return {*static_cast<Arguments*>(parameters[I])...};
}

template <class... Arguments>
constexpr std::index_sequence_for<Arguments...> indices(void (*)(Arguments...)) {
    return {};
}

// Asked about every pointer that a kernel is given; a kernel does not run that is refused one.
inline thread_local std::function<bool(const void* at, bool writes)> on_pointer;

template <class T>
bool allowed(T* at) { return !on_pointer || on_pointer(at, !std::is_const_v<T>); }
template <class T>
bool allowed(const T&) { return true; }

template <auto KERNEL>
void launcher(Dim grid, Dim block, size_t shared, void** parameters) {
    const auto given = arguments(KERNEL, parameters, indices(KERNEL));
    if (!std::apply([](auto... argument) { return (allowed(argument) && ...); }, given)) return;
    launch(grid, block, shared, [&] { std::apply(KERNEL, given); });
}

// kernels.inc is the source that NVRTC gets, and a table of its kernels (tests/common/cpp.rs): once for
// every storage type, in a namespace of its own.
#define PARITY_SIMT
#define PARITY_KERNEL static void
#define PARITY_STORED(name)
#define __device__ static inline
#define __shared__ static thread_local
#define __launch_bounds__(threads)

namespace device::f32 {
#define PARITY_F32
#include "kernels.inc"
#undef PARITY_F32
}  // namespace device::f32

namespace device::f16 {
#define PARITY_F16
#include "kernels.inc"
#undef PARITY_F16
}  // namespace device::f16

namespace device::bf16 {
#define PARITY_BF16
#include "kernels.inc"
#undef PARITY_BF16
}  // namespace device::bf16

#undef PARITY_EACH_ELEMENT
#undef __launch_bounds__
#undef __shared__
#undef __device__
#undef PARITY_STORED
#undef PARITY_KERNEL
#undef PARITY_SIMT

template <size_t N>
Kernel named(const Named (&kernels)[N], const char* name) {
    for (const Named& kernel : kernels)
        if (!std::strcmp(kernel.name, name)) return kernel.kernel;
    return nullptr;
}

// Null if there is no such storage type (f32, f16, bf16) or kernel.
inline Kernel find(const char* dtype, const char* name) {
    if (!std::strcmp(dtype, "f32")) return named(device::f32::KERNELS, name);
    if (!std::strcmp(dtype, "f16")) return named(device::f16::KERNELS, name);
    if (!std::strcmp(dtype, "bf16")) return named(device::bf16::KERNELS, name);
    return nullptr;
}

}  // namespace simt
