#include <gpu_events.h>
#include <stdio.h>

int main(void) {
  gpuev_device device = 0;
  gpuev_stream stream = 0;
  if (gpuev_device_open("cpu", &device) != GPUEV_STATUS_OK || gpuev_stream_create(device, NULL, &stream) != GPUEV_STATUS_OK ||
      gpuev_stream_synchronize(stream, GPUEV_FOREVER) != GPUEV_STATUS_OK) {
    fprintf(stderr, "%s\n", gpuev_last_error());
    return 1;
  }
  gpuev_stream_release(stream);
  gpuev_device_release(device);
  printf("gpu-events %s\n", gpuev_version());
  return 0;
}
