// gpu_events.hpp: who owns what, what throws, and what becomes of functions.

#include <gpu_events.hpp>

#include <limits>
#include <mutex>
#include <thread>
#include <type_traits>

#include "../support.h"

using namespace gpu_events;
using namespace std::chrono_literals;

// What a call has to throw.
#define THROWS(expected, expression)                                     \
  do {                                                                   \
    bool thrown = false;                                                 \
    try {                                                                \
      static_cast<void>(expression);                                     \
    } catch (const Error& error) {                                       \
      thrown = true;                                                     \
      CHECK(error.status() == Status::expected);                         \
      CHECK(std::string_view(error.what()).size() > 0);                  \
    }                                                                    \
    CHECK(thrown);                                                       \
  } while (false)

namespace {

template <class T>
constexpr bool moves_and_does_not_copy = std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T> &&
                                         std::is_nothrow_destructible_v<T> && std::is_nothrow_default_constructible_v<T> &&
                                         !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;

static_assert(moves_and_does_not_copy<Device>);
static_assert(moves_and_does_not_copy<Stream>);
static_assert(moves_and_does_not_copy<Pool>);
static_assert(moves_and_does_not_copy<Event>);
static_assert(moves_and_does_not_copy<Callback>);
static_assert(moves_and_does_not_copy<HostSignal>);
static_assert(moves_and_does_not_copy<External>);
static_assert(!std::is_move_constructible_v<StreamLock>);

// A stream that stands still until the gate is opened.
struct Gate {
  Event event;
  HostSignal signal;

  explicit Gate(const Device& device) {
    std::tie(event, signal) = device.host_event("gate");
  }

  Gate(const Device& device, const Stream& stream) : Gate(device) {
    CHECK(stream.wait(event));
  }

  void open() const {
    signal.complete();
  }
};

// Something whose copies are counted, to see that none is left.
struct Counted {
  std::shared_ptr<int> alive = std::make_shared<int>(0);

  long owners() const {
    return alive.use_count();
  }
};

// Until the callback thread has done what it was given before for the stream.
void drain(const Device& device, const Stream& stream) {
  const Gate passed(device);
  const Event last = device.create_pool().acquire();
  last.record(stream);
  last.on_complete([&](Status, std::string_view) { passed.open(); });
  passed.event.synchronize();
}

void handles_are_owned(const char* name) {
  const Device device = Device::open(name);
  const Pool pool = device.create_pool(4);
  Event one = pool.acquire();
  const gpuev_event handle = one.get();
  CHECK(one && handle != 0);

  Event two = std::move(one);
  CHECK(two.get() == handle);
  CHECK(!one && one.get() == 0);  // NOLINT: what a moved-from event is, is promised.
  THROWS(InvalidHandle, one.query());
  THROWS(InvalidHandle, one.synchronize());

  // Moving onto an event gives back the one that was there; onto itself, nothing.
  Event three = pool.acquire_timed();
  const gpuev_event replaced = three.get();
  three = std::move(two);
  CHECK(three.get() == handle);
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_HANDLE, gpuev_event_release(replaced));
  Event& same = three;
  three = std::move(same);
  CHECK(three.get() == handle);

  // Given up, it is the caller's, and taken over, the object's.
  const gpuev_event raw = three.release();
  CHECK(raw == handle && !three);
  {
    const Event four = Event::adopt(raw);
    CHECK(!four.query());
    CHECK(event_count() == 1);
  }
  CHECK(event_count() == 0);
  ANSWERS(GPUEV_STATUS_ERROR_INVALID_HANDLE, gpuev_event_release(raw));

  // A handle that somebody else gave back: the destructor has nothing to say about it.
  const Event stale = pool.acquire();
  OK(gpuev_event_release(stale.get()));
}

// To the C interface, no stream is the default stream. A stream that was moved from is none of them.
void an_empty_stream_is_no_default_stream(const char* name) {
  const Device device = Device::open(name);
  const Event event = device.create_pool().acquire();
  Stream stream = device.create_stream();
  const Stream moved = std::move(stream);
  THROWS(InvalidHandle, event.record(stream));  // NOLINT
  THROWS(InvalidHandle, stream.wait(event));
  THROWS(InvalidHandle, stream.synchronize());
  THROWS(InvalidHandle, stream.enqueue([] {}));
  THROWS(InvalidHandle, StreamLock(stream));
  CHECK(event.status() == EventStatus::Unrecorded);
  event.record();
  event.synchronize();
  CHECK(event.query());
}

void devices_are_told_of(const char* name) {
  const auto all = Device::list();
  CHECK(!all.empty());
  const Device device = Device::open(name);
  const DeviceInfo info = device.info();
  CHECK(info.name.rfind(name, 0) == 0);
  CHECK(!info.backend.empty() && !info.clock.empty());
  THROWS(InvalidArgument, Device::open("no such backend"));
  CHECK(Device::shared());
  CHECK(version() == gpuev_version());
  CHECK(std::string_view(status_name(Status::Closed)) == "closed");
  CHECK(Pool::shared().statistics().live == 0);

  std::string label(3000, 'x');
  StreamOptions options;
  options.label = label;
  options.batch_bound = GPUEV_NO_BATCHES;
  options.signal = SignalKind::Prompt;
  const Stream stream = device.create_stream(options);
  const Gate gate(device, stream);
  // The stream comes to its wait by itself.
  while (device.stall_report().find(label) == std::string::npos) {
    std::this_thread::yield();
  }
  gate.open();
  stream.synchronize();
  CHECK(stream.device().info().name == info.name);
  options.signal = static_cast<SignalKind>(9);
  THROWS(InvalidArgument, device.create_stream(options));
}

void events_are_recorded_waited_for_and_measured(const char* name) {
  const Device device = Device::open(name);
  const Stream produce = device.create_stream(), consume = device.default_stream();
  const Pool pool = device.create_pool();
  const Event start = pool.acquire_timed(), end = pool.acquire_timed();
  CHECK(start.is_timed() && !pool.acquire().is_timed());
  THROWS(Unrecorded, elapsed(start, end));
  THROWS(Unrecorded, end.completion_time());
  start.record(produce);
  const Gate gate(device, produce);
  end.record(produce, true);
  CHECK(consume.wait(end));
  CHECK(!produce.wait(end));
  CHECK(end.status() == EventStatus::Pending && !end.query());
  end.set_label("end");

  // R12: running out of time is an outcome.
  CHECK(end.wait_for(0ns) == WaitOutcome::TimedOut);
  CHECK(end.wait_for(-1h) == WaitOutcome::TimedOut);
  CHECK(end.wait_for(1us) == WaitOutcome::TimedOut);
  CHECK(end.spin_for(10us) == WaitOutcome::TimedOut);
  CHECK(end.spin_for(10us, 1us) == WaitOutcome::TimedOut);
  CHECK(end.wait_until(std::chrono::steady_clock::now()) == WaitOutcome::TimedOut);
  CHECK(end.wait_until(std::chrono::system_clock::time_point::min()) == WaitOutcome::TimedOut);
  CHECK(end.wait_until(std::chrono::system_clock::now() + 1us) == WaitOutcome::TimedOut);
  CHECK(produce.synchronize_for(1us) == WaitOutcome::TimedOut);
  CHECK(!wait_any_for({end}, 1us));
  CHECK(wait_all_for({start, end}, 1us) == WaitOutcome::TimedOut);
  const Event fresh = pool.acquire();
  const auto now = statuses({end, fresh});
  CHECK(now.size() == 2 && now[0] == EventStatus::Pending && now[1] == EventStatus::Unrecorded);

  gate.open();
  // Times that no clock holds are for ever.
  CHECK(end.wait_for(std::chrono::hours::max()) == WaitOutcome::Complete);
  CHECK(end.wait_for(std::chrono::duration<double>(std::numeric_limits<double>::infinity())) == WaitOutcome::Complete);
  CHECK(end.wait_until(std::chrono::steady_clock::time_point::max()) == WaitOutcome::Complete);
  CHECK(consume.synchronize_for(1h) == WaitOutcome::Complete);
  wait_all({start, end});
  CHECK(wait_any({end}) == 0);
  THROWS(InvalidArgument, wait_any({}));
  CHECK(elapsed(start, end).count() >= 0 && elapsed(start, end) == -elapsed(end, start));
  CHECK(end.completion_time() >= start.completion_time());
  end.reset(false);
  CHECK(end.status() == EventStatus::Unrecorded && !end.is_timed());
  THROWS(Untimed, elapsed(start, end));
  pool.empty_cache();
  CHECK(pool.statistics().live == 3);
}

void timeouts_are_rounded_up_and_never_overflow(const char*) {
  using detail::timeout;
  CHECK(timeout(0s) == 0 && timeout(-1ns) == 0 && timeout(std::chrono::hours::min()) == 0);
  CHECK(timeout(1ns) == 1 && timeout(2ms) == 2000000);
  using Picoseconds = std::chrono::duration<std::int64_t, std::pico>;
  CHECK(timeout(Picoseconds(1)) == 1 && timeout(Picoseconds(1001)) == 2);
  CHECK(timeout(std::chrono::duration<double, std::milli>(0.5)) == 500000);
  CHECK(timeout(std::chrono::hours::max()) == GPUEV_FOREVER);
  CHECK(timeout(std::chrono::nanoseconds::max()) == GPUEV_FOREVER);
  CHECK(timeout(std::chrono::duration<float>(std::numeric_limits<float>::infinity())) == GPUEV_FOREVER);
  CHECK(timeout(std::chrono::duration<float>(std::numeric_limits<float>::quiet_NaN())) == 0);
}

// Called, cancelled, refused, failed, closed, or with nobody to cancel it: a function is called at most once, and none is left.
void functions_are_destroyed_in_every_case(const char* name) {
  const Counted counted;
  const auto keep = [alive = counted.alive](Status, std::string_view) { ++*alive; };
  {
    const Device device = Device::open(name);
    const Stream stream = device.create_stream();
    const Event event = device.create_pool().acquire();
    Callback callback, moved_to;
    {
      const Gate gate(device, stream);
      event.record(stream, true);
      callback = event.notify(keep);
      CHECK(callback && counted.owners() == 3);
      gate.open();
    }
    event.synchronize();
    drain(device, stream);
    CHECK(*counted.alive == 1 && counted.owners() == 2);
    CHECK(!callback.cancel());

    const Gate cancelled(device);
    moved_to = cancelled.event.notify(keep);
    callback = std::move(moved_to);
    THROWS(InvalidHandle, moved_to.cancel());  // NOLINT
    CHECK(counted.owners() == 3);
    CHECK(callback.cancel());
    CHECK(counted.owners() == 2);
    CHECK(!callback.cancel());

    // Destroyed, a callback stays registered.
    const Gate failed(device, stream);
    event.record(stream, true);
    static_cast<void>(event.notify(keep));
    event.on_complete([alive = counted.alive](Status status, std::string_view text) {
      CHECK(status == Status::WorkFailed && text.find("on purpose") != text.npos);
      ++*alive;
    });
    failed.signal.fail("on purpose");
    THROWS(WorkFailed, event.synchronize());
    drain(device, stream);
    CHECK(*counted.alive == 3 && counted.owners() == 2);

    auto [external, token] = device.external_event();
    THROWS(NotSubmitted, external.notify(keep));
    THROWS(InvalidArgument, event.notify(nullptr));
    THROWS(InvalidHandle, Event().notify(keep));
    CHECK(counted.owners() == 2);

    // Closed, while some are pending: they are called with that. Another device's gate tells when.
    const Device other = Device::open("cpu");
    const Gate told(other);
    const Gate pending(device);
    pending.event.on_complete([&told, alive = counted.alive](Status status, std::string_view) {
      CHECK(status == Status::Closed);
      ++*alive;
      told.open();
    });
    device.close();
    told.event.synchronize();
    CHECK(*counted.alive == 4);
  }
  // Some is let go of on a thread of the library's, behind what it was told: it has to come.
  while (counted.owners() != 2) {
    std::this_thread::yield();
  }
}

std::atomic<int> exceptions{0};

void count_exception(std::exception_ptr exception, const char* thrower) noexcept {
  try {
    std::rethrow_exception(exception);
  } catch (const std::runtime_error& what) {
    CHECK(std::string_view(what.what()) == thrower);
  } catch (int number) {
    CHECK(number == 7);
  }
  ++exceptions;
}

void exceptions_do_not_get_into_the_library(const char* name) {
  const ExceptionHandler before = set_exception_handler(count_exception);
  exceptions = 0;
  const Device device = Device::open(name);
  const Stream stream = device.create_stream();
  const Event event = device.create_pool().acquire();
  event.record(stream, true);
  event.on_complete([](Status, std::string_view) { throw std::runtime_error("a callback"); });
  event.on_complete([](Status, std::string_view) { throw 7; });
  // Those behind it run.
  drain(device, stream);
  CHECK(exceptions == 2);
  stream.check();

  if (is_cpu(name)) {
    const Counted counted;
    stream.enqueue([alive = counted.alive] { ++*alive; });
    {
      const Gate gate(device, stream);
      stream.enqueue([] { throw std::runtime_error("thrown by the work"); });
      stream.enqueue([alive = counted.alive] { ++*alive; });
      event.record(stream);
      gate.open();
    }
    THROWS(WorkFailed, event.synchronize());
    CHECK(exceptions == 2);
    CHECK(std::string_view(gpuev_last_error()).find("thrown by the work") != std::string_view::npos);
    const Stream other = device.create_stream();
    other.enqueue([] { throw 7; });
    THROWS(WorkFailed, other.synchronize());
    CHECK(*counted.alive == 1);
    THROWS(WorkFailed, stream.check());
    THROWS(WorkFailed, stream.flush());
    CHECK(event.status() == EventStatus::Failed);
  } else {
    const Counted counted;
    THROWS(Unsupported, stream.enqueue([alive = counted.alive] { ++*alive; }));
    CHECK(counted.owners() == 1);
  }
  THROWS(InvalidArgument, stream.enqueue(nullptr));
  CHECK(set_exception_handler(nullptr) == count_exception);
  CHECK(set_exception_handler(before) == before);
}

void what_is_kept_goes_when_the_event_is_settled(const char* name) {
  const Device device = Device::open(name);
  const Stream stream = device.create_stream();
  const Event event = device.create_pool().acquire();
  std::weak_ptr<const int> kept;
  {
    const Gate gate(device, stream);
    event.record(stream, true);
    {
      const auto resource = std::make_shared<const int>(5);
      kept = resource;
      stream.keep_until(event, resource);
      THROWS(InvalidHandle, stream.keep_until(Event(), resource));
      CHECK(resource.use_count() == 2);
    }
    CHECK(!kept.expired());
    gate.open();
  }
  event.synchronize();
  drain(device, stream);
  CHECK(kept.expired());
}

void a_held_stream_is_let_go_of(const char* name) {
  const Device device = Device::open(name);
  Stream stream = device.create_stream();
  const Event event = device.create_pool().acquire();
  {
    const StreamLock lock(stream);
    event.record(stream);
    stream.flush();
    THROWS(WouldDeadlock, StreamLock(stream));
    THROWS(WouldDeadlock, stream.synchronize());
    // The handle may be given back meanwhile.
    stream = Stream();
  }
  event.synchronize();
  stream = device.create_stream();
  try {
    const StreamLock lock(stream);
    throw 1;
  } catch (int) {
  }
  std::thread([&stream] { const StreamLock lock(stream); }).join();
  THROWS(InvalidArgument, stream.unlock());
  const std::lock_guard<const Stream> also(stream);
}

void producers_that_go_are_told(const char* name) {
  const Device device = Device::open(name);
  auto [abandoned, signal] = device.host_event();
  signal = HostSignal();
  THROWS(Abandoned, abandoned.synchronize());
  auto [event, token] = device.external_event();
  THROWS(NotSubmitted, event.query());
  THROWS(InvalidArgument, token.complete());
  token.submitted();
  THROWS(InvalidArgument, token.submitted());
  token.complete();
  event.synchronize();
  auto [failing, failure] = device.external_event();
  failure.submitted();
  failure.fail("on purpose");
  THROWS(WorkFailed, failing.synchronize());
  CHECK(failing.device().info().name == device.info().name);
  auto [lost, dropped] = device.external_event();
  dropped = External();
  THROWS(Abandoned, lost.synchronize());
  auto [done, giver] = device.host_event();
  giver.complete();
  THROWS(InvalidHandle, giver.complete());
  THROWS(InvalidHandle, giver.fail("too late"));
}

constexpr test TESTS[] = {
    TEST(handles_are_owned),
    TEST(an_empty_stream_is_no_default_stream),
    TEST(devices_are_told_of),
    TEST(events_are_recorded_waited_for_and_measured),
    TEST(timeouts_are_rounded_up_and_never_overflow),
    TEST(functions_are_destroyed_in_every_case),
    TEST(exceptions_do_not_get_into_the_library),
    TEST(what_is_kept_goes_when_the_event_is_settled),
    TEST(a_held_stream_is_let_go_of),
    TEST(producers_that_go_are_told),
};

}  // namespace

int main(int argc, char** argv) {
  return run_tests(argc, argv, TESTS, std::size(TESTS));
}
