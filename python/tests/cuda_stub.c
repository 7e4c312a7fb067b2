/* A driver without a GPU: CUDA's functions, as far as the library calls them, where all work is done at once. It is for what
 * Python makes of other libraries' streams; what CUDA does is tested elsewhere. test_adopted.py compiles and loads it.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define GPUS 2

typedef struct stream { int gpu; } stream;

static int contexts[GPUS];
static _Thread_local void *current[16];
static _Thread_local int depth;

static void *top(void) { return depth ? current[depth - 1] : NULL; }

unsigned cuInit(unsigned flags) { return 0; }
unsigned cuDriverGetVersion(int *version) { *version = 12040; return 0; }
unsigned cuGetErrorName(unsigned code, const char **text) { *text = "CUDA_ERROR_STUB"; return 0; }
unsigned cuGetErrorString(unsigned code, const char **text) { *text = "the stub refuses"; return 0; }
unsigned cuDeviceGetCount(int *count) { *count = GPUS; return 0; }
unsigned cuDeviceGet(int *device, int ordinal) {
    if (ordinal < 0 || ordinal >= GPUS) return 101;
    *device = ordinal;
    return 0;
}
unsigned cuDeviceGetName(char *name, int room, int device) { strncpy(name, "stub", room); return 0; }
unsigned cuDevicePrimaryCtxRetain(void **context, int device) { *context = &contexts[device]; return 0; }
unsigned cuCtxGetCurrent(void **context) { *context = top(); return 0; }
unsigned cuCtxPushCurrent_v2(void *context) {
    if (depth == 16) return 1;
    current[depth++] = context;
    return 0;
}
unsigned cuCtxPopCurrent_v2(void **context) {
    if (!depth) return 201;
    void *was = current[--depth];
    if (context) *context = was;
    return 0;
}
unsigned cuThreadExchangeStreamCaptureMode(int *mode) { return 0; }
unsigned cuStreamCreate(void **made, unsigned flags) {
    stream *one = malloc(sizeof *one);
    if (!one || !top()) return 1;
    one->gpu = (int)((int *)top() - contexts);
    *made = one;
    return 0;
}
unsigned cuStreamDestroy_v2(void *one) { free(one); return 0; }
unsigned cuStreamQuery(void *one) { return 0; }
unsigned cuStreamGetCtx(void *one, void **context) {
    *context = (uintptr_t)one <= 2 ? top() : &contexts[((stream *)one)->gpu];
    return 0;
}
unsigned cuStreamIsCapturing(void *one, int *status) { *status = 0; return 0; }
unsigned cuStreamWaitEvent(void *one, void *event, unsigned flags) { return 0; }
unsigned cuStreamWriteValue64_v2(void *one, uint64_t at, uint64_t value, unsigned flags) {
    __atomic_store_n((uint64_t *)(uintptr_t)at, value, __ATOMIC_RELEASE);
    return 0;
}
unsigned cuStreamWaitValue64_v2(void *one, uint64_t at, uint64_t value, unsigned flags) { return 0; }
unsigned cuEventCreate(void **made, unsigned flags) { *made = malloc(8); return *made ? 0 : 2; }
unsigned cuEventDestroy_v2(void *event) { free(event); return 0; }
unsigned cuEventRecord(void *event, void *one) { return 0; }
unsigned cuEventRecordWithFlags(void *event, void *one, unsigned flags) { return 0; }
unsigned cuEventQuery(void *event) { return 0; }
unsigned cuEventElapsedTime(float *time, void *first, void *second) { *time = 0; return 0; }
unsigned cuMemHostAlloc(void **made, size_t size, unsigned flags) { *made = calloc(1, size); return *made ? 0 : 2; }
unsigned cuMemHostGetDevicePointer_v2(uint64_t *at, void *host, unsigned flags) { *at = (uintptr_t)host; return 0; }
typedef struct { char bytes[64]; } handle;
unsigned cuIpcGetEventHandle(handle *made, void *event) { return 801; }
unsigned cuIpcOpenEventHandle(void **event, handle from) { return 801; }
