/* A disk that fails, for the process that has this library preloaded: once the file exists that KVNODE_TEST_DISK_FAILS
 * names, no sync succeeds. What runs at the end of such a process takes a second, which is a long time for threads that
 * still use what has been taken down by then. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int fails(void) {
  const char *path = getenv("KVNODE_TEST_DISK_FAILS");
  return path && access(path, F_OK) == 0;
}

static int sync_by(long number, int file) {
  if (!fails()) return (int)syscall(number, file);
  errno = EIO;
  return -1;
}

int fdatasync(int file) { return sync_by(SYS_fdatasync, file); }

int fsync(int file) { return sync_by(SYS_fsync, file); }

__attribute__((destructor)) static void linger(void) {
  struct timespec second = {1, 0};
  if (fails()) nanosleep(&second, NULL);
}
