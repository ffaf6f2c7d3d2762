// A libnvidia-ml.so.1 without a GPU: the entry points that carbon_exporter/sources/nvml reaches through pynvml,
// answered from a file that a test maps and changes while programs run (nvml_shim.py has the same layout and drives it).
//
//   gcc -shared -fPIC -Wl,-soname,libnvidia-ml.so.1 -o libnvidia-ml.so.1 nvml_shim.c
//   NVML_SHIM=/path/of/the/file LD_LIBRARY_PATH=. program
//
// Built with -DWITHOUT_ENERGY, _MPS, _MINOR, _ATTRIBUTES or _GPM, these symbols are missing as from an old driver.

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15, UNKNOWN = 999,
    NOTHING = -1,     // of PROCESS_UTILIZATION and GPM_VALUE: success without any
    OLD_SAMPLES = -2  // of PROCESS_UTILIZATION: success with samples that were asked for before
};
enum { GPUS = 16, SLICES = 8, INSTANCES = 16, PROCESSES = 64 };
// The indices of Gpu.errors.
enum {
    OPEN, ENERGY, POWER, UTILIZATION, COMPUTE, MPS, PROCESS_UTILIZATION, MIG, MINOR, ATTRIBUTES,
    GPM_SUPPORT, GPM_SAMPLE, GPM_METRICS,
    GPM_VALUE,  // what a call for metrics that succeeds says of the one metric
    POWER_LIMIT,
    FUNCTIONS
};
enum { SM_UTILIZATION = 2 };  // NVML_GPM_METRIC_SM_UTIL

typedef struct {
    uint32_t pid, is_mps;
    int32_t slice;  // -1: on the whole GPU
    uint32_t sm_percent;
    uint64_t sampled_microseconds;  // 0: now, at every call
    uint32_t ended, padding;        // ended: no longer listed, and yet there are samples
} Process;

typedef struct {
    uint32_t present, gpu_instance, compute_instance, compute_slices;
    char uuid[96], name[96];
} Slice;

// What the SMs of a GPU instance have done so far.
typedef struct { double elapsed_seconds, busy_seconds; } Activity;

typedef struct {
    uint32_t sequence;  // odd while the energy fields are being changed
    uint32_t present, lost;
    uint32_t power_milliwatts, utilization_percent, mig_enabled, process_count, padding;
    uint64_t energy_millijoules, energy_since_nanoseconds, energy_milliwatts;  // CLOCK_MONOTONIC
    int32_t errors[FUNCTIONS];
    uint32_t minor, most_slices, gpm_supported, power_limit_milliwatts;
    char uuid[96], name[96];
    Slice slices[SLICES];
    Activity instances[INSTANCES];
    Process processes[PROCESSES];
} Gpu;

typedef struct {
    uint32_t driver_loaded, generation, calls, inits;  // the last two are counted by the shim
    int32_t allocation_error, samples;  // of GPM; the samples not yet freed are counted by the shim
    Gpu gpus[GPUS];
} Host;

typedef struct { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; } ProcessInfo;
typedef struct { unsigned pid; unsigned long long timestamp; unsigned sm, memory, encoder, decoder; } Sample;
typedef struct {
    unsigned multiprocessors, copy, decoder, encoder, jpeg, ofa, gpu_slices, compute_slices;
    unsigned long long memory;
} Attributes;
typedef struct { int gpu; unsigned instance; Activity activity; } GpmSample;
typedef struct { unsigned id; int result; double value; const char *names[3]; } Metric;
typedef struct { unsigned version, count; GpmSample *first, *second; Metric metrics[1]; } Metrics;

static volatile Host *host;
static unsigned references, generation;
static unsigned char seen_lost[GPUS];  // as on a real host, a lost GPU's handle stays dead until the next nvmlInit

static uint64_t nanoseconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int map_host(void) {
    const char *path = getenv("NVML_SHIM");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    struct stat status;
    if (file < 0) return 0;
    void *mapped = MAP_FAILED;
    if (fstat(file, &status) == 0 && status.st_size == sizeof(Host))
        mapped = mmap(NULL, sizeof(Host), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED) return 0;
    host = mapped;
    return 1;
}

// A handle is (generation, GPU, slice + 1), never NULL; it dies with its generation of the driver.
static void *handle_of(int gpu, int slice) {
    return (void *)(((uintptr_t)generation + 1) << 16 | (uintptr_t)gpu << 8 | (uintptr_t)(slice + 1));
}
static int slice_of(void *handle) { return (int)((uintptr_t)handle & 0xff) - 1; }
static int gpu_of(void *handle) { return (int)((uintptr_t)handle >> 8 & 0xff); }

static int driver(void) {
    if (host) host->calls++;
    if (!references || !host->driver_loaded || host->generation != generation) return UNINITIALIZED;
    return SUCCESS;
}

static int check(void *handle, int function, volatile Gpu **gpu) {
    int result = driver();
    int index = gpu_of(handle);
    if (result != SUCCESS) return result;
    if ((uintptr_t)handle >> 16 != (uintptr_t)generation + 1 || index >= GPUS) return INVALID_ARGUMENT;
    *gpu = &host->gpus[index];
    if ((*gpu)->lost || !(*gpu)->present) seen_lost[index] = 1;
    if (seen_lost[index]) return GPU_IS_LOST;
    return (*gpu)->errors[function];
}

static int copy(volatile char *from, char *to, unsigned size) {
    if (strlen((const char *)from) >= size) return INSUFFICIENT_SIZE;
    strcpy(to, (const char *)from);
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (references++ && driver() == SUCCESS) return SUCCESS;
    if (!host && !map_host()) { references = 0; return UNKNOWN; }
    host->inits++;
    if (references > 1) { references--; return UNINITIALIZED; }  // somebody did not shut down
    if (!host->driver_loaded) { references = 0; return DRIVER_NOT_LOADED; }
    generation = host->generation;
    memset(seen_lost, 0, sizeof seen_lost);
    return SUCCESS;
}

int nvmlShutdown(void) {
    if (!references) return UNINITIALIZED;
    references--;
    return SUCCESS;
}

const char *nvmlErrorString(int code) { return code == UNKNOWN ? "Unknown Error" : "Shim Error"; }

int nvmlSystemGetDriverVersion(char *to, unsigned size) {
    int result = driver();
    return result != SUCCESS ? result : copy((volatile char *)"550.54.15", to, size);
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    int result = driver();
    if (result != SUCCESS) return result;
    *count = 0;
    for (int i = 0; i < GPUS; i++) *count += host->gpus[i].present;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    volatile Gpu *gpu;
    for (int i = 0; i < GPUS; i++)
        if (host && host->gpus[i].present && index-- == 0) return check(*handle = handle_of(i, -1), OPEN, &gpu);
    return INVALID_ARGUMENT;
}

int nvmlDeviceGetUUID(void *handle, char *to, unsigned size) {
    volatile Gpu *gpu;
    int result = check(handle, OPEN, &gpu), slice = slice_of(handle);
    return result != SUCCESS ? result : copy(slice < 0 ? gpu->uuid : gpu->slices[slice].uuid, to, size);
}

int nvmlDeviceGetName(void *handle, char *to, unsigned size) {
    volatile Gpu *gpu;
    int result = check(handle, OPEN, &gpu), slice = slice_of(handle);
    return result != SUCCESS ? result : copy(slice < 0 ? gpu->name : gpu->slices[slice].name, to, size);
}

#ifndef WITHOUT_MINOR
int nvmlDeviceGetMinorNumber(void *handle, unsigned *minor) {
    volatile Gpu *gpu;
    int result = check(handle, MINOR, &gpu);
    if (result == SUCCESS) *minor = gpu->minor;
    return result;
}
#endif

#ifndef WITHOUT_ENERGY
int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *millijoules) {
    volatile Gpu *gpu;
    uint32_t sequence;
    int result = check(handle, ENERGY, &gpu);
    if (result != SUCCESS) return result;
    if (slice_of(handle) >= 0) return NOT_SUPPORTED;
    do {
        while ((sequence = gpu->sequence) & 1) ;
        __sync_synchronize();
        *millijoules = gpu->energy_millijoules;
        if (gpu->energy_milliwatts)
            *millijoules += (unsigned long long)((unsigned __int128)gpu->energy_milliwatts *
                (nanoseconds(CLOCK_MONOTONIC) - gpu->energy_since_nanoseconds) / 1000000000u);
        __sync_synchronize();
    } while (sequence != gpu->sequence);
    return SUCCESS;
}
#endif

int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts) {
    volatile Gpu *gpu;
    int result = check(handle, POWER, &gpu);
    if (result != SUCCESS) return result;
    if (slice_of(handle) >= 0) return NOT_SUPPORTED;
    *milliwatts = gpu->power_milliwatts;
    return SUCCESS;
}

int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned *milliwatts) {
    volatile Gpu *gpu;
    int result = check(handle, POWER_LIMIT, &gpu);
    if (result != SUCCESS) return result;
    if (slice_of(handle) >= 0) return NOT_SUPPORTED;
    *milliwatts = gpu->power_limit_milliwatts;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *handle, unsigned *rates) {
    volatile Gpu *gpu;
    int result = check(handle, UTILIZATION, &gpu);
    if (result != SUCCESS) return result;
    if (slice_of(handle) >= 0 || gpu->mig_enabled) return NOT_SUPPORTED;
    rates[0] = gpu->utilization_percent;
    rates[1] = 0;
    return SUCCESS;
}

// Like an unprivileged caller of a real library, the parent of MIG slices is shown none of their processes.
static int list(void *handle, unsigned is_mps, unsigned *count, ProcessInfo *to) {
    volatile Gpu *gpu;
    int result = check(handle, is_mps ? MPS : COMPUTE, &gpu);
    unsigned room = *count, found = 0;
    if (result != SUCCESS) return result;
    for (unsigned i = 0; i < gpu->process_count; i++) {
        volatile Process *process = &gpu->processes[i];
        if (process->ended || process->is_mps != is_mps || process->slice != slice_of(handle)) continue;
        if (found < room) to[found] = (ProcessInfo){process->pid, 1u << 30, ~0u, ~0u};
        found++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, ProcessInfo *to) {
    return list(handle, 0, count, to);
}

#ifndef WITHOUT_MPS
int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *handle, unsigned *count, ProcessInfo *to) {
    return list(handle, 1, count, to);
}
#endif

int nvmlDeviceGetProcessUtilization(void *handle, Sample *to, unsigned *count, unsigned long long since) {
    volatile Gpu *gpu;
    int result = check(handle, PROCESS_UTILIZATION, &gpu);
    unsigned room = *count, found = 0;
    if (result == NOTHING) return SUCCESS;
    if (result == OLD_SAMPLES) since = 0;
    else if (result != SUCCESS) return result;
    if (slice_of(handle) >= 0 || gpu->mig_enabled) return NOT_SUPPORTED;
    for (unsigned i = 0; i < gpu->process_count; i++) {
        volatile Process *process = &gpu->processes[i];
        unsigned long long at = process->sampled_microseconds;
        if (!at) at = nanoseconds(CLOCK_REALTIME) / 1000;
        if (!process->sm_percent || at <= since) continue;
        if (found < room) to[found] = (Sample){process->pid, at, process->sm_percent, 0, 0, 0};
        found++;
    }
    *count = found;
    return !found ? NOT_FOUND : found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    volatile Gpu *gpu;
    int result = check(handle, MIG, &gpu);
    if (result != SUCCESS) return result;
    *current = *pending = gpu->mig_enabled;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) {
    volatile Gpu *gpu;
    int result = check(handle, MIG, &gpu);
    if (result != SUCCESS) return result;
    *count = gpu->most_slices;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **slice) {
    volatile Gpu *gpu;
    int result = check(handle, MIG, &gpu);
    if (result != SUCCESS) return result;
    if (index >= SLICES || !gpu->mig_enabled || !gpu->slices[index].present) return NOT_FOUND;
    *slice = handle_of(gpu_of(handle), (int)index);
    return SUCCESS;
}

static int instance(void *handle, unsigned *id, int of_gpu) {
    volatile Gpu *gpu;
    int result = check(handle, MIG, &gpu);
    if (result != SUCCESS) return result;
    if (slice_of(handle) < 0) return INVALID_ARGUMENT;
    volatile Slice *slice = &gpu->slices[slice_of(handle)];
    if (!slice->present) return NOT_FOUND;
    *id = of_gpu ? slice->gpu_instance : slice->compute_instance;
    return SUCCESS;
}

int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *id) { return instance(handle, id, 1); }
int nvmlDeviceGetComputeInstanceId(void *handle, unsigned *id) { return instance(handle, id, 0); }

#ifndef WITHOUT_ATTRIBUTES
int nvmlDeviceGetAttributes_v2(void *handle, Attributes *attributes) {
    volatile Gpu *gpu;
    int result = check(handle, ATTRIBUTES, &gpu);
    if (result != SUCCESS) return result;
    if (slice_of(handle) < 0) return NOT_SUPPORTED;
    *attributes = (Attributes){.compute_slices = gpu->slices[slice_of(handle)].compute_slices};
    return SUCCESS;
}
#endif

#ifndef WITHOUT_GPM
int nvmlGpmQueryDeviceSupport(void *handle, unsigned *support) {
    volatile Gpu *gpu;
    int result = check(handle, GPM_SUPPORT, &gpu);
    if (result != SUCCESS) return result;
    if (slice_of(handle) >= 0 || support[0] != 1) return INVALID_ARGUMENT;
    support[1] = gpu->gpm_supported;
    return SUCCESS;
}

int nvmlGpmSampleAlloc(GpmSample **sample) {
    int result = driver();
    if (result == SUCCESS) result = host->allocation_error;
    if (result != SUCCESS) return result;
    *sample = calloc(1, sizeof **sample);
    host->samples++;
    return SUCCESS;
}

int nvmlGpmSampleFree(GpmSample *sample) {
    if (!sample) return INVALID_ARGUMENT;
    free(sample);
    host->samples--;
    return SUCCESS;
}

int nvmlGpmMigSampleGet(void *handle, unsigned instance, GpmSample *sample) {
    volatile Gpu *gpu;
    int result = check(handle, GPM_SAMPLE, &gpu), found = 0;
    if (result != SUCCESS) return result;
    if (slice_of(handle) >= 0 || instance >= INSTANCES) return INVALID_ARGUMENT;
    if (!gpu->gpm_supported) return NOT_SUPPORTED;
    for (int i = 0; i < SLICES; i++) found |= gpu->slices[i].present && gpu->slices[i].gpu_instance == instance;
    if (!found) return NOT_FOUND;
    *sample = (GpmSample){gpu_of(handle), instance, gpu->instances[instance]};
    return SUCCESS;
}

int nvmlGpmMetricsGet(Metrics *metrics) {
    int result = driver();
    GpmSample *first = metrics->first, *second = metrics->second;
    Metric *metric = metrics->metrics;
    if (result != SUCCESS) return result;
    if (metrics->version != 1 || metrics->count != 1 || !first || !second) return INVALID_ARGUMENT;
    if (first->gpu != second->gpu || first->instance != second->instance) return INVALID_ARGUMENT;
    result = host->gpus[first->gpu].errors[GPM_METRICS];
    metric->result = metric->id == SM_UTILIZATION ? host->gpus[first->gpu].errors[GPM_VALUE] : NOT_SUPPORTED;
    if (metric->result == NOTHING) return metric->result = SUCCESS;
    if (result == SUCCESS && metric->result == SUCCESS)
        metric->value = 100 * (second->activity.busy_seconds - first->activity.busy_seconds) /
            (second->activity.elapsed_seconds - first->activity.elapsed_seconds);  // NaN where no time has passed
    return result;
}
#endif
