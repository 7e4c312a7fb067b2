/* A VkInstance, VkDevice and queue of the caller's own: adopted, submitted to, and waited for by the semaphore alone. */

#include <vulkan/vulkan.h>

#include "../threads.h"
#include "shared.h"

#define VK(call) CHECK((call) == VK_SUCCESS)

typedef struct owned {
  VkInstance instance;
  VkPhysicalDevice physical;
  VkDevice device;
  uint32_t family;
  VkQueue queue;
  VkCommandPool pool;
  VkCommandBuffer buffer;
  pthread_mutex_t lock;
  int locked;
  /* What `unlock_queue` calls the library with, on this one thread. */
  gpuev_stream other;
  pthread_t caller;
  int called;
} owned;

static void lock_queue(void *data) {
  owned *of = (owned *)data;
  CHECK(pthread_mutex_lock(&of->lock) == 0);
  ++of->locked;
}

static void unlock_queue(void *data) {
  owned *of = (owned *)data;
  gpuev_stream other = of->other != 0 && pthread_equal(of->caller, pthread_self()) ? of->other : 0;
  of->called += other != 0;
  CHECK(pthread_mutex_unlock(&of->lock) == 0);
  if (other != 0) {
    OK(gpuev_stream_flush(other));
    ANSWERS(GPUEV_STATUS_ERROR_INVALID_ARGUMENT, gpuev_stream_unlock(other));
    ANSWERS(GPUEV_STATUS_ERROR_INVALID_HANDLE, gpuev_event_record(0, other, false));
  }
}

static void skip(const char *why) {
  fprintf(stderr, "skipped: %s\n", why);
  exit(SKIPPED);
}

static owned make_device(void) {
  owned made;
  memset(&made, 0, sizeof made);
  VkApplicationInfo application;
  memset(&application, 0, sizeof application);
  application.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO;
  application.apiVersion = VK_API_VERSION_1_2;
  VkInstanceCreateInfo instance;
  memset(&instance, 0, sizeof instance);
  instance.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO;
  instance.pApplicationInfo = &application;
  /* One that stays: a driver is unloaded with the last instance, and what it loses then has no name any more. */
  static VkInstance kept;
  if (vkCreateInstance(&instance, NULL, &kept) != VK_SUCCESS) {
    skip("no Vulkan driver");
  }
  VK(vkCreateInstance(&instance, NULL, &made.instance));
  uint32_t count = 1;
  VkResult found = vkEnumeratePhysicalDevices(made.instance, &count, &made.physical);
  VkPhysicalDeviceProperties properties;
  memset(&properties, 0, sizeof properties);
  if (count > 0) {
    vkGetPhysicalDeviceProperties(made.physical, &properties);
  }
  if ((found != VK_SUCCESS && found != VK_INCOMPLETE) || count == 0 || properties.apiVersion < VK_API_VERSION_1_2) {
    vkDestroyInstance(made.instance, NULL);
    skip("no device of Vulkan 1.2");
  }
  printf("%s\n", properties.deviceName);

  float priority = 1.0F;
  VkDeviceQueueCreateInfo queue;
  memset(&queue, 0, sizeof queue);
  queue.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO;
  queue.queueFamilyIndex = made.family;
  queue.queueCount = 1;
  queue.pQueuePriorities = &priority;
  VkPhysicalDeviceVulkan12Features features;
  memset(&features, 0, sizeof features);
  features.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES;
  features.timelineSemaphore = VK_TRUE;
  features.hostQueryReset = VK_TRUE;
  VkDeviceCreateInfo device;
  memset(&device, 0, sizeof device);
  device.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO;
  device.pNext = &features;
  device.queueCreateInfoCount = 1;
  device.pQueueCreateInfos = &queue;
  VK(vkCreateDevice(made.physical, &device, NULL, &made.device));
  vkGetDeviceQueue(made.device, made.family, 0, &made.queue);

  VkCommandPoolCreateInfo pool;
  memset(&pool, 0, sizeof pool);
  pool.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
  pool.queueFamilyIndex = made.family;
  VK(vkCreateCommandPool(made.device, &pool, NULL, &made.pool));
  VkCommandBufferAllocateInfo allocate;
  memset(&allocate, 0, sizeof allocate);
  allocate.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO;
  allocate.commandPool = made.pool;
  allocate.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
  allocate.commandBufferCount = 1;
  VK(vkAllocateCommandBuffers(made.device, &allocate, &made.buffer));
  VkCommandBufferBeginInfo begin;
  memset(&begin, 0, sizeof begin);
  begin.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
  begin.flags = VK_COMMAND_BUFFER_USAGE_SIMULTANEOUS_USE_BIT;
  VK(vkBeginCommandBuffer(made.buffer, &begin));
  VK(vkEndCommandBuffer(made.buffer));
  CHECK(pthread_mutex_init(&made.lock, NULL) == 0);
  return made;
}

static void destroy_device(owned *made) {
  CHECK(pthread_mutex_destroy(&made->lock) == 0);
  vkDestroyCommandPool(made->device, made->pool, NULL);
  vkDestroyDevice(made->device, NULL);
  vkDestroyInstance(made->instance, NULL);
}

/* What a thread has when it ends. */
typedef struct ending {
  owned *mine;
  gpuev_stream stream;
  gpuev_event event;
  gpuev_stream other;
} ending;

/* Ends with the stream held, and with a recording that is submitted as it is let go: by a thread whose own things are being
 * destroyed, and from which the queue's functions call the library. */
static void *end_while_holding(void *data) {
  ending *with = (ending *)data;
  OK(gpuev_stream_lock(with->stream));
  OK(gpuev_event_record(with->event, with->stream, false));
  lock_queue(with->mine);
  with->mine->other = with->other;
  with->mine->caller = pthread_self();
  unlock_queue(with->mine);
  return NULL;
}

int main(void) {
  owned mine = make_device();
  gpuev_vulkan_queue queue = {NULL, 0, lock_queue, unlock_queue, NULL};
  queue.queue = mine.queue;
  queue.family = mine.family;
  queue.user_data = &mine;
  gpuev_vulkan_device existing;
  memset(&existing, 0, sizeof existing);
  existing.get_instance_proc_addr = (void (*(*)(void *, const char *))(void))vkGetInstanceProcAddr;
  existing.instance = mine.instance;
  existing.physical_device = mine.physical;
  existing.device = mine.device;
  existing.queues = &queue;
  existing.queue_count = 1;

  gpuev_device host = another("cpu");
  gate gone = gate_on(host);
  gpuev_device device = 0;
  OK(gpuev_vulkan_open(&existing, give_signal, &gone.signal, &device));
  void *instance = NULL, *physical = NULL, *raw = NULL;
  OK(gpuev_vulkan_get_handles(device, &instance, &physical, &raw));
  CHECK(instance == (void *)mine.instance && physical == (void *)mine.physical && raw == (void *)mine.device);

  gpuev_stream stream = stream_on(device);
  uint32_t family = UINT32_MAX;
  OK(gpuev_vulkan_get_queue(stream, &raw, &family));
  CHECK(raw == (void *)mine.queue && family == mine.family);

  /* Behind a gate, the work is in the library's own queue, and there is nothing yet that a driver could wait for. */
  gpuev_pool pool = pool_on(device);
  gpuev_event event = event_from(pool, true);
  uint64_t semaphore = 0, value = 0;
  ANSWERS(GPUEV_STATUS_ERROR_UNRECORDED, gpuev_vulkan_get_semaphore(event, &semaphore, &value));
  gate held = hold_back(device, stream);
  OK(gpuev_event_record(event, stream, true));
  ANSWERS(GPUEV_STATUS_ERROR_NOT_SUBMITTED, gpuev_vulkan_get_semaphore(event, &semaphore, &value));
  open_gate(held);
  OK(gpuev_event_synchronize(event));

  /* An empty command buffer, behind something of the caller's on the queue that stands still until the host says so; and the
   * semaphore's value that stands for its end. */
  VkSemaphoreTypeCreateInfo timeline;
  memset(&timeline, 0, sizeof timeline);
  timeline.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO;
  timeline.semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE;
  VkSemaphoreCreateInfo create;
  memset(&create, 0, sizeof create);
  create.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO;
  create.pNext = &timeline;
  VkSemaphore still = VK_NULL_HANDLE;
  VK(vkCreateSemaphore(mine.device, &create, NULL, &still));
  const uint64_t go = 1;
  VkTimelineSemaphoreSubmitInfo values;
  memset(&values, 0, sizeof values);
  values.sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO;
  values.waitSemaphoreValueCount = 1;
  values.pWaitSemaphoreValues = &go;
  const VkPipelineStageFlags everything = VK_PIPELINE_STAGE_ALL_COMMANDS_BIT;
  VkSubmitInfo standing;
  memset(&standing, 0, sizeof standing);
  standing.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
  standing.pNext = &values;
  standing.waitSemaphoreCount = 1;
  standing.pWaitSemaphores = &still;
  standing.pWaitDstStageMask = &everything;
  standing.commandBufferCount = 1;
  standing.pCommandBuffers = &mine.buffer;
  lock_queue(&mine);
  VK(vkQueueSubmit(mine.queue, 1, &standing, VK_NULL_HANDLE));
  unlock_queue(&mine);

  void *buffers[1] = {mine.buffer};
  gate finished = gate_on(host);
  OK(gpuev_vulkan_submit(stream, buffers, 1, 0, give_signal, &finished.signal));
  OK(gpuev_event_record(event, stream, true));
  OK(gpuev_vulkan_get_semaphore(event, &semaphore, &value));
  CHECK(semaphore != 0 && value != 0);
  CHECK(status_of(finished.event) == GPUEV_EVENT_STATUS_PENDING);
  VkSemaphore native = VK_NULL_HANDLE;
  memcpy(&native, &semaphore, sizeof native);
  VkSemaphoreWaitInfo wait;
  memset(&wait, 0, sizeof wait);
  wait.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO;
  wait.semaphoreCount = 1;
  wait.pSemaphores = &native;
  wait.pValues = &value;
  CHECK(vkWaitSemaphores(mine.device, &wait, 0) == VK_TIMEOUT);
  VkSemaphoreSignalInfo signal;
  memset(&signal, 0, sizeof signal);
  signal.sType = VK_STRUCTURE_TYPE_SEMAPHORE_SIGNAL_INFO;
  signal.semaphore = still;
  signal.value = go;
  VK(vkSignalSemaphore(mine.device, &signal));
  VK(vkWaitSemaphores(mine.device, &wait, UINT64_MAX));
  OK(gpuev_event_synchronize(event));
  OK(gpuev_event_synchronize(finished.event));
  release_gate(finished);
  OK(gpuev_vulkan_get_semaphore(event, &semaphore, &value));
  CHECK(semaphore == 0);
  CHECK(mine.locked > 0);
  vkDestroySemaphore(mine.device, still, NULL);

  /* The same queue, adopted as a stream: with the caller's submissions between ours. */
  gate let_go = gate_on(host);
  gpuev_stream adopted = 0;
  OK(gpuev_vulkan_adopt_queue(device, &queue, give_signal, &let_go.signal, NULL, &adopted));
  VkSubmitInfo submit;
  memset(&submit, 0, sizeof submit);
  submit.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
  submit.commandBufferCount = 1;
  submit.pCommandBuffers = &mine.buffer;
  lock_queue(&mine);
  VK(vkQueueSubmit(mine.queue, 1, &submit, VK_NULL_HANDLE));
  unlock_queue(&mine);
  OK(gpuev_stream_lock(adopted));
  OK(gpuev_vulkan_submit(adopted, buffers, 1, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, NULL, NULL));
  OK(gpuev_event_record(event, adopted, false));
  OK(gpuev_stream_unlock(adopted));
  OK(gpuev_event_synchronize(event));

  gpuev_stream elsewhere = stream_on(host);
  ending last = {&mine, adopted, event, elsewhere};
  join_thread(start_thread(end_while_holding, &last));
  lock_queue(&mine);
  /* Once by the thread itself, and then as it let go. */
  CHECK(mine.called >= 2);
  mine.other = 0;
  unlock_queue(&mine);
  OK(gpuev_event_synchronize(event));
  OK(gpuev_stream_release(elsewhere));
  OK(gpuev_event_release(event));
  OK(gpuev_stream_release(adopted));
  OK(gpuev_event_synchronize(let_go.event));
  release_gate(let_go);

  OK(gpuev_pool_release(pool));
  OK(gpuev_stream_release(stream));
  OK(gpuev_device_release(device));
  /* Everything that was made of it is gone, and it can be destroyed. */
  OK(gpuev_event_synchronize(gone.event));
  release_gate(gone);
  destroy_device(&mine);
  OK(gpuev_device_release(host));
  CHECK(events_held() == 0);
  return 0;
}
