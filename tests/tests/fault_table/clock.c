/* Lets a process, and what it starts, believe in another time of day: the seconds in the file
 * $CTDB_TEST_CLOCK, 8 bytes in the order of the host, are added to it. Monotonic time stays. */
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

__attribute__((constructor)) static void find_offset(void)
{
	const char *path = getenv("CTDB_TEST_CLOCK");
	int fd = path != NULL ? open(path, O_RDONLY) : -1;
	if (fd < 0)
		return;
	void *map = mmap(NULL, sizeof(*offset), PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (map != MAP_FAILED)
		offset = map;
}

static int64_t shift(void)
{
	return offset != NULL ? *offset : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = (int)syscall(SYS_clock_gettime, clock, now);
	if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += shift();
	return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec exact;
	(void)zone;
	clock_gettime(CLOCK_REALTIME, &exact);
	now->tv_sec = exact.tv_sec;
	now->tv_usec = exact.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *now)
{
	struct timespec exact;
	clock_gettime(CLOCK_REALTIME, &exact);
	if (now != NULL)
		*now = exact.tv_sec;
	return exact.tv_sec;
}
