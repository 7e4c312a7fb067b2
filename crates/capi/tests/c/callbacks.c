/* R16 to R18: callbacks run once and in order, may call anything, and are cancelled truthfully. */

#include "shared.h"

/* What callbacks wrote down, in the order in which they ran. The callback thread alone writes it, and completes the signal once
 * it has so many. */
typedef struct record {
  gate full;
  int expected;
  int count;
  int numbers[64];
  gpuev_status statuses[64];
  char text[128];
} record;

typedef struct told {
  record *into;
  int number;
} told;

static void write_down(void *data, gpuev_status status, const char *text) {
  told *one = (told *)data;
  record *into = one->into;
  CHECK(into->count < 64);
  into->numbers[into->count] = one->number;
  into->statuses[into->count] = status;
  ++into->count;
  snprintf(into->text, sizeof into->text, "%s", text);
  if (into->count == into->expected) {
    OK(gpuev_signal_complete(into->full.signal));
  }
}

static record expect(gpuev_device device, int expected) {
  record made;
  memset(&made, 0, sizeof made);
  made.full = gate_on(device);
  made.expected = expected;
  return made;
}

/* Until it is full; and then until whatever came too often would be there as well. */
static void await(gpuev_device device, record *seen) {
  OK(gpuev_event_synchronize(seen->full.event));
  release_gate(seen->full);
  drain_callbacks(device, 0);
  CHECK(seen->count == seen->expected);
}

static void notify(gpuev_event event, told *one, gpuev_callback *callback) {
  OK(gpuev_event_notify(event, write_down, one, callback));
}

static void callbacks_run_once_in_the_order_of_recordings(const char *name) {
  enum { MANY = 20 };
  gpuev_device device = another(name);
  gpuev_stream stream = stream_on(device);
  gpuev_pool pool = pool_on(device);
  record seen = expect(device, MANY);
  told tellings[MANY];
  gpuev_event events[MANY];
  gate held = hold_back(device, stream);
  for (int at = 0; at < MANY; ++at) {
    events[at] = event_from(pool, false);
    OK(gpuev_event_record(events[at], stream, false));
  }
  /* Registered the other way round: it is the recordings' order that counts. */
  for (int at = MANY - 1; at >= 0; --at) {
    tellings[at].into = &seen;
    tellings[at].number = at;
    notify(events[at], &tellings[at], NULL);
  }
  drain_callbacks(device, 0);
  CHECK(seen.count == 0);
  /* R2, R31: what was registered is for the recording of that moment, whatever becomes of the event. */
  OK(gpuev_event_record(events[0], stream, false));
  OK(gpuev_event_reset(events[1], true));
  for (int at = 0; at < MANY; ++at) {
    OK(gpuev_event_release(events[at]));
  }
  open_gate(held);
  await(device, &seen);
  for (int at = 0; at < MANY; ++at) {
    CHECK(seen.numbers[at] == at && seen.statuses[at] == GPUEV_STATUS_OK);
  }
  CHECK(strlen(seen.text) == 0);
  OK(gpuev_pool_release(pool));
  OK(gpuev_stream_release(stream));
  OK(gpuev_device_release(device));
}

static void a_callback_that_comes_late_still_runs(const char *name) {
  gpuev_device device = another(name);
  gpuev_stream stream = stream_on(device);
  gpuev_pool pool = pool_on(device);
  gpuev_event event = event_from(pool, false);
  record seen = expect(device, 3);
  told complete = {&seen, 1}, unrecorded = {&seen, 2}, again = {&seen, 3};
  notify(event, &unrecorded, NULL);
  drain_callbacks(device, 0);
  CHECK(seen.count == 1);
  OK(gpuev_event_record(event, stream, true));
  OK(gpuev_event_synchronize(event));
  gpuev_callback callback = 0;
  notify(event, &complete, &callback);
  notify(event, &again, NULL);
  await(device, &seen);
  CHECK(seen.numbers[0] == 2 && seen.numbers[1] == 1 && seen.numbers[2] == 3);
  bool cancelled = true;
  OK(gpuev_callback_cancel(callback, &cancelled));
  CHECK(!cancelled);
  OK(gpuev_callback_release(callback));
  OK(gpuev_event_release(event));
  OK(gpuev_pool_release(pool));
  OK(gpuev_stream_release(stream));
  OK(gpuev_device_release(device));
}

static void cancelling_answers_the_truth(const char *name) {
  gpuev_device device = another(name);
  gate held = gate_on(device);
  record seen = expect(device, 2);
  told first = {&seen, 1}, second = {&seen, 2}, third = {&seen, 3};
  gpuev_callback callbacks[3] = {0, 0, 0};
  notify(held.event, &first, &callbacks[0]);
  notify(held.event, &second, &callbacks[1]);
  notify(held.event, &third, &callbacks[2]);
  bool cancelled = false;
  OK(gpuev_callback_cancel(callbacks[1], &cancelled));
  CHECK(cancelled);
  OK(gpuev_callback_cancel(callbacks[1], &cancelled));
  CHECK(!cancelled);
  /* Giving its handle back leaves a callback where it is. */
  OK(gpuev_callback_release(callbacks[2]));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_HANDLE, gpuev_callback_cancel(callbacks[2], &cancelled));
  open_gate(held);
  await(device, &seen);
  CHECK(seen.numbers[0] == 1 && seen.numbers[1] == 3);
  OK(gpuev_callback_cancel(callbacks[0], &cancelled));
  CHECK(!cancelled);
  OK(gpuev_callback_release(callbacks[0]));
  OK(gpuev_callback_release(callbacks[1]));
  OK(gpuev_device_release(device));
}

static void a_failure_is_told(const char *name) {
  gpuev_device device = another(name);
  gpuev_stream stream = stream_on(device);
  gpuev_pool pool = pool_on(device);
  gpuev_event event = event_from(pool, false);
  gate held = hold_back(device, stream);
  OK(gpuev_event_record(event, stream, true));
  record seen = expect(device, 2);
  told before = {&seen, 1}, after = {&seen, 2};
  notify(event, &before, NULL);
  OK(gpuev_signal_fail(held.signal, "on purpose"));
  ANSWERS(GPUEV_STATUS_ERROR_WORK_FAILED, gpuev_event_synchronize(event));
  notify(event, &after, NULL);
  await(device, &seen);
  CHECK(seen.numbers[0] == 1);
  CHECK(seen.statuses[0] == GPUEV_STATUS_ERROR_WORK_FAILED && seen.statuses[1] == GPUEV_STATUS_ERROR_WORK_FAILED);
  CHECK(strstr(seen.text, "on purpose") != NULL);
  release_gate(held);
  OK(gpuev_event_release(event));
  OK(gpuev_pool_release(pool));
  OK(gpuev_stream_release(stream));
  OK(gpuev_device_release(device));
}

static void tell_the_end(void *data, gpuev_status status, const char *text) {
  (void)text;
  ANSWERS(GPUEV_STATUS_ERROR_CLOSED, status);
  OK(gpuev_signal_complete(*(gpuev_signal *)data));
}

static void closing_the_device_is_told(const char *name) {
  gpuev_device device = another(name), other = another(name);
  gate held = gate_on(device), passed = gate_on(other);
  OK(gpuev_event_notify(held.event, tell_the_end, &passed.signal, NULL));
  OK(gpuev_device_close(device));
  OK(gpuev_event_synchronize(passed.event));
  release_gate(passed);
  /* Registered on what is closed already, it runs all the same. */
  passed = gate_on(other);
  OK(gpuev_event_notify(held.event, tell_the_end, &passed.signal, NULL));
  OK(gpuev_event_synchronize(passed.event));
  release_gate(passed);
  release_gate(held);
  OK(gpuev_device_release(other));
  OK(gpuev_device_release(device));
}

/* What a callback has to call the library with. */
typedef struct inside {
  gpuev_device device;
  gpuev_event event;
  gpuev_signal done;
  record seen;
  told inner;
} inside;

static void call_the_library(void *data, gpuev_status status, const char *text) {
  inside *with = (inside *)data;
  ANSWERS(GPUEV_STATUS_OK, status);
  (void)text;
  /* Waiting for the very event, and for work that is given from in here. */
  OK(gpuev_event_synchronize(with->event));
  gpuev_stream stream = stream_on(with->device);
  gpuev_pool pool = pool_on(with->device);
  gpuev_event event = event_from(pool, true);
  OK(gpuev_event_record(event, stream, false));
  OK(gpuev_event_synchronize(event));
  OK(gpuev_stream_lock(stream));
  OK(gpuev_event_record(event, stream, true));
  OK(gpuev_stream_unlock(stream));
  OK(gpuev_stream_synchronize(stream, GPUEV_FOREVER));
  notify(event, &with->inner, NULL);
  OK(gpuev_event_release(event));
  OK(gpuev_event_release(with->event));
  OK(gpuev_pool_release(pool));
  OK(gpuev_stream_release(stream));
  OK(gpuev_device_release(with->device));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_HANDLE, gpuev_event_release(with->event));
  OK(gpuev_signal_complete(with->done));
}

static void callbacks_may_call_anything(const char *name) {
  gpuev_device device = another(name);
  gate passed = gate_on(device);
  gpuev_stream stream = stream_on(device);
  gpuev_pool pool = pool_on(device);
  inside with;
  memset(&with, 0, sizeof with);
  OK(gpuev_stream_get_device(stream, &with.device));
  with.event = event_from(pool, false);
  with.done = passed.signal;
  with.seen = expect(device, 1);
  with.inner.into = &with.seen;
  with.inner.number = 5;
  gate held = hold_back(device, stream);
  OK(gpuev_event_record(with.event, stream, true));
  OK(gpuev_event_notify(with.event, call_the_library, &with, NULL));
  open_gate(held);
  OK(gpuev_event_synchronize(passed.event));
  await(device, &with.seen);
  CHECK(with.seen.numbers[0] == 5);
  release_gate(passed);
  OK(gpuev_pool_release(pool));
  OK(gpuev_stream_release(stream));
  OK(gpuev_device_release(device));
}

typedef struct running {
  gpuev_callback callback;
  gpuev_signal done;
} running;

static void cancel_itself(void *data, gpuev_status status, const char *text) {
  running *this_one = (running *)data;
  bool cancelled = true;
  OK(gpuev_callback_cancel(this_one->callback, &cancelled));
  CHECK(!cancelled);
  OK(gpuev_callback_release(this_one->callback));
  complete_signal(&this_one->done, status, text);
}

static void a_callback_that_is_running_is_not_cancelled(const char *name) {
  gpuev_device device = another(name);
  gate held = gate_on(device), passed = gate_on(device);
  running one = {0, passed.signal};
  OK(gpuev_event_notify(held.event, cancel_itself, &one, &one.callback));
  open_gate(held);
  OK(gpuev_event_synchronize(passed.event));
  release_gate(passed);
  OK(gpuev_device_release(device));
}

typedef struct own {
  gpuev_callback callback;
  gpuev_signal done;
} own;

static void free_itself(void *data, gpuev_status status, const char *text) {
  own *all = (own *)data;
  gpuev_callback callback = all->callback;
  gpuev_signal done = all->done;
  free(all);
  OK(gpuev_callback_release(callback));
  complete_signal(&done, status, text);
}

/* The handle is written before the function can be called, and never after: of a complete event, it is called at once. */
static void a_callback_may_free_what_its_handle_is_in(const char *name) {
  gpuev_device device = another(name);
  gpuev_stream stream = stream_on(device);
  gpuev_pool pool = pool_on(device);
  gpuev_event event = event_from(pool, false);
  for (int round = 0; round < 50; ++round) {
    gate passed = gate_on(device);
    own *all = (own *)malloc(sizeof *all);
    CHECK(all != NULL);
    all->callback = 0;
    all->done = passed.signal;
    OK(gpuev_event_notify(event, free_itself, all, &all->callback));
    OK(gpuev_event_synchronize(passed.event));
    release_gate(passed);
  }
  OK(gpuev_event_release(event));
  OK(gpuev_pool_release(pool));
  OK(gpuev_stream_release(stream));
  OK(gpuev_device_release(device));
}

typedef struct taker {
  gpuev_stream stream;
  gpuev_signal done;
} taker;

static void take_and_forget(void *data, gpuev_status status, const char *text) {
  taker *of = (taker *)data;
  OK(gpuev_stream_lock(of->stream));
  complete_signal(&of->done, status, text);
}

/* The callback thread never ends, and nobody else could let go of what a callback holds. */
static void a_callback_leaves_no_lock_behind(const char *name) {
  gpuev_device device = another(name);
  gpuev_stream stream = stream_on(device);
  gpuev_pool pool = pool_on(device);
  gpuev_event event = event_from(pool, false);
  gate passed = gate_on(device);
  taker of = {stream, passed.signal};
  OK(gpuev_event_notify(event, take_and_forget, &of, NULL));
  OK(gpuev_event_synchronize(passed.event));
  OK(gpuev_event_record(event, stream, true));
  OK(gpuev_event_synchronize(event));
  release_gate(passed);
  OK(gpuev_event_release(event));
  OK(gpuev_pool_release(pool));
  OK(gpuev_stream_release(stream));
  OK(gpuev_device_release(device));
}

static const test TESTS[] = {
    TEST(callbacks_run_once_in_the_order_of_recordings),
    TEST(a_callback_that_comes_late_still_runs),
    TEST(cancelling_answers_the_truth),
    TEST(a_failure_is_told),
    TEST(closing_the_device_is_told),
    TEST(callbacks_may_call_anything),
    TEST(a_callback_that_is_running_is_not_cancelled),
    TEST(a_callback_may_free_what_its_handle_is_in),
    TEST(a_callback_leaves_no_lock_behind),
};

int main(int argc, char **argv) {
  return run_tests(argc, argv, TESTS, sizeof TESTS / sizeof *TESTS);
}
