/* A wall clock that is off by what a file says, for the process that has this library preloaded: 8 bytes, seconds, in
 * the machine's byte order. Its monotonic clocks stay the machine's. Not libfaketime: its start allocates, and
 * jemalloc's start asks for the time, so a program that has jemalloc as its malloc waits for itself there. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *offset;

__attribute__((constructor)) static void find_offset(void) {
  const char *path = getenv("KVNODE_CHAOS_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *page = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
  if (page != MAP_FAILED) offset = page;
  close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  long failed = syscall(SYS_clock_gettime, clock, now);
  if (!failed && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *offset;
  return (int)failed;
}

int gettimeofday(struct timeval *now, void *zone) {
  long failed = syscall(SYS_gettimeofday, now, zone);
  if (!failed && offset) now->tv_sec += *offset;
  return (int)failed;
}

time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
