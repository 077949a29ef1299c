// A fake libnvrtc.so.13. It compiles nothing: its CUBIN is a line of text that says for which
// architecture and which storage type (-DPARITY_F32, _F16 or _BF16) it was asked, which the fake
// driver loads. Architectures are those of CUDA 13. A failing compilation leaves a log.
#include "fault.hpp"

#include <algorithm>
#include <cctype>
#include <iterator>

using namespace fake;

namespace {

// nvrtcResult
enum Result { SUCCESS = 0, INVALID_INPUT = 3, INVALID_PROGRAM = 4, INVALID_OPTION = 5, COMPILATION = 6 };

constexpr int ARCHITECTURES[] = {75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121};

struct Program {
    std::string source, name, log, cubin;
};

// What follows `prefix` in the option that starts with it.
std::string option(int count, const char* const* options, const std::string& prefix) {
    for (int i = 0; i < count; i++)
        if (!std::strncmp(options[i], prefix.c_str(), prefix.size())) return options[i] + prefix.size();
    return "";
}

}  // namespace

API int nvrtcVersion(int* major, int* minor) {
    if (int code = injected(__func__, COMPILATION)) return code;
    *major = 13;
    *minor = 0;
    return SUCCESS;
}

API int nvrtcGetNumSupportedArchs(int* count) {
    *count = int(std::size(ARCHITECTURES));
    return SUCCESS;
}

API int nvrtcGetSupportedArchs(int* architectures) {
    std::copy(std::begin(ARCHITECTURES), std::end(ARCHITECTURES), architectures);
    return SUCCESS;
}

API const char* nvrtcGetErrorString(int result) {
    switch (result) {
    case SUCCESS: return "NVRTC_SUCCESS";
    case INVALID_INPUT: return "NVRTC_ERROR_INVALID_INPUT";
    case INVALID_PROGRAM: return "NVRTC_ERROR_INVALID_PROGRAM";
    case INVALID_OPTION: return "NVRTC_ERROR_INVALID_OPTION";
    case COMPILATION: return "NVRTC_ERROR_COMPILATION";
    default: return "NVRTC_ERROR unknown";
    }
}

API int nvrtcCreateProgram(Program** program, const char* source, const char* name, int, const char* const*,
                           const char* const*) {
    if (int code = injected(__func__, COMPILATION)) return code;
    if (!source) return INVALID_INPUT;
    *program = new Program{source, name ? name : "default_program", "", ""};
    return SUCCESS;
}

API int nvrtcDestroyProgram(Program** program) {
    if (int code = injected(__func__, COMPILATION)) return code;
    if (!*program) return INVALID_PROGRAM;
    delete *program;
    *program = nullptr;
    return SUCCESS;
}

API int nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    if (int code = injected(__func__, COMPILATION)) {
        program->log = program->name + "(1): error: a fault was asked for\n\n" +
                       "1 error detected in the compilation of \"" + program->name + "\".\n";
        return code;
    }
    std::string architecture = option(count, options, "--gpu-architecture=") + option(count, options, "-arch=");
    bool binary = architecture.compare(0, 3, "sm_") == 0;
    int number = binary ? std::atoi(architecture.c_str() + 3) : 0;
    if (binary && std::find(std::begin(ARCHITECTURES), std::end(ARCHITECTURES), number) == std::end(ARCHITECTURES)) {
        program->log = "nvrtc: error: invalid value for --gpu-architecture (-arch)\n";
        return INVALID_OPTION;
    }
    std::string types;
    for (int i = 0; i < count; i++)
        for (const char* type : {"f32", "f16", "bf16"}) {
            std::string macro = "PARITY_";
            for (const char* c = type; *c; c++) macro += char(std::toupper(*c));
            std::string given = options[i];
            for (std::string prefix : {"-D", "--define-macro="})
                if (given == prefix + macro || given == prefix + macro + "=1") types += type;
        }
    log("compile name=%s arch=%s dtype=%s bytes=%zu", program->name.c_str(), architecture.c_str(), types.c_str(),
        program->source.size());
    if (binary) program->cubin = "PARITY-FAKE-CUBIN arch=" + architecture + " dtype=" + types + "\n";
    return SUCCESS;
}

API int nvrtcGetProgramLogSize(const Program* program, size_t* size) {
    *size = program->log.size() + 1;
    return SUCCESS;
}

API int nvrtcGetProgramLog(const Program* program, char* log) {
    std::memcpy(log, program->log.c_str(), program->log.size() + 1);
    return SUCCESS;
}

// As in NVRTC, there is a CUBIN only for a real architecture (sm_). The text ends in a zero.
API int nvrtcGetCUBINSize(const Program* program, size_t* size) {
    if (int code = injected(__func__, COMPILATION)) return code;
    *size = program->cubin.empty() ? 0 : program->cubin.size() + 1;
    return SUCCESS;
}

API int nvrtcGetCUBIN(const Program* program, char* cubin) {
    if (int code = injected(__func__, COMPILATION)) return code;
    if (program->cubin.empty()) return INVALID_PROGRAM;
    std::memcpy(cubin, program->cubin.c_str(), program->cubin.size() + 1);
    return SUCCESS;
}

API int nvrtcGetPTXSize(const Program* program, size_t* size) { return nvrtcGetCUBINSize(program, size); }
API int nvrtcGetPTX(const Program* program, char* ptx) { return nvrtcGetCUBIN(program, ptx); }
