/* What each call does when it is called as it should be, and what it says when things are not as it needs them. */

#include "shared.h"

static void devices_are_listed_opened_and_told_of(const char *name) {
  size_t count = 0;
  OK(gpuev_device_list(NULL, 0, &count));
  CHECK(count >= 1);
  gpuev_device_info first;
  memset(&first, 0x55, sizeof first);
  size_t again = 0;
  OK(gpuev_device_list(&first, 1, &again));
  CHECK(again == count);
  CHECK(memchr(first.name, 0, sizeof first.name) != NULL && first.name[0] != 0);

  gpuev_device opened = 0;
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_device_open("no such backend", &opened));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_device_open("", &opened));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_device_open("\xff\xfe", &opened));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_device_open("cpu:x", &opened));
  CHECK(opened == 0);

  gpuev_device device = another(name);
  gpuev_device_info info;
  memset(&info, 0x55, sizeof info);
  OK(gpuev_device_get_info(device, &info));
  CHECK(strncmp(info.name, name, strlen(name)) == 0);
  CHECK(strncmp(info.name, info.backend, strlen(info.backend)) == 0);
  CHECK(strlen(info.description) < sizeof info.description && strlen(info.clock) < sizeof info.clock);
  CHECK(info.clock_resolution_ns > 0 || !info.timed);
  CHECK(info.gates <= GPUEV_GATE_KIND_DRIVER);
  OK(gpuev_device_release(device));

  /* The shared device: the same one each time, by other handles. */
  gpuev_device one = 0, two = 0;
  OK(gpuev_device_get_default(&one));
  OK(gpuev_device_get_default(&two));
  CHECK(one != two);
  gpuev_stream stream = stream_on(one);
  OK(gpuev_device_release(one));
  gpuev_pool pool = pool_on(two);
  gpuev_event event = event_from(pool, false);
  OK(gpuev_event_record(event, stream, true));
  OK(gpuev_event_synchronize(event));
  OK(gpuev_event_release(event));
  OK(gpuev_pool_release(pool));
  OK(gpuev_stream_release(stream));
  OK(gpuev_device_release(two));
}

static void texts_fit_where_they_are_to_go(const char *name) {
  gpuev_device device = another(name);
  gpuev_stream stream = stream_on(device);
  gpuev_event event = 0;
  gpuev_signal signal = 0;
  /* Two bytes a letter: a text is never cut through the middle of one. */
  OK(gpuev_host_event(device, "\xc3\xa4\xc3\xb6\xc3\xbc", &event, &signal));
  OK(gpuev_stream_wait(stream, event, NULL));

  size_t length = 0, now = 0;
  OK(gpuev_device_stall_report(device, NULL, 0, &length));
  CHECK(length > 0);
  static char whole[4096];
  /* The stream comes to its wait by itself. From then on, only how long it has waited changes. */
  do {
    OK(gpuev_device_stall_report(device, whole, sizeof whole, &now));
    CHECK(strlen(whole) == now);
  } while (strstr(whole, "waits for") == NULL);
  CHECK(strstr(whole, "\xc3\xa4\xc3\xb6\xc3\xbc") != NULL);
  size_t letters = (size_t)(strstr(whole, "\xc3\xa4") - whole);

  for (size_t capacity = 1; capacity < letters + 6; ++capacity) {
    char *part = (char *)malloc(capacity);
    CHECK(part != NULL);
    OK(gpuev_device_stall_report(device, part, capacity, NULL));
    size_t written = strlen(part);
    CHECK(written < capacity && written + 2 >= capacity);
    CHECK(written == 0 || (unsigned char)part[written - 1] != 0xc3);
    free(part);
  }
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_device_stall_report(device, whole, 0, NULL));
  OK(gpuev_signal_complete(signal));
  OK(gpuev_signal_release(signal));
  OK(gpuev_event_release(event));
  OK(gpuev_stream_release(stream));
  OK(gpuev_device_release(device));
}

static void statuses_and_errors_have_words(const char *name) {
  (void)name;
  CHECK(strcmp(gpuev_version(), GPU_EVENTS_TEST_VERSION) == 0);
  CHECK(strcmp(gpuev_status_name(GPUEV_STATUS_OK), "ok") == 0);
  CHECK(strcmp(gpuev_status_name(GPUEV_STATUS_TIMED_OUT), "timed out") == 0);
  for (int32_t status = GPUEV_STATUS_ERROR_INTERNAL; status < 0; ++status) {
    CHECK(strcmp(gpuev_status_name(status), "no status") != 0);
    for (int32_t other = status + 1; other <= 1; ++other) {
      CHECK(strcmp(gpuev_status_name(status), gpuev_status_name(other)) != 0);
    }
  }
  const int32_t none[] = {2, GPUEV_STATUS_ERROR_INTERNAL - 1, INT32_MAX, INT32_MIN};
  for (size_t at = 0; at < sizeof none / sizeof *none; ++at) {
    CHECK(strcmp(gpuev_status_name(none[at]), "no status") == 0);
  }

  /* The newest error's text: calls that succeed leave it. */
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_HANDLE, gpuev_pool_release(0));
  CHECK(strstr(gpuev_last_error(), "pool") != NULL);
  size_t count = 0;
  OK(gpuev_event_count(&count));
  CHECK(strstr(gpuev_last_error(), "pool") != NULL);
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_HANDLE, gpuev_stream_flush(0));
  CHECK(strstr(gpuev_last_error(), "stream") != NULL);
}

static void pools_keep_what_comes_back(const char *name) {
  gpuev_device device = another(name);
  gpuev_pool pool = 0;
  OK(gpuev_pool_create(device, 2, &pool));
  gpuev_event events[3] = {event_from(pool, false), event_from(pool, true), event_from(pool, false)};
  gpuev_pool_statistics statistics;
  OK(gpuev_pool_get_statistics(pool, &statistics));
  CHECK(statistics.bound == 2 && statistics.live == 3 && statistics.acquired == 3);
  CHECK(events_held() == 3);
  for (int at = 0; at < 3; ++at) {
    OK(gpuev_event_release(events[at]));
  }
  OK(gpuev_pool_get_statistics(pool, &statistics));
  CHECK(statistics.live == 0 && statistics.idle <= 2);
  OK(gpuev_pool_empty_cache(pool));
  OK(gpuev_pool_get_statistics(pool, &statistics));
  CHECK(statistics.idle == 0);

  /* R32: an event outlives its pool, and its device's handle. */
  gpuev_event event = event_from(pool, true);
  OK(gpuev_pool_release(pool));
  OK(gpuev_device_release(device));
  OK(gpuev_event_record(event, 0, true));
  OK(gpuev_event_synchronize(event));
  gpuev_device of = 0;
  OK(gpuev_event_get_device(event, &of));
  gpuev_device_info info;
  OK(gpuev_device_get_info(of, &info));
  CHECK(strncmp(info.name, name, strlen(name)) == 0);
  OK(gpuev_device_release(of));
  OK(gpuev_event_release(event));

  gpuev_pool shared = 0, again = 0;
  OK(gpuev_pool_get_shared(&shared));
  OK(gpuev_pool_get_shared(&again));
  CHECK(shared != again);
  event = event_from(shared, false);
  OK(gpuev_pool_get_statistics(again, &statistics));
  CHECK(statistics.live == 1);
  OK(gpuev_event_release(event));
  OK(gpuev_pool_release(shared));
  OK(gpuev_pool_release(again));
}

static void an_event_goes_through_its_states(const char *name) {
  gpuev_device device = another(name);
  gpuev_stream stream = stream_on(device);
  gpuev_pool pool = pool_on(device);
  gpuev_event event = event_from(pool, false);
  bool complete = true;

  /* R4: not recorded. */
  CHECK(status_of(event) == GPUEV_EVENT_STATUS_UNRECORDED);
  OK(gpuev_event_query(event, &complete));
  CHECK(!complete);
  OK(gpuev_event_synchronize(event));
  OK(gpuev_event_wait(event, GPUEV_FOREVER, GPUEV_WAIT_STRATEGY_SPIN, 0));
  bool inserted = true;
  OK(gpuev_stream_wait(stream, event, &inserted));
  CHECK(!inserted);

  gate held = hold_back(device, stream);
  OK(gpuev_event_record(event, stream, false));
  CHECK(status_of(event) == GPUEV_EVENT_STATUS_PENDING);
  complete = true;
  OK(gpuev_event_query(event, &complete));
  CHECK(!complete);
  /* R12: that time ran out is no error. */
  ANSWERS(GPUEV_STATUS_TIMED_OUT, gpuev_event_wait(event, 0, GPUEV_WAIT_STRATEGY_PARK, 0));
  ANSWERS(GPUEV_STATUS_TIMED_OUT, gpuev_event_wait(event, 1000, GPUEV_WAIT_STRATEGY_SPIN_THEN_PARK, 100));
  ANSWERS(GPUEV_STATUS_TIMED_OUT, gpuev_event_wait(event, 1000, GPUEV_WAIT_STRATEGY_SPIN, 0));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_event_wait(event, 0, 3, 0));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_event_wait(event, 0, UINT32_MAX, 0));
  ANSWERS(GPUEV_STATUS_TIMED_OUT, gpuev_stream_synchronize(stream, 1000));
  OK(gpuev_stream_flush(stream));

  /* On the same stream there is nothing to wait for, and on another there is. */
  gpuev_stream other = stream_on(device);
  OK(gpuev_stream_wait(stream, event, &inserted));
  CHECK(!inserted);
  OK(gpuev_stream_wait(other, event, &inserted));
  CHECK(inserted);

  open_gate(held);
  OK(gpuev_event_synchronize(event));
  CHECK(status_of(event) == GPUEV_EVENT_STATUS_COMPLETE);
  /* R11: asking twice is asking once. */
  for (int times = 0; times < 2; ++times) {
    OK(gpuev_event_query(event, &complete));
    CHECK(complete);
    OK(gpuev_event_wait(event, GPUEV_FOREVER, GPUEV_WAIT_STRATEGY_SPIN_THEN_PARK, UINT64_MAX));
  }
  OK(gpuev_stream_wait(other, event, &inserted));
  CHECK(!inserted);
  OK(gpuev_stream_synchronize(other, GPUEV_FOREVER));

  OK(gpuev_event_reset(event, true));
  CHECK(status_of(event) == GPUEV_EVENT_STATUS_UNRECORDED);
  bool timed = false;
  OK(gpuev_event_is_timed(event, &timed));
  CHECK(timed);

  gpuev_device of = 0;
  OK(gpuev_stream_get_device(other, &of));
  gpuev_stream its_default = 0;
  OK(gpuev_stream_get_default(of, &its_default));
  OK(gpuev_event_record(event, its_default, true));
  OK(gpuev_event_synchronize(event));
  OK(gpuev_stream_release(its_default));
  OK(gpuev_device_release(of));
  OK(gpuev_event_release(event));
  OK(gpuev_pool_release(pool));
  OK(gpuev_stream_release(other));
  OK(gpuev_stream_release(stream));
  OK(gpuev_device_release(device));
}

static void many_events_are_waited_for_together(const char *name) {
  gpuev_device device = another(name);
  gate gates[3] = {gate_on(device), gate_on(device), gate_on(device)};
  gpuev_event events[3] = {gates[0].event, gates[1].event, gates[2].event};
  size_t index = 77;

  ANSWERS(GPUEV_STATUS_TIMED_OUT, gpuev_wait_any(events, 3, 0, &index));
  ANSWERS(GPUEV_STATUS_TIMED_OUT, gpuev_wait_any(NULL, 0, GPUEV_FOREVER, &index));
  CHECK(index == 77);
  OK(gpuev_wait_all(NULL, 0, GPUEV_FOREVER));
  OK(gpuev_event_get_statuses(NULL, 0, NULL));
  OK(gpuev_signal_complete(gates[1].signal));
  OK(gpuev_wait_any(events, 3, GPUEV_FOREVER, &index));
  CHECK(index == 1);
  ANSWERS(GPUEV_STATUS_TIMED_OUT, gpuev_wait_all(events, 3, 1000));
  OK(gpuev_signal_complete(gates[0].signal));
  OK(gpuev_wait_all(events, 2, GPUEV_FOREVER));
  OK(gpuev_signal_fail(gates[2].signal, "on purpose"));
  ANSWERS(GPUEV_STATUS_ERROR_WORK_FAILED, gpuev_wait_all(events, 3, GPUEV_FOREVER));
  CHECK(strstr(gpuev_last_error(), "on purpose") != NULL);
  OK(gpuev_wait_any(events + 2, 1, GPUEV_FOREVER, &index));
  CHECK(index == 0);

  gpuev_event_status statuses[3];
  OK(gpuev_event_get_statuses(events, 3, statuses));
  CHECK(statuses[0] == GPUEV_EVENT_STATUS_COMPLETE && statuses[1] == GPUEV_EVENT_STATUS_COMPLETE);
  CHECK(statuses[2] == GPUEV_EVENT_STATUS_FAILED);
  for (int at = 0; at < 3; ++at) {
    release_gate(gates[at]);
  }
  OK(gpuev_device_release(device));
}

/* R20 to R22. */
static void time_is_measured_or_an_error(const char *name) {
  gpuev_device device = another(name);
  gpuev_stream stream = stream_on(device);
  gpuev_pool pool = pool_on(device);
  gpuev_event start = event_from(pool, true), end = event_from(pool, true), untimed = event_from(pool, false);
  double milliseconds = -1;
  uint64_t time = 0;

  ANSWERS(GPUEV_STATUS_ERROR_UNTIMED, gpuev_event_elapsed(untimed, end, &milliseconds));
  ANSWERS(GPUEV_STATUS_ERROR_UNTIMED, gpuev_event_get_completion_time(untimed, &time));
  ANSWERS(GPUEV_STATUS_ERROR_UNRECORDED, gpuev_event_elapsed(start, end, &milliseconds));
  ANSWERS(GPUEV_STATUS_ERROR_UNRECORDED, gpuev_event_get_completion_time(start, &time));
  OK(gpuev_event_record(start, stream, false));
  ANSWERS(GPUEV_STATUS_ERROR_UNRECORDED, gpuev_event_elapsed(start, end, &milliseconds));
  OK(gpuev_event_synchronize(start));
  gate held = hold_back(device, stream);
  OK(gpuev_event_record(end, stream, false));
  ANSWERS(GPUEV_STATUS_ERROR_NOT_COMPLETE, gpuev_event_get_completion_time(end, &time));
  CHECK(milliseconds == -1 && time == 0);
  open_gate(held);

  /* Waits for both, and can be asked again. */
  double back = 0, again = 0;
  OK(gpuev_event_elapsed(start, end, &milliseconds));
  OK(gpuev_event_elapsed(start, end, &again));
  OK(gpuev_event_elapsed(end, start, &back));
  CHECK(milliseconds >= 0 && milliseconds == again && milliseconds == -back);
  OK(gpuev_event_elapsed(end, end, &again));
  CHECK(again == 0);
  uint64_t first = 0, last = 0;
  OK(gpuev_event_get_completion_time(start, &first));
  OK(gpuev_event_get_completion_time(end, &last));
  CHECK(first <= last);
  double by_hand = (double)(last - first) / 1e6;
  CHECK(milliseconds <= by_hand + 1e-5 && milliseconds >= by_hand - 1e-5);

  /* Another device's clock, unless it is the same one. */
  gpuev_device host = 0;
  OK(gpuev_device_open("cpu", &host));
  gpuev_pool host_pool = pool_on(host);
  gpuev_event elsewhere = event_from(host_pool, true);
  OK(gpuev_event_record(elsewhere, 0, true));
  if (is_cpu(name)) {
    OK(gpuev_event_elapsed(start, elsewhere, &milliseconds));
  } else {
    ANSWERS(GPUEV_STATUS_ERROR_CLOCK_MISMATCH, gpuev_event_elapsed(start, elsewhere, &milliseconds));
  }
  /* R8: and other devices' streams are none to be recorded on, though they may wait. */
  ANSWERS(GPUEV_STATUS_ERROR_WRONG_DEVICE, gpuev_event_record(elsewhere, stream, false));
  CHECK(status_of(elsewhere) != GPUEV_EVENT_STATUS_UNRECORDED);
  OK(gpuev_stream_wait(stream, elsewhere, NULL));

  OK(gpuev_event_release(elsewhere));
  OK(gpuev_event_release(untimed));
  OK(gpuev_event_release(start));
  OK(gpuev_event_release(end));
  OK(gpuev_pool_release(host_pool));
  OK(gpuev_device_release(host));
  OK(gpuev_pool_release(pool));
  OK(gpuev_stream_release(stream));
  OK(gpuev_device_release(device));
}

static void a_stream_has_options(const char *name) {
  gpuev_device device = another(name);
  gpuev_stream_options options;
  memset(&options, 0, sizeof options);
  gpuev_stream stream = 0;
  options.signal = 3;
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_stream_create(device, &options, &stream));
  options.signal = UINT32_MAX;
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_stream_create(device, &options, &stream));
  CHECK(stream == 0);
  for (uint32_t signal = GPUEV_SIGNAL_KIND_DEFAULT; signal <= GPUEV_SIGNAL_KIND_PROMPT; ++signal) {
    options.signal = signal;
    OK(gpuev_stream_create(device, &options, &stream));
    OK(gpuev_stream_release(stream));
  }

  /* R5: a full queue says so, if it is asked to. */
  options.signal = GPUEV_SIGNAL_KIND_DEFAULT;
  options.label = "two at a time";
  options.queue_depth = 2;
  options.batch_bound = GPUEV_NO_BATCHES;
  options.would_block = true;
  options.native_foreign_waits = true;
  OK(gpuev_stream_create(device, &options, &stream));
  gpuev_pool pool = pool_on(device);
  gpuev_event event = event_from(pool, false);
  gate held = hold_back(device, stream);
  gpuev_status status = GPUEV_STATUS_OK;
  for (int times = 0; times < 3 && status == GPUEV_STATUS_OK; ++times) {
    status = gpuev_event_record(event, stream, false);
  }
  ANSWERS(GPUEV_STATUS_ERROR_WOULD_BLOCK, status);
  open_gate(held);
  OK(gpuev_stream_synchronize(stream, GPUEV_FOREVER));
  OK(gpuev_event_record(event, stream, false));
  OK(gpuev_event_release(event));
  OK(gpuev_pool_release(pool));
  OK(gpuev_stream_release(stream));
  OK(gpuev_device_release(device));
}

static void a_held_stream_is_the_holders(const char *name) {
  gpuev_device device = another(name);
  gpuev_stream stream = stream_on(device);
  gpuev_pool pool = pool_on(device);
  gpuev_event event = event_from(pool, false);
  gate held = gate_on(device);

  OK(gpuev_stream_lock(stream));
  ANSWERS(GPUEV_STATUS_ERROR_WOULD_DEADLOCK, gpuev_stream_lock(stream));
  bool inserted = false;
  OK(gpuev_stream_wait(stream, held.event, &inserted));
  CHECK(inserted);
  OK(gpuev_event_record(event, stream, true));
  OK(gpuev_stream_flush(stream));
  ANSWERS(GPUEV_STATUS_ERROR_WOULD_DEADLOCK, gpuev_event_synchronize(event));
  ANSWERS(GPUEV_STATUS_ERROR_WOULD_DEADLOCK, gpuev_stream_synchronize(stream, GPUEV_FOREVER));
  /* Errors leave it held. */
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_HANDLE, gpuev_event_record(0, stream, false));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_HANDLE, gpuev_stream_wait(stream, 0, NULL));
  ANSWERS(GPUEV_STATUS_ERROR_WOULD_DEADLOCK, gpuev_stream_lock(stream));
  /* A handle that was given back is good to let go by, and for nothing else. */
  gpuev_stream same = 0;
  OK(gpuev_stream_release(stream));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_HANDLE, gpuev_stream_get_device(stream, &same));
  OK(gpuev_stream_unlock(stream));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_stream_unlock(stream));
  open_gate(held);
  OK(gpuev_event_synchronize(event));
  OK(gpuev_event_release(event));
  OK(gpuev_pool_release(pool));
  OK(gpuev_device_release(device));
}

static int32_t fail_with_words(void *data) {
  (void)data;
  OK(gpuev_set_work_error("out of paper"));
  return -1;
}

static void work_runs_in_order_or_is_dropped(const char *name) {
  gpuev_device device = another(name);
  gpuev_stream stream = stream_on(device);
  int ran = 0;
  if (!is_cpu(name)) {
    int dropped = 0;
    ANSWERS(GPUEV_STATUS_ERROR_UNSUPPORTED, gpuev_stream_enqueue(stream, work_that_must_not_run, &dropped, count_up));
    CHECK(dropped == 1);
    OK(gpuev_stream_release(stream));
    OK(gpuev_device_release(device));
    return;
  }
  gpuev_pool pool = pool_on(device);
  gpuev_event before = event_from(pool, false), after = event_from(pool, false);
  OK(gpuev_stream_enqueue(stream, succeed, &ran, NULL));
  OK(gpuev_stream_lock(stream));
  OK(gpuev_stream_enqueue(stream, succeed, &ran, count_up));
  OK(gpuev_event_record(before, stream, false));
  OK(gpuev_stream_unlock(stream));
  OK(gpuev_event_synchronize(before));
  CHECK(ran == 3);

  /* R26: the failure stays, reaches who waits, and what comes behind it doesn't run. What was complete is complete. */
  gate held = hold_back(device, stream);
  gpuev_device elsewhere = another(name);
  gate released = gate_on(elsewhere), dropped = gate_on(elsewhere);
  OK(gpuev_stream_enqueue(stream, fail_with_seven, &released.signal, give_signal));
  OK(gpuev_stream_enqueue(stream, work_that_must_not_run, &dropped.signal, give_signal));
  OK(gpuev_event_record(after, stream, true));
  CHECK(status_of(released.event) == GPUEV_EVENT_STATUS_PENDING);
  CHECK(status_of(dropped.event) == GPUEV_EVENT_STATUS_PENDING);
  OK(gpuev_stream_get_error(stream));
  open_gate(held);
  ANSWERS(GPUEV_STATUS_ERROR_WORK_FAILED, gpuev_event_synchronize(after));
  CHECK(strstr(gpuev_last_error(), "7") != NULL);
  bool complete = true;
  ANSWERS(GPUEV_STATUS_ERROR_WORK_FAILED, gpuev_event_query(after, &complete));
  CHECK(complete);
  CHECK(status_of(after) == GPUEV_EVENT_STATUS_FAILED && status_of(before) == GPUEV_EVENT_STATUS_COMPLETE);
  ANSWERS(GPUEV_STATUS_ERROR_WORK_FAILED, gpuev_stream_get_error(stream));
  ANSWERS(GPUEV_STATUS_ERROR_WORK_FAILED, gpuev_stream_flush(stream));
  ANSWERS(GPUEV_STATUS_ERROR_WORK_FAILED, gpuev_stream_synchronize(stream, GPUEV_FOREVER));
  OK(gpuev_event_record(before, stream, false));
  CHECK(status_of(before) == GPUEV_EVENT_STATUS_FAILED);

  /* Work may say why, and said so for itself alone. */
  gpuev_stream wordy = stream_on(device), terse = stream_on(device);
  OK(gpuev_set_work_error("said by nobody's work"));
  OK(gpuev_stream_enqueue(wordy, fail_with_words, NULL, NULL));
  ANSWERS(GPUEV_STATUS_ERROR_WORK_FAILED, gpuev_stream_synchronize(wordy, GPUEV_FOREVER));
  CHECK(strstr(gpuev_last_error(), "out of paper") != NULL);
  gate last = gate_on(elsewhere);
  OK(gpuev_stream_enqueue(terse, fail_with_seven, &last.signal, give_signal));
  ANSWERS(GPUEV_STATUS_ERROR_WORK_FAILED, gpuev_stream_synchronize(terse, GPUEV_FOREVER));
  CHECK(strstr(gpuev_last_error(), "paper") == NULL && strstr(gpuev_last_error(), "7") != NULL);
  OK(gpuev_event_synchronize(last.event));
  release_gate(last);
  OK(gpuev_stream_release(wordy));
  OK(gpuev_stream_release(terse));

  /* What went with the work is let go of, whether it ran or not. */
  OK(gpuev_event_synchronize(released.event));
  OK(gpuev_event_synchronize(dropped.event));
  release_gate(released);
  release_gate(dropped);
  OK(gpuev_event_release(before));
  OK(gpuev_event_release(after));
  OK(gpuev_pool_release(pool));
  OK(gpuev_stream_release(stream));
  OK(gpuev_device_release(device));
  OK(gpuev_device_release(elsewhere));
}

/* R38. */
static void what_is_kept_goes_when_the_event_is_settled(const char *name) {
  gpuev_device device = another(name);
  gpuev_stream stream = stream_on(device);
  gpuev_pool pool = pool_on(device);
  gpuev_event event = event_from(pool, false);
  int gone = 0;
  OK(gpuev_stream_keep_until(stream, event, count_up, &gone));
  drain_callbacks(device, 0);
  CHECK(gone == 1);

  gate held = hold_back(device, stream);
  OK(gpuev_event_record(event, stream, true));
  OK(gpuev_stream_keep_until(stream, event, count_up, &gone));
  drain_callbacks(device, 0);
  CHECK(gone == 1);
  open_gate(held);
  OK(gpuev_event_synchronize(event));
  drain_callbacks(device, stream);
  CHECK(gone == 2);
  OK(gpuev_event_release(event));
  OK(gpuev_pool_release(pool));
  OK(gpuev_stream_release(stream));
  OK(gpuev_device_release(device));
}

/* R39, and that nobody waits for a producer that has gone. */
static void a_signal_is_given_once(const char *name) {
  gpuev_device device = another(name);
  gate completed = gate_on(device), failed = gate_on(device), abandoned = gate_on(device);
  OK(gpuev_signal_complete(completed.signal));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_HANDLE, gpuev_signal_complete(completed.signal));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_HANDLE, gpuev_signal_fail(completed.signal, "too late"));
  OK(gpuev_event_synchronize(completed.event));

  OK(gpuev_signal_fail(failed.signal, "on purpose"));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_HANDLE, gpuev_signal_complete(failed.signal));
  ANSWERS(GPUEV_STATUS_ERROR_WORK_FAILED, gpuev_event_synchronize(failed.event));
  CHECK(strstr(gpuev_last_error(), "on purpose") != NULL);

  OK(gpuev_signal_release(abandoned.signal));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_HANDLE, gpuev_signal_complete(abandoned.signal));
  ANSWERS(GPUEV_STATUS_ERROR_ABANDONED, gpuev_event_synchronize(abandoned.event));
  OK(gpuev_event_release(abandoned.event));
  release_gate(completed);
  release_gate(failed);
  OK(gpuev_device_release(device));
}

/* R37. */
static void an_external_recording_has_its_states(const char *name) {
  gpuev_device device = another(name);
  gpuev_event event = 0;
  gpuev_external token = 0;
  bool complete = true;
  size_t index = 0;

  OK(gpuev_external_event(device, &event, &token));
  ANSWERS(GPUEV_STATUS_ERROR_NOT_SUBMITTED, gpuev_event_synchronize(event));
  ANSWERS(GPUEV_STATUS_ERROR_NOT_SUBMITTED, gpuev_event_query(event, &complete));
  ANSWERS(GPUEV_STATUS_ERROR_NOT_SUBMITTED, gpuev_event_notify(event, never_told, NULL, NULL));
  ANSWERS(GPUEV_STATUS_ERROR_NOT_SUBMITTED, gpuev_event_wait(event, 0, GPUEV_WAIT_STRATEGY_PARK, 0));
  ANSWERS(GPUEV_STATUS_ERROR_NOT_SUBMITTED, gpuev_wait_any(&event, 1, 0, &index));
  ANSWERS(GPUEV_STATUS_ERROR_NOT_SUBMITTED, gpuev_wait_all(&event, 1, 0));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_external_complete(token));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_external_fail(token, "not yet"));
  OK(gpuev_external_submitted(token));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_external_submitted(token));
  CHECK(status_of(event) == GPUEV_EVENT_STATUS_PENDING);
  OK(gpuev_external_complete(token));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_external_complete(token));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_external_submitted(token));
  OK(gpuev_event_synchronize(event));
  OK(gpuev_external_release(token));
  CHECK(status_of(event) == GPUEV_EVENT_STATUS_COMPLETE);
  OK(gpuev_event_release(event));

  OK(gpuev_external_event(device, &event, &token));
  OK(gpuev_external_submitted(token));
  OK(gpuev_external_fail(token, "on purpose"));
  ANSWERS(GPUEV_STATUS_ERROR_WORK_FAILED, gpuev_event_synchronize(event));
  OK(gpuev_external_release(token));
  OK(gpuev_event_release(event));

  for (int submitted = 0; submitted < 2; ++submitted) {
    OK(gpuev_external_event(device, &event, &token));
    if (submitted) {
      OK(gpuev_external_submitted(token));
    }
    OK(gpuev_external_release(token));
    ANSWERS(GPUEV_STATUS_ERROR_ABANDONED, gpuev_event_synchronize(event));
    OK(gpuev_event_release(event));
  }
  OK(gpuev_device_release(device));
}

static void labels_are_where_people_look(const char *name) {
  gpuev_device device = another(name);
  gpuev_stream_options options;
  memset(&options, 0, sizeof options);
  options.label = "the stream's label";
  gpuev_stream stream = 0;
  OK(gpuev_stream_create(device, &options, &stream));
  gate held = hold_back(device, stream);
  OK(gpuev_event_set_label(held.event, "the event's label"));
  char report[4096];
  do {
    OK(gpuev_device_stall_report(device, report, sizeof report, NULL));
  } while (strstr(report, "the stream's label") == NULL);
  open_gate(held);
  OK(gpuev_stream_synchronize(stream, GPUEV_FOREVER));
  OK(gpuev_stream_release(stream));
  OK(gpuev_device_release(device));
}

/* R32: the end that is asked for. Everybody who waits is told, and every call on what is left is an answer. */
static void a_closed_device_answers(const char *name) {
  handles live = make_handles(name);
  gpuev_device device = live.of[DEVICE];
  gpuev_stream stream = live.of[STREAM];
  gpuev_event event = live.of[EVENT];
  gate held = hold_back(device, stream);
  OK(gpuev_event_record(event, stream, true));
  OK(gpuev_device_close(device));
  OK(gpuev_device_close(device));
  ANSWERS(GPUEV_STATUS_ERROR_CLOSED, gpuev_event_synchronize(event));
  ANSWERS(GPUEV_STATUS_ERROR_CLOSED, gpuev_event_synchronize(live.host));
  CHECK(status_of(event) == GPUEV_EVENT_STATUS_FAILED);
  ANSWERS(GPUEV_STATUS_ERROR_CLOSED, gpuev_stream_synchronize(stream, GPUEV_FOREVER));
  uint64_t out = 0;
  ANSWERS(GPUEV_STATUS_ERROR_CLOSED, gpuev_stream_create(device, NULL, &out));
  ANSWERS(GPUEV_STATUS_ERROR_CLOSED, gpuev_event_record(event, stream, false));
  int calls = 0;
  ANSWERS(is_cpu(name) ? GPUEV_STATUS_ERROR_CLOSED : GPUEV_STATUS_ERROR_UNSUPPORTED,
          gpuev_stream_enqueue(stream, work_that_must_not_run, &calls, count_up));
  CHECK(calls == 1);
  gpuev_device_info info;
  OK(gpuev_device_get_info(device, &info));
  size_t length = 0;
  OK(gpuev_device_stall_report(device, NULL, 0, &length));
  /* A signal that comes too late changes nothing. */
  OK(gpuev_signal_complete(held.signal));
  ANSWERS(GPUEV_STATUS_ERROR_CLOSED, gpuev_event_synchronize(held.event));
  release_gate(held);
  OK(gpuev_event_reset(event, false));
  CHECK(status_of(event) == GPUEV_EVENT_STATUS_UNRECORDED);
  /* Whatever the others answer, they do. */
  (void)gpuev_stream_get_default(device, &out);
  (void)gpuev_stream_flush(stream);
  if (gpuev_stream_lock(stream) == GPUEV_STATUS_OK) {
    OK(gpuev_stream_unlock(stream));
  }
  OK(gpuev_pool_empty_cache(live.of[POOL]));
  release_handles(&live);
}

/* What only some devices have, the others say that they don't. */
static void native_calls_answer_on_every_device(const char *name) {
  gpuev_device device = another(name);
  gpuev_stream stream = stream_on(device);
  gpuev_pool pool = pool_on(device);
  gpuev_event event = event_from(pool, false);
  OK(gpuev_event_record(event, stream, true));
  OK(gpuev_event_synchronize(event));
  void *raw = NULL;
  uint64_t number = 0;
  uint64_t out = 0;
  int calls = 0;
  if (strncmp(name, "cuda", 4) != 0) {
    ANSWERS(GPUEV_STATUS_ERROR_UNSUPPORTED, gpuev_cuda_get_stream(stream, &raw));
    ANSWERS(GPUEV_STATUS_ERROR_UNSUPPORTED, gpuev_cuda_get_context(device, &raw));
    ANSWERS(GPUEV_STATUS_ERROR_UNSUPPORTED, gpuev_cuda_adopt_stream(device, NULL, count_up, &calls, NULL, &out));
    ANSWERS(GPUEV_STATUS_ERROR_UNSUPPORTED, gpuev_cuda_import_event(device, NULL, count_up, &calls, &out));
    CHECK(calls == 2);
  } else {
    OK(gpuev_cuda_get_stream(stream, &raw));
    OK(gpuev_cuda_get_context(device, &raw));
    CHECK(raw != NULL);
  }
  if (strncmp(name, "vulkan", 6) != 0) {
    calls = 0;
    gpuev_vulkan_queue queue = {NULL, 0, NULL, NULL, NULL};
    queue.queue = &queue;
    ANSWERS(GPUEV_STATUS_ERROR_UNSUPPORTED, gpuev_vulkan_adopt_queue(device, &queue, count_up, &calls, NULL, &out));
    ANSWERS(GPUEV_STATUS_ERROR_UNSUPPORTED, gpuev_vulkan_submit(stream, NULL, 0, 0, count_up, &calls));
    CHECK(calls == 2);
    ANSWERS(GPUEV_STATUS_ERROR_UNSUPPORTED, gpuev_vulkan_get_handles(device, NULL, NULL, NULL));
    ANSWERS(GPUEV_STATUS_ERROR_UNSUPPORTED, gpuev_vulkan_get_queue(stream, NULL, NULL));
    gate pending = gate_on(device);
    ANSWERS(GPUEV_STATUS_ERROR_UNSUPPORTED, gpuev_vulkan_get_semaphore(pending.event, &number, &number));
    open_gate(pending);
  } else {
    void *instance = NULL, *physical = NULL;
    OK(gpuev_vulkan_get_handles(device, &instance, &physical, &raw));
    CHECK(instance != NULL && physical != NULL && raw != NULL);
    OK(gpuev_vulkan_get_handles(device, NULL, NULL, NULL));
    uint32_t family = UINT32_MAX;
    OK(gpuev_vulkan_get_queue(stream, &raw, &family));
    CHECK(raw != NULL && family != UINT32_MAX);
    uint64_t value = 1;
    OK(gpuev_vulkan_get_semaphore(event, &number, &value));
    ANSWERS(GPUEV_STATUS_OK, gpuev_vulkan_submit(stream, NULL, 0, 0, NULL, NULL));
  }
  if (strncmp(name, "metal", 5) != 0) {
    const gpuev_status answers[] = {
        gpuev_metal_get_device(device, &raw),
        gpuev_metal_adopt_queue(device, &out, NULL, &out),
        gpuev_metal_encode(stream, encode_nothing, NULL),
        gpuev_metal_get_shared_event(event, &raw, &number),
    };
    for (size_t at = 0; at < sizeof answers / sizeof *answers; ++at) {
      CHECK(answers[at] == GPUEV_STATUS_ERROR_UNSUPPORTED || answers[at] == GPUEV_STATUS_ERROR_UNAVAILABLE);
    }
  }
  OK(gpuev_event_release(event));
  OK(gpuev_pool_release(pool));
  OK(gpuev_stream_release(stream));
  OK(gpuev_device_release(device));
}

/* A thread holds a stream, and not a handle to it. */
static void a_held_stream_is_held_by_all_its_handles(const char *name) {
  gpuev_device device = another(name);
  gpuev_stream one = 0, two = 0, other = stream_on(device);
  OK(gpuev_stream_get_default(device, &one));
  OK(gpuev_stream_get_default(device, &two));
  uint64_t ids[3] = {0, 0, 0};
  OK(gpuev_stream_get_id(one, &ids[0]));
  OK(gpuev_stream_get_id(two, &ids[1]));
  OK(gpuev_stream_get_id(other, &ids[2]));
  CHECK(one != two && ids[0] == ids[1] && ids[0] != ids[2]);
  gpuev_device same = 0;
  OK(gpuev_stream_get_device(one, &same));
  OK(gpuev_device_get_id(device, &ids[0]));
  OK(gpuev_device_get_id(same, &ids[1]));
  CHECK(device != same && ids[0] == ids[1]);

  gpuev_pool pool = pool_on(device);
  gpuev_event event = event_from(pool, false);
  OK(gpuev_stream_lock(one));
  ANSWERS(GPUEV_STATUS_ERROR_WOULD_DEADLOCK, gpuev_stream_lock(two));
  OK(gpuev_event_record(event, one, false));
  OK(gpuev_event_record(event, two, false));
  OK(gpuev_event_record(event, 0, false));
  OK(gpuev_stream_wait(0, event, NULL));
  OK(gpuev_event_record(event, other, true));
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_stream_unlock(two));
  OK(gpuev_stream_unlock(one));
  OK(gpuev_event_synchronize(event));
  OK(gpuev_event_release(event));
  OK(gpuev_pool_release(pool));
  OK(gpuev_stream_release(one));
  OK(gpuev_stream_release(two));
  OK(gpuev_stream_release(other));
  OK(gpuev_device_release(same));
  OK(gpuev_device_release(device));
}

static const test TESTS[] = {
    TEST(devices_are_listed_opened_and_told_of),
    TEST(texts_fit_where_they_are_to_go),
    TEST(statuses_and_errors_have_words),
    TEST(pools_keep_what_comes_back),
    TEST(an_event_goes_through_its_states),
    TEST(many_events_are_waited_for_together),
    TEST(time_is_measured_or_an_error),
    TEST(a_stream_has_options),
    TEST(a_held_stream_is_the_holders),
    TEST(a_held_stream_is_held_by_all_its_handles),
    TEST(work_runs_in_order_or_is_dropped),
    TEST(what_is_kept_goes_when_the_event_is_settled),
    TEST(a_signal_is_given_once),
    TEST(an_external_recording_has_its_states),
    TEST(labels_are_where_people_look),
    TEST(a_closed_device_answers),
    TEST(native_calls_answer_on_every_device),
};

int main(int argc, char **argv) {
  return run_tests(argc, argv, TESTS, sizeof TESTS / sizeof *TESTS);
}
