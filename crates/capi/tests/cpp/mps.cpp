// gpu_events/mps.hpp: the members of PyTorch's MPSEvent.h one by one, in that header's order.

#include <gpu_events/mps.hpp>

#include <string>
#include <thread>
#include <type_traits>

#include "../support.h"

#define THROWS(expected, expression)                   \
  do {                                                 \
    bool thrown = false;                               \
    try {                                              \
      static_cast<void>(expression);                   \
    } catch (const Error& error) {                     \
      thrown = true;                                   \
      CHECK(error.status() == Status::expected);       \
    }                                                  \
    CHECK(thrown);                                     \
  } while (false)

// In its namespace, as code that moves over would be: elsewhere, id_t is POSIX's.
namespace gpu_events::mps {
namespace {

// What code that is written against the header relies on: each name, its parameters, what it returns and whether it is const.
// Defaults are used by the tests below.
static_assert(std::is_constructible_v<MPSEvent, id_t, MPSStream*, bool>);
static_assert(!std::is_convertible_v<id_t, MPSEvent> && !std::is_copy_constructible_v<MPSEvent>);
static_assert(std::is_same_v<decltype(&MPSEvent::record), void (MPSEvent::*)(bool, bool)>);
static_assert(std::is_same_v<decltype(static_cast<bool (MPSEvent::*)(bool, bool)>(&MPSEvent::wait)),
                             bool (MPSEvent::*)(bool, bool)>);
static_assert(std::is_same_v<decltype(&MPSEvent::notify), bool (MPSEvent::*)(bool, MPSNotificationBlock)>);
static_assert(std::is_same_v<decltype(&MPSEvent::query), bool (MPSEvent::*)() const>);
static_assert(std::is_same_v<decltype(&MPSEvent::synchronize), bool (MPSEvent::*)()>);
static_assert(std::is_same_v<decltype(&MPSEvent::reset), void (MPSEvent::*)(MPSStream*, bool)>);
static_assert(std::is_same_v<decltype(&MPSEvent::getID), id_t (MPSEvent::*)() const>);
static_assert(std::is_same_v<decltype(&MPSEvent::getCompletionTime), uint64_t (MPSEvent::*)() const>);
static_assert(std::is_same_v<decltype(&MPSEvent::waitForCpuSync), void (MPSEvent::*)()>);
static_assert(std::is_same_v<MPSEventPtr, std::unique_ptr<MPSEvent, std::function<void(MPSEvent*)>>>);
static_assert(std::is_constructible_v<MPSEventPool, MPSStream*> && !std::is_convertible_v<MPSStream*, MPSEventPool>);
static_assert(std::is_same_v<decltype(static_cast<MPSEventPtr (MPSEventPool::*)(bool, MPSStream*)>(&MPSEventPool::acquireEvent)),
                             MPSEventPtr (MPSEventPool::*)(bool, MPSStream*)>);
static_assert(std::is_same_v<decltype(&MPSEventPool::emptyCache), void (MPSEventPool::*)()>);
static_assert(std::is_same_v<decltype(static_cast<id_t (MPSEventPool::*)(bool)>(&MPSEventPool::acquireEvent)),
                             id_t (MPSEventPool::*)(bool)>);
static_assert(std::is_same_v<decltype(&MPSEventPool::releaseEvent), void (MPSEventPool::*)(id_t)>);
static_assert(std::is_same_v<decltype(static_cast<void (MPSEventPool::*)(id_t, bool)>(&MPSEventPool::recordEvent)),
                             void (MPSEventPool::*)(id_t, bool)>);
static_assert(std::is_same_v<decltype(static_cast<void (MPSEventPool::*)(id_t, bool)>(&MPSEventPool::waitForEvent)),
                             void (MPSEventPool::*)(id_t, bool)>);
static_assert(std::is_same_v<decltype(&MPSEventPool::synchronizeEvent), void (MPSEventPool::*)(id_t)>);
static_assert(std::is_same_v<decltype(&MPSEventPool::queryEvent), bool (MPSEventPool::*)(id_t)>);
static_assert(std::is_same_v<decltype(&MPSEventPool::elapsedTime), double (MPSEventPool::*)(id_t, id_t)>);
static_assert(std::is_same_v<decltype(getMPSEventPool()), std::shared_ptr<MPSEventPool>>);
static_assert(sizeof(id_t) == 8);

// A stream of the device under test, and a pool whose default stream it is.
struct Fixture {
  Device device;
  MPSStream stream;
  MPSEventPool pool;

  explicit Fixture(const char* name)
      : device(Device::open(name)), stream(device.create_stream()), pool(&stream) {}

  // The stream stands still until the signal is given.
  HostSignal hold_back() {
    auto [event, signal] = device.host_event("gate");
    CHECK(stream.stream().wait(event));
    return std::move(signal);
  }
};

void constructor_and_destructor(const char* name) {
  Fixture with(name);
  const id_t id = with.pool.acquireEvent(false);
  {
    MPSEvent event(id, &with.stream, false);
    CHECK(event.getID() == id);
    event.record(true);
    CHECK(event.synchronize() || event.query());
  }
  // It was the object's to release.
  THROWS(InvalidHandle, with.pool.queryEvent(id));
  THROWS(InvalidHandle, MPSEvent(id, &with.stream, false));
  THROWS(InvalidHandle, MPSEvent(0, &with.stream, true));
  // Where the timing is another than was acquired, it is what the constructor says.
  MPSEvent timed(with.pool.acquireEvent(false), nullptr, true);
  timed.record(false, true);
  timed.synchronize();
  CHECK(timed.getCompletionTime() > 0);
}

void record(const char* name) {
  Fixture with(name);
  MPSEvent event(with.pool.acquireEvent(false), &with.stream, false);
  for (const bool needs_lock : {false, true}) {
    for (const bool sync_event : {false, true}) {
      const HostSignal gate = with.hold_back();
      event.record(needs_lock, sync_event);
      CHECK(!event.query());
      // Again, while it is pending.
      event.record(needs_lock);
      gate.complete();
      event.synchronize();
      CHECK(event.query());
    }
  }
  // By a thread that holds the stream: with the promise kept, and with one that the original would deadlock on.
  const MPSEventPtr second = with.pool.acquireEvent(false, &with.stream);
  const HostSignal gate = with.hold_back();
  {
    const MPSStreamLock lock(with.stream);
    event.record(/*needsLock=*/false);
    second->record(/*needsLock=*/true, /*syncEvent=*/true);
    THROWS(WouldDeadlock, event.synchronize());
    THROWS(WouldDeadlock, second->synchronize());
  }
  {
    // By whatever name: the default stream, where none is named, is the one that is held.
    MPSStream named(with.device.default_stream());
    MPSEvent unnamed(with.pool.acquireEvent(false), nullptr, false);
    const MPSStreamLock lock(named);
    unnamed.record(/*needsLock=*/true);
  }
  gate.complete();
  event.synchronize();
  second->synchronize();
  with.stream.lock();
  event.record(false, true);
  with.stream.unlock();
  event.synchronize();
}

void wait(const char* name) {
  Fixture with(name);
  MPSStream other(with.device.create_stream());
  MPSEvent event(with.pool.acquireEvent(false), &with.stream, false);
  const MPSEventPtr after = with.pool.acquireEvent(false, &other);
  // Not recorded: nothing to wait for.
  CHECK(!event.wait(true) && !event.wait(false, true) && !event.wait(&other));
  const HostSignal gate = with.hold_back();
  event.record(true);
  CHECK(event.wait(true) && event.wait(/*needsLock=*/false, /*syncEvent=*/true));
  // Another stream is held back by it, through its lock as well.
  {
    const MPSStreamLock lock(other);
    CHECK(event.wait(&other, /*needsLock=*/false));
    after->record(false, true);
  }
  CHECK(event.wait(nullptr, true, true));
  CHECK(!after->query());
  gate.complete();
  after->synchronize();
  CHECK(event.query());
  CHECK(!event.wait(true) && !event.wait(&other, true, true));
}

void notify(const char* name) {
  Fixture with(name);
  MPSEvent event(with.pool.acquireEvent(false), &with.stream, false);
  auto [done, tell] = with.device.host_event();
  std::vector<int> order;
  const auto block = [&](int number) {
    return [&, number](id_t id, Status status, std::string_view text) {
      CHECK(id == event.getID() && status == Status::Ok && text.empty());
      order.push_back(number);
      if (order.size() == 3) {
        tell.complete();
      }
    };
  };
  const HostSignal gate = with.hold_back();
  event.record(true);
  CHECK(event.notify(/*needsLock=*/true, block(1)));
  CHECK(event.notify(/*needsLock=*/false, block(2)));
  gate.complete();
  event.synchronize();
  // Where the original forgets it.
  CHECK(event.notify(true, block(3)));
  done.synchronize();
  CHECK((order == std::vector<int>{1, 2, 3}));
  THROWS(InvalidArgument, event.notify(true, nullptr));

  // The event may go first: its block runs, and names it.
  auto [told, teller] = with.device.host_event();
  const HostSignal late = with.hold_back();
  id_t gone = 0;
  {
    const MPSEventPtr short_lived = with.pool.acquireEvent(false, &with.stream);
    gone = short_lived->getID();
    short_lived->record(true, true);
    short_lived->notify(true, [&gone, &signal = teller](id_t id, Status status, std::string_view) {
      CHECK(id == gone && status == Status::WorkFailed);
      signal.complete();
    });
  }
  late.fail("on purpose");
  told.synchronize();
}

void query_and_synchronize(const char* name) {
  Fixture with(name);
  MPSEvent event(with.pool.acquireEvent(false), &with.stream, false);
  // Not recorded: false, and nothing to wait for.
  CHECK(!event.query() && !event.synchronize());
  event.waitForCpuSync();
  HostSignal gate = with.hold_back();
  event.record(true);
  CHECK(!event.query());
  std::thread first([&] { event.waitForCpuSync(); }), second([&] { event.waitForCpuSync(); });
  gate.complete();
  first.join();
  second.join();
  CHECK(event.query() && event.query());
  CHECK(!event.synchronize());
  event.waitForCpuSync();

  // A failure is told, where the original says "not yet" and waits for ever.
  gate = with.hold_back();
  event.record(true);
  gate.fail("on purpose");
  THROWS(WorkFailed, event.synchronize());
  THROWS(WorkFailed, event.waitForCpuSync());
  THROWS(WorkFailed, event.query());
}

void reset(const char* name) {
  Fixture with(name);
  MPSStream other(with.device.create_stream());
  MPSEvent event(with.pool.acquireEvent(false), &with.stream, false);
  const id_t id = event.getID();
  const HostSignal gate = with.hold_back();
  event.record(true);
  const MPSEventPtr waiting = with.pool.acquireEvent(false, &other);
  CHECK(event.wait(&other));
  waiting->record(true);

  // On another stream, with timing: unrecorded, and the old recording's end completes nobody but those who wait for it.
  event.reset(&other, true);
  CHECK(event.getID() == id && !event.query());
  CHECK(!waiting->query());
  gate.complete();
  waiting->synchronize();
  CHECK(!event.query());
  event.record(true, true);
  event.synchronize();
  CHECK(event.getCompletionTime() > 0);
  event.reset(&other, true);
  CHECK(!event.query());
  event.reset(nullptr, false);
  event.record(true, true);
  event.synchronize();
  THROWS(Untimed, event.getCompletionTime());
}

void get_completion_time(const char* name) {
  Fixture with(name);
  MPSEvent start(with.pool.acquireEvent(true), &with.stream, true), end(with.pool.acquireEvent(true), &with.stream, true);
  THROWS(Unrecorded, end.getCompletionTime());
  start.record(true);
  const HostSignal gate = with.hold_back();
  end.record(true);
  THROWS(NotComplete, end.getCompletionTime());
  gate.complete();
  end.synchronize();
  CHECK(start.getCompletionTime() <= end.getCompletionTime());
  // The same each time, and of its last recording alone.
  const uint64_t once = end.getCompletionTime();
  CHECK(once == end.getCompletionTime());
  const HostSignal again = with.hold_back();
  end.record(true);
  THROWS(NotComplete, end.getCompletionTime());
  again.complete();
  end.synchronize();
  CHECK(end.getCompletionTime() >= once);
}

void event_ptr_and_pool(const char* name) {
  MPSEventPtr outlives;
  {
    Fixture with(name);
    const MPSEventPtr on_default = with.pool.acquireEvent(true, nullptr);
    on_default->record(true);
    on_default->synchronize();
    outlives = with.pool.acquireEvent(false, &with.stream);
    const HostSignal gate = with.hold_back();
    outlives->record(true);
    with.pool.emptyCache();
    gate.complete();
  }
  // Its pool is gone, its stream and its device's handle.
  outlives->synchronize();
  outlives->record(true, true);
  outlives->synchronize();
  CHECK(outlives->query());
  THROWS(InvalidArgument, MPSEventPool(nullptr));
  THROWS(InvalidHandle, MPSStream(Stream()));
}

void ids(const char* name) {
  Fixture with(name);
  MPSStream other(with.device.create_stream());
  const id_t start = with.pool.acquireEvent(true), end = with.pool.acquireEvent(true);
  CHECK(start != end);
  CHECK(!with.pool.queryEvent(start));
  with.pool.synchronizeEvent(start);
  with.pool.waitForEvent(start, false);
  THROWS(Unrecorded, with.pool.elapsedTime(start, end));
  with.pool.recordEvent(start, /*syncEvent=*/false);
  HostSignal gate = with.hold_back();
  with.pool.recordEvent(end, /*syncEvent=*/true);
  with.pool.waitForEvent(end, false);
  with.pool.waitForEvent(end, true);
  // Upstream, later: another stream waits.
  const id_t after = with.pool.acquireEvent(false);
  with.pool.waitForEvent(end, &other);
  with.pool.recordEvent(after, &other);
  CHECK(!with.pool.queryEvent(end) && !with.pool.queryEvent(after));

  // Nobody is held up by a thread that waits for both.
  std::thread measuring([&] { CHECK(with.pool.elapsedTime(start, end) >= 0); });
  CHECK(!with.pool.queryEvent(end));
  gate.complete();
  measuring.join();
  with.pool.synchronizeEvent(after);
  with.pool.synchronizeEvent(end);
  CHECK(with.pool.queryEvent(end));
  const double milliseconds = with.pool.elapsedTime(start, end);
  CHECK(milliseconds >= 0 && with.pool.elapsedTime(end, start) == -milliseconds);
  CHECK(with.pool.elapsedTime(end, end) == 0);
  THROWS(Untimed, with.pool.elapsedTime(start, after));

  // Upstream, later: the same number, unrecorded.
  with.pool.resetEvent(end, true);
  CHECK(!with.pool.queryEvent(end));
  with.pool.resetEvent(after, true);
  with.pool.recordEvent(after, true);
  CHECK(with.pool.elapsedTime(start, after) >= 0);

  gate = with.hold_back();
  with.pool.recordEvent(end, true);
  gate.fail("on purpose");
  THROWS(WorkFailed, with.pool.synchronizeEvent(end));
  THROWS(WorkFailed, with.pool.queryEvent(end));
  THROWS(WorkFailed, with.pool.elapsedTime(start, end));

  with.pool.releaseEvent(start);
  with.pool.releaseEvent(end);
  with.pool.releaseEvent(after);
  // Stale or made up, for good, by every verb; and no other event comes to have it.
  const id_t fresh = with.pool.acquireEvent(true);
  for (const id_t none : {start, id_t{0}, ~id_t{0}, fresh + (id_t{1} << 40)}) {
    CHECK(none != fresh);
    THROWS(InvalidHandle, with.pool.releaseEvent(none));
    THROWS(InvalidHandle, with.pool.recordEvent(none, true));
    THROWS(InvalidHandle, with.pool.recordEvent(none, &other));
    THROWS(InvalidHandle, with.pool.waitForEvent(none, true));
    THROWS(InvalidHandle, with.pool.waitForEvent(none, &other));
    THROWS(InvalidHandle, with.pool.synchronizeEvent(none));
    THROWS(InvalidHandle, with.pool.queryEvent(none));
    THROWS(InvalidHandle, with.pool.resetEvent(none, true));
    THROWS(InvalidHandle, with.pool.elapsedTime(none, fresh));
    THROWS(InvalidHandle, with.pool.elapsedTime(fresh, none));
  }
  // And no lock is held after that.
  std::thread([&] { CHECK(!with.pool.queryEvent(fresh)); }).join();
  with.pool.releaseEvent(fresh);
}

void the_process_pool(const char*) {
  const auto pool = getMPSEventPool();
  CHECK(pool == getMPSEventPool());
  const MPSEventPtr event = pool->acquireEvent(true, getDefaultMPSStream());
  event->record(true, true);
  event->synchronize();
  CHECK(event->getCompletionTime() > 0);
  const id_t id = pool->acquireEvent(false);
  pool->recordEvent(id, true);
  pool->synchronizeEvent(id);
  pool->releaseEvent(id);
  pool->emptyCache();
}

// Of use to the very end: there, the pool is destroyed under whoever still has events.
struct AtTheEnd {
  MPSEventPtr event;
  ~AtTheEnd() {
    if (!event) {
      return;
    }
    try {
      event->record(true, true);
      event->synchronize();
      CHECK(event->query());
    } catch (const Error& error) {
      // A GPU's driver may have ended before us, with the process's own destructors: then that is what it says.
      CHECK(error.status() == Status::DeviceLost || error.status() == Status::Driver);
      CHECK(*error.what() != '\0');
    }
  }
} at_the_end;

// A call that fails once the thread keeps no text any more throws with a text all the same. With a stale handle it fails on every
// device.
struct StaleAtTheEnd {
  gpuev_event stale = 0;
  void arm() {
    const auto pool = getMPSEventPool();
    stale = pool->acquireEvent(false);
    pool->releaseEvent(stale);
    // So that this thread has kept a text at all.
    THROWS(InvalidHandle, pool->queryEvent(stale));
  }
  ~StaleAtTheEnd() {
    if (stale == 0) {
      return;
    }
    std::string text;
    try {
      bool complete = false;
      detail::check(gpuev_event_query(stale, &complete));
    } catch (const Error& error) {
      CHECK(error.status() == Status::InvalidHandle);
      text = error.what();
    }
    CHECK(!text.empty());
#ifdef __GLIBC__
    // There, what a thread keeps goes before static objects do: what was thrown is the status's name.
    CHECK(*gpuev_last_error() == '\0');
    CHECK(text == gpuev_status_name(GPUEV_STATUS_ERROR_INVALID_HANDLE));
#endif
  }
} stale_at_the_end;

constexpr test TESTS[] = {
    TEST(constructor_and_destructor),
    TEST(record),
    TEST(wait),
    TEST(notify),
    TEST(query_and_synchronize),
    TEST(reset),
    TEST(get_completion_time),
    TEST(event_ptr_and_pool),
    TEST(ids),
    TEST(the_process_pool),
};

}  // namespace
}  // namespace gpu_events::mps

int main(int argc, char** argv) {
  using namespace gpu_events::mps;
  const int result = run_tests(argc, argv, TESTS, std::size(TESTS));
  at_the_end.event = getMPSEventPool()->acquireEvent(false, nullptr);
  stale_at_the_end.arm();
  return result;
}
