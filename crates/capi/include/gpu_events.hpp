// gpu-events: events for GPU work. A layer of C++17 over gpu_events.h.
//
// What holds for all of it:
// - Each class owns one handle of the C interface and gives it back when it is destroyed. Objects move and don't copy; after a
//   move an object is empty, and using it is Status::InvalidHandle.
// - A call that fails throws Error, with the status and the text. A wait whose time ran out has not failed: it says so.
// - Destructors don't throw, don't wait and don't cancel: an event may be destroyed while it is pending, a stream while it has
//   work.
// - Objects may be used by several threads at once, as in C. To move from or to one, or to destroy it, takes it alone.
// - No exception gets into the library. What a callback throws goes to the exception handler (set_exception_handler); what work
//   throws is the failure of its stream, for all who wait for it.
//
// get() is the handle, for calls that this layer doesn't have (gpuev_cuda_…, gpuev_metal_…, gpuev_vulkan_…); release() gives it
// up, and adopt() takes one over.

#ifndef GPU_EVENTS_HPP
#define GPU_EVENTS_HPP

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "gpu_events.h"

namespace gpu_events {

/// What a call answers; less than zero is an error. gpu_events.h says what each means.
enum class Status : std::int32_t {
  Ok = GPUEV_STATUS_OK,
  TimedOut = GPUEV_STATUS_TIMED_OUT,
  Unrecorded = GPUEV_STATUS_ERROR_UNRECORDED,
  NotSubmitted = GPUEV_STATUS_ERROR_NOT_SUBMITTED,
  NotComplete = GPUEV_STATUS_ERROR_NOT_COMPLETE,
  Untimed = GPUEV_STATUS_ERROR_UNTIMED,
  NotMeasured = GPUEV_STATUS_ERROR_NOT_MEASURED,
  ClockMismatch = GPUEV_STATUS_ERROR_CLOCK_MISMATCH,
  EndBeforeStart = GPUEV_STATUS_ERROR_END_BEFORE_START,
  WrongDevice = GPUEV_STATUS_ERROR_WRONG_DEVICE,
  WouldBlock = GPUEV_STATUS_ERROR_WOULD_BLOCK,
  WouldDeadlock = GPUEV_STATUS_ERROR_WOULD_DEADLOCK,
  InvalidHandle = GPUEV_STATUS_ERROR_INVALID_HANDLE,
  Closed = GPUEV_STATUS_ERROR_CLOSED,
  WorkFailed = GPUEV_STATUS_ERROR_WORK_FAILED,
  Panicked = GPUEV_STATUS_ERROR_PANICKED,
  Abandoned = GPUEV_STATUS_ERROR_ABANDONED,
  DeviceLost = GPUEV_STATUS_ERROR_DEVICE_LOST,
  Unsupported = GPUEV_STATUS_ERROR_UNSUPPORTED,
  Unavailable = GPUEV_STATUS_ERROR_UNAVAILABLE,
  FeatureDisabled = GPUEV_STATUS_ERROR_FEATURE_DISABLED,
  Forked = GPUEV_STATUS_ERROR_FORKED,
  Capturing = GPUEV_STATUS_ERROR_CAPTURING,
  InvalidArgument = GPUEV_STATUS_ERROR_INVALID_ARGUMENT,
  Resources = GPUEV_STATUS_ERROR_RESOURCES,
  Driver = GPUEV_STATUS_ERROR_DRIVER,
  Internal = GPUEV_STATUS_ERROR_INTERNAL,
};

/// Two or three words for a status.
inline const char* status_name(Status status) noexcept {
  return gpuev_status_name(static_cast<std::int32_t>(status));
}

/// Where an event stands.
enum class EventStatus : std::uint32_t {
  Unrecorded = GPUEV_EVENT_STATUS_UNRECORDED,
  NotSubmitted = GPUEV_EVENT_STATUS_NOT_SUBMITTED,
  Pending = GPUEV_EVENT_STATUS_PENDING,
  Complete = GPUEV_EVENT_STATUS_COMPLETE,
  Failed = GPUEV_EVENT_STATUS_FAILED,
};

/// How a wait with a time to it ended.
enum class WaitOutcome { Complete, TimedOut };

/// What the library is, as in "0.1.0".
inline std::string_view version() noexcept {
  return gpuev_version();
}

/// A call that failed.
class Error : public std::runtime_error {
 public:
  Error(Status status, const std::string& text) : std::runtime_error(text), status_(status) {}

  Status status() const noexcept {
    return status_;
  }

 private:
  Status status_;
};

/// What is called with an exception that nobody else can catch, and with what threw it: "a callback".
using ExceptionHandler = void (*)(std::exception_ptr exception, const char* thrower) noexcept;

namespace detail {

/// Says it on standard error, as the library does with a panic in a callback of Rust's.
inline void print_exception(std::exception_ptr exception, const char* thrower) noexcept {
  try {
    std::rethrow_exception(exception);
  } catch (const std::exception& what) {
    std::fprintf(stderr, "gpu-events: an exception out of %s: %s\n", thrower, what.what());
  } catch (...) {
    std::fprintf(stderr, "gpu-events: an exception out of %s\n", thrower);
  }
}

inline std::atomic<ExceptionHandler>& exception_handler() noexcept {
  static std::atomic<ExceptionHandler> handler{&print_exception};
  return handler;
}

inline void handle_exception(const char* thrower) noexcept {
  // Acquire: what the handler's owner wrote before setting it.
  exception_handler().load(std::memory_order_acquire)(std::current_exception(), thrower);
}

[[noreturn]] inline void fail(gpuev_status status) {
  const char* text = gpuev_last_error();
  // A thread that ends keeps no text any more.
  throw Error(static_cast<Status>(status), *text == '\0' ? gpuev_status_name(status) : text);
}

/// For calls that answer OK or an error.
inline void check(gpuev_status status) {
  if (status < 0) {
    fail(status);
  }
}

/// For calls that may also run out of time.
inline WaitOutcome waited(gpuev_status status) {
  check(status);
  return status == GPUEV_STATUS_TIMED_OUT ? WaitOutcome::TimedOut : WaitOutcome::Complete;
}

/// A time to wait, in the C interface's terms: a part of a nanosecond counts as one, so that zero alone is zero, and what is
/// longer than three centuries is for ever.
template <class Rep, class Period>
std::uint64_t timeout(std::chrono::duration<Rep, Period> time) {
  using std::chrono::nanoseconds;
  if (!(time > time.zero())) {
    return 0;
  }
  // Compared as seconds, and as floating-point numbers: neither side can overflow.
  using Seconds = std::chrono::duration<long double>;
  if (Seconds(time) >= Seconds(nanoseconds::max())) {
    return GPUEV_FOREVER;
  }
  return static_cast<std::uint64_t>(std::chrono::ceil<nanoseconds>(time).count());
}

/// Waits until then, whatever may happen to the clock meanwhile. `wait` waits for so many nanoseconds.
template <class Clock, class Duration, class Wait>
WaitOutcome wait_until(std::chrono::time_point<Clock, Duration> deadline, Wait wait) {
  for (;;) {
    const auto now = Clock::now();
    const bool over = now >= deadline;
    const WaitOutcome outcome = wait(over ? 0 : timeout(deadline - now));
    if (over || outcome == WaitOutcome::Complete) {
      return outcome;
    }
  }
}

/// One handle, owned. `Release` gives it back.
template <class Self, gpuev_status (*Release)(std::uint64_t)>
class Handle {
 public:
  /// Takes over a handle of this kind, which the object gives back from now on.
  [[nodiscard]] static Self adopt(std::uint64_t handle) noexcept {
    Self self;
    static_cast<Handle&>(self).handle_ = handle;
    return self;
  }

  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  /// The handle, which stays this object's. 0 if it is empty.
  std::uint64_t get() const noexcept {
    return handle_;
  }

  /// The handle, which is the caller's to give back from now on.
  [[nodiscard]] std::uint64_t release() noexcept {
    return std::exchange(handle_, 0);
  }

  /// Whether there is a handle.
  explicit operator bool() const noexcept {
    return handle_ != 0;
  }

 protected:
  Handle() noexcept = default;

  Handle(Handle&& other) noexcept : handle_(other.release()) {}

  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) {
      give_back();
      handle_ = other.release();
    }
    return *this;
  }

  ~Handle() {
    give_back();
  }

 private:
  void give_back() noexcept {
    if (handle_ != 0) {
      // Nobody could do anything about an error: the handle is stale, or this is the child of a fork.
      static_cast<void>(Release(std::exchange(handle_, 0)));
    }
  }

  std::uint64_t handle_ = 0;
};

/// The handle of an object that must not be empty: to the C interface, no stream is the default stream.
template <class T>
std::uint64_t some(const T& object) {
  if (!object) {
    throw Error(Status::InvalidHandle, "the object was moved from, or holds nothing");
  }
  return object.get();
}

/// A C++ function on its way through C as user data.
template <class Function>
struct Closure {
  Function function;

  static void destroy(void* data) noexcept {
    delete static_cast<Closure*>(data);
  }
};

}  // namespace detail

/// Sets what becomes of exceptions out of callbacks, in the whole program (in each shared library that hides its
/// symbols, for that library), and answers what it was. Null: as at the start, they are printed to standard error.
inline ExceptionHandler set_exception_handler(ExceptionHandler handler) noexcept {
  // Release and acquire: what goes with the handler, to whoever calls it or gets it back.
  return detail::exception_handler().exchange(handler != nullptr ? handler : &detail::print_exception,
                                              std::memory_order_acq_rel);
}

class Event;
class External;
class HostSignal;
class Pool;
class Stream;

/// How a stream waits for what the host has to relay.
enum class GateKind : std::uint32_t {
  None = GPUEV_GATE_KIND_NONE,
  Owned = GPUEV_GATE_KIND_OWNED,
  Driver = GPUEV_GATE_KIND_DRIVER,
};

/// What a device is and can do.
struct DeviceInfo {
  std::string name;
  std::string backend;
  std::string description;
  std::string clock;
  std::chrono::nanoseconds clock_resolution{};
  /// How many incomplete recordings a stream takes; nothing: no limit.
  std::optional<std::uint64_t> queue_depth;
  /// The most recordings that are gathered before they are submitted; 0: each goes at once.
  std::uint64_t batch_bound = 0;
  GateKind gates = GateKind::None;
  std::uint32_t gate_limit = 0;
  bool timed = false;
  bool emulated = false;
  bool failure_is_per_stream = false;

  DeviceInfo() = default;

  explicit DeviceInfo(const gpuev_device_info& info)
      : name(info.name),
        backend(info.backend),
        description(info.description),
        clock(info.clock),
        clock_resolution(static_cast<std::chrono::nanoseconds::rep>(info.clock_resolution_ns)),
        batch_bound(info.batch_bound),
        gates(static_cast<GateKind>(info.gates)),
        gate_limit(info.gate_limit),
        timed(info.timed),
        emulated(info.emulated),
        failure_is_per_stream(info.failure_is_per_stream) {
    if (info.queue_depth != 0) {
      queue_depth = info.queue_depth;
    }
  }
};

/// How a stream's completion is made known, where the device has a choice.
enum class SignalKind : std::uint32_t {
  Default = GPUEV_SIGNAL_KIND_DEFAULT,
  Cheap = GPUEV_SIGNAL_KIND_CHEAP,
  Prompt = GPUEV_SIGNAL_KIND_PROMPT,
};

/// How a stream is to be. Each member is as in gpuev_stream_options.
struct StreamOptions {
  std::string label;
  std::uint64_t queue_depth = 0;
  std::uint64_t batch_bound = 0;
  SignalKind signal = SignalKind::Default;
  bool would_block = false;
  bool native_foreign_waits = false;
};

/// An opened device.
class Device : public detail::Handle<Device, gpuev_device_release> {
 public:
  Device() noexcept = default;

  /// The devices that can be opened here, GPUs first.
  static std::vector<DeviceInfo> list() {
    std::vector<gpuev_device_info> infos(8);
    for (;;) {
      std::size_t count = 0;
      detail::check(gpuev_device_list(infos.data(), infos.size(), &count));
      const bool all = count <= infos.size();
      infos.resize(count);
      if (all) {
        return std::vector<DeviceInfo>(infos.begin(), infos.end());
      }
    }
  }

  /// Opens a device by its name: "cpu", "cuda:1", "vulkan:0", "metal".
  static Device open(const std::string& name) {
    gpuev_device handle = 0;
    detail::check(gpuev_device_open(name.c_str(), &handle));
    return adopt(handle);
  }

  /// The device that the process shares.
  static Device shared() {
    gpuev_device handle = 0;
    detail::check(gpuev_device_get_default(&handle));
    return adopt(handle);
  }

  /// Ends the device for everyone: what is pending fails with Status::Closed.
  void close() const {
    detail::check(gpuev_device_close(get()));
  }

  DeviceInfo info() const {
    gpuev_device_info info{};
    detail::check(gpuev_device_get_info(get(), &info));
    return DeviceInfo(info);
  }

  /// Who waits for what, since when, and which end of the chain hasn't moved.
  std::string stall_report() const {
    std::string text(1024, '\0');
    for (;;) {
      std::size_t length = 0;
      // With room for the NUL, which a string has beyond its size.
      detail::check(gpuev_device_stall_report(get(), text.data(), text.size() + 1, &length));
      const bool whole = length <= text.size();
      text.resize(length);
      if (whole) {
        return text;
      }
    }
  }

  Stream create_stream(const StreamOptions& options = {}) const;
  /// The one that is meant where a call names no stream. Another handle to it each time.
  Stream default_stream() const;
  /// A pool that keeps at most so many events for reuse; 0 is the default bound.
  Pool create_pool(std::size_t max_idle = 0) const;
  /// An event that the host completes, pending already, and its producer's end.
  std::pair<Event, HostSignal> host_event(const std::string& label = {}) const;
  /// An event for work that somebody else will submit, and the token that goes with it.
  std::pair<Event, External> external_event() const;
};

/// A callback that was registered, to be cancelled. Destroying it leaves the callback registered.
///
/// The handle can't be given up or adopted: whoever cancelled by it alone would leave the function behind.
class Callback {
 public:
  Callback() noexcept = default;
  Callback(const Callback&) = delete;
  Callback& operator=(const Callback&) = delete;
  Callback(Callback&& other) noexcept
      : handle_(std::move(other.handle_)), function_(std::exchange(other.function_, nullptr)),
        destroy_(other.destroy_) {}
  Callback& operator=(Callback&& other) noexcept {
    handle_ = std::move(other.handle_);
    function_ = std::exchange(other.function_, nullptr);
    destroy_ = other.destroy_;
    return *this;
  }
  ~Callback() = default;

  gpuev_callback get() const noexcept {
    return handle_.get();
  }

  explicit operator bool() const noexcept {
    return static_cast<bool>(handle_);
  }

  /// True if the function has not been called and never will be: it is destroyed then, before this returns. False if it was
  /// called, is being called, or was cancelled before; this never waits for it.
  bool cancel() const {
    bool cancelled = false;
    detail::check(gpuev_callback_cancel(get(), &cancelled));
    if (cancelled) {
      // One call is told so, and nobody else has the function any more.
      destroy_(function_);
    }
    return cancelled;
  }

 private:
  friend class Event;

  class Raw : public detail::Handle<Raw, gpuev_callback_release> {};

  Callback(gpuev_callback handle, void* function, void (*destroy)(void*) noexcept) noexcept
      : handle_(Raw::adopt(handle)), function_(function), destroy_(destroy) {}

  Raw handle_;
  /// Good for as long as the callback is neither called nor cancelled, which `cancel` finds out.
  void* function_ = nullptr;
  void (*destroy_)(void*) noexcept = nullptr;
};

/// An in-order queue of work on one device.
class Stream : public detail::Handle<Stream, gpuev_stream_release> {
 public:
  Stream() noexcept = default;

  /// Another handle to the device that it is on.
  Device device() const {
    gpuev_device handle = 0;
    detail::check(gpuev_stream_get_device(get(), &handle));
    return Device::adopt(handle);
  }

  /// Holds back what is submitted from now on until the event's recording of this moment is complete. True if there was
  /// anything to wait for: not if the event is unrecorded, complete, or of this very stream.
  bool wait(const Event& event) const;

  /// Submits what is gathered.
  void flush() const {
    detail::check(gpuev_stream_flush(get()));
  }

  /// Blocks until all that was submitted is done.
  void synchronize() const {
    detail::check(gpuev_stream_synchronize(get(), GPUEV_FOREVER));
  }

  /// Blocks until all that was submitted is done, for so long at most.
  template <class Rep, class Period>
  [[nodiscard]] WaitOutcome synchronize_for(std::chrono::duration<Rep, Period> time) const {
    return detail::waited(gpuev_stream_synchronize(get(), detail::timeout(time)));
  }

  /// Throws the stream's first failure, if it has failed.
  void check() const {
    detail::check(gpuev_stream_get_error(get()));
  }

  /// Has `work` run behind all that was submitted to a CPU device's stream before, on a thread of the library's. It is
  /// destroyed when it has run, or when it is dropped without running.
  ///
  /// An exception fails the stream with Status::WorkFailed and its text.
  void enqueue(std::function<void()> work) const {
    if (!work) {
      throw Error(Status::InvalidArgument, "the work is empty");
    }
    using Work = detail::Closure<std::function<void()>>;
    const auto run = [](void* data) noexcept -> std::int32_t {
      try {
        static_cast<Work*>(data)->function();
        return 0;
      } catch (const std::exception& what) {
        static_cast<void>(gpuev_set_work_error(what.what()));
      } catch (...) {
        static_cast<void>(gpuev_set_work_error("the work threw something that is no std::exception"));
      }
      return -1;
    };
    // Destroyed by the library in any case, also if the call fails.
    detail::check(gpuev_stream_enqueue(get(), run, new Work{std::move(work)}, &Work::destroy));
  }

  /// Keeps something alive until the event's recording of this moment is complete or has failed; it is let go of on the
  /// callback thread. Never, where nobody knows when the device is done with it (gpuev_stream_keep_until). If this throws,
  /// nothing is kept, and how long the device uses what the caller has is the caller's to know.
  template <class T>
  void keep_until(const Event& event, const std::shared_ptr<T>& kept) const;

  /// Holds the stream for this thread: StreamLock is the guard.
  void lock() const {
    detail::check(gpuev_stream_lock(get()));
  }

  /// Lets go of the stream. Throws if this thread doesn't hold it.
  void unlock() const {
    detail::check(gpuev_stream_unlock(get()));
  }
};

/// Holds a stream for this thread, in its scope: what this thread gives to it by this object stays together.
///
/// Hold it briefly, and don't wait for the stream meanwhile: that is Status::WouldDeadlock, as is locking it twice.
class StreamLock {
 public:
  explicit StreamLock(const Stream& stream) : handle_(stream.get()) {
    stream.lock();
  }

  StreamLock(const StreamLock&) = delete;
  StreamLock& operator=(const StreamLock&) = delete;

  ~StreamLock() {
    // The handle is good for this also if the stream was destroyed in between.
    static_cast<void>(gpuev_stream_unlock(handle_));
  }

 private:
  gpuev_stream handle_;
};

/// A marker of a point in a stream of work.
class Event : public detail::Handle<Event, gpuev_event_release> {
 public:
  /// What is told how a recording went: Status::Ok, or the failure and its text, which is good until the function returns.
  using Function = std::function<void(Status status, std::string_view text)>;

  Event() noexcept = default;

  /// Records the event: it stands for all work that was submitted to the stream before. With `flush`, what the stream has
  /// gathered is then submitted.
  void record(const Stream& stream, bool flush = false) const {
    detail::check(gpuev_event_record(get(), detail::some(stream), flush));
  }

  /// Records it on the default stream of its device.
  void record(bool flush = false) const {
    detail::check(gpuev_event_record(get(), 0, flush));
  }

  // A pointer, or a handle, would otherwise be a bool.
  void record(const void*) const = delete;
  template <class T, std::enable_if_t<std::is_integral_v<T> && !std::is_same_v<T, bool>, int> = 0>
  void record(T, bool = false) const = delete;

  /// Makes it unrecorded, and timed or not from now on.
  void reset(bool timed) const {
    detail::check(gpuev_event_reset(get(), timed));
  }

  /// Whether the recording is complete; false if there is none. Throws its failure.
  bool query() const {
    bool complete = false;
    detail::check(gpuev_event_query(get(), &complete));
    return complete;
  }

  /// Where it stands. A failure is an answer here.
  EventStatus status() const {
    gpuev_event_status status = GPUEV_EVENT_STATUS_UNRECORDED;
    detail::check(gpuev_event_get_status(get(), &status));
    return static_cast<EventStatus>(status);
  }

  /// Blocks until the recording is complete; not at all if there is none.
  void synchronize() const {
    detail::check(gpuev_event_synchronize(get()));
  }

  /// Blocks for so long at most. Zero only asks.
  template <class Rep, class Period>
  [[nodiscard]] WaitOutcome wait_for(std::chrono::duration<Rep, Period> time) const {
    return wait(detail::timeout(time), GPUEV_WAIT_STRATEGY_PARK, 0);
  }

  /// Blocks until then at most.
  template <class Clock, class Duration>
  [[nodiscard]] WaitOutcome wait_until(std::chrono::time_point<Clock, Duration> deadline) const {
    return detail::wait_until(deadline, [this](std::uint64_t timeout_ns) {
      return wait(timeout_ns, GPUEV_WAIT_STRATEGY_PARK, 0);
    });
  }

  /// As `wait_for`, spinning: for `spin` at first, and then parked.
  template <class Rep, class Period, class SpinRep, class SpinPeriod>
  [[nodiscard]] WaitOutcome spin_for(std::chrono::duration<Rep, Period> time,
                                     std::chrono::duration<SpinRep, SpinPeriod> spin) const {
    return wait(detail::timeout(time), GPUEV_WAIT_STRATEGY_SPIN_THEN_PARK, detail::timeout(spin));
  }

  /// As `wait_for`, spinning to the end.
  template <class Rep, class Period>
  [[nodiscard]] WaitOutcome spin_for(std::chrono::duration<Rep, Period> time) const {
    return wait(detail::timeout(time), GPUEV_WAIT_STRATEGY_SPIN, 0);
  }

  /// When the recording completed, since the origin of its device's clock. Throws if that was not measured.
  std::chrono::nanoseconds completion_time() const {
    std::uint64_t nanoseconds = 0;
    detail::check(gpuev_event_get_completion_time(get(), &nanoseconds));
    return std::chrono::nanoseconds(static_cast<std::chrono::nanoseconds::rep>(nanoseconds));
  }

  bool is_timed() const {
    bool timed = false;
    detail::check(gpuev_event_is_timed(get(), &timed));
    return timed;
  }

  /// Another handle to the device that it is of.
  Device device() const {
    gpuev_device handle = 0;
    detail::check(gpuev_event_get_device(get(), &handle));
    return Device::adopt(handle);
  }

  /// Names it, for stall reports and traces.
  void set_label(const std::string& label) const {
    detail::check(gpuev_event_set_label(get(), label.c_str()));
  }

  /// Has the function called once: when the recording of this moment is complete or has failed, when its device is closed, or
  /// soon, if it is complete already or there is none. On the callback thread of the event's device; it may call anything.
  ///
  /// The function is destroyed after the call, on that thread; by `Callback::cancel`, if that is true; or before this returns,
  /// if this throws. An exception out of it goes to the exception handler and does nothing else.
  Callback notify(Function function) const {
    Callback callback;
    notify(std::move(function), &callback);
    return callback;
  }

  /// As `notify`, for what nobody will cancel.
  void on_complete(Function function) const {
    notify(std::move(function), nullptr);
  }

 private:
  using Notification = detail::Closure<Function>;

  WaitOutcome wait(std::uint64_t timeout_ns, gpuev_wait_strategy strategy, std::uint64_t spin_ns) const {
    return detail::waited(gpuev_event_wait(get(), timeout_ns, strategy, spin_ns));
  }

  void notify(Function function, Callback* callback) const {
    if (!function) {
      throw Error(Status::InvalidArgument, "the function is empty");
    }
    const auto call = [](void* data, gpuev_status status, const char* text) noexcept {
      const std::unique_ptr<Notification> notification(static_cast<Notification*>(data));
      try {
        notification->function(static_cast<Status>(status), text);
      } catch (...) {
        detail::handle_exception("a callback");
      }
    };
    auto notification = std::make_unique<Notification>(Notification{std::move(function)});
    gpuev_callback handle = 0;
    detail::check(gpuev_event_notify(get(), call, notification.get(), callback != nullptr ? &handle : nullptr));
    // The call's from now on: it may be over by now.
    void* const data = notification.release();
    if (callback != nullptr) {
      *callback = Callback(handle, data, &Notification::destroy);
    }
  }
};

/// What a pool has been up to.
using PoolStatistics = gpuev_pool_statistics;

/// What events are taken from. They go back to it when they are destroyed, and may outlive it.
class Pool : public detail::Handle<Pool, gpuev_pool_release> {
 public:
  Pool() noexcept = default;

  /// The pool of the process's shared device.
  static Pool shared() {
    gpuev_pool handle = 0;
    detail::check(gpuev_pool_get_shared(&handle));
    return adopt(handle);
  }

  Event acquire() const {
    return acquire(false);
  }

  Event acquire_timed() const {
    return acquire(true);
  }

  /// Frees what is kept for reuse.
  void empty_cache() const {
    detail::check(gpuev_pool_empty_cache(get()));
  }

  PoolStatistics statistics() const {
    PoolStatistics statistics{};
    detail::check(gpuev_pool_get_statistics(get(), &statistics));
    return statistics;
  }

 private:
  Event acquire(bool timed) const {
    gpuev_event handle = 0;
    detail::check(gpuev_event_acquire(get(), timed, &handle));
    return Event::adopt(handle);
  }
};

/// The producer's end of an event that the host signals. If it is destroyed without that, the event fails with
/// Status::Abandoned.
class HostSignal : public detail::Handle<HostSignal, gpuev_signal_release> {
 public:
  HostSignal() noexcept = default;

  /// Completes the event. Works once, as does `fail`: then it is Status::InvalidHandle.
  void complete() const {
    detail::check(gpuev_signal_complete(get()));
  }

  /// Fails the event with this text, and with it whoever waits for it.
  void fail(const std::string& reason) const {
    detail::check(gpuev_signal_fail(get(), reason.c_str()));
  }
};

/// The token of a recording in a submission that somebody else makes. If it is destroyed before the work is said to be done,
/// the event fails with Status::Abandoned.
class External : public detail::Handle<External, gpuev_external_release> {
 public:
  External() noexcept = default;

  /// The work has been submitted: from now on the event is pending like any other.
  void submitted() const {
    detail::check(gpuev_external_submitted(get()));
  }

  void complete() const {
    detail::check(gpuev_external_complete(get()));
  }

  void fail(const std::string& reason) const {
    detail::check(gpuev_external_fail(get(), reason.c_str()));
  }
};

/// An event in a list, which stays somebody else's.
using EventRef = std::reference_wrapper<const Event>;

namespace detail {

inline std::vector<gpuev_event> handles(const std::vector<EventRef>& events) {
  std::vector<gpuev_event> handles;
  handles.reserve(events.size());
  for (const Event& event : events) {
    handles.push_back(event.get());
  }
  return handles;
}

inline std::optional<std::size_t> wait_any(const std::vector<EventRef>& events, std::uint64_t timeout_ns) {
  const auto all = handles(events);
  std::size_t index = 0;
  if (waited(gpuev_wait_any(all.data(), all.size(), timeout_ns, &index)) == WaitOutcome::TimedOut) {
    return std::nullopt;
  }
  return index;
}

inline WaitOutcome wait_all(const std::vector<EventRef>& events, std::uint64_t timeout_ns) {
  const auto all = handles(events);
  return waited(gpuev_wait_all(all.data(), all.size(), timeout_ns));
}

}  // namespace detail

/// Where each of the events stands, asking each driver once.
inline std::vector<EventStatus> statuses(const std::vector<EventRef>& events) {
  const auto all = detail::handles(events);
  std::vector<gpuev_event_status> raw(all.size());
  detail::check(gpuev_event_get_statuses(all.data(), all.size(), raw.data()));
  std::vector<EventStatus> statuses;
  statuses.reserve(raw.size());
  for (const gpuev_event_status status : raw) {
    statuses.push_back(static_cast<EventStatus>(status));
  }
  return statuses;
}

/// Blocks until one of the events is settled: complete, failed, or not recorded at all. Which it is; ask it how.
inline std::size_t wait_any(const std::vector<EventRef>& events) {
  const auto settled = detail::wait_any(events, GPUEV_FOREVER);
  if (!settled) {
    // The only way for that to end without one.
    throw Error(Status::InvalidArgument, "there are no events to wait for");
  }
  return *settled;
}

/// As above, for so long at most: nothing if none was settled by then.
template <class Rep, class Period>
[[nodiscard]] std::optional<std::size_t> wait_any_for(const std::vector<EventRef>& events,
                                                      std::chrono::duration<Rep, Period> time) {
  return detail::wait_any(events, detail::timeout(time));
}

/// Blocks until all of the events are complete; unrecorded ones count as complete. Throws the failure of one of them, as soon
/// as it is known.
inline void wait_all(const std::vector<EventRef>& events) {
  static_cast<void>(detail::wait_all(events, GPUEV_FOREVER));
}

/// As above, for so long at most.
template <class Rep, class Period>
[[nodiscard]] WaitOutcome wait_all_for(const std::vector<EventRef>& events, std::chrono::duration<Rep, Period> time) {
  return detail::wait_all(events, detail::timeout(time));
}

/// A time by a device's clock, with its sign.
using Milliseconds = std::chrono::duration<double, std::milli>;

/// The device's time from `start` to `end`, after waiting for both: negative if the end came first. What was not measured is
/// an error, and never zero.
inline Milliseconds elapsed(const Event& start, const Event& end) {
  double milliseconds = 0;
  detail::check(gpuev_event_elapsed(start.get(), end.get(), &milliseconds));
  return Milliseconds(milliseconds);
}

/// How many events the process holds: to find those that nobody destroyed.
inline std::size_t event_count() {
  std::size_t count = 0;
  detail::check(gpuev_event_count(&count));
  return count;
}

inline Stream Device::create_stream(const StreamOptions& options) const {
  gpuev_stream_options raw{};
  raw.label = options.label.empty() ? nullptr : options.label.c_str();
  raw.queue_depth = options.queue_depth;
  raw.batch_bound = options.batch_bound;
  raw.signal = static_cast<std::uint32_t>(options.signal);
  raw.would_block = options.would_block;
  raw.native_foreign_waits = options.native_foreign_waits;
  gpuev_stream handle = 0;
  detail::check(gpuev_stream_create(get(), &raw, &handle));
  return Stream::adopt(handle);
}

inline Stream Device::default_stream() const {
  gpuev_stream handle = 0;
  detail::check(gpuev_stream_get_default(get(), &handle));
  return Stream::adopt(handle);
}

inline Pool Device::create_pool(std::size_t max_idle) const {
  gpuev_pool handle = 0;
  detail::check(gpuev_pool_create(get(), max_idle, &handle));
  return Pool::adopt(handle);
}

inline std::pair<Event, HostSignal> Device::host_event(const std::string& label) const {
  gpuev_event event = 0;
  gpuev_signal signal = 0;
  detail::check(gpuev_host_event(get(), label.empty() ? nullptr : label.c_str(), &event, &signal));
  return {Event::adopt(event), HostSignal::adopt(signal)};
}

inline std::pair<Event, External> Device::external_event() const {
  gpuev_event event = 0;
  gpuev_external external = 0;
  detail::check(gpuev_external_event(get(), &event, &external));
  return {Event::adopt(event), External::adopt(external)};
}

inline bool Stream::wait(const Event& event) const {
  bool inserted = false;
  detail::check(gpuev_stream_wait(detail::some(*this), event.get(), &inserted));
  return inserted;
}

template <class T>
void Stream::keep_until(const Event& event, const std::shared_ptr<T>& kept) const {
  using Kept = detail::Closure<std::shared_ptr<T>>;
  auto closure = std::make_unique<Kept>(Kept{kept});
  detail::check(gpuev_stream_keep_until(get(), event.get(), &Kept::destroy, closure.get()));
  // The library's from now on: it may have gone by now.
  static_cast<void>(closure.release());
}

}  // namespace gpu_events

#endif  // GPU_EVENTS_HPP
