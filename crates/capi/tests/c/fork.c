/* R41: in the child of a fork, every call is an error that says so; nothing hangs, and the parent's work is not touched. */

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../threads.h"
#include "shared.h"

/* As a callback and a release function: what was given for the call comes back from a call that fails. */
static void note(void *data) {
  ++*(int *)data;
}

#define FORKED(call) ANSWERS(GPUEV_STATUS_ERROR_FORKED, call)

static void every_call(const handles *live, const char *name) {
  gpuev_device device = live->of[DEVICE];
  gpuev_stream stream = live->of[STREAM];
  gpuev_pool pool = live->of[POOL];
  gpuev_event event = live->of[EVENT];
  uint64_t out = 0;
  size_t count = 0;
  bool flag = false;
  double time = 0;
  void *raw = NULL;
  int released = 0;
  gpuev_event_status status;
  gpuev_device_info info;
  gpuev_pool_statistics statistics;

  FORKED(gpuev_device_list(NULL, 0, &count));
  FORKED(gpuev_device_open(name, &out));
  FORKED(gpuev_device_open("cpu", &out));
  FORKED(gpuev_device_get_default(&out));
  FORKED(gpuev_device_close(device));
  FORKED(gpuev_device_get_info(device, &info));
  FORKED(gpuev_device_stall_report(device, NULL, 0, &count));
  FORKED(gpuev_pool_create(device, 0, &out));
  FORKED(gpuev_pool_get_shared(&out));
  FORKED(gpuev_pool_empty_cache(pool));
  FORKED(gpuev_pool_get_statistics(pool, &statistics));
  FORKED(gpuev_event_count(&count));
  FORKED(gpuev_event_acquire(pool, true, &out));
  FORKED(gpuev_event_record(event, stream, true));
  FORKED(gpuev_event_record(event, 0, false));
  FORKED(gpuev_event_reset(event, true));
  FORKED(gpuev_event_query(event, &flag));
  FORKED(gpuev_event_get_status(event, &status));
  FORKED(gpuev_event_get_statuses(&event, 1, &status));
  FORKED(gpuev_event_synchronize(event));
  FORKED(gpuev_event_wait(event, GPUEV_FOREVER, GPUEV_WAIT_STRATEGY_SPIN, 0));
  FORKED(gpuev_wait_any(&event, 1, GPUEV_FOREVER, &count));
  FORKED(gpuev_wait_all(&event, 1, GPUEV_FOREVER));
  FORKED(gpuev_event_elapsed(event, event, &time));
  FORKED(gpuev_event_get_completion_time(event, &out));
  FORKED(gpuev_event_is_timed(event, &flag));
  FORKED(gpuev_event_get_device(event, &out));
  FORKED(gpuev_event_set_label(event, "label"));
  FORKED(gpuev_event_notify(event, never_told, NULL, &out));
  FORKED(gpuev_callback_cancel(live->of[CALLBACK], &flag));
  FORKED(gpuev_stream_create(device, NULL, &out));
  FORKED(gpuev_stream_get_default(device, &out));
  FORKED(gpuev_device_get_id(device, &out));
  FORKED(gpuev_stream_get_id(stream, &out));
  FORKED(gpuev_stream_get_device(stream, &out));
  FORKED(gpuev_stream_wait(stream, event, &flag));
  FORKED(gpuev_stream_flush(stream));
  FORKED(gpuev_stream_synchronize(stream, GPUEV_FOREVER));
  FORKED(gpuev_stream_get_error(stream));
  FORKED(gpuev_stream_lock(stream));
  FORKED(gpuev_stream_unlock(stream));
  FORKED(gpuev_stream_enqueue(stream, work_that_must_not_run, &released, note));
  FORKED(gpuev_set_work_error("not heard"));
  FORKED(gpuev_stream_keep_until(stream, event, never, NULL));
  FORKED(gpuev_host_event(device, NULL, &out, &out));
  FORKED(gpuev_signal_complete(live->of[SIGNAL]));
  FORKED(gpuev_signal_fail(live->of[SIGNAL], "reason"));
  FORKED(gpuev_external_event(device, &out, &out));
  FORKED(gpuev_external_submitted(live->of[EXTERNAL]));
  FORKED(gpuev_external_complete(live->of[EXTERNAL]));
  FORKED(gpuev_external_fail(live->of[EXTERNAL], "reason"));

  gpuev_vulkan_device nothing;
  memset(&nothing, 0, sizeof nothing);
  gpuev_vulkan_queue queue = {NULL, 0, NULL, NULL, NULL};
  FORKED(gpuev_cuda_get_stream(stream, &raw));
  FORKED(gpuev_cuda_get_context(device, &raw));
  FORKED(gpuev_cuda_adopt_stream(device, NULL, note, &released, NULL, &out));
  FORKED(gpuev_cuda_import_event(device, NULL, note, &released, &out));
  FORKED(gpuev_metal_open(&out, &out));
  FORKED(gpuev_metal_get_device(device, &raw));
  FORKED(gpuev_metal_adopt_queue(device, &out, NULL, &out));
  FORKED(gpuev_metal_encode(stream, encode_nothing, NULL));
  FORKED(gpuev_metal_get_shared_event(event, &raw, &out));
  FORKED(gpuev_vulkan_open(&nothing, note, &released, &out));
  FORKED(gpuev_vulkan_adopt_queue(device, &queue, note, &released, NULL, &out));
  FORKED(gpuev_vulkan_submit(stream, NULL, 0, 0, note, &released));
  FORKED(gpuev_vulkan_get_handles(device, NULL, NULL, NULL));
  FORKED(gpuev_vulkan_get_queue(stream, NULL, NULL));
  FORKED(gpuev_vulkan_get_semaphore(event, &out, &out));
  CHECK(released == 6);

  FORKED(gpuev_callback_release(live->of[CALLBACK]));
  FORKED(gpuev_external_release(live->of[EXTERNAL]));
  FORKED(gpuev_signal_release(live->of[SIGNAL]));
  FORKED(gpuev_event_release(event));
  FORKED(gpuev_pool_release(pool));
  FORKED(gpuev_stream_release(stream));
  FORKED(gpuev_device_release(device));

  /* What looks at nothing of the parent's works. */
  CHECK(strlen(gpuev_last_error()) > 0);
  CHECK(strcmp(gpuev_status_name(GPUEV_STATUS_ERROR_FORKED), "forked") == 0);
  CHECK(strlen(gpuev_version()) > 0);
}

/* Runs every call in a child. It ends as if by a crash, so that nothing looks for leaks in a process that lost the threads that
 * its memory belongs to; that all went well it says before. */
static void try_in_a_child(const handles *live, const char *name) {
  int ends[2];
  CHECK(pipe(ends) == 0);
  fflush(NULL);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    /* It is killed, if it hangs. */
    alarm(300);
    every_call(live, name);
    char well = 'y';
    CHECK(write(ends[1], &well, 1) == 1);
    kill(getpid(), SIGKILL);
  }
  CHECK(close(ends[1]) == 0);
  char said = 'n';
  CHECK(read(ends[0], &said, 1) == 1 && said == 'y');
  CHECK(close(ends[0]) == 0);
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void every_call_in_a_child_is_a_clear_error(const char *name) {
  handles live = make_handles(name);
  gpuev_stream stream = live.of[STREAM];
  gate held = hold_back(live.of[DEVICE], stream);
  OK(gpuev_event_record(live.of[EVENT], stream, true));
  OK(gpuev_stream_lock(stream));
  try_in_a_child(&live, name);
  /* The parent goes on. */
  OK(gpuev_stream_unlock(stream));
  CHECK(status_of(live.of[EVENT]) == GPUEV_EVENT_STATUS_PENDING);
  open_gate(held);
  OK(gpuev_event_synchronize(live.of[EVENT]));
  release_handles(&live);
}

typedef struct busy {
  gpuev_device device;
  gate until;
} busy;

static void *keep_busy(void *data) {
  busy *with = (busy *)data;
  gpuev_stream stream = stream_on(with->device);
  gpuev_pool pool = pool_on(with->device);
  bool over = false;
  while (!over) {
    gpuev_event event = event_from(pool, true);
    OK(gpuev_event_record(event, stream, true));
    OK(gpuev_event_notify(event, ignore_outcome, NULL, NULL));
    OK(gpuev_event_synchronize(event));
    OK(gpuev_event_release(event));
    ANSWERS(GPUEV_STATUS_ERROR_INVALID_HANDLE, gpuev_event_release(event));
    OK(gpuev_event_query(with->until.event, &over));
  }
  OK(gpuev_pool_release(pool));
  OK(gpuev_stream_release(stream));
  return NULL;
}

/* Locks of the library's, and of what it is built on, are held by some thread whenever the fork comes. */
static void a_fork_in_the_middle_of_everything_hangs_nobody(const char *name) {
  enum { THREADS = 2, FORKS = 10 };
  handles live = make_handles(name);
  busy with = {live.of[DEVICE], gate_on(live.of[DEVICE])};
  pthread_t threads[THREADS];
  for (int at = 0; at < THREADS; ++at) {
    threads[at] = start_thread(keep_busy, &with);
  }
  for (int times = 0; times < FORKS; ++times) {
    try_in_a_child(&live, name);
  }
  OK(gpuev_signal_complete(with.until.signal));
  for (int at = 0; at < THREADS; ++at) {
    join_thread(threads[at]);
  }
  release_gate(with.until);
  release_handles(&live);
}

static const test TESTS[] = {
    TEST(every_call_in_a_child_is_a_clear_error),
    TEST(a_fork_in_the_middle_of_everything_hangs_nobody),
};

int main(int argc, char **argv) {
  return run_tests(argc, argv, TESTS, sizeof TESTS / sizeof *TESTS);
}
