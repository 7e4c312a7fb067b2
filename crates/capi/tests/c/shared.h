/* What the tests in C have in common: functions to hand in, and one handle of each kind. */

#ifndef GPU_EVENTS_TESTS_C_SHARED_H
#define GPU_EVENTS_TESTS_C_SHARED_H

#include "../support.h"

static inline void never(void *data) {
  (void)data;
  check_failed(__FILE__, __LINE__, "a function was called that must not be");
}

static inline void never_told(void *data, gpuev_status status, const char *text) {
  (void)status;
  (void)text;
  never(data);
}

static inline void ignore_outcome(void *data, gpuev_status status, const char *text) {
  (void)data;
  (void)status;
  CHECK(text != NULL);
}

static inline int32_t work_that_must_not_run(void *data) {
  never(data);
  return 0;
}

static inline void encode_nothing(void *data, void *buffer) {
  (void)buffer;
  never(data);
}

static inline void count_up(void *data) {
  ++*(int *)data;
}

static inline int32_t succeed(void *data) {
  ++*(int *)data;
  return 0;
}

static inline int32_t fail_with_seven(void *data) {
  (void)data;
  return 7;
}

static inline void complete_signal(void *data, gpuev_status status, const char *text) {
  (void)status;
  (void)text;
  OK(gpuev_signal_complete(*(gpuev_signal *)data));
}

/* As a release function. */
static inline void give_signal(void *data) {
  OK(gpuev_signal_complete(*(gpuev_signal *)data));
}

/* Until the callback thread has done what it was given before: callbacks of a stream are called in the order of its recordings,
 * and others as the thread comes by them, which it may not have yet for what has completed just now. */
static inline void drain_callbacks(gpuev_device device, gpuev_stream stream) {
  gate passed = gate_on(device);
  gpuev_pool pool = pool_on(device);
  gpuev_event last = event_from(pool, false);
  if (stream != 0) {
    OK(gpuev_event_record(last, stream, false));
  }
  OK(gpuev_event_notify(last, complete_signal, &passed.signal, NULL));
  OK(gpuev_event_synchronize(passed.event));
  OK(gpuev_event_release(last));
  OK(gpuev_pool_release(pool));
  release_gate(passed);
}

enum { DEVICE, STREAM, POOL, EVENT, CALLBACK, SIGNAL, EXTERNAL, KINDS };

/* One live handle of each kind, and what else is needed to give them back. */
typedef struct handles {
  uint64_t of[KINDS];
  gpuev_event host;
  gpuev_event external;
} handles;

static inline handles make_handles(const char *name) {
  handles made = {{0}, 0, 0};
  made.of[DEVICE] = another(name);
  made.of[STREAM] = stream_on(made.of[DEVICE]);
  made.of[POOL] = pool_on(made.of[DEVICE]);
  made.of[EVENT] = event_from(made.of[POOL], true);
  OK(gpuev_host_event(made.of[DEVICE], NULL, &made.host, &made.of[SIGNAL]));
  OK(gpuev_external_event(made.of[DEVICE], &made.external, &made.of[EXTERNAL]));
  OK(gpuev_event_notify(made.host, ignore_outcome, NULL, &made.of[CALLBACK]));
  return made;
}

static inline void release_handles(const handles *made) {
  OK(gpuev_callback_release(made->of[CALLBACK]));
  OK(gpuev_external_release(made->of[EXTERNAL]));
  OK(gpuev_signal_release(made->of[SIGNAL]));
  OK(gpuev_event_release(made->of[EVENT]));
  OK(gpuev_event_release(made->host));
  OK(gpuev_event_release(made->external));
  OK(gpuev_pool_release(made->of[POOL]));
  OK(gpuev_stream_release(made->of[STREAM]));
  OK(gpuev_device_release(made->of[DEVICE]));
}

#endif
