// Two streams, kept in order by an event.

#include <cstdio>
#include <gpu_events.hpp>

int main() try {
  const auto device = gpu_events::Device::open("cpu");
  const auto produce = device.create_stream(), consume = device.create_stream();
  const auto pool = device.create_pool();
  const auto start = pool.acquire_timed(), produced = pool.acquire_timed();
  start.record(produce);

  produce.enqueue([] { std::puts("producing"); });
  produced.record(produce);
  consume.wait(produced);  // on the device: the host goes on at once
  consume.synchronize();
  std::printf("producing took %f ms\n", gpu_events::elapsed(start, produced).count());
} catch (const gpu_events::Error& error) {
  std::fprintf(stderr, "%s: %s\n", gpu_events::status_name(error.status()), error.what());
  return 1;
}
