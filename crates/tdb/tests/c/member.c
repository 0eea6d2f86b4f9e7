/*
 * A process that works on a TDB file through libtdb, together with others; the counterpart of
 * `member.rs`, operation by operation, but for locks on everything: those and traverses by libtdb
 * alone can wait for each other for ever. What it has done it notes in a ledger, a small file mapped
 * into memory, which outlives it when it is killed.
 *
 * member work PATH FLAGS LEDGER ID MILLISECONDS SHARES
 * member check PATH      exit status 0 if tdb_check passes, without locks
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#include <tdb.h>

#define OWN_KEYS 64
#define SHARED_KEYS 16

struct entry {
	uint32_t intended;
	uint32_t done;
};

struct ledger {
	struct entry own[OWN_KEYS];
	struct entry shared[SHARED_KEYS];
	struct entry counter;
};

static uint32_t id;
static uint64_t state;

static uint32_t random_below(uint32_t limit)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 33) % limit;
}

static void fail(struct tdb_context *tdb, const char *what)
{
	fprintf(stderr, "C member %u: %s: %s, errno %d\n", id, what, tdb ? tdb_errorstr(tdb) : "", errno);
	exit(1);
}

static TDB_DATA name(char *buf, const char *kind, uint32_t a, uint32_t b)
{
	TDB_DATA key = { .dptr = (uint8_t *)buf };
	key.dsize = snprintf(buf, 64, "%s-%u-%u", kind, a, b);
	return key;
}

/* Value of an own key in its n-th version. */
static TDB_DATA version(uint8_t *buf, uint32_t n)
{
	TDB_DATA value = { .dptr = buf, .dsize = 8 + (n * 37 + id * 11) % 700 };
	memset(buf, (n + id) & 0xff, value.dsize);
	memcpy(buf, &n, 4);
	memcpy(buf + 4, &id, 4);
	return value;
}

static void change_own(struct tdb_context *tdb, struct ledger *ledger, uint32_t *next)
{
	uint32_t n = random_below(OWN_KEYS);
	struct entry *entry = &ledger->own[n];
	char keybuf[64];
	uint8_t buf[1024];
	TDB_DATA key = name(keybuf, "own", id, n);

	if (entry->done != 0 && random_below(3) == 0) {
		entry->intended = 0;
		if (tdb_delete(tdb, key) != 0) {
			fail(tdb, "delete");
		}
	} else {
		entry->intended = ++*next;
		if (tdb_store(tdb, key, version(buf, *next), TDB_REPLACE) != 0) {
			fail(tdb, "store");
		}
	}
	entry->done = entry->intended;
}

static void append_shared(struct tdb_context *tdb, struct ledger *ledger)
{
	uint32_t n = random_below(SHARED_KEYS);
	struct entry *entry = &ledger->shared[n];
	uint32_t words[2] = { id, entry->done + 1 };
	char keybuf[64];
	TDB_DATA value = { .dptr = (uint8_t *)words, .dsize = sizeof(words) };

	entry->intended = words[1];
	if (tdb_append(tdb, name(keybuf, "shared", 0, n), value) != 0) {
		fail(tdb, "append");
	}
	entry->done = entry->intended;
}

static void count_up(struct tdb_context *tdb, struct ledger *ledger)
{
	char keybuf[64];
	TDB_DATA key = name(keybuf, "counter", 0, 0);
	uint32_t value = 0;
	TDB_DATA old, new = { .dptr = (uint8_t *)&value, .dsize = sizeof(value) };

	if (tdb_chainlock(tdb, key) != 0) {
		fail(tdb, "lock");
	}
	old = tdb_fetch(tdb, key);
	if (old.dptr != NULL) {
		memcpy(&value, old.dptr, sizeof(value));
		free(old.dptr);
	}
	value++;
	ledger->counter.intended++;
	if (tdb_store(tdb, key, new, TDB_REPLACE) != 0) {
		fail(tdb, "store of the counter");
	}
	ledger->counter.done = ledger->counter.intended;
	if (tdb_chainunlock(tdb, key) != 0) {
		fail(tdb, "unlock");
	}
}

static int look(struct tdb_context *tdb, TDB_DATA key, TDB_DATA data, void *private_data)
{
	return 0;
}

static int work(char **args)
{
	int fd = open(args[2], O_RDWR);
	struct ledger *ledger = mmap(NULL, sizeof(*ledger), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	int flags = strtol(args[1], NULL, 16);
	int shares = atoi(args[5]);
	struct tdb_context *tdb;
	struct timespec now, end;
	uint32_t next = 0;
	long ms = atol(args[4]);

	id = atoi(args[3]);
	state = 88172645463325252ULL + id * 7919;
	tdb = tdb_open(args[0], 131, flags, O_RDWR | O_CREAT, 0600);
	if (tdb == NULL || ledger == MAP_FAILED) {
		fail(NULL, "open");
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += ms / 1000;
	do {
		for (int i = 0; i < 20; i++) {
			uint32_t what = random_below(100);
			if (what < 60 || !shares) {
				change_own(tdb, ledger, &next);
			} else if (what < 80) {
				append_shared(tdb, ledger);
			} else {
				count_up(tdb, ledger);
			}
		}
		if (random_below(20) == 0 && tdb_traverse_read(tdb, look, NULL) < 0) {
			fail(tdb, "traverse");
		}
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < end.tv_sec ||
		 (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
	return tdb_close(tdb);
}

static int check(const char *path)
{
	struct tdb_context *tdb = tdb_open(path, 0, TDB_NOLOCK, O_RDONLY, 0);

	if (tdb == NULL) {
		fail(NULL, "open");
	}
	return tdb_check(tdb, NULL, NULL) == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
	if (argc == 8 && strcmp(argv[1], "work") == 0) {
		return work(argv + 2);
	}
	if (argc == 3 && strcmp(argv[1], "check") == 0) {
		return check(argv[2]);
	}
	return 2;
}
