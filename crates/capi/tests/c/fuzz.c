/* Random calls over the whole interface, with handles that are live, stale, made up, null, or of another kind, and from several
 * threads at once: no call crashes, hangs, or leaves anything behind.
 *
 *   fuzz DEVICE [CALLS] [SEED]
 *
 * The seed is printed, and makes what one thread does again; how threads interleave, nothing does. */

#include <time.h>

#include "../threads.h"
#include "shared.h"

enum { THREADS = 3, SLOTS = 12 };

/* The handles of one kind that all threads share: live ones, and ones that were released since. */
typedef struct slots {
  pthread_mutex_t lock;
  uint64_t handles[SLOTS];
} slots;

static slots shared[KINDS];
static const char *device_under_test;
/* Functions and the data that they were given for: each must be called once. */
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t counted = PTHREAD_COND_INITIALIZER;
static long owed, paid;

/* xorshift64*: small, and the same everywhere. */
typedef struct dice {
  uint64_t state;
} dice;

static uint64_t roll(dice *of) {
  of->state ^= of->state >> 12;
  of->state ^= of->state << 25;
  of->state ^= of->state >> 27;
  return of->state * UINT64_C(2685821657736338717);
}

static uint64_t below(dice *of, uint64_t bound) {
  return roll(of) % bound;
}

static bool one_in(dice *of, uint64_t bound) {
  return below(of, bound) == 0;
}

static void owe(long what) {
  CHECK(pthread_mutex_lock(&counting) == 0);
  owed += what;
  CHECK(pthread_mutex_unlock(&counting) == 0);
}

/* Each is called with memory of its own: called twice, or after being cancelled, it shows. */
static void pay(void *data) {
  CHECK(data != NULL);
  free(data);
  CHECK(pthread_mutex_lock(&counting) == 0);
  ++paid;
  CHECK(pthread_cond_broadcast(&counted) == 0);
  CHECK(pthread_mutex_unlock(&counting) == 0);
}

static void pay_told(void *data, gpuev_status status, const char *text) {
  CHECK(status <= 0 && text != NULL);
  pay(data);
}

static void *debt(void) {
  void *data = malloc(1);
  CHECK(data != NULL);
  owe(1);
  return data;
}

static void forgive(void *data) {
  free(data);
  owe(-1);
}

static int32_t do_work(void *data) {
  (void)data;
  return 0;
}

static int32_t fail_work(void *data) {
  (void)gpuev_set_work_error(data != NULL ? "fuzzed" : NULL);
  return 1;
}

/* A handle for an argument of this kind: mostly one that is or was good for it. */
static uint64_t pick(dice *of, int kind) {
  switch (below(of, 16)) {
    case 0:
      return 0;
    case 1:
      return roll(of);
    case 2:
      return below(of, 1000);
    case 3:
      kind = (int)below(of, KINDS);
      break;
    default:
      break;
  }
  slots *from = &shared[kind];
  CHECK(pthread_mutex_lock(&from->lock) == 0);
  uint64_t handle = from->handles[below(of, SLOTS)];
  CHECK(pthread_mutex_unlock(&from->lock) == 0);
  return handle;
}

static gpuev_status give_back(int kind, uint64_t handle) {
  switch (kind) {
    case DEVICE:
      return gpuev_device_release(handle);
    case STREAM:
      return gpuev_stream_release(handle);
    case POOL:
      return gpuev_pool_release(handle);
    case EVENT:
      return gpuev_event_release(handle);
    case CALLBACK:
      return gpuev_callback_release(handle);
    case SIGNAL:
      return gpuev_signal_release(handle);
    default:
      return gpuev_external_release(handle);
  }
}

/* Puts a new handle among the others, in the place of one that is then released, if nobody did that before. */
static void share(dice *of, int kind, uint64_t handle) {
  slots *to = &shared[kind];
  size_t at = below(of, SLOTS);
  CHECK(pthread_mutex_lock(&to->lock) == 0);
  uint64_t last = to->handles[at];
  to->handles[at] = handle;
  CHECK(pthread_mutex_unlock(&to->lock) == 0);
  gpuev_status status = give_back(kind, last);
  CHECK(status == GPUEV_STATUS_OK || status == GPUEV_STATUS_ERROR_INVALID_HANDLE);
}

/* A callback that is to be cancelled, and what it then no longer owes. */
typedef struct cancellable {
  gpuev_callback callback;
  void *data;
} cancellable;

static uint64_t small_time(dice *of) {
  return below(of, 4) == 0 ? 0 : below(of, 200000);
}

static void release_nothing(void *data) {
  CHECK(data == NULL);
}

/* The calls that have no time to run out: on what nobody else has, and on a device that somebody may close meanwhile. */
static void wait_for_ever(dice *of) {
  gpuev_device device = pick(of, DEVICE);
  gpuev_stream stream = 0;
  gpuev_pool pool = 0;
  gpuev_event event = 0;
  double time = -1;
  if (gpuev_stream_create(device, NULL, &stream) == GPUEV_STATUS_OK && gpuev_pool_create(device, 1, &pool) == 0 &&
      gpuev_event_acquire(pool, true, &event) == GPUEV_STATUS_OK) {
    (void)gpuev_event_record(event, stream, one_in(of, 2));
    gpuev_status status = one_in(of, 2) ? gpuev_event_synchronize(event) : gpuev_stream_synchronize(stream, GPUEV_FOREVER);
    CHECK(status == GPUEV_STATUS_OK || status == GPUEV_STATUS_ERROR_CLOSED);
    status = gpuev_event_elapsed(event, event, &time);
    CHECK(status == GPUEV_STATUS_OK ? time == 0 : time == -1);
  }
  (void)gpuev_event_release(event);
  (void)gpuev_pool_release(pool);
  (void)gpuev_stream_release(stream);
}

/* One call. The thread knows which stream it holds, and gives nothing to another one meanwhile: two threads that did that to each
 * other's would wait for ever, whatever library it is. */
static void call_something(dice *of, gpuev_stream *held, cancellable *mine) {
  uint64_t out = 0, other = 0;
  size_t count = 0;
  bool flag = false;
  double time = 0;
  void *raw = NULL;
  uint32_t number = 0;
  void *data = NULL;
  gpuev_event_status status;
  gpuev_event events[4];
  gpuev_event_status statuses[4];
  size_t some = below(of, 5);
  for (size_t at = 0; at < 4; ++at) {
    events[at] = pick(of, EVENT);
  }
  /* A null pointer, where a result would go. */
  bool null = one_in(of, 20);
  uint64_t *result = null ? NULL : &out;
  char text[24];
  snprintf(text, sizeof text, "%llx", (unsigned long long)roll(of));

  switch (below(of, 62)) {
    case 0: {
      gpuev_device_info infos[2];
      (void)gpuev_device_list(one_in(of, 4) ? NULL : infos, below(of, 3), null ? NULL : &count);
      break;
    }
    case 1:
      /* Few: an event can be recorded on its own device's streams alone. */
      if (gpuev_device_open(one_in(of, 8) ? device_under_test : text, result) == GPUEV_STATUS_OK) {
        share(of, DEVICE, out);
      }
      break;
    case 2:
      if (gpuev_device_get_default(result) == GPUEV_STATUS_OK) {
        OK(gpuev_device_release(out));
      }
      break;
    case 3:
      if (one_in(of, 4)) {
        (void)gpuev_device_release(pick(of, DEVICE));
      }
      break;
    case 4:
      if (one_in(of, 40)) {
        (void)gpuev_device_close(pick(of, DEVICE));
      }
      break;
    case 5: {
      gpuev_device_info info;
      (void)gpuev_device_get_info(pick(of, DEVICE), null ? NULL : &info);
      break;
    }
    case 6: {
      char report[64];
      (void)gpuev_device_stall_report(pick(of, DEVICE), one_in(of, 3) ? NULL : report, below(of, sizeof report + 1),
                                      null ? NULL : &count);
      break;
    }
    case 7:
    case 8:
      if (gpuev_pool_create(pick(of, DEVICE), below(of, 5), result) == GPUEV_STATUS_OK) {
        share(of, POOL, out);
      }
      break;
    case 9:
      if (gpuev_pool_get_shared(result) == GPUEV_STATUS_OK) {
        share(of, POOL, out);
      }
      break;
    case 10:
      (void)gpuev_pool_release(pick(of, POOL));
      break;
    case 11:
      (void)gpuev_pool_empty_cache(pick(of, POOL));
      break;
    case 12: {
      gpuev_pool_statistics statistics;
      (void)gpuev_pool_get_statistics(pick(of, POOL), null ? NULL : &statistics);
      break;
    }
    case 13:
      (void)gpuev_event_count(null ? NULL : &count);
      break;
    case 14:
    case 15:
    case 16:
      if (gpuev_event_acquire(pick(of, POOL), one_in(of, 2), result) == GPUEV_STATUS_OK) {
        share(of, EVENT, out);
      }
      break;
    case 17:
      (void)gpuev_event_release(pick(of, EVENT));
      break;
    case 18:
    case 19:
    case 20:
      (void)gpuev_event_record(pick(of, EVENT), *held != 0 ? *held : pick(of, STREAM), one_in(of, 2));
      break;
    case 21:
      (void)gpuev_event_reset(pick(of, EVENT), one_in(of, 2));
      break;
    case 22:
      (void)gpuev_event_query(pick(of, EVENT), null ? NULL : &flag);
      break;
    case 23:
      (void)gpuev_event_get_status(pick(of, EVENT), null ? NULL : &status);
      break;
    case 24:
      (void)gpuev_event_get_statuses(events, some < 4 ? some : 4, null ? NULL : statuses);
      break;
    case 25:
      wait_for_ever(of);
      break;
    case 26:
    case 27:
      (void)gpuev_event_wait(pick(of, EVENT), small_time(of), (uint32_t)below(of, 4), below(of, 100000));
      break;
    case 28:
      (void)gpuev_wait_any(null ? NULL : events, some < 4 ? some : 4, small_time(of), one_in(of, 9) ? NULL : &count);
      break;
    case 29:
      (void)gpuev_wait_all(null ? NULL : events, some < 4 ? some : 4, small_time(of));
      break;
    case 30:
      (void)gpuev_event_elapsed(one_in(of, 2) ? 0 : roll(of), pick(of, EVENT), null ? NULL : &time);
      break;
    case 31:
      (void)gpuev_event_get_completion_time(pick(of, EVENT), result);
      break;
    case 32:
      (void)gpuev_event_is_timed(pick(of, EVENT), null ? NULL : &flag);
      break;
    case 33:
      if (gpuev_event_get_device(pick(of, EVENT), result) == GPUEV_STATUS_OK) {
        OK(gpuev_device_release(out));
      }
      break;
    case 34:
      (void)gpuev_event_set_label(pick(of, EVENT), null ? NULL : text);
      break;
    case 35:
      data = debt();
      if (gpuev_event_notify(pick(of, EVENT), null ? NULL : pay_told, data, NULL) != GPUEV_STATUS_OK) {
        forgive(data);
      }
      break;
    case 36:
      /* One that this thread alone knows, to be cancelled later. */
      if (mine->data == NULL) {
        data = debt();
        if (gpuev_event_notify(pick(of, EVENT), pay_told, data, &out) != GPUEV_STATUS_OK) {
          forgive(data);
          break;
        }
        mine->callback = out;
        mine->data = data;
      }
      break;
    case 37:
      if (mine->data != NULL) {
        OK(gpuev_callback_cancel(mine->callback, &flag));
        if (flag) {
          forgive(mine->data);
        }
        OK(gpuev_callback_release(mine->callback));
        mine->callback = 0;
        mine->data = NULL;
      }
      break;
    case 38:
      /* One that anybody may cancel: it owes nothing. */
      if (gpuev_event_notify(pick(of, EVENT), ignore_outcome, NULL, &out) == GPUEV_STATUS_OK) {
        share(of, CALLBACK, out);
      }
      break;
    case 39:
      (void)gpuev_callback_cancel(pick(of, CALLBACK), null ? NULL : &flag);
      break;
    case 40:
      (void)gpuev_callback_release(pick(of, CALLBACK));
      break;
    case 41:
    case 42: {
      gpuev_stream_options options;
      memset(&options, 0, sizeof options);
      options.label = one_in(of, 2) ? text : NULL;
      options.queue_depth = below(of, 4);
      options.batch_bound = one_in(of, 4) ? GPUEV_NO_BATCHES : below(of, 5);
      options.signal = (uint32_t)below(of, 4);
      /* A thread that waited for room might wait for what it is to do itself. */
      options.would_block = options.queue_depth != 0;
      options.native_foreign_waits = one_in(of, 4);
      if (gpuev_stream_create(pick(of, DEVICE), one_in(of, 3) ? NULL : &options, result) == GPUEV_STATUS_OK) {
        share(of, STREAM, out);
      }
      break;
    }
    case 43:
      if (gpuev_stream_get_default(pick(of, DEVICE), result) == GPUEV_STATUS_OK) {
        share(of, STREAM, out);
      }
      break;
    case 44:
      (void)gpuev_stream_release(pick(of, STREAM));
      break;
    case 45:
      if (gpuev_stream_get_device(pick(of, STREAM), result) == GPUEV_STATUS_OK) {
        share(of, DEVICE, out);
      }
      break;
    case 46:
      (void)gpuev_stream_wait(*held != 0 ? *held : pick(of, STREAM), pick(of, EVENT), null ? NULL : &flag);
      break;
    case 47:
      (void)gpuev_stream_flush(pick(of, STREAM));
      break;
    case 48:
      if (*held != 0) {
        /* Its handle may be gone by now. */
        gpuev_status refused = gpuev_stream_synchronize(*held, GPUEV_FOREVER);
        CHECK(refused == GPUEV_STATUS_ERROR_WOULD_DEADLOCK || refused == GPUEV_STATUS_ERROR_INVALID_HANDLE);
      } else {
        (void)gpuev_stream_synchronize(pick(of, STREAM), small_time(of));
      }
      break;
    case 49:
      (void)gpuev_stream_get_error(pick(of, STREAM));
      break;
    case 50:
      /* One at a time: two threads that hold two streams each may well wait for each other. */
      if (*held == 0) {
        gpuev_stream stream = pick(of, STREAM);
        if (gpuev_stream_lock(stream) == GPUEV_STATUS_OK) {
          *held = stream;
        }
      }
      break;
    case 51:
      if (*held != 0) {
        OK(gpuev_stream_unlock(*held));
        *held = 0;
      } else {
        ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_stream_unlock(pick(of, STREAM)));
      }
      break;
    case 52:
      (void)gpuev_stream_enqueue(*held != 0 ? *held : pick(of, STREAM), null ? NULL : one_in(of, 20) ? fail_work : do_work,
                                 debt(), pay);
      break;
    case 53:
      /* Never called where nobody knows whether the device is done: nothing is owed. */
      (void)gpuev_stream_keep_until(pick(of, STREAM), pick(of, EVENT), null ? NULL : release_nothing, NULL);
      break;
    case 54:
      if (gpuev_host_event(pick(of, DEVICE), one_in(of, 2) ? text : NULL, result, one_in(of, 20) ? NULL : &other) ==
          GPUEV_STATUS_OK) {
        share(of, EVENT, out);
        share(of, SIGNAL, other);
      }
      break;
    case 55:
      (void)gpuev_signal_complete(pick(of, SIGNAL));
      break;
    case 56:
      if (one_in(of, 3)) {
        (void)gpuev_signal_fail(pick(of, SIGNAL), null ? NULL : text);
      } else {
        (void)gpuev_signal_release(pick(of, SIGNAL));
      }
      break;
    case 57:
      if (gpuev_external_event(pick(of, DEVICE), result, one_in(of, 20) ? NULL : &other) == GPUEV_STATUS_OK) {
        share(of, EVENT, out);
        share(of, EXTERNAL, other);
      }
      break;
    case 58:
      (void)gpuev_external_submitted(pick(of, EXTERNAL));
      break;
    case 59:
      if (one_in(of, 2)) {
        (void)gpuev_external_complete(pick(of, EXTERNAL));
      } else if (one_in(of, 2)) {
        (void)gpuev_external_fail(pick(of, EXTERNAL), null ? NULL : text);
      } else {
        (void)gpuev_external_release(pick(of, EXTERNAL));
      }
      break;
    case 60:
      switch (below(of, 10)) {
        case 0:
          (void)gpuev_cuda_get_stream(pick(of, STREAM), null ? NULL : &raw);
          break;
        case 1:
          (void)gpuev_cuda_get_context(pick(of, DEVICE), null ? NULL : &raw);
          break;
        case 2:
          /* CUDA's own default stream is one that can be adopted. */
          if (gpuev_cuda_adopt_stream(pick(of, DEVICE), NULL, pay, debt(), NULL, result) == GPUEV_STATUS_OK) {
            share(of, STREAM, out);
          }
          break;
        case 3:
          (void)gpuev_metal_get_device(pick(of, DEVICE), null ? NULL : &raw);
          break;
        case 4:
          (void)gpuev_metal_get_shared_event(pick(of, EVENT), NULL, result);
          break;
        case 5:
          (void)gpuev_vulkan_get_handles(pick(of, DEVICE), &raw, null ? NULL : &raw, &raw);
          break;
        case 6:
          (void)gpuev_vulkan_get_queue(pick(of, STREAM), null ? NULL : &raw, &number);
          break;
        case 7:
          (void)gpuev_vulkan_get_semaphore(pick(of, EVENT), result, &other);
          break;
        case 8:
          /* No command buffers, but a place in the order. */
          (void)gpuev_vulkan_submit(*held != 0 ? *held : pick(of, STREAM), NULL, null ? 1 : 0, (uint32_t)below(of, 2), pay,
                                    debt());
          break;
        default:
          (void)gpuev_vulkan_open(NULL, pay, debt(), result);
          break;
      }
      break;
    default:
      CHECK(strlen(gpuev_status_name((int32_t)(uint32_t)roll(of))) > 0);
      CHECK(gpuev_last_error() != NULL && gpuev_version() != NULL);
      break;
  }
}

typedef struct job {
  uint64_t seed;
  uint64_t calls;
} job;

static void *call_many(void *data) {
  job *of = (job *)data;
  dice thrown = {of->seed};
  gpuev_stream held = 0;
  cancellable mine = {0, NULL};
  for (uint64_t calls = 0; calls < of->calls; ++calls) {
    call_something(&thrown, &held, &mine);
  }
  if (mine.data != NULL) {
    OK(gpuev_callback_release(mine.callback));
  }
  /* Or not: then the thread's end does. */
  if (held != 0 && one_in(&thrown, 2)) {
    OK(gpuev_stream_unlock(held));
  }
  return NULL;
}

/* From another thread than those that made the calls: no table's lock is held any more, nor any stream's. */
static void *find_all_free(void *data) {
  (void)data;
  handles live = make_handles(device_under_test);
  for (int kind = 0; kind < KINDS; ++kind) {
    for (size_t at = 0; at < SLOTS; ++at) {
      uint64_t handle = shared[kind].handles[at];
      if (kind == STREAM && gpuev_stream_lock(handle) == GPUEV_STATUS_OK) {
        OK(gpuev_stream_unlock(handle));
      }
      (void)give_back(kind, handle);
      ANSWERS(GPUEV_STATUS_ERROR_INVALID_HANDLE, give_back(kind, handle));
      shared[kind].handles[at] = 0;
    }
  }
  release_handles(&live);
  return NULL;
}

static void fuzz(uint64_t seed, uint64_t calls, int threads) {
  pthread_t running[THREADS];
  job jobs[THREADS];
  for (int at = 0; at < threads; ++at) {
    jobs[at].seed = (seed + (uint64_t)at) * UINT64_C(0x9e3779b97f4a7c15) | 1;
    jobs[at].calls = calls / (uint64_t)threads;
    running[at] = start_thread(call_many, &jobs[at]);
  }
  for (int at = 0; at < threads; ++at) {
    join_thread(running[at]);
  }
  join_thread(start_thread(find_all_free, NULL));
  /* With their producers gone, all recordings are settled, and whoever was to be called is. */
  CHECK(pthread_mutex_lock(&counting) == 0);
  while (paid != owed) {
    CHECK(paid < owed);
    CHECK(pthread_cond_wait(&counted, &counting) == 0);
  }
  CHECK(pthread_mutex_unlock(&counting) == 0);
  CHECK(events_held() == 0);
  printf("%d thread%s, %llu calls, %ld functions called once each\n", threads, threads == 1 ? "" : "s",
         (unsigned long long)calls, paid);
}

int main(int argc, char **argv) {
  device_under_test = device_name(argc, argv);
  uint64_t calls = argc > 2 ? strtoull(argv[2], NULL, 0) : 12000;
  uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 0) : (uint64_t)time(NULL);
  printf("%s %s %llu %llu\n", argv[0], device_under_test, (unsigned long long)calls, (unsigned long long)seed);
  fflush(stdout);
  OK(gpuev_device_release(open_device(device_under_test)));
  for (int kind = 0; kind < KINDS; ++kind) {
    CHECK(pthread_mutex_init(&shared[kind].lock, NULL) == 0);
  }
  fuzz(seed, calls, 1);
  fuzz(seed, calls, THREADS);
  return 0;
}
