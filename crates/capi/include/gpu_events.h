/* gpu-events: events for GPU work. The C interface.
 *
 * What holds for every call:
 * - It answers a status: zero or more if it did what it was asked to, less than zero if not. gpuev_last_error() has the
 *   text of the newest error of the calling thread.
 * - A handle is a number that is never given out twice. Null (0), released, made up, or of another kind, it is
 *   GPUEV_STATUS_ERROR_INVALID_HANDLE. A pointer may be null where that is said, and is
 *   GPUEV_STATUS_ERROR_INVALID_ARGUMENT elsewhere.
 * - Texts are UTF-8. Times are in nanoseconds, elapsed time apart, which is in milliseconds as the seed and CUDA have it.
 * - It may be made from any thread, from callbacks, and from work on a CPU stream. No lock of the tables behind the handles is
 *   held while it does its work. A stream's own lock is, while its driver is called, and with that a queue's lock of yours, and
 *   an encode function. After a fork, in the child, it is GPUEV_STATUS_ERROR_FORKED.
 * - A bool that you hand in is 0 or 1. No exception of C++ may get out of a function of yours: the process ends.
 * - What you get a handle to you release. Statuses are named without their prefix, GPUEV_STATUS_ERROR_, below.
 *
 * Made from the library's source by cbindgen. Do not edit. */

#ifndef GPU_EVENTS_H
#define GPU_EVENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * For times to wait: for ever.
 */
#define GPUEV_FOREVER UINT64_MAX

/**
 * For `gpuev_stream_options.batch_bound`: each recording is submitted at once.
 */
#define GPUEV_NO_BATCHES UINT64_MAX

/**
 * What a call answers: zero or more if it did what it was asked to, less than zero if not.
 *
 * `gpuev_last_error` has the text that goes with the newest error of the calling thread.
 */
enum gpuev_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Done.
   */
  GPUEV_STATUS_OK = 0,
  /**
   * The time ran out first. Nothing has changed: wait again, or do something else.
   */
  GPUEV_STATUS_TIMED_OUT = 1,
  /**
   * The event was never recorded, or was reset since.
   */
  GPUEV_STATUS_ERROR_UNRECORDED = -1,
  /**
   * The recording's foreign submission has not been submitted yet.
   */
  GPUEV_STATUS_ERROR_NOT_SUBMITTED = -2,
  /**
   * The recording is still pending, and the call needs a complete one.
   */
  GPUEV_STATUS_ERROR_NOT_COMPLETE = -3,
  /**
   * The event was acquired without timing.
   */
  GPUEV_STATUS_ERROR_UNTIMED = -4,
  /**
   * The device has no usable time for this recording.
   */
  GPUEV_STATUS_ERROR_NOT_MEASURED = -5,
  /**
   * The two times come from different clocks.
   */
  GPUEV_STATUS_ERROR_CLOCK_MISMATCH = -6,
  /**
   * The end was recorded before the start.
   */
  GPUEV_STATUS_ERROR_END_BEFORE_START = -7,
  /**
   * The event and the stream belong to different devices.
   */
  GPUEV_STATUS_ERROR_WRONG_DEVICE = -8,
  /**
   * The call would have to block for room in the queue, and was asked not to.
   */
  GPUEV_STATUS_ERROR_WOULD_BLOCK = -9,
  /**
   * The thread would wait for something that only it can bring about.
   */
  GPUEV_STATUS_ERROR_WOULD_DEADLOCK = -10,
  /**
   * A handle that is null, was released, was never given out, or is of something else.
   */
  GPUEV_STATUS_ERROR_INVALID_HANDLE = -11,
  /**
   * The device was closed.
   */
  GPUEV_STATUS_ERROR_CLOSED = -12,
  /**
   * Work on the stream failed.
   */
  GPUEV_STATUS_ERROR_WORK_FAILED = -13,
  /**
   * Work on the stream panicked.
   */
  GPUEV_STATUS_ERROR_PANICKED = -14,
  /**
   * Whoever was to signal this went away without doing so.
   */
  GPUEV_STATUS_ERROR_ABANDONED = -15,
  /**
   * The device is lost; a new process may be needed.
   */
  GPUEV_STATUS_ERROR_DEVICE_LOST = -16,
  /**
   * The device cannot do this.
   */
  GPUEV_STATUS_ERROR_UNSUPPORTED = -17,
  /**
   * No such device here, or its driver is missing.
   */
  GPUEV_STATUS_ERROR_UNAVAILABLE = -18,
  /**
   * The backend exists, but this library was built without it.
   */
  GPUEV_STATUS_ERROR_FEATURE_DISABLED = -19,
  /**
   * The process was forked; a child cannot use what its parent opened.
   */
  GPUEV_STATUS_ERROR_FORKED = -20,
  /**
   * The stream is under graph capture.
   */
  GPUEV_STATUS_ERROR_CAPTURING = -21,
  /**
   * An argument makes no sense: a null pointer, a name that is none, a number that is no choice.
   */
  GPUEV_STATUS_ERROR_INVALID_ARGUMENT = -22,
  /**
   * The system refused a thread or memory.
   */
  GPUEV_STATUS_ERROR_RESOURCES = -23,
  /**
   * The driver reported something that has no status of its own; the text has its code.
   */
  GPUEV_STATUS_ERROR_DRIVER = -24,
  /**
   * A mistake of this library's, or an error that this version has no number for. The text says more.
   */
  GPUEV_STATUS_ERROR_INTERNAL = -25,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum gpuev_status gpuev_status;
#else
typedef int32_t gpuev_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How a stream waits for something that the host has to relay.
 */
enum gpuev_gate_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * It can't.
   */
  GPUEV_GATE_KIND_NONE = 0,
  /**
   * Held-back work stays in this library's own queue: any number.
   */
  GPUEV_GATE_KIND_OWNED = 1,
  /**
   * The driver waits for the host, in one of the few queues that streams share: `gate_limit` says with how many such
   * streams others were seen to go on.
   */
  GPUEV_GATE_KIND_DRIVER = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum gpuev_gate_kind gpuev_gate_kind;
#else
typedef uint32_t gpuev_gate_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Where an event stands.
 */
enum gpuev_event_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Not recorded since it was acquired or reset.
   */
  GPUEV_EVENT_STATUS_UNRECORDED = 0,
  /**
   * An external recording whose work is in somebody's hands still.
   */
  GPUEV_EVENT_STATUS_NOT_SUBMITTED = 1,
  /**
   * Recorded; work before it is not done.
   */
  GPUEV_EVENT_STATUS_PENDING = 2,
  /**
   * All work before it is done, and its memory effects are visible.
   */
  GPUEV_EVENT_STATUS_COMPLETE = 3,
  /**
   * It will never complete; `gpuev_event_query` says why.
   */
  GPUEV_EVENT_STATUS_FAILED = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum gpuev_event_status gpuev_event_status;
#else
typedef uint32_t gpuev_event_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How a stream's completion is made known, where the device has a choice: CUDA has.
 */
enum gpuev_signal_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * As the device has it: cheap.
   */
  GPUEV_SIGNAL_KIND_DEFAULT = 0,
  /**
   * Cheap to record, and a driver call to ask: for events that mostly other streams wait for.
   */
  GPUEV_SIGNAL_KIND_CHEAP = 1,
  /**
   * Dearer to record, a load to ask, and seen by the host soonest: for events that the host polls or is called back by.
   */
  GPUEV_SIGNAL_KIND_PROMPT = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum gpuev_signal_kind gpuev_signal_kind;
#else
typedef uint32_t gpuev_signal_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How a waiting thread passes the time.
 */
enum gpuev_wait_strategy
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Sleeps until woken: no CPU time, one wake-up's latency.
   */
  GPUEV_WAIT_STRATEGY_PARK = 0,
  /**
   * Spins for so long, then sleeps: right where most waits are short.
   */
  GPUEV_WAIT_STRATEGY_SPIN_THEN_PARK = 1,
  /**
   * Spins to the end: the least latency, and a core for as long as it takes.
   */
  GPUEV_WAIT_STRATEGY_SPIN = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum gpuev_wait_strategy gpuev_wait_strategy;
#else
typedef uint32_t gpuev_wait_strategy;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a device is and can do.
 */
typedef struct gpuev_device_info {
  /**
   * The name that `gpuev_device_open` takes: "cpu:0".
   */
  char name[32];
  /**
   * The backend that drives it: "cpu".
   */
  char backend[16];
  /**
   * What the hardware or its driver calls it. Cut off if it is longer.
   */
  char description[128];
  /**
   * What its times are read from. Cut off if it is longer.
   */
  char clock[64];
  /**
   * The smallest difference that a reading of the clock can show, in nanoseconds.
   */
  uint64_t clock_resolution_ns;
  /**
   * How many incomplete recordings a stream takes; 0: no limit.
   */
  uint64_t queue_depth;
  /**
   * The most recordings that are gathered before they are submitted; 0: each goes at once.
   */
  uint64_t batch_bound;
  /**
   * How its streams wait for what the host has to relay.
   */
  gpuev_gate_kind gates;
  /**
   * See `GPUEV_GATE_KIND_DRIVER`.
   */
  uint32_t gate_limit;
  /**
   * Recordings can be timed.
   */
  bool timed;
  /**
   * It is a GPU in name alone, and the CPU does its work.
   */
  bool emulated;
  /**
   * A failure takes only the stream with it, and not the whole device.
   */
  bool failure_is_per_stream;
} gpuev_device_info;

/**
 * An opened device. A null handle is 0, here and below.
 */
typedef uint64_t gpuev_device;

/**
 * A pool that events are taken from.
 */
typedef uint64_t gpuev_pool;

/**
 * What a pool has been up to. Exact when no other thread is using it.
 */
typedef struct gpuev_pool_statistics {
  /**
   * Event objects that were made.
   */
  uint64_t created;
  /**
   * Events that were handed out.
   */
  uint64_t acquired;
  /**
   * Events that are out.
   */
  uint64_t live;
  /**
   * Objects that are kept to be handed out again.
   */
  uint64_t idle;
  /**
   * The most that are kept.
   */
  uint64_t bound;
} gpuev_pool_statistics;

/**
 * An event: a marker of a point in a stream of work. The number is the event's id, as the seed of this library has it.
 */
typedef uint64_t gpuev_event;

/**
 * A stream: an in-order queue of work on one device.
 */
typedef uint64_t gpuev_stream;

/**
 * What is called once a recording is complete (`OK`), has failed (its status, and a text), or its device was closed
 * (`CLOSED`). The text is good until the function returns. It may call anything of this library's, must not let a C++
 * exception out, and one that blocks delays other callbacks of its device and nothing else.
 */
typedef void (*gpuev_callback_fn)(void *user_data, gpuev_status status, const char *text);

/**
 * A callback that was registered, to be cancelled.
 */
typedef uint64_t gpuev_callback;

/**
 * A function that lets go of what the caller gave to be kept. It is called once, from any thread; never, where a driver may go on
 * using what is kept (its device was closed, or is lost), or where the process ends first.
 */
typedef void (*gpuev_release_fn)(void *user_data);

/**
 * How a stream is to be. All zero is the default.
 */
typedef struct gpuev_stream_options {
  /**
   * Names the stream, for stall reports and errors; may be null.
   */
  const char *label;
  /**
   * At most this many incomplete recordings at a time; 0: as many as the device takes.
   */
  uint64_t queue_depth;
  /**
   * At most this many recordings are gathered before they are submitted; 0: the device's default, `GPUEV_NO_BATCHES`: none.
   */
  uint64_t batch_bound;
  /**
   * A `gpuev_signal_kind`.
   */
  uint32_t signal;
  /**
   * A recording that finds the queue full fails with `WOULD_BLOCK`, instead of waiting for room.
   */
  bool would_block;
  /**
   * Waits for CUDA's events on a Vulkan stream of the same GPU, and the other way round, go through the drivers.
   */
  bool native_foreign_waits;
} gpuev_stream_options;

/**
 * What puts work into a command buffer: an `id<MTLCommandBuffer>`.
 */
typedef void (*gpuev_encode_fn)(void *user_data, void *command_buffer);

/**
 * Takes or gives back the lock of a queue of the caller's.
 */
typedef void (*gpuev_queue_lock_fn)(void *user_data);

/**
 * A `VkQueue` of the caller's.
 *
 * Vulkan wants a queue used by one thread at a time: this library calls `lock` before it uses the queue and `unlock` after,
 * on one thread, from any. Whoever else holds that lock must call nothing of this library's but `gpuev_event_get_status` of
 * other devices' events: nearly everything else may submit to the queue, a host's signal and a release too.
 *
 * The queue, both functions and what they are called with stay good until the *device* is given back (its `release`), also
 * where the queue was adopted for one stream: it is used once more then. A queue that the device knows already keeps the
 * functions that it came with first.
 */
typedef struct gpuev_vulkan_queue {
  /**
   * The `VkQueue`.
   */
  void *queue;
  /**
   * Its queue family.
   */
  uint32_t family;
  /**
   * Takes its lock. Null, with a null `unlock`, if nobody else uses the queue.
   */
  gpuev_queue_lock_fn lock;
  /**
   * Gives its lock back.
   */
  gpuev_queue_lock_fn unlock;
  /**
   * What both are called with.
   */
  void *user_data;
} gpuev_vulkan_queue;

/**
 * A `VkDevice` of the caller's, and what belongs to it.
 */
typedef struct gpuev_vulkan_device {
  /**
   * `vkGetInstanceProcAddr`, by which all other functions are found.
   */
  void (*(*get_instance_proc_addr)(void *instance, const char *name))(void);
  /**
   * The `VkInstance`.
   */
  void *instance;
  /**
   * The `VkPhysicalDevice`.
   */
  void *physical_device;
  /**
   * The `VkDevice`: of Vulkan 1.2 or later, with `timelineSemaphore` enabled.
   */
  void *device;
  /**
   * The names of the extensions that it was made with.
   */
  const char *const *extensions;
  /**
   * How many there are.
   */
  size_t extension_count;
  /**
   * Queues that streams may be made on.
   */
  const struct gpuev_vulkan_queue *queues;
  /**
   * How many there are.
   */
  size_t queue_count;
} gpuev_vulkan_device;

/**
 * The producer's end of an event that the host signals.
 */
typedef uint64_t gpuev_signal;

/**
 * The token of a recording in a submission that somebody else makes.
 */
typedef uint64_t gpuev_external;

/**
 * Work for a CPU stream. Answers 0 if it went well; anything else fails the stream, with the text that
 * `gpuev_set_work_error` was given meanwhile, if any. Must not let a C++ exception out.
 */
typedef int32_t (*gpuev_work_fn)(void *user_data);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Lists the devices that can be opened here, GPUs first: as many as `capacity` says go into `infos`, and how many there are
 * into `count`. With a capacity of 0 it only counts.
 *
 * # Safety
 * `infos` is good for writing `capacity` of them, and may be null if that is 0; `count` is good for writing.
 */
gpuev_status gpuev_device_list(struct gpuev_device_info *infos,
                               size_t capacity,
                               size_t *count);

/**
 * Opens a device by its name: a backend, and the number of one of its devices (0 if it is left out), as in "cpu", "cuda:1",
 * "vulkan:0", "metal". Every call opens anew, and every handle is to be released.
 *
 * Errors: `INVALID_ARGUMENT` if that is no name of a device, `FEATURE_DISABLED`, `UNAVAILABLE`.
 *
 * # Safety
 * `name` is a string; `device` is good for writing.
 */
gpuev_status gpuev_device_open(const char *name,
                               gpuev_device *device);

/**
 * The device that the process shares: the first that `gpuev_device_list` names and that is no GPU in name alone. It is
 * opened once; each call gives another handle to it, to be released.
 *
 * # Safety
 * `device` is good for writing.
 */
gpuev_status gpuev_device_get_default(gpuev_device *device);

/**
 * Gives a handle back. Streams, pools and events keep what they need of the device.
 */
gpuev_status gpuev_device_release(gpuev_device device);

/**
 * Ends the device for all its handles: pending recordings fail with `CLOSED`, so that everyone who waits is told; callbacks
 * are called with that status; work that was not submitted is dropped, and what the driver still uses is leaked rather than
 * freed under it. Doing it again does nothing. The handle is still to be released.
 */
gpuev_status gpuev_device_close(gpuev_device device);

/**
 * The device's number, which is the same by all handles to it, and no other opened device's in this process.
 *
 * # Safety
 * `id` is good for writing.
 */
gpuev_status gpuev_device_get_id(gpuev_device device, uint64_t *id);

/**
 * What the device is and can do.
 *
 * # Safety
 * `info` is good for writing.
 */
gpuev_status gpuev_device_get_info(gpuev_device device, struct gpuev_device_info *info);

/**
 * Who on the device waits for what, since when, and which end of the chain hasn't moved: a text of some lines, as much of
 * it as there is room for. `length` is how long the whole text is, without its NUL; pass a null `buffer` to ask for that.
 *
 * # Safety
 * `buffer` is null, or good for writing `capacity` bytes; `length` is null, or good for writing.
 */
gpuev_status gpuev_device_stall_report(gpuev_device device,
                                       char *buffer,
                                       size_t capacity,
                                       size_t *length);

/**
 * A pool of the device's events that keeps at most `max_idle` of them for reuse; 0 is the default bound, 4,096. It never
 * limits how many are out.
 *
 * # Safety
 * `pool` is good for writing.
 */
gpuev_status gpuev_pool_create(gpuev_device device,
                               size_t max_idle,
                               gpuev_pool *pool);

/**
 * The pool of the process's default device, which lives as long as the process. Each call gives another handle to it, to be
 * released.
 *
 * # Safety
 * `pool` is good for writing.
 */
gpuev_status gpuev_pool_get_shared(gpuev_pool *pool);

/**
 * Gives a handle back. Events that are out stay good.
 */
gpuev_status gpuev_pool_release(gpuev_pool pool);

/**
 * Frees what the pool keeps for reuse. Events that are out are not touched. What other threads keep for themselves, 64
 * events at most for each, they free when they next use the pool.
 */
gpuev_status gpuev_pool_empty_cache(gpuev_pool pool);

/**
 * What the pool has been up to.
 *
 * # Safety
 * `statistics` is good for writing.
 */
gpuev_status gpuev_pool_get_statistics(gpuev_pool pool, struct gpuev_pool_statistics *statistics);

/**
 * How many events are held by number, in the whole process: to find those that nobody released.
 *
 * # Safety
 * `count` is good for writing.
 */
gpuev_status gpuev_event_count(size_t *count);

/**
 * Takes an event from a pool, with or without timing. It is to be released.
 *
 * # Safety
 * `event` is good for writing.
 */
gpuev_status gpuev_event_acquire(gpuev_pool pool, bool timing, gpuev_event *event);

/**
 * Gives an event back to its pool, pending or not: this neither blocks nor cancels. Calls that are using it finish with it.
 * The handle is good for nothing from now on, and never becomes another event's.
 */
gpuev_status gpuev_event_release(gpuev_event event);

/**
 * Records the event: it now stands for all work that was submitted to the stream before. A null stream is the default one of
 * the event's device. With `flush`, what the stream has gathered is then submitted.
 *
 * In any state, also while the earlier recording is pending, and from any thread. Does not block, except for room in a full
 * queue. Recording on a failed stream succeeds, and the event has failed at once.
 *
 * Errors: `WRONG_DEVICE`, `WOULD_BLOCK`, `CLOSED`, `CAPTURING`, what the driver refused. The event is then as it was before.
 * If only the flush fails, the event is recorded.
 */
gpuev_status gpuev_event_record(gpuev_event event,
                                gpuev_stream stream,
                                bool flush);

/**
 * Makes the event unrecorded, with or without timing from now on, under the same handle. Those who wait for its recording go
 * on doing so; nothing of the driver's is touched.
 */
gpuev_status gpuev_event_reset(gpuev_event event,
                               bool timing);

/**
 * Whether the recording is complete. False for an unrecorded event. Never blocks, and consumes nothing.
 *
 * Errors: the recording's failure: "not yet" is never an error, and an error is never "not yet". `NOT_SUBMITTED`.
 *
 * # Safety
 * `complete` is good for writing.
 */
gpuev_status gpuev_event_query(gpuev_event event, bool *complete);

/**
 * Where the event stands. Never blocks, and consumes nothing.
 *
 * # Safety
 * `status` is good for writing.
 */
gpuev_status gpuev_event_get_status(gpuev_event event, gpuev_event_status *status);

/**
 * Where each of `count` events stands, asking each driver once.
 *
 * # Safety
 * `events` is good for reading `count` of them, and `out_statuses` for writing as many.
 */
gpuev_status gpuev_event_get_statuses(const gpuev_event *events, size_t count, gpuev_event_status *out_statuses);

/**
 * Blocks until the recording is complete; at once for an unrecorded event. Binds to the recording of this moment.
 *
 * Errors: the recording's failure; `NOT_SUBMITTED`; `WOULD_DEADLOCK` if this thread holds the stream, or runs its work.
 */
gpuev_status gpuev_event_synchronize(gpuev_event event);

/**
 * As `gpuev_event_synchronize`, for `timeout_ns` nanoseconds at most: `OK` or `TIMED_OUT`. Zero only asks; `GPUEV_FOREVER`
 * is for ever. `strategy` is a `gpuev_wait_strategy`; `spin_ns` is for how long `SPIN_THEN_PARK` spins.
 */
gpuev_status gpuev_event_wait(gpuev_event event,
                              uint64_t timeout_ns,
                              uint32_t strategy,
                              uint64_t spin_ns);

/**
 * Blocks until one of the events is settled: complete, failed, or not recorded at all. `index` then says which; ask it how.
 * For `timeout_ns` at most: `OK` or `TIMED_OUT`, which is also the answer if there are no events.
 *
 * # Safety
 * `events` is good for reading `count` of them; `index` is good for writing.
 */
gpuev_status gpuev_wait_any(const gpuev_event *events,
                            size_t count,
                            uint64_t timeout_ns,
                            size_t *index);

/**
 * Blocks until all of the events are complete; unrecorded ones count as complete. For `timeout_ns` at most: `OK` or
 * `TIMED_OUT`.
 *
 * Errors: the failure of one of them, as soon as it is known.
 *
 * # Safety
 * `events` is good for reading `count` of them.
 */
gpuev_status gpuev_wait_all(const gpuev_event *events, size_t count, uint64_t timeout_ns);

/**
 * The device's time from `start` to `end` in milliseconds, after waiting for both: negative if the end came first.
 *
 * Errors, before anything is waited for: `UNTIMED`, `UNRECORDED`, `CLOCK_MISMATCH`. Then a recording's failure, and
 * `NOT_MEASURED`.
 *
 * # Safety
 * `milliseconds` is good for writing.
 */
gpuev_status gpuev_event_elapsed(gpuev_event start, gpuev_event end, double *milliseconds);

/**
 * When the recording completed, in nanoseconds since the origin of its device's clock.
 *
 * Errors: `UNTIMED`, `UNRECORDED`, the recording's failure, `NOT_COMPLETE`, `NOT_MEASURED`, in this order.
 *
 * # Safety
 * `nanoseconds` is good for writing.
 */
gpuev_status gpuev_event_get_completion_time(gpuev_event event, uint64_t *nanoseconds);

/**
 * Whether the event's recordings are timed.
 *
 * # Safety
 * `timed` is good for writing.
 */
gpuev_status gpuev_event_is_timed(gpuev_event event, bool *timed);

/**
 * A handle to the device that the event is of, to be released.
 *
 * # Safety
 * `device` is good for writing.
 */
gpuev_status gpuev_event_get_device(gpuev_event event, gpuev_device *device);

/**
 * Names the event, for stall reports and traces.
 *
 * # Safety
 * `label` is a string.
 */
gpuev_status gpuev_event_set_label(gpuev_event event, const char *label);

/**
 * Has `function` called with `user_data` once the event's recording of this moment is complete or has failed, exactly once,
 * on the callback thread of the event's device: soon, if it is complete already or unrecorded. Callbacks of one stream are
 * called in the order of their recordings.
 *
 * `callback`, if it is not null, gets a handle by which it can be cancelled, to be released (which cancels nothing). It is
 * written before the function can be called, and not afterwards. A handle that is not released keeps its device.
 *
 * Errors: `NOT_SUBMITTED`, `RESOURCES`. It is then never called.
 *
 * # Safety
 * `function` may be called from another thread; `callback` is null, or good for writing.
 */
gpuev_status gpuev_event_notify(gpuev_event event,
                                gpuev_callback_fn function,
                                void *user_data,
                                gpuev_callback *callback);

/**
 * Cancels a callback. `cancelled` is true if it has not been called and never will be; false if it was called, is being
 * called, or was cancelled before. Never waits for one that is being called. The handle is still to be released.
 *
 * # Safety
 * `cancelled` is null, or good for writing.
 */
gpuev_status gpuev_callback_cancel(gpuev_callback callback, bool *cancelled);

/**
 * Gives a callback's handle back. The callback stays registered.
 */
gpuev_status gpuev_callback_release(gpuev_callback callback);

/**
 * The `CUstream` behind a CUDA stream, to give work to. It is good for as long as the stream.
 *
 * Errors: `UNSUPPORTED` if it is no CUDA stream.
 *
 * # Safety
 * `raw` is good for writing.
 */
gpuev_status gpuev_cuda_get_stream(gpuev_stream stream, void **raw);

/**
 * The primary `CUcontext` of a CUDA device's GPU, which every library in the process shares that uses primary contexts.
 *
 * # Safety
 * `raw` is good for writing.
 */
gpuev_status gpuev_cuda_get_context(gpuev_device device, void **raw);

/**
 * Makes a stream of this library's around a `CUstream` of your own: any, null and the legacy and per-thread streams included.
 * `release`, which may be null, is called once with `user_data` when the stream's last handle, event and waiter has gone, on
 * any thread: what keeps the `CUstream` goes then. It is called at once if this call fails.
 *
 * Errors: `UNSUPPORTED` if it is no CUDA device, `WRONG_DEVICE` if the stream is not of its GPU's primary context.
 *
 * # Safety
 * `raw` is a `CUstream`, and stays one until `release` is called. `options` is null, or good for reading, and so is its label;
 * `stream` is good for writing.
 */
gpuev_status gpuev_cuda_adopt_stream(gpuev_device device,
                                     void *raw,
                                     gpuev_release_fn release,
                                     void *user_data,
                                     const struct gpuev_stream_options *options,
                                     gpuev_stream *stream);

/**
 * Makes an event of a `CUevent` that somebody else recorded, for its recording of this moment. It carries no failure but the
 * whole context's, and no time. `release` is as for `gpuev_cuda_adopt_stream`.
 *
 * Errors: `UNSUPPORTED` if it is no CUDA device, `CAPTURING` if it was recorded under a capture.
 *
 * # Safety
 * `raw` is a `CUevent` of a context on the device's GPU, and stays one until `release` is called; `event` is good for writing.
 */
gpuev_status gpuev_cuda_import_event(gpuev_device device,
                                     void *raw,
                                     gpuev_release_fn release,
                                     void *user_data,
                                     gpuev_event *event);

/**
 * Opens an `id<MTLDevice>` that the caller has already, and retains it.
 *
 * Errors: `UNAVAILABLE` on systems without Metal.
 *
 * # Safety
 * `raw` is an `id<MTLDevice>`; `device` is good for writing.
 */
gpuev_status gpuev_metal_open(void *raw, gpuev_device *device);

/**
 * The `id<MTLDevice>` of a Metal device, good for as long as it.
 *
 * Errors: `UNSUPPORTED` if it is no Metal device; `UNAVAILABLE` on systems without Metal.
 *
 * # Safety
 * `raw` is good for writing.
 */
gpuev_status gpuev_metal_get_device(gpuev_device device, void **raw);

/**
 * Makes a stream that commits to an `id<MTLCommandQueue>` of the caller's, which it retains. The stream orders what goes through
 * it, and keeps to 16 of the queue's places.
 *
 * Errors: `UNSUPPORTED` if it is no Metal device, `WRONG_DEVICE` if the queue is of another GPU, `RESOURCES` if Metal has no
 * shared event to give; `UNAVAILABLE` on systems without Metal.
 *
 * # Safety
 * `queue` is an `id<MTLCommandQueue>`. `options` is null, or good for reading, and so is its label; `stream` is good for
 * writing.
 */
gpuev_status gpuev_metal_adopt_queue(gpuev_device device,
                                     void *queue,
                                     const struct gpuev_stream_options *options,
                                     gpuev_stream *stream);

/**
 * Has `encode` put work into a Metal stream's current command buffer, behind all that was submitted before, on this thread and
 * before this returns. It ends the encoders that it opens, and neither commits, enqueues nor keeps the buffer. It must not wait
 * for the stream.
 *
 * Errors: the stream's failure; `UNSUPPORTED` if it is no Metal stream; `WOULD_BLOCK`; `UNAVAILABLE` on systems without Metal.
 *
 * # Safety
 * `encode` does as it was said.
 */
gpuev_status gpuev_metal_encode(gpuev_stream stream,
                                gpuev_encode_fn encode,
                                void *user_data);

/**
 * The `id<MTLSharedEvent>` behind the event's recording, and the value that it will have once that is complete: for
 * `encodeWaitForEvent:value:` elsewhere. Null if there is nothing to wait for any more; otherwise it is retained for the caller,
 * who releases it. A number carries no failure: ask the event.
 *
 * Errors: `UNRECORDED`; the event's failure; `NOT_SUBMITTED`; `UNSUPPORTED` if it is pending and not of a Metal stream;
 * `UNAVAILABLE` on systems without Metal.
 *
 * # Safety
 * `shared_event` and `value` are good for writing.
 */
gpuev_status gpuev_metal_get_shared_event(gpuev_event event,
                                          void **shared_event,
                                          uint64_t *value);

/**
 * Opens a `VkDevice` that the caller has already. `release`, which may be null, is called once with `user_data` when everything
 * that was made from it is gone, on any thread; at once if this call fails.
 *
 * Errors: `UNSUPPORTED` if it is of an earlier version, or has no timeline semaphores; `INVALID_ARGUMENT`.
 *
 * # Safety
 * `existing` is good for reading, and its arrays and names are. The handles belong together and stay good until `release` is
 * called; `timelineSemaphore` and the extensions are enabled; the queues are of the device and used under their locks alone.
 * `device` is good for writing.
 */
gpuev_status gpuev_vulkan_open(const struct gpuev_vulkan_device *existing,
                               gpuev_release_fn release,
                               void *user_data,
                               gpuev_device *device);

/**
 * Makes a stream on a queue that the caller submits to as well. Nothing is gathered on it; a wait holds back everything that is
 * submitted to the queue after it. `release` is as for `gpuev_vulkan_open`, for the stream.
 *
 * Errors: `UNSUPPORTED` if it is no Vulkan device; `INVALID_ARGUMENT` if there is no such family. A queue that the device was
 * opened with keeps the family and the lock that it was given then.
 *
 * # Safety
 * `queue` is good for reading: a queue of the device's `VkDevice`, used under its lock alone, which stays good as
 * `gpuev_vulkan_queue` says.
 * `options` is null, or good for reading, and so is its label; `stream` is good for writing.
 */
gpuev_status gpuev_vulkan_adopt_queue(gpuev_device device,
                                      const struct gpuev_vulkan_queue *queue,
                                      gpuev_release_fn release,
                                      void *user_data,
                                      const struct gpuev_stream_options *options,
                                      gpuev_stream *stream);

/**
 * Puts command buffers on a Vulkan stream, behind all that was submitted before. They go to the driver at once if the GPU has
 * little to do, and otherwise together with what comes next. `wait_stages` (`VkPipelineStageFlags`) are those that are held
 * back by what the stream waits for; 0: all. `release`, which may be null, is called once with `user_data` when the work is
 * done, on a thread of this library's; at once if this call fails.
 *
 * Errors: the stream's failure; `UNSUPPORTED` if it is no Vulkan stream; `WOULD_BLOCK`.
 *
 * # Safety
 * `buffers` is good for reading `count` command buffers of the stream's device and queue family, which may be submitted, and
 * stay as they are until the work is done, as does what they use.
 */
gpuev_status gpuev_vulkan_submit(gpuev_stream stream,
                                 void *const *buffers,
                                 size_t count,
                                 uint32_t wait_stages,
                                 gpuev_release_fn release,
                                 void *user_data);

/**
 * The handles that a Vulkan device is made of, good for as long as it: each pointer may be null if it is not wanted.
 *
 * Errors: `UNSUPPORTED` if it is no Vulkan device.
 *
 * # Safety
 * Each pointer is null, or good for writing.
 */
gpuev_status gpuev_vulkan_get_handles(gpuev_device device, void **instance, void **physical_device, void **raw_device);

/**
 * The `VkQueue` that a Vulkan stream's work goes to, and its family, for which command buffers are to be recorded. Other streams
 * may share the queue; what you submit to it yourself needs the lock that you gave with it.
 *
 * Errors: `UNSUPPORTED` if it is no Vulkan stream.
 *
 * # Safety
 * Each pointer is null, or good for writing.
 */
gpuev_status gpuev_vulkan_get_queue(gpuev_stream stream,
                                    void **queue,
                                    uint32_t *family);

/**
 * The timeline `VkSemaphore` behind the event's recording, and the value that it will have once that is complete: for the
 * semaphores that a submission of yours waits for. 0 if there is nothing to wait for any more. A number carries no failure:
 * ask the event.
 *
 * Errors: `UNRECORDED`; the event's failure; `NOT_SUBMITTED`; `UNSUPPORTED` if it is pending and not of a Vulkan device.
 *
 * # Safety
 * `semaphore` and `value` are good for writing.
 */
gpuev_status gpuev_vulkan_get_semaphore(gpuev_event event,
                                        uint64_t *semaphore,
                                        uint64_t *value);

/**
 * Makes an event that the host completes, recorded and pending already, and its producer's end. Both are to be released;
 * `label`, which may be null, is what stall reports call it.
 *
 * # Safety
 * `label` is null or a string; `event` and `signal` are good for writing.
 */
gpuev_status gpuev_host_event(gpuev_device device,
                              const char *label,
                              gpuev_event *event,
                              gpuev_signal *signal);

/**
 * Completes the event. What this thread wrote before is seen by whoever sees the completion. Works once: then, or after
 * `gpuev_signal_fail`, it is `INVALID_HANDLE`.
 */
gpuev_status gpuev_signal_complete(gpuev_signal signal);

/**
 * Fails the event, and with it whoever waits for it, with `WORK_FAILED` and this text.
 *
 * # Safety
 * `reason` is a string.
 */
gpuev_status gpuev_signal_fail(gpuev_signal signal, const char *reason);

/**
 * Gives a signal back. If it was not given, its event fails with `ABANDONED`: nobody waits for a producer that has gone.
 */
gpuev_status gpuev_signal_release(gpuev_signal signal);

/**
 * Makes an event for work that somebody else will submit, and the token that goes with it. Until
 * `gpuev_external_submitted`, observing the event is `NOT_SUBMITTED`. Both are to be released.
 *
 * # Safety
 * `event` and `external` are good for writing.
 */
gpuev_status gpuev_external_event(gpuev_device device, gpuev_event *event, gpuev_external *external);

/**
 * The work has been submitted: from now on the event is pending like any other.
 *
 * Errors: `INVALID_ARGUMENT` if that was said before.
 */
gpuev_status gpuev_external_submitted(gpuev_external external);

/**
 * The work is done.
 *
 * Errors: `INVALID_ARGUMENT` if it was not submitted, or was completed or failed before.
 */
gpuev_status gpuev_external_complete(gpuev_external external);

/**
 * The work failed.
 *
 * Errors: as `gpuev_external_complete`.
 *
 * # Safety
 * `reason` is a string.
 */
gpuev_status gpuev_external_fail(gpuev_external external, const char *reason);

/**
 * Gives a token back. If the work was not said to be done, its event fails with `ABANDONED`.
 */
gpuev_status gpuev_external_release(gpuev_external external);

/**
 * The text of the newest error that a call returned on this thread; empty if there was none. Calls that succeed leave it.
 *
 * The text is this library's, and good until the next error on this thread, or the thread's end.
 */
const char *gpuev_last_error(void);

/**
 * Two or three words for a status, which are this library's and good for ever; "no status" for a number that is none.
 */
const char *gpuev_status_name(int32_t status);

/**
 * The library's version, as in "0.1.0".
 */
const char *gpuev_version(void);

/**
 * Makes a stream. `options` may be null.
 *
 * # Safety
 * `options` is null, or good for reading, and so is its label; `stream` is good for writing.
 */
gpuev_status gpuev_stream_create(gpuev_device device, const struct gpuev_stream_options *options, gpuev_stream *stream);

/**
 * The device's default stream, made when it is first asked for: the one that is meant where a null stream is given. Each
 * call gives another handle to it, to be released.
 *
 * # Safety
 * `stream` is good for writing.
 */
gpuev_status gpuev_stream_get_default(gpuev_device device,
                                      gpuev_stream *stream);

/**
 * Gives a handle back. What was submitted to the stream goes on, and with the last handle what was only gathered is
 * submitted.
 */
gpuev_status gpuev_stream_release(gpuev_stream stream);

/**
 * The stream's number, which is the same by all handles to it, and no other stream's in this process.
 *
 * # Safety
 * `id` is good for writing.
 */
gpuev_status gpuev_stream_get_id(gpuev_stream stream, uint64_t *id);

/**
 * A handle to the device that the stream is on, to be released.
 *
 * # Safety
 * `device` is good for writing.
 */
gpuev_status gpuev_stream_get_device(gpuev_stream stream, gpuev_device *device);

/**
 * Holds back what is submitted to `stream` from now on until the event's recording of this moment is complete. A null stream
 * is the default one of the event's device. Never blocks the host; the event may be of any stream on any device. If the event
 * fails, the stream fails with it, from here on.
 *
 * Errors: `NOT_SUBMITTED` for an external recording in somebody's hands, `CLOSED`, `CAPTURING`, what the driver refused.
 *
 * `inserted`, which may be null, tells whether there was anything to wait for: there is not if the event is unrecorded,
 * complete, or of this very stream.
 *
 * # Safety
 * `inserted` is null, or good for writing.
 */
gpuev_status gpuev_stream_wait(gpuev_stream stream,
                               gpuev_event event,
                               bool *inserted);

/**
 * Submits what is gathered. Never blocks; while a thread holds the stream, it is done when that lets go.
 *
 * Errors: the stream's failure.
 */
gpuev_status gpuev_stream_flush(gpuev_stream stream);

/**
 * Blocks until all that was submitted to the stream is done, for `timeout_ns` nanoseconds at most: `OK` or `TIMED_OUT`.
 *
 * Errors: the stream's failure; `WOULD_DEADLOCK` if this thread holds the stream.
 */
gpuev_status gpuev_stream_synchronize(gpuev_stream stream, uint64_t timeout_ns);

/**
 * `OK` while the stream has not failed, and its first failure, with its text, once it has.
 */
gpuev_status gpuev_stream_get_error(gpuev_stream stream);

/**
 * Holds the stream for this thread: until `gpuev_stream_unlock`, what other threads give to it waits, and what this thread
 * gives to it, by whatever handle (`gpuev_event_record`, `gpuev_stream_wait`, `gpuev_stream_enqueue`, `gpuev_vulkan_submit`,
 * `gpuev_metal_encode`), stays together. A recording then never waits for room: it is `WOULD_BLOCK`.
 *
 * Hold it briefly, and never while waiting for it: that is `WOULD_DEADLOCK`, as is locking it twice. A thread that ends lets
 * go of what it holds, and so does a callback or work that returns with what it took itself.
 */
gpuev_status gpuev_stream_lock(gpuev_stream stream);

/**
 * Lets go of a stream that this thread holds by this handle, released or not.
 *
 * Errors: `INVALID_ARGUMENT` if it doesn't.
 */
gpuev_status gpuev_stream_unlock(gpuev_stream stream);

/**
 * Has `work` run behind all that was submitted to a CPU device's stream before, on a thread of this library's. Never blocks.
 *
 * Work that fails (`WORK_FAILED`) fails the stream: what was submitted after it is dropped without running. `release`, which
 * may be null, is called once with `user_data` in any case, after the work, or when it is dropped, or when this call returns
 * an error.
 *
 * Errors: `UNSUPPORTED` on other devices; `CLOSED`.
 *
 * # Safety
 * `work` and `release` may be called from any thread.
 */
gpuev_status gpuev_stream_enqueue(gpuev_stream stream,
                                  gpuev_work_fn work,
                                  void *user_data,
                                  gpuev_release_fn release);

/**
 * Called by work on a CPU stream before it answers that it failed: the text of the failure, for those who wait for it. From
 * elsewhere it does nothing.
 *
 * # Safety
 * `text` is a string.
 */
gpuev_status gpuev_set_work_error(const char *text);

/**
 * Keeps something of the caller's until the event's recording of this moment is complete or has failed: `release` is then
 * called once with `user_data`, on the callback thread of the stream's device; at once if the event is not recorded.
 *
 * It is never called where nobody knows when the device is done with it: the device was closed, or the recording failed
 * because of another stream's failure while the driver may go on with the work. Nor is it if this call fails, for the same
 * reason.
 *
 * # Safety
 * `release` may be called from any thread.
 */
gpuev_status gpuev_stream_keep_until(gpuev_stream stream,
                                     gpuev_event event,
                                     gpuev_release_fn release,
                                     void *user_data);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GPU_EVENTS_H */
