/* What all the tests use: checks that say where they failed, the device to run on, and gates that hold work back. In what C11
 * and C++17 have in common. */

#ifndef GPU_EVENTS_TESTS_SUPPORT_H
#define GPU_EVENTS_TESTS_SUPPORT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu_events.h"

/* What ctest knows as "skipped". */
#define SKIPPED 77

/* For what has to come. Nothing depends on how long it is, unless something is wrong. */
#define SOON UINT64_C(60000000000)

static inline void check_failed(const char *file, int line, const char *what) {
  fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
  fflush(NULL);
  /* Not exit(): another thread may be in the middle of something. */
  abort();
}

static inline void check_status(const char *file, int line, const char *call, int32_t expected, int32_t status) {
  if (status == expected) {
    return;
  }
  fprintf(stderr, "%s:%d: %s: \"%s\" instead of \"%s\" (last error: %s)\n", file, line, call, gpuev_status_name(status),
          gpuev_status_name(expected), gpuev_last_error());
  fflush(NULL);
  abort();
}

#define CHECK(condition) ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition))
/* What a call has to answer. */
#define ANSWERS(expected, call) check_status(__FILE__, __LINE__, #call, (int32_t)(expected), (int32_t)(call))
#define OK(call) ANSWERS(GPUEV_STATUS_OK, call)

/* The device that a test runs on: the first argument, or "cpu". Where it isn't, the test is skipped, unless the environment's
 * GPU_EVENTS_REQUIRE (as in "cuda,vulkan") says that it has to be. */
static inline const char *device_name(int argc, char **argv) {
  return argc > 1 ? argv[1] : "cpu";
}

static inline gpuev_device open_device(const char *name) {
  gpuev_device device = 0;
  gpuev_status status = gpuev_device_open(name, &device);
  if (status == GPUEV_STATUS_OK) {
    return device;
  }
  char backend[16] = "";
  size_t length = strcspn(name, ":");
  memcpy(backend, name, length < sizeof backend - 1 ? length : sizeof backend - 1);
  const char *required = getenv("GPU_EVENTS_REQUIRE");
  bool must = strcmp(backend, "cpu") == 0 || (required != NULL && strstr(required, backend) != NULL);
  bool may = status == GPUEV_STATUS_ERROR_UNAVAILABLE || status == GPUEV_STATUS_ERROR_FEATURE_DISABLED;
  fprintf(stderr, "%s: %s: %s\n", must || !may ? "failed" : "skipped", name, gpuev_last_error());
  exit(must || !may ? 1 : SKIPPED);
}

/* Opened anew: for tests that close it. */
static inline gpuev_device another(const char *name) {
  gpuev_device device = 0;
  OK(gpuev_device_open(name, &device));
  return device;
}

static inline bool is_cpu(const char *name) {
  return strncmp(name, "cpu", 3) == 0;
}

static inline gpuev_stream stream_on(gpuev_device device) {
  gpuev_stream stream = 0;
  OK(gpuev_stream_create(device, NULL, &stream));
  return stream;
}

static inline gpuev_pool pool_on(gpuev_device device) {
  gpuev_pool pool = 0;
  OK(gpuev_pool_create(device, 0, &pool));
  return pool;
}

static inline gpuev_event event_from(gpuev_pool pool, bool timed) {
  gpuev_event event = 0;
  OK(gpuev_event_acquire(pool, timed, &event));
  return event;
}

/* What a stream waits for until the test lets it go on. */
typedef struct gate {
  gpuev_event event;
  gpuev_signal signal;
} gate;

static inline gate gate_on(gpuev_device device) {
  gate made = {0, 0};
  OK(gpuev_host_event(device, "gate", &made.event, &made.signal));
  return made;
}

/* Work that the stream is given from now on doesn't get done before the gate is open. */
static inline gate hold_back(gpuev_device device, gpuev_stream stream) {
  gate made = gate_on(device);
  bool inserted = false;
  OK(gpuev_stream_wait(stream, made.event, &inserted));
  CHECK(inserted);
  return made;
}

static inline void release_gate(gate of) {
  OK(gpuev_signal_release(of.signal));
  OK(gpuev_event_release(of.event));
}

static inline void open_gate(gate of) {
  OK(gpuev_signal_complete(of.signal));
  release_gate(of);
}

static inline gpuev_event_status status_of(gpuev_event event) {
  gpuev_event_status status = GPUEV_EVENT_STATUS_UNRECORDED;
  OK(gpuev_event_get_status(event, &status));
  return status;
}

static inline size_t events_held(void) {
  size_t count = SIZE_MAX;
  OK(gpuev_event_count(&count));
  return count;
}

/* A test, by its name. */
typedef struct test {
  const char *name;
  void (*run)(const char *device);
} test;

#define TEST(function) {#function, function}

/* Runs the tests whose names have the second argument in them, or all, and looks that none left an event behind. */
static inline int run_tests(int argc, char **argv, const test *tests, size_t count) {
  const char *name = device_name(argc, argv);
  const char *only = argc > 2 ? argv[2] : "";
  OK(gpuev_device_release(open_device(name)));
  for (size_t at = 0; at < count; ++at) {
    if (strstr(tests[at].name, only) == NULL) {
      continue;
    }
    printf("%s: %s\n", name, tests[at].name);
    fflush(stdout);
    tests[at].run(name);
    CHECK(events_held() == 0);
  }
  return 0;
}

#endif
