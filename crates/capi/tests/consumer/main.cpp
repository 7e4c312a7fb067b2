#include <gpu_events.hpp>
#include <gpu_events/mps.hpp>

int main() {
  const auto device = gpu_events::Device::open("cpu");
  gpu_events::mps::MPSStream stream(device.create_stream());
  gpu_events::mps::MPSEventPool pool(&stream);
  const auto event = pool.acquireEvent(/*enable_timing=*/true, &stream);
  event->record(/*needsLock=*/true);
  event->synchronize();
  return event->query() ? 0 : 1;
}
