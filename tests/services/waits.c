/* Waits that libfaketime 0.9.10 leaves alone or spoils; to be preloaded before it.
 *
 * cnd_timedwait, by which librdkafka waits, ends at a wall time. libfaketime does not see it: an end by the faked clock
 * would be waited for by the machine's, an hour too long or not at all. Here it does what the kernel does when a clock is
 * set: a wait is over as soon as the (faked) clock says so, also if that was set meanwhile.
 *
 * clock_nanosleep until a monotonic time, by which Python sleeps, fails there with EINVAL. Here the kernel is asked.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000LL
#define LOOK_NS 10000000LL /* so often a wait looks at the clock */
#define PLACES 65536

static _Atomic unsigned signals[PLACES]; /* how often was signalled, by condition: none is missed while a wait looks */

static _Atomic unsigned *signals_of(cnd_t *condition) { return &signals[((uintptr_t)condition >> 4) % PLACES]; }

int cnd_signal(cnd_t *condition) {
  int (*true_signal)(cnd_t *) = dlsym(RTLD_NEXT, "cnd_signal");
  atomic_fetch_add(signals_of(condition), 1);
  return true_signal(condition);
}

int cnd_broadcast(cnd_t *condition) {
  int (*true_broadcast)(cnd_t *) = dlsym(RTLD_NEXT, "cnd_broadcast");
  atomic_fetch_add(signals_of(condition), 1);
  return true_broadcast(condition);
}

static long long left_ns(const struct timespec *end) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now); /* libfaketime's */
  return (end->tv_sec - now.tv_sec) * SECOND_NS + end->tv_nsec - now.tv_nsec;
}

static struct timespec by_the_machine(long long wait_ns) {
  struct timespec then;
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &then);
  long long ns = then.tv_nsec + wait_ns;
  then.tv_sec += ns / SECOND_NS;
  then.tv_nsec = ns % SECOND_NS;
  return then;
}

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict end) {
  int (*true_wait)(cnd_t *, mtx_t *, const struct timespec *) = dlsym(RTLD_NEXT, "cnd_timedwait");
  unsigned before = atomic_load(signals_of(condition));
  long long left = left_ns(end);
  do {
    struct timespec look = by_the_machine(left < 0 ? 0 : left < LOOK_NS ? left : LOOK_NS);
    int result = true_wait(condition, mutex, &look);
    if (result != thrd_timedout) return result;
    if (atomic_load(signals_of(condition)) != before) return thrd_success;
  } while ((left = left_ns(end)) > 0);
  return thrd_timedout;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *time, struct timespec *left) {
  return syscall(SYS_clock_nanosleep, clock, flags, time, left) ? errno : 0;
}
