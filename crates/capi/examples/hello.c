/* Two streams, kept in order by an event. */

#include <gpu_events.h>
#include <stdio.h>
#include <stdlib.h>

static void must(gpuev_status status) {
  if (status < 0) {
    fprintf(stderr, "%s: %s\n", gpuev_status_name(status), gpuev_last_error());
    exit(1);
  }
}

int main(void) {
  gpuev_device device;
  gpuev_stream produce, consume;
  gpuev_pool pool;
  gpuev_event produced;
  must(gpuev_device_open("cpu", &device));
  must(gpuev_stream_create(device, NULL, &produce));
  must(gpuev_stream_create(device, NULL, &consume));
  must(gpuev_pool_create(device, 0, &pool));

  must(gpuev_event_acquire(pool, false, &produced));
  must(gpuev_event_record(produced, produce, false)); /* all work of `produce` up to here */
  must(gpuev_stream_wait(consume, produced, NULL));   /* on the device: the host goes on at once */
  must(gpuev_stream_synchronize(consume, GPUEV_FOREVER));
  must(gpuev_event_release(produced));

  must(gpuev_pool_release(pool));
  must(gpuev_stream_release(consume));
  must(gpuev_stream_release(produce));
  must(gpuev_device_release(device));
  return 0;
}
