// The emulated runtime: what it remembers, what it checks in a launch, and the controls for tests.
#include <map>
#include <mutex>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "block.h"
#include "cuda_runtime.h"
#include "races.h"

namespace emulator {

uint3 thread_index, block_index;
dim3 block_size, grid_size;

namespace {

constexpr size_t kUnraised = 48 << 10;  // bytes of shared memory that a block gets without raising the limit

struct Launch {
    Kernel kernel;
    Configuration configuration;
    int device;
};

// What a test sets or reads.
struct Runtime {
    Order order;
    bool skips_barriers = false, skips_warp_barriers = false;
    int driver = CUDART_VERSION;  // the CUDA version that the driver supports; 0: there is no driver
    int devices = 1;
    std::set<int> contexts;  // devices whose primary context exists
    std::map<int, int> attributes{
        {cudaDevAttrMultiProcessorCount, 4},
        {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
        {cudaDevAttrMaxSharedMemoryPerBlockOptin, 227 << 10},
        {cudaDevAttrComputeCapabilityMajor, 9},
        {cudaDevAttrComputeCapabilityMinor, 0},
    };
    cudaError_t injected = cudaSuccess;
    int launches_before_it = 0;
    std::vector<Launch> log;
    std::string failure;  // of the last failed launch
};

Runtime& runtime() {
    static Runtime instance;
    return instance;
}

std::map<std::pair<int, const void*>, size_t> dynamic_limits;  // of (device, kernel) pairs whose limit was raised
std::mutex one_grid;                                           // runs at a time, as on one stream

thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;

cudaError_t result(cudaError_t error) {
    if (error) last_error = error;
    return error;
}

// Returns cudaSuccess if the device exists.
cudaError_t find(int device) {
    if (runtime().driver < CUDART_VERSION) return cudaErrorInsufficientDriver;
    if (runtime().devices == 0) return cudaErrorNoDevice;
    return device >= 0 && device < runtime().devices ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t check(const Configuration& configuration, const void* kernel) {
    if (!kernel) return cudaErrorInvalidDeviceFunction;
    if (const cudaError_t error = find(current_device)) return error;
    const dim3 &grid = configuration.grid, &block = configuration.block;
    const auto within = [](const dim3& size, unsigned x, unsigned y, unsigned z) {
        return size.x && size.y && size.z && size.x <= x && size.y <= y && size.z <= z;
    };
    if (!within(grid, 0x7FFFFFFF, 65535, 65535) || !within(block, 1024, 1024, 64)) return cudaErrorInvalidConfiguration;
    if (block.x * block.y * block.z > 1024) return cudaErrorInvalidConfiguration;
    const auto raised = dynamic_limits.find({current_device, kernel});
    const size_t limit = raised == dynamic_limits.end() ? kUnraised : raised->second;
    return configuration.shared_bytes > limit ? cudaErrorInvalidValue : cudaSuccess;
}

// The limit for a block's variables and dynamic memory together.
size_t shared_limit(const void* kernel) {
    if (dynamic_limits.count({current_device, kernel}) == 0) return kUnraised;
    return size_t(runtime().attributes.at(cudaDevAttrMaxSharedMemoryPerBlockOptin));
}

// AddressSanitizer knows the names of functions; without it, the name consists of the parameters' types.
std::string name_of(const Kernel& kernel) {
    char symbol[512] = "";
#ifdef EMULATOR_ASAN
    // Adds one byte, because this function expects return addresses.
    __sanitizer_symbolize_pc(static_cast<char*>(const_cast<void*>(kernel.address)) + 1, "%f", symbol, sizeof(symbol));
#endif
    const std::string types = kernel.types;
    const size_t begin = types.find("Parameters = ") + std::strlen("Parameters = ");
    return (symbol[0] && symbol[0] != '<' ? symbol : "kernel") + (" " + types.substr(begin, types.size() - 1 - begin));
}

// Returns what went wrong, or an empty string.
std::string run_grid(const Work& work, Order& order) {
    std::vector<size_t> blocks(size_t(grid_size.x) * grid_size.y * grid_size.z);
    std::iota(blocks.begin(), blocks.end(), size_t(0));
    order.arrange(blocks);
    for (size_t number : blocks) {
        block_index.x = unsigned(number % grid_size.x);
        block_index.y = unsigned(number / grid_size.x % grid_size.y);
        block_index.z = unsigned(number / grid_size.x / grid_size.y);
        races().begin_block(number, size_t(block_size.x) * block_size.y * block_size.z);
        const std::string failure = block().run(work, order);
        if (!failure.empty()) return "block " + std::to_string(number) + ": " + failure;
    }
    return {};
}

}  // namespace

cudaError_t launch(const Configuration& configuration, const Kernel& kernel, const std::function<void()>& thread) {
    Runtime& self = runtime();
    const std::lock_guard<std::mutex> lock(one_grid);
    if (const cudaError_t error = check(configuration, kernel.address)) return result(error);
    if (self.injected && self.launches_before_it-- == 0) return result(std::exchange(self.injected, cudaSuccess));
    self.log.push_back({kernel, configuration, current_device});
    self.contexts.insert(current_device);
    grid_size = configuration.grid;
    block_size = configuration.block;
    const Work work{thread, configuration.shared_bytes, shared_limit(kernel.address)};
    races().begin_grid();
    std::string failure = run_grid(work, self.order);
    races().end_grid();
    if (failure.empty()) failure = races().describe(kernel.address);
    if (failure.empty()) return cudaSuccess;
    self.failure = name_of(kernel) + ", " + failure;
    return result(cudaErrorLaunchFailure);
}

void meet_block(Site site) {
    if (!runtime().skips_barriers) block().meet({"__syncthreads", site, true, 0, true});
}

void meet_warp(unsigned mask, Site site) {
    if (!runtime().skips_warp_barriers) block().meet({"__syncwarp", site, false, mask, true});
}

uint64_t exchange(const char* function, unsigned mask, uint64_t value, unsigned source, Site site) {
    return block().exchange({function, site, false, mask}, value, source);
}

unsigned vote(const char* function, unsigned mask, bool yes, Site site) {
    return block().vote({function, site, false, mask}, yes);
}

void fence() { races().fence(); }

unsigned lane() { return block().lane(); }

void* shared_memory(const void* key, size_t bytes, size_t alignment) {
    return block().shared_memory(key, bytes, alignment);
}

void* dynamic_shared_memory() { return block().dynamic_memory(); }

}  // namespace emulator

// The host's side of the runtime.

using namespace emulator;

namespace {

constexpr struct {
    cudaError_t error;
    const char *name, *text;
} kErrors[] = {
#define ERROR(name, text) {name, #name, text}
    ERROR(cudaSuccess, "no error"),
    ERROR(cudaErrorInvalidValue, "invalid argument"),
    ERROR(cudaErrorMemoryAllocation, "out of memory"),
    ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ERROR(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version"),
    ERROR(cudaErrorInvalidDeviceFunction, "invalid device function"),
    ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    ERROR(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device"),
    ERROR(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    ERROR(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    ERROR(cudaErrorLaunchFailure, "unspecified launch failure"),
    ERROR(cudaErrorNotSupported, "operation not supported"),
    ERROR(cudaErrorUnknown, "unknown error"),
#undef ERROR
};

}  // namespace

const char* cudaGetErrorName(cudaError_t error) {
    for (const auto& known : kErrors) {
        if (known.error == error) return known.name;
    }
    return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
    if (error == cudaErrorLaunchFailure && !runtime().failure.empty()) return runtime().failure.c_str();
    for (const auto& known : kErrors) {
        if (known.error == error) return known.text;
    }
    return "unrecognized error code";
}

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaGetDevice(int* device) {
    if (const cudaError_t error = find(current_device)) return result(error);
    *device = current_device;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    if (const cudaError_t error = find(device)) return result(error);
    current_device = device;
    runtime().contexts.insert(device);  // since CUDA 12
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
    *count = runtime().driver < CUDART_VERSION ? 0 : runtime().devices;
    return result(*count ? cudaSuccess : find(0));
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    if (const cudaError_t error = find(device)) return result(error);
    const auto known = runtime().attributes.find(attribute);
    if (known == runtime().attributes.end()) return result(cudaErrorInvalidValue);
    *value = known->second;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
    *version = runtime().driver;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

// The driver's cuDevicePrimaryCtxGetState.
static int state_of_context(int device, unsigned* flags, int* active) {
    *flags = 0;
    *active = int(runtime().contexts.count(device));
    return find(device);
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* how) {
    const bool known = std::string(name) == "cuDevicePrimaryCtxGetState";
    *function = known ? reinterpret_cast<void*>(state_of_context) : nullptr;
    *how = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
    if (const cudaError_t error = find(current_device)) return result(error);
    if (!memory && bytes) return result(cudaErrorInvalidValue);
    if (bytes) std::memset(memory, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
    if (const cudaError_t error = find(current_device)) return result(error);
    if (!kernel) return result(cudaErrorInvalidDeviceFunction);
    const int most = runtime().attributes.at(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || value > most) {
        return result(cudaErrorInvalidValue);
    }
    dynamic_limits[{current_device, kernel}] = size_t(value);
    return cudaSuccess;
}

// The controls for tests: emulator.py.

#define CONTROL extern "C" __attribute__((visibility("default")))

CONTROL void emulator_reset() {
    runtime() = Runtime{};
    last_error = cudaSuccess;
    current_device = 0;
}

CONTROL void emulator_set_order(int kind, uint64_t seed) { runtime().order = Order(Order::Kind(kind), seed); }

CONTROL void emulator_skip_barriers(bool of_block, bool of_warp) {
    runtime().skips_barriers = of_block;
    runtime().skips_warp_barriers = of_warp;
}

CONTROL void emulator_fail_launch(int error, int launches_before) {
    runtime().injected = cudaError_t(error);
    runtime().launches_before_it = launches_before;
}

CONTROL void emulator_set_devices(int count, int driver) {
    runtime().devices = count;
    runtime().driver = driver < 0 ? CUDART_VERSION : driver;
}

CONTROL void emulator_set_current(int device, bool used) {
    current_device = device;
    if (used) runtime().contexts.insert(device);
}

CONTROL int emulator_current() { return current_device; }

CONTROL bool emulator_has_context(int device) { return runtime().contexts.count(device) != 0; }

CONTROL void emulator_set_attribute(int attribute, int value) { runtime().attributes[attribute] = value; }

CONTROL const char* emulator_failure() { return runtime().failure.c_str(); }

CONTROL void emulator_clear_launches() { runtime().log.clear(); }

CONTROL uint64_t emulator_launches() { return runtime().log.size(); }

// Writes grid and block (3 numbers each), bytes of dynamic shared memory, bytes of parameters, stream, device.
CONTROL void emulator_launch(uint64_t which, uint64_t* numbers) {
    const Launch& launch = runtime().log.at(which);
    for (const dim3& size : {launch.configuration.grid, launch.configuration.block}) {
        *numbers++ = size.x;
        *numbers++ = size.y;
        *numbers++ = size.z;
    }
    *numbers++ = launch.configuration.shared_bytes;
    *numbers++ = launch.kernel.parameter_bytes;
    *numbers++ = reinterpret_cast<uintptr_t>(launch.configuration.stream);
    *numbers++ = uint64_t(launch.device);
}

// The kernel's name, valid until the next call.
CONTROL const char* emulator_launch_name(uint64_t which) {
    static std::string name;
    name = name_of(runtime().log.at(which).kernel);
    return name.c_str();
}
