/* What is refused: handles that are none, and null pointers. */

#include "shared.h"

/* Each call that takes a handle, with that as all that may be wrong. */
#define CALL(name, ...) \
  static gpuev_status call_##name(uint64_t h) __VA_ARGS__

static uint64_t some_device, some_stream, some_pool, some_event;

CALL(device_release, { return gpuev_device_release(h); })
CALL(device_close, { return gpuev_device_close(h); })
CALL(device_get_id, { uint64_t id; return gpuev_device_get_id(h, &id); })
CALL(device_get_info, { gpuev_device_info info; return gpuev_device_get_info(h, &info); })
CALL(device_stall_report, { size_t length; return gpuev_device_stall_report(h, NULL, 0, &length); })
CALL(pool_create, { gpuev_pool pool; return gpuev_pool_create(h, 0, &pool); })
CALL(stream_create, { gpuev_stream stream; return gpuev_stream_create(h, NULL, &stream); })
CALL(stream_get_default, { gpuev_stream stream; return gpuev_stream_get_default(h, &stream); })
CALL(host_event, { gpuev_event event; gpuev_signal signal; return gpuev_host_event(h, NULL, &event, &signal); })
CALL(external_event, { gpuev_event event; gpuev_external token; return gpuev_external_event(h, &event, &token); })
CALL(cuda_get_context, { void *raw; return gpuev_cuda_get_context(h, &raw); })
CALL(cuda_adopt_stream, {
  gpuev_stream stream;
  int calls = 0;
  gpuev_status status = gpuev_cuda_adopt_stream(h, NULL, count_up, &calls, NULL, &stream);
  CHECK(calls == 1);
  return status;
})
CALL(cuda_import_event, {
  gpuev_event event;
  int calls = 0;
  gpuev_status status = gpuev_cuda_import_event(h, NULL, count_up, &calls, &event);
  CHECK(calls == 1);
  return status;
})
CALL(metal_get_device, { void *raw; return gpuev_metal_get_device(h, &raw); })
CALL(metal_adopt_queue, { gpuev_stream stream; return gpuev_metal_adopt_queue(h, NULL, NULL, &stream); })
CALL(vulkan_adopt_queue, {
  int queue = 0;
  gpuev_vulkan_queue existing = {NULL, 0, NULL, NULL, NULL};
  existing.queue = &queue;
  gpuev_stream stream;
  int calls = 0;
  gpuev_status status = gpuev_vulkan_adopt_queue(h, &existing, count_up, &calls, NULL, &stream);
  CHECK(calls == 1);
  return status;
})
CALL(vulkan_get_handles, { return gpuev_vulkan_get_handles(h, NULL, NULL, NULL); })

CALL(stream_release, { return gpuev_stream_release(h); })
CALL(stream_get_id, { uint64_t id; return gpuev_stream_get_id(h, &id); })
CALL(stream_get_device, { gpuev_device device; return gpuev_stream_get_device(h, &device); })
CALL(stream_wait, { return gpuev_stream_wait(h, some_event, NULL); })
CALL(stream_flush, { return gpuev_stream_flush(h); })
CALL(stream_synchronize, { return gpuev_stream_synchronize(h, 0); })
CALL(stream_get_error, { return gpuev_stream_get_error(h); })
CALL(stream_lock, { return gpuev_stream_lock(h); })
CALL(stream_enqueue, {
  int calls = 0;
  gpuev_status status = gpuev_stream_enqueue(h, work_that_must_not_run, &calls, count_up);
  CHECK(calls == 1);
  return status;
})
CALL(stream_keep_until, { return gpuev_stream_keep_until(h, some_event, never, NULL); })
CALL(cuda_get_stream, { void *raw; return gpuev_cuda_get_stream(h, &raw); })
CALL(metal_encode, { return gpuev_metal_encode(h, encode_nothing, NULL); })
CALL(vulkan_submit, {
  int calls = 0;
  gpuev_status status = gpuev_vulkan_submit(h, NULL, 0, 0, count_up, &calls);
  CHECK(calls == 1);
  return status;
})
CALL(vulkan_get_queue, { return gpuev_vulkan_get_queue(h, NULL, NULL); })
CALL(record_on_stream, { return gpuev_event_record(some_event, h, true); })

CALL(pool_release, { return gpuev_pool_release(h); })
CALL(pool_empty_cache, { return gpuev_pool_empty_cache(h); })
CALL(pool_get_statistics, { gpuev_pool_statistics statistics; return gpuev_pool_get_statistics(h, &statistics); })
CALL(event_acquire, { gpuev_event event; return gpuev_event_acquire(h, true, &event); })

CALL(event_release, { return gpuev_event_release(h); })
CALL(event_record, { return gpuev_event_record(h, some_stream, true); })
CALL(event_record_on_default, { return gpuev_event_record(h, 0, false); })
CALL(event_reset, { return gpuev_event_reset(h, true); })
CALL(event_query, { bool complete; return gpuev_event_query(h, &complete); })
CALL(event_get_status, { gpuev_event_status status; return gpuev_event_get_status(h, &status); })
CALL(event_get_statuses, {
  gpuev_event events[2] = {0, 0};
  gpuev_event_status statuses[2];
  events[0] = some_event;
  events[1] = h;
  return gpuev_event_get_statuses(events, 2, statuses);
})
CALL(event_synchronize, { return gpuev_event_synchronize(h); })
CALL(event_wait, { return gpuev_event_wait(h, 0, GPUEV_WAIT_STRATEGY_PARK, 0); })
CALL(wait_any, { size_t index; return gpuev_wait_any(&h, 1, 0, &index); })
CALL(wait_all, { return gpuev_wait_all(&h, 1, 0); })
CALL(elapsed_start, { double time; return gpuev_event_elapsed(h, some_event, &time); })
CALL(elapsed_end, { double time; return gpuev_event_elapsed(some_event, h, &time); })
CALL(event_get_completion_time, { uint64_t time; return gpuev_event_get_completion_time(h, &time); })
CALL(event_is_timed, { bool timed; return gpuev_event_is_timed(h, &timed); })
CALL(event_get_device, { gpuev_device device; return gpuev_event_get_device(h, &device); })
CALL(event_set_label, { return gpuev_event_set_label(h, "label"); })
CALL(event_notify, { return gpuev_event_notify(h, never_told, NULL, NULL); })
CALL(wait_for_event, { return gpuev_stream_wait(some_stream, h, NULL); })
CALL(wait_for_event_on_default, { return gpuev_stream_wait(0, h, NULL); })
CALL(keep_until_event, { return gpuev_stream_keep_until(some_stream, h, never, NULL); })
CALL(metal_get_shared_event, { void *raw; uint64_t value; return gpuev_metal_get_shared_event(h, &raw, &value); })
CALL(vulkan_get_semaphore, { uint64_t raw; uint64_t value; return gpuev_vulkan_get_semaphore(h, &raw, &value); })

CALL(callback_cancel, { return gpuev_callback_cancel(h, NULL); })
CALL(callback_release, { return gpuev_callback_release(h); })

CALL(signal_complete, { return gpuev_signal_complete(h); })
CALL(signal_fail, { return gpuev_signal_fail(h, "reason"); })
CALL(signal_release, { return gpuev_signal_release(h); })

CALL(external_submitted, { return gpuev_external_submitted(h); })
CALL(external_complete, { return gpuev_external_complete(h); })
CALL(external_fail, { return gpuev_external_fail(h, "reason"); })
CALL(external_release, { return gpuev_external_release(h); })

typedef struct verb {
  int kind;
  const char *name;
  gpuev_status (*call)(uint64_t handle);
  /* Null is the default stream. */
  bool null_is_meant;
} verb;

#define VERB(kind, name) {kind, #name, call_##name, false}

static const verb VERBS[] = {
    VERB(DEVICE, device_release), VERB(DEVICE, device_close), VERB(DEVICE, device_get_id), VERB(DEVICE, device_get_info),
    VERB(DEVICE, device_stall_report), VERB(DEVICE, pool_create), VERB(DEVICE, stream_create),
    VERB(DEVICE, stream_get_default), VERB(DEVICE, host_event), VERB(DEVICE, external_event),
    VERB(DEVICE, cuda_get_context), VERB(DEVICE, cuda_adopt_stream), VERB(DEVICE, cuda_import_event),
    VERB(DEVICE, metal_get_device), VERB(DEVICE, metal_adopt_queue), VERB(DEVICE, vulkan_adopt_queue),
    VERB(DEVICE, vulkan_get_handles),
    VERB(STREAM, stream_release), VERB(STREAM, stream_get_id), VERB(STREAM, stream_get_device), {STREAM, "stream_wait", call_stream_wait, true},
    VERB(STREAM, stream_flush), VERB(STREAM, stream_synchronize), VERB(STREAM, stream_get_error),
    VERB(STREAM, stream_lock), VERB(STREAM, stream_enqueue), VERB(STREAM, stream_keep_until),
    VERB(STREAM, cuda_get_stream), VERB(STREAM, metal_encode), VERB(STREAM, vulkan_submit),
    VERB(STREAM, vulkan_get_queue), {STREAM, "record_on_stream", call_record_on_stream, true},
    VERB(POOL, pool_release), VERB(POOL, pool_empty_cache), VERB(POOL, pool_get_statistics), VERB(POOL, event_acquire),
    VERB(EVENT, event_release), VERB(EVENT, event_record), VERB(EVENT, event_record_on_default),
    VERB(EVENT, event_reset), VERB(EVENT, event_query), VERB(EVENT, event_get_status), VERB(EVENT, event_get_statuses),
    VERB(EVENT, event_synchronize), VERB(EVENT, event_wait), VERB(EVENT, wait_any), VERB(EVENT, wait_all),
    VERB(EVENT, elapsed_start), VERB(EVENT, elapsed_end), VERB(EVENT, event_get_completion_time),
    VERB(EVENT, event_is_timed), VERB(EVENT, event_get_device), VERB(EVENT, event_set_label),
    VERB(EVENT, event_notify), VERB(EVENT, wait_for_event), VERB(EVENT, wait_for_event_on_default),
    VERB(EVENT, keep_until_event), VERB(EVENT, metal_get_shared_event), VERB(EVENT, vulkan_get_semaphore),
    VERB(CALLBACK, callback_cancel), VERB(CALLBACK, callback_release),
    VERB(SIGNAL, signal_complete), VERB(SIGNAL, signal_fail), VERB(SIGNAL, signal_release),
    VERB(EXTERNAL, external_submitted), VERB(EXTERNAL, external_complete), VERB(EXTERNAL, external_fail),
    VERB(EXTERNAL, external_release),
};

/* R33: null, stale, made up, or of another kind, a handle is refused by every call, and nothing else comes of it. */
static void every_call_refuses_a_handle_that_is_none(const char *name) {
  handles stale = make_handles(name);
  release_handles(&stale);
  handles live = make_handles(name);
  some_device = live.of[DEVICE];
  some_stream = live.of[STREAM];
  some_pool = live.of[POOL];
  some_event = live.of[EVENT];
  for (size_t at = 0; at < sizeof VERBS / sizeof *VERBS; ++at) {
    const verb *tried = &VERBS[at];
    uint64_t bad[KINDS + 5];
    size_t count = 0;
    for (int kind = 0; kind < KINDS; ++kind) {
      if (kind != tried->kind) {
        bad[count++] = live.of[kind];
      }
    }
    bad[count++] = stale.of[tried->kind];
    bad[count++] = UINT64_MAX;
    bad[count++] = UINT64_C(1) << 55;
    bad[count++] = live.of[tried->kind] | UINT64_C(1) << 54;
    if (!tried->null_is_meant) {
      bad[count++] = 0;
    }
    for (size_t which = 0; which < count; ++which) {
      gpuev_status status = tried->call(bad[which]);
      if (status != GPUEV_STATUS_ERROR_INVALID_HANDLE || strlen(gpuev_last_error()) == 0) {
        fprintf(stderr, "%s with %#llx: %s\n", tried->name, (unsigned long long)bad[which], gpuev_status_name(status));
        CHECK(!"a handle was not refused");
      }
    }
  }
  /* A stream to unlock goes by whether this thread holds it: one that was released can still be held. */
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_stream_unlock(live.of[STREAM]));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_stream_unlock(0));
  /* All of them are as they were. */
  CHECK(status_of(live.of[EVENT]) == GPUEV_EVENT_STATUS_UNRECORDED);
  CHECK(status_of(live.host) == GPUEV_EVENT_STATUS_PENDING);
  CHECK(status_of(live.external) == GPUEV_EVENT_STATUS_NOT_SUBMITTED);
  OK(gpuev_stream_get_error(live.of[STREAM]));
  release_handles(&live);
}

#define REFUSES(call) ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, call)

/* A pointer that may not be null and is: refused before anything is done. */
static void every_call_refuses_a_null_pointer(const char *name) {
  handles live = make_handles(name);
  gpuev_device device = live.of[DEVICE];
  gpuev_stream stream = live.of[STREAM];
  gpuev_pool pool = live.of[POOL];
  gpuev_event event = live.of[EVENT];
  size_t held = events_held();
  uint64_t out = 0;
  size_t count = 0;
  int calls = 0;

  REFUSES(gpuev_device_list(NULL, 0, NULL));
  REFUSES(gpuev_device_list(NULL, 1, &count));
  REFUSES(gpuev_device_open(NULL, &out));
  REFUSES(gpuev_device_open(name, NULL));
  REFUSES(gpuev_device_get_default(NULL));
  REFUSES(gpuev_device_get_info(device, NULL));
  REFUSES(gpuev_device_stall_report(device, NULL, 0, NULL));
  REFUSES(gpuev_pool_create(device, 0, NULL));
  REFUSES(gpuev_pool_get_shared(NULL));
  REFUSES(gpuev_pool_get_statistics(pool, NULL));
  REFUSES(gpuev_event_count(NULL));
  REFUSES(gpuev_event_acquire(pool, false, NULL));
  REFUSES(gpuev_event_query(event, NULL));
  REFUSES(gpuev_event_get_status(event, NULL));
  gpuev_event_status status;
  REFUSES(gpuev_event_get_statuses(NULL, 1, &status));
  REFUSES(gpuev_event_get_statuses(&event, 1, NULL));
  REFUSES(gpuev_event_get_statuses(&event, SIZE_MAX, &status));
  REFUSES(gpuev_wait_any(NULL, 1, 0, &count));
  REFUSES(gpuev_wait_any(&event, 1, 0, NULL));
  REFUSES(gpuev_wait_all(NULL, 1, 0));
  REFUSES(gpuev_wait_all(&event, SIZE_MAX / 2, 0));
  REFUSES(gpuev_event_elapsed(event, event, NULL));
  REFUSES(gpuev_event_get_completion_time(event, NULL));
  REFUSES(gpuev_event_is_timed(event, NULL));
  REFUSES(gpuev_event_get_device(event, NULL));
  REFUSES(gpuev_event_set_label(event, NULL));
  REFUSES(gpuev_event_notify(event, NULL, NULL, &out));
  REFUSES(gpuev_stream_create(device, NULL, NULL));
  REFUSES(gpuev_stream_get_default(device, NULL));
  REFUSES(gpuev_device_get_id(device, NULL));
  REFUSES(gpuev_stream_get_id(stream, NULL));
  REFUSES(gpuev_stream_get_device(stream, NULL));
  REFUSES(gpuev_stream_enqueue(stream, NULL, &calls, count_up));
  CHECK(calls == 1);
  REFUSES(gpuev_set_work_error(NULL));
  REFUSES(gpuev_stream_keep_until(stream, event, NULL, NULL));
  REFUSES(gpuev_host_event(device, NULL, NULL, &out));
  REFUSES(gpuev_host_event(device, NULL, &out, NULL));
  REFUSES(gpuev_external_event(device, NULL, &out));
  REFUSES(gpuev_external_event(device, &out, NULL));
  REFUSES(gpuev_signal_fail(live.of[SIGNAL], NULL));
  REFUSES(gpuev_external_fail(live.of[EXTERNAL], NULL));

  REFUSES(gpuev_cuda_get_stream(stream, NULL));
  REFUSES(gpuev_cuda_get_context(device, NULL));
  REFUSES(gpuev_cuda_adopt_stream(device, NULL, count_up, &calls, NULL, NULL));
  REFUSES(gpuev_cuda_import_event(device, NULL, count_up, &calls, NULL));
  CHECK(calls == 3);
  void *raw = NULL;
  REFUSES(gpuev_metal_open(NULL, NULL));
  gpuev_status no_metal = gpuev_metal_open(NULL, &out);
  CHECK(no_metal == GPUEV_STATUS_ERROR_UNAVAILABLE || no_metal == GPUEV_STATUS_ERROR_INVALID_ARGUMENT);
  REFUSES(gpuev_metal_get_device(device, NULL));
  REFUSES(gpuev_metal_adopt_queue(device, NULL, NULL, NULL));
  REFUSES(gpuev_metal_encode(stream, NULL, NULL));
  REFUSES(gpuev_metal_get_shared_event(event, NULL, &out));
  REFUSES(gpuev_metal_get_shared_event(event, &raw, NULL));
  REFUSES(gpuev_vulkan_open(NULL, count_up, &calls, &out));
  gpuev_vulkan_device nothing;
  memset(&nothing, 0, sizeof nothing);
  REFUSES(gpuev_vulkan_open(&nothing, count_up, &calls, &out));
  REFUSES(gpuev_vulkan_open(&nothing, NULL, NULL, NULL));
  REFUSES(gpuev_vulkan_adopt_queue(device, NULL, count_up, &calls, NULL, &out));
  gpuev_vulkan_queue no_queue = {NULL, 0, NULL, NULL, NULL};
  REFUSES(gpuev_vulkan_adopt_queue(device, &no_queue, count_up, &calls, NULL, &out));
  no_queue.queue = &no_queue;
  no_queue.lock = never;
  REFUSES(gpuev_vulkan_adopt_queue(device, &no_queue, count_up, &calls, NULL, &out));
  REFUSES(gpuev_vulkan_adopt_queue(device, &no_queue, count_up, &calls, NULL, NULL));
  CHECK(calls == 9);
  REFUSES(gpuev_vulkan_submit(stream, NULL, 1, 0, count_up, &calls));
  CHECK(calls == 10);
  REFUSES(gpuev_vulkan_get_semaphore(event, NULL, &out));
  REFUSES(gpuev_vulkan_get_semaphore(event, &out, NULL));

  CHECK(out == 0);
  CHECK(events_held() == held);
  release_handles(&live);
}

static const test TESTS[] = {
    TEST(every_call_refuses_a_handle_that_is_none),
    TEST(every_call_refuses_a_null_pointer),
};

int main(int argc, char **argv) {
  return run_tests(argc, argv, TESTS, sizeof TESTS / sizeof *TESTS);
}
