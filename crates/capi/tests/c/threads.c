/* R34: calls from many threads, and who holds what when a thread ends. */

#include "../threads.h"
#include "shared.h"

/* What several threads use while another one releases it. */
typedef struct used {
  gpuev_device device;
  gpuev_stream stream;
  gpuev_pool pool;
  gpuev_event event;
  gpuev_callback callback;
  meeting start;
} used;

static void ok_or_gone(gpuev_status status) {
  if (status != GPUEV_STATUS_ERROR_INVALID_HANDLE && status != GPUEV_STATUS_TIMED_OUT) {
    ANSWERS(GPUEV_STATUS_OK, status);
  }
}

static void *use_it(void *data) {
  used *with = (used *)data;
  meet(&with->start);
  for (int times = 0; times < 20; ++times) {
    bool flag = false;
    gpuev_event_status status;
    uint64_t made = 0;
    double time = 0;
    ok_or_gone(gpuev_event_record(with->event, with->stream, times % 2 == 0));
    ok_or_gone(gpuev_event_query(with->event, &flag));
    ok_or_gone(gpuev_event_get_status(with->event, &status));
    ok_or_gone(gpuev_event_wait(with->event, SOON, GPUEV_WAIT_STRATEGY_PARK, 0));
    gpuev_status elapsed = gpuev_event_elapsed(with->event, with->event, &time);
    CHECK(elapsed == GPUEV_STATUS_OK || elapsed == GPUEV_STATUS_ERROR_INVALID_HANDLE ||
          elapsed == GPUEV_STATUS_ERROR_UNRECORDED || elapsed == GPUEV_STATUS_ERROR_UNTIMED ||
          elapsed == GPUEV_STATUS_ERROR_NOT_COMPLETE);
    ok_or_gone(gpuev_event_reset(with->event, times % 3 != 0));
    ok_or_gone(gpuev_stream_wait(with->stream, with->event, NULL));
    ok_or_gone(gpuev_stream_flush(with->stream));
    ok_or_gone(gpuev_callback_cancel(with->callback, &flag));
    gpuev_status acquired = gpuev_event_acquire(with->pool, true, &made);
    ok_or_gone(acquired);
    if (acquired == GPUEV_STATUS_OK) {
      ok_or_gone(gpuev_event_record(made, with->stream, false));
      OK(gpuev_event_release(made));
    }
    gpuev_status locked = gpuev_stream_lock(with->stream);
    ok_or_gone(locked);
    if (locked == GPUEV_STATUS_OK) {
      gpuev_status recorded = gpuev_event_record(with->event, with->stream, false);
      /* A full queue is no place to wait for while it is held. */
      if (recorded != GPUEV_STATUS_ERROR_WOULD_BLOCK) {
        ok_or_gone(recorded);
      }
      OK(gpuev_stream_unlock(with->stream));
    }
  }
  return NULL;
}

static void what_is_in_use_may_be_released(const char *name) {
  enum { USERS = 3 };
  for (int round = 0; round < 10; ++round) {
    used with;
    with.device = another(name);
    with.stream = stream_on(with.device);
    with.pool = pool_on(with.device);
    with.event = event_from(with.pool, true);
    gate never_opened = gate_on(with.device);
    OK(gpuev_event_notify(never_opened.event, ignore_outcome, NULL, &with.callback));
    meeting_of(&with.start, USERS + 1);
    pthread_t users[USERS];
    for (int at = 0; at < USERS; ++at) {
      users[at] = start_thread(use_it, &with);
    }
    meet(&with.start);
    OK(gpuev_callback_release(with.callback));
    OK(gpuev_event_release(with.event));
    OK(gpuev_pool_release(with.pool));
    OK(gpuev_stream_release(with.stream));
    OK(gpuev_device_release(with.device));
    for (int at = 0; at < USERS; ++at) {
      join_thread(users[at]);
    }
    end_meeting(&with.start);
    release_gate(never_opened);
  }
}

static void *hold_and_end(void *data) {
  used *with = (used *)data;
  OK(gpuev_stream_lock(with->stream));
  OK(gpuev_event_record(with->event, with->stream, false));
  return NULL;
}

static void a_thread_that_ends_lets_go(const char *name) {
  used with;
  with.device = another(name);
  with.stream = stream_on(with.device);
  with.pool = pool_on(with.device);
  with.event = event_from(with.pool, false);
  join_thread(start_thread(hold_and_end, &with));
  OK(gpuev_event_synchronize(with.event));
  OK(gpuev_stream_lock(with.stream));
  OK(gpuev_event_record(with.event, with.stream, false));
  OK(gpuev_stream_unlock(with.stream));
  OK(gpuev_event_synchronize(with.event));
  OK(gpuev_event_release(with.event));
  OK(gpuev_pool_release(with.pool));
  OK(gpuev_stream_release(with.stream));
  OK(gpuev_device_release(with.device));
}

static void *record_when_it_is_free(void *data) {
  used *with = (used *)data;
  /* Not this thread's to let go of. */
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_stream_unlock(with->stream));
  meet(&with->start);
  OK(gpuev_event_record(with->event, with->stream, true));
  return NULL;
}

typedef struct order {
  int next;
  gate all;
} order;

typedef struct place {
  order *in;
  int at;
} place;

static void take_place(void *data, gpuev_status status, const char *text) {
  place *mine = (place *)data;
  (void)text;
  ANSWERS(GPUEV_STATUS_OK, status);
  CHECK(mine->in->next == mine->at);
  if (++mine->in->next == 3) {
    OK(gpuev_signal_complete(mine->in->all.signal));
  }
}

static void what_a_holder_gives_stays_together(const char *name) {
  used with;
  with.device = another(name);
  with.stream = stream_on(with.device);
  with.pool = pool_on(with.device);
  with.event = event_from(with.pool, false);
  meeting_of(&with.start, 2);
  gpuev_event first = event_from(with.pool, false), second = event_from(with.pool, false);
  gate held = gate_on(with.device);

  OK(gpuev_stream_lock(with.stream));
  OK(gpuev_stream_wait(with.stream, held.event, NULL));
  OK(gpuev_event_record(first, with.stream, false));
  pthread_t other = start_thread(record_when_it_is_free, &with);
  meet(&with.start);
  OK(gpuev_event_record(second, with.stream, false));
  CHECK(status_of(with.event) == GPUEV_EVENT_STATUS_UNRECORDED);
  OK(gpuev_stream_unlock(with.stream));
  join_thread(other);

  /* The holder's two, and then the other's. */
  order all = {0, gate_on(with.device)};
  place places[3] = {{&all, 0}, {&all, 1}, {&all, 2}};
  OK(gpuev_event_notify(with.event, take_place, &places[2], NULL));
  OK(gpuev_event_notify(second, take_place, &places[1], NULL));
  OK(gpuev_event_notify(first, take_place, &places[0], NULL));
  open_gate(held);
  OK(gpuev_event_synchronize(all.all.event));
  release_gate(all.all);
  end_meeting(&with.start);
  OK(gpuev_event_release(first));
  OK(gpuev_event_release(second));
  OK(gpuev_event_release(with.event));
  OK(gpuev_pool_release(with.pool));
  OK(gpuev_stream_release(with.stream));
  OK(gpuev_device_release(with.device));
}

/* R18 under load: each callback is called, or its cancelling says true, and never both. */
typedef struct contested {
  meeting start;
  gpuev_signal signal;
  gpuev_callback callback;
  int called;
  bool cancelled[2];
} contested;

static void *complete_it(void *data) {
  contested *over = (contested *)data;
  meet(&over->start);
  OK(gpuev_signal_complete(over->signal));
  return NULL;
}

static void *cancel_it(void *data) {
  contested *over = (contested *)data;
  meet(&over->start);
  OK(gpuev_callback_cancel(over->callback, &over->cancelled[1]));
  return NULL;
}

static void note_call(void *data, gpuev_status status, const char *text) {
  (void)text;
  ANSWERS(GPUEV_STATUS_OK, status);
  ++((contested *)data)->called;
}

static void cancelling_tells_the_truth_under_load(const char *name) {
  gpuev_device device = another(name);
  gpuev_stream stream = stream_on(device);
  gpuev_pool pool = pool_on(device);
  gpuev_event after = event_from(pool, false);
  for (int round = 0; round < 100; ++round) {
    contested over;
    memset(&over, 0, sizeof over);
    meeting_of(&over.start, 3);
    gate held = hold_back(device, stream);
    over.signal = held.signal;
    OK(gpuev_event_record(after, stream, true));
    OK(gpuev_event_notify(after, note_call, &over, &over.callback));
    pthread_t completer = start_thread(complete_it, &over), canceller = start_thread(cancel_it, &over);
    meet(&over.start);
    OK(gpuev_callback_cancel(over.callback, &over.cancelled[0]));
    join_thread(completer);
    join_thread(canceller);
    drain_callbacks(device, stream);
    CHECK(over.called + (over.cancelled[0] ? 1 : 0) + (over.cancelled[1] ? 1 : 0) == 1);
    OK(gpuev_callback_release(over.callback));
    release_gate(held);
    end_meeting(&over.start);
  }
  OK(gpuev_event_release(after));
  OK(gpuev_pool_release(pool));
  OK(gpuev_stream_release(stream));
  OK(gpuev_device_release(device));
}

static void *make_another_error(void *data) {
  (void)data;
  CHECK(strlen(gpuev_last_error()) == 0);
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_HANDLE, gpuev_stream_flush(0));
  CHECK(strstr(gpuev_last_error(), "stream") != NULL);
  return NULL;
}

static void each_thread_has_its_own_last_error(const char *name) {
  (void)name;
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_HANDLE, gpuev_pool_release(0));
  join_thread(start_thread(make_another_error, NULL));
  CHECK(strstr(gpuev_last_error(), "pool") != NULL);
}

static const test TESTS[] = {
    TEST(what_is_in_use_may_be_released),
    TEST(a_thread_that_ends_lets_go),
    TEST(what_a_holder_gives_stays_together),
    TEST(cancelling_tells_the_truth_under_load),
    TEST(each_thread_has_its_own_last_error),
};

int main(int argc, char **argv) {
  return run_tests(argc, argv, TESTS, sizeof TESTS / sizeof *TESTS);
}
