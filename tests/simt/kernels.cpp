// The kernels for tests/kernels.rs, which loads this as a library.
#include "registry.hpp"

// 0 if the kernel ran, 1 if there is none of this name.
extern "C" int simt_launch(const char* dtype, const char* name, const unsigned grid[3], const unsigned block[3],
                           size_t shared, void** parameters) {
    simt::Kernel kernel = simt::find(dtype, name);
    if (!kernel) return 1;
    kernel({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared, parameters);
    return 0;
}
