// What the fake cuBLAS and cuBLASLt ask of the fake driver, which they are linked against.
#pragma once

#include "fault.hpp"

namespace fake {

struct Access {
    const void* at;
    size_t bytes;
    bool write;
};

}  // namespace fake

// Counts a launch on `stream` and checks what it accesses. 0, or a CUresult.
API int fakeLaunch(const char* call, void* stream, const fake::Access* accesses, size_t count);
// 0, or why a call that needs a current, working context fails.
API int fakeContext();
// A stream's number in the log: 0 for the default stream, -1 if there is no such stream.
API int fakeStream(void* stream);
// Writes "allocation+offset" for the log.
API void fakeAddress(const void* at, char* text, size_t length);
