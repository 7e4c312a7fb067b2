// The classes of PyTorch's MPSEvent.h, on any device that gpu-events drives: the same names, parameters, defaults and constness.
//
// Code that is written against that header moves over with its namespace, an MPSStream that is made of a gpu_events::Stream, and
// notification blocks that are functions of C++. What the original does soundly, this does as well. Where it doesn't, this does
// what the library promises (docs/contract.md), and each member says so. For all of them:
//
// - What fails is told: a call throws gpu_events::Error. Nothing waits for what will never come.
// - `needsLock` is kept, and nothing goes wrong either way. A call by a thread that holds the stream (MPSStream::lock, or
//   MPSStreamLock) goes through the lock that it holds, whatever it says; any other takes the lock for itself. So false without
//   the lock is no race, and true with it no deadlock.
// - An event keeps what it needs. It may outlive its stream, and its pool.
// - An id is good from acquireEvent to releaseEvent and never again: after that, or made up, it is an Error with
//   Status::InvalidHandle, and no other event ever has it.

#ifndef GPU_EVENTS_MPS_HPP
#define GPU_EVENTS_MPS_HPP

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>

#include "../gpu_events.hpp"

namespace gpu_events::mps {

/// An event's number. 64 bits, as the counter behind it: the original's is POSIX's id_t, which has 32. Outside of this namespace,
/// say mps::id_t.
using id_t = uint64_t;

/// What notify() calls: for which event, and how its recording went (Status::Ok, or the failure and its text).
///
/// It stands where the original has an MTLSharedEventNotificationBlock, whose MTLSharedEvent and value there are not on every
/// device. It gets the number and not the MPSEvent, which may be gone by then.
using MPSNotificationBlock = std::function<void(id_t event_id, Status status, std::string_view text)>;

/// A stream, as events need it: a gpu_events::Stream, shared with the events that are to be recorded on it.
class MPSStream {
 public:
  explicit MPSStream(Stream stream) : m_stream(std::make_shared<const Stream>(std::move(stream))) {
    if (!*m_stream) {
      throw Error(Status::InvalidHandle, "the stream is empty");
    }
  }

  /// The stream itself: to give work to, and for its handle.
  const Stream& stream() const {
    return *m_stream;
  }

  /// Holds the stream for this thread, where the original has dispatch_sync() on the stream's queue. What this thread records
  /// and waits for meanwhile stays together with the work that it gives to stream().
  void lock() {
    m_stream->lock();
  }

  void unlock() {
    m_stream->unlock();
  }

 private:
  friend class MPSEvent;

  // Not a Stream alone: events go on with it when the MPSStream is gone. And one handle for all: a lock is held by handle.
  std::shared_ptr<const Stream> m_stream;
};

/// Holds a stream in its scope. Not std::lock_guard: letting go can fail, as in a fork's child, and a destructor must not throw.
class MPSStreamLock {
 public:
  explicit MPSStreamLock(MPSStream& stream) : m_lock(stream.stream()) {}

  MPSStreamLock(const MPSStreamLock&) = delete;
  MPSStreamLock& operator=(const MPSStreamLock&) = delete;

 private:
  StreamLock m_lock;
};

/// The default stream of the process's device, made when it is first asked for. As there, it is never destroyed.
inline MPSStream* getDefaultMPSStream() {
  static MPSStream* const stream = new MPSStream(Device::shared().default_stream());
  return stream;
}

// NOTE: as there, acquire instances from an MPSEventPool.
class MPSEvent {
 public:
  /// Takes over the event with this number, from MPSEventPool::acquireEvent(bool): this object releases it. (The original makes
  /// a native object here, and doesn't ask whether it got one.) A number that is none throws, and nothing was taken over. Where
  /// the timing is another, the event is reset to it. A null stream is the default one of the event's device.
  explicit MPSEvent(id_t ID, MPSStream* stream, bool enable_timing)
      : m_id(ID), m_stream(shared(stream)), m_event(take_over(ID, enable_timing)) {}

  MPSEvent(const MPSEvent&) = delete;
  MPSEvent& operator=(const MPSEvent&) = delete;

  /// Releases the event, pending or not. As there it blocks nothing; unlike there, blocks of notify() still run.
  ~MPSEvent() = default;

  /// As there. With `syncEvent` what the stream has gathered is submitted at once; without it, it is submitted when somebody
  /// waits or asks, where the original then waits for ever. Timing costs no commit.
  void record(bool /*needsLock*/, bool syncEvent = false) {
    detail::check(gpuev_event_record(m_id, handle(stream().get()), syncEvent));
  }

  /// As there: the event's own stream waits, which its order sees to anyway. True if the recording is pending. If that fails,
  /// what is submitted after this fails with it.
  bool wait(bool needsLock, bool syncEvent = false) {
    return wait_on(stream(), needsLock, syncEvent);
  }

  /// Has another stream wait, of any device, which the original can't. (Upstream has it later.) A null stream is the default one
  /// of the event's device.
  bool wait(MPSStream* stream, bool needsLock = true, bool syncEvent = false) {
    return wait_on(shared(stream), needsLock, syncEvent);
  }

  /// Has the block run once: when the recording of this moment is complete or has failed, when its device is closed, or soon, if
  /// it is complete already or there is none. Always true: where the original answers false and forgets the block, this runs it.
  /// On the callback thread of the event's device, in the order of a stream's recordings; it may call anything. What it throws
  /// goes to the exception handler (set_exception_handler).
  bool notify(bool /*needsLock*/, MPSNotificationBlock block) {
    if (!block) {
      throw Error(Status::InvalidArgument, "the block is empty");
    }
    m_event.on_complete([id = m_id, block = std::move(block)](Status status, std::string_view text) {
      block(id, status, text);
    });
    return true;
  }

  /// As there: false if it is not recorded, or not complete yet. Throws if it failed: the original says "not yet" for ever.
  bool query() const {
    return m_event.query();
  }

  /// As there: true if it had to wait, false if there was nothing to wait for. Throws if the work fails: the original hangs.
  bool synchronize() {
    if (m_event.wait_for(std::chrono::nanoseconds::zero()) == WaitOutcome::Complete) {
      return false;
    }
    m_event.synchronize();
    return true;
  }

  /// As there: the event is unrecorded, and has this stream and timing from now on. No native counter is set back, so that
  /// nobody's late signal completes the next recording, and who waits for the last one goes on waiting for that.
  void reset(MPSStream* stream, bool enable_timing) {
    auto next = shared(stream);
    m_event.reset(enable_timing);
    const std::lock_guard<std::mutex> guard(m_mutex);
    m_stream.swap(next);
  }

  /// As there. It names this event until it is released, and never another one.
  id_t getID() const {
    return m_id;
  }

  /// In nanoseconds, as there; but when the device had completed the work, by its own clock, and not when the host came to hear
  /// of it. Throws where there is no time (not timed, not recorded, not complete yet, not measured): the original says 0.
  uint64_t getCompletionTime() const {
    return static_cast<uint64_t>(m_event.completion_time().count());
  }

  /// As there, blocks until the recording is complete, if there is one. Any number of threads may, as often as they like: the
  /// original has a flag that the first one clears.
  void waitForCpuSync() {
    m_event.synchronize();
  }

 private:
  friend class MPSEventPool;

  static std::shared_ptr<const Stream> shared(const MPSStream* stream) {
    return stream != nullptr ? stream->m_stream : nullptr;
  }

  /// No stream is the default one, to C as well.
  static gpuev_stream handle(const Stream* stream) {
    return stream != nullptr ? stream->get() : 0;
  }

  static Event take_over(id_t id, bool enable_timing) {
    bool timed = false;
    detail::check(gpuev_event_is_timed(id, &timed));
    if (timed != enable_timing) {
      detail::check(gpuev_event_reset(id, enable_timing));
    }
    return Event::adopt(id);
  }

  /// Has the stream wait for the event with this number.
  static bool wait_for(id_t id, const Stream* stream, bool syncEvent) {
    bool inserted = false;
    detail::check(gpuev_stream_wait(handle(stream), id, &inserted));
    if (!inserted) {
      // On the event's own stream there is nothing to insert while it is pending.
      gpuev_event_status status = GPUEV_EVENT_STATUS_UNRECORDED;
      detail::check(gpuev_event_get_status(id, &status));
      if (status != GPUEV_EVENT_STATUS_PENDING) {
        return false;
      }
    }
    if (syncEvent) {
      flush(id, stream);
    }
    return true;
  }

  static void flush(id_t id, const Stream* stream) {
    if (stream != nullptr) {
      stream->flush();
      return;
    }
    gpuev_device device = 0;
    detail::check(gpuev_event_get_device(id, &device));
    Device::adopt(device).default_stream().flush();
  }

  bool wait_on(const std::shared_ptr<const Stream>& stream, bool /*needsLock*/, bool syncEvent) {
    return wait_for(m_id, stream.get(), syncEvent);
  }

  /// The stream of this moment, kept while it is used: another thread may reset the event.
  std::shared_ptr<const Stream> stream() const {
    const std::lock_guard<std::mutex> guard(m_mutex);
    return m_stream;
  }

  const id_t m_id;
  mutable std::mutex m_mutex;
  std::shared_ptr<const Stream> m_stream;
  const Event m_event;
};

typedef std::unique_ptr<MPSEvent, std::function<void(MPSEvent*)>> MPSEventPtr;

class MPSEventPool {
 public:
  /// As there. The pool is of the stream's device, and keeps the stream.
  explicit MPSEventPool(MPSStream* default_stream)
      : m_default_stream(checked(default_stream)), m_pool(m_default_stream.stream().device().create_pool()) {}

  MPSEventPool(const MPSEventPool&) = delete;
  MPSEventPool& operator=(const MPSEventPool&) = delete;

  /// Events may outlive it, and go on working: there, their deleter has a pointer to the pool that is gone. So may ids that
  /// nobody released (gpuev_event_count counts them); there they end with the pool, under whoever uses them.
  ~MPSEventPool() = default;

  /// As there. A null stream is the default one.
  MPSEventPtr acquireEvent(bool enable_timing, MPSStream* stream) {
    Event event = take(enable_timing);
    MPSEventPtr result(new MPSEvent(event.get(), stream != nullptr ? stream : &m_default_stream, enable_timing),
                       [](MPSEvent* released) { delete released; });
    // The MPSEvent's by now.
    static_cast<void>(event.release());
    return result;
  }

  /// As there, frees what is kept for reuse. What is out, or is still being waited for, is not touched.
  void emptyCache() {
    m_pool.empty_cache();
  }

  /// As there, but the number is of this one life of the event.
  id_t acquireEvent(bool enable_timing) {
    return take(enable_timing).release();
  }

  /// As there. A call that is using the event finishes with it.
  void releaseEvent(id_t event_id) {
    detail::check(gpuev_event_release(event_id));
  }

  /// As there, on the default stream.
  void recordEvent(id_t event_id, bool syncEvent) {
    recordEvent(event_id, &m_default_stream, syncEvent);
  }

  /// On another stream of the device.
  void recordEvent(id_t event_id, MPSStream* stream, bool syncEvent = false) {
    detail::check(gpuev_event_record(event_id, handle_of(stream), syncEvent));
  }

  /// As there: the default stream waits.
  void waitForEvent(id_t event_id, bool syncEvent) {
    waitForEvent(event_id, &m_default_stream, syncEvent);
  }

  /// Another stream waits, of any device. (Upstream has it later.)
  void waitForEvent(id_t event_id, MPSStream* stream, bool syncEvent = false) {
    MPSEvent::wait_for(event_id, stream_of(stream), syncEvent);
  }

  /// As there, and throws if the work fails.
  void synchronizeEvent(id_t event_id) {
    detail::check(gpuev_event_synchronize(event_id));
  }

  /// As there, and throws if the work failed.
  bool queryEvent(id_t event_id) {
    bool complete = false;
    detail::check(gpuev_event_query(event_id, &complete));
    return complete;
  }

  /// As there: waits for both, and then answers milliseconds. Negative if the end came first, where the original throws: how
  /// early it came is an answer, and the library's ids have always had the sign (R22). By the device's clock; any number
  /// of times; and no other call is held up meanwhile. Events that are not timed or not recorded throw, before anything is
  /// waited for: there they are waited for for ever.
  double elapsedTime(id_t start_event_id, id_t end_event_id) {
    double milliseconds = 0;
    detail::check(gpuev_event_elapsed(start_event_id, end_event_id, &milliseconds));
    return milliseconds;
  }

  /// Makes the event unrecorded, with or without timing from now on, under the same number. (Upstream has it later.)
  void resetEvent(id_t event_id, bool enable_timing) {
    detail::check(gpuev_event_reset(event_id, enable_timing));
  }

 private:
  static const MPSStream& checked(const MPSStream* stream) {
    if (stream == nullptr) {
      throw Error(Status::InvalidArgument, "the default stream is null");
    }
    return *stream;
  }

  /// A null stream is the default one.
  const Stream* stream_of(const MPSStream* stream) const {
    return &(stream != nullptr ? *stream : m_default_stream).stream();
  }

  gpuev_stream handle_of(const MPSStream* stream) const {
    return stream_of(stream)->get();
  }

  Event take(bool enable_timing) const {
    return enable_timing ? m_pool.acquire_timed() : m_pool.acquire();
  }

  MPSStream m_default_stream;
  const Pool m_pool;
};

/// As there: the process's pool, of getDefaultMPSStream(). It lives as long as the process: there it is a static, destroyed at
/// exit under whoever still uses it.
inline std::shared_ptr<MPSEventPool> getMPSEventPool() {
  static const auto* const pool =
      new std::shared_ptr<MPSEventPool>(std::make_shared<MPSEventPool>(getDefaultMPSStream()));
  return *pool;
}

}  // namespace gpu_events::mps

#endif  // GPU_EVENTS_MPS_HPP
