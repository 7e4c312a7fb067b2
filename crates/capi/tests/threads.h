/* Threads for the tests, in what C11 and C++17 have in common: POSIX's. */

#ifndef GPU_EVENTS_TESTS_THREADS_H
#define GPU_EVENTS_TESTS_THREADS_H

#include <pthread.h>

#include "support.h"

static inline pthread_t start_thread(void *(*run)(void *), void *with) {
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, run, with) == 0);
  return thread;
}

static inline void join_thread(pthread_t thread) {
  CHECK(pthread_join(thread, NULL) == 0);
}

/* Where threads wait for each other: nobody goes on before all are there. Not every system has POSIX's barriers. */
typedef struct meeting {
  pthread_mutex_t lock;
  pthread_cond_t all_there;
  int missing;
} meeting;

static inline void meeting_of(meeting *here, int threads) {
  CHECK(pthread_mutex_init(&here->lock, NULL) == 0);
  CHECK(pthread_cond_init(&here->all_there, NULL) == 0);
  here->missing = threads;
}

static inline void meet(meeting *here) {
  CHECK(pthread_mutex_lock(&here->lock) == 0);
  if (--here->missing == 0) {
    CHECK(pthread_cond_broadcast(&here->all_there) == 0);
  }
  while (here->missing > 0) {
    CHECK(pthread_cond_wait(&here->all_there, &here->lock) == 0);
  }
  CHECK(pthread_mutex_unlock(&here->lock) == 0);
}

/* Once all have left. */
static inline void end_meeting(meeting *here) {
  CHECK(pthread_mutex_destroy(&here->lock) == 0);
  CHECK(pthread_cond_destroy(&here->all_there) == 0);
}

#endif
