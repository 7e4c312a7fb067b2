// What the conformance suite, the tests and the benchmarks have a GPU do. conformance.ptx is made of this by ptx.py beside it.

typedef unsigned int u32;
typedef unsigned long long u64;

static __device__ u64 now() {
    u64 time;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
    return time;
}

// Stores a value where the host sees it.
extern "C" __global__ void set(volatile u32* cell, u32 value) { *cell = value; }

extern "C" __global__ void copy(const volatile u32* from, volatile u32* to) { *to = *from; }

// Takes at least so many nanoseconds.
extern "C" __global__ void spin(u64 nanoseconds) {
    u64 begin = now();
    while (now() - begin < nanoseconds) {
    }
}

// As spin, and says when it began and ended.
extern "C" __global__ void timed(u64 nanoseconds, volatile u64* times) {
    u64 begin = now();
    u64 end = begin;
    while (end - begin < nanoseconds) end = now();
    times[0] = begin;
    times[1] = end;
}

// Goes on once the host says so.
extern "C" __global__ void until(const volatile u32* flag) {
    while (*flag == 0) {
    }
}

// Two ways to break the context.
extern "C" __global__ void trap() { asm volatile("trap;"); }

extern "C" __global__ void illegal(volatile u32* nowhere) { *nowhere = 1; }
