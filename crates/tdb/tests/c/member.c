/*
 * A process that works on a TDB file through libtdb, together with others; the counterpart of
 * `member.rs`, operation by operation. What it has done it notes in a ledger, a small file mapped
 * into memory, which outlives it when it is killed.
 *
 * member PATH FLAGS LEDGER ID MILLISECONDS ROLE
 *
 * Two processes that use libtdb can wait for each other for ever: one stands on a record in a
 * traverse and waits for the chains, the other has locked all chains and waits for the records.
 * So the C members agree among themselves, through PATH.gate, who traverses and who locks all. Our
 * members need no such help, and give none.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
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
#define SET_KEYS 8
#define ACCOUNTS 8
#define MEMBERS 16
#define TRIM_AT 2048

enum role { STEADY, CAREFUL, RECKLESS };

struct entry {
	uint32_t intended;
	uint32_t done;
};

struct ledger {
	struct entry own[OWN_KEYS];
	struct entry shared[SHARED_KEYS];
	struct entry tally;
	struct entry set;
	uint32_t transactions;
	uint32_t cancelled;
	uint32_t traverses;
	uint32_t locks;
};

static struct tdb_context *tdb;
static struct ledger *ledger;
static enum role role;
static uint32_t id;
static uint64_t state;
static uint32_t next;
static int gate;
static int mutexes;

static uint32_t random_below(uint32_t limit)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 33) % limit;
}

static void expect(int fine, const char *what)
{
	if (!fine) {
		fprintf(stderr, "C member %u: %s: %s, errno %d\n", id, what,
			tdb ? tdb_errorstr(tdb) : "", errno);
		exit(1);
	}
}

static TDB_DATA name(char *buf, const char *kind, uint32_t a, uint32_t b)
{
	TDB_DATA key = { .dptr = (uint8_t *)buf };
	key.dsize = snprintf(buf, 64, "%s-%u-%u", kind, a, b);
	return key;
}

/* Value of an own key in its n-th version. */
static TDB_DATA version(uint8_t *buf, uint32_t owner, uint32_t n)
{
	TDB_DATA value = { .dptr = buf, .dsize = 8 + (n * 37 + owner * 11) % 700 };
	memset(buf, (n + owner) & 0xff, value.dsize);
	memcpy(buf, &n, 4);
	memcpy(buf + 4, &owner, 4);
	return value;
}

/* Only transactions through libtdb in a file with mutexes can be kept up by a traverse for ever. */
static void start(void)
{
	if (mutexes) {
		expect(flock(gate, LOCK_EX) == 0, "gate");
	}
	expect(tdb_transaction_start(tdb) == 0, "transaction start");
}

static void leave_gate(void)
{
	if (mutexes) {
		flock(gate, LOCK_UN);
	}
}

static void commit(void)
{
	expect(tdb_transaction_commit(tdb) == 0, "commit");
	ledger->transactions++;
	leave_gate();
}

/* Those who must leave a sound file when they are killed change nothing outside transactions. */
static void begin_change(void)
{
	if (role == CAREFUL) {
		start();
	}
}

static void end_change(void)
{
	if (role == CAREFUL) {
		commit();
	}
}

static void change_own(void)
{
	uint32_t n = random_below(OWN_KEYS);
	struct entry *entry = &ledger->own[n];
	char keybuf[64];
	uint8_t buf[1024];
	TDB_DATA key = name(keybuf, role == RECKLESS ? "risky" : "own", id, n);

	begin_change();
	if (entry->done != 0 && random_below(3) == 0) {
		entry->intended = 0;
		expect(tdb_delete(tdb, key) == 0, "delete");
	} else {
		entry->intended = ++next;
		expect(tdb_store(tdb, key, version(buf, id, next), TDB_REPLACE) == 0, "store");
	}
	end_change();
	entry->done = entry->intended;
}

/* Keeps the last entry of each member. */
static void trim(TDB_DATA key)
{
	TDB_DATA old = tdb_fetch(tdb, key);
	uint32_t last[MEMBERS] = { 0 }, kept[2 * MEMBERS], words = 0;
	TDB_DATA new = { .dptr = (uint8_t *)kept };

	for (size_t at = 0; at + 8 <= old.dsize; at += 8) {
		uint32_t entry[2];
		memcpy(entry, old.dptr + at, 8);
		expect(entry[0] < MEMBERS && entry[1] > last[entry[0]], "torn shared record");
		last[entry[0]] = entry[1];
	}
	for (uint32_t member = 0; member < MEMBERS; member++) {
		if (last[member] != 0) {
			kept[words++] = member;
			kept[words++] = last[member];
		}
	}
	new.dsize = words * 4;
	if (old.dsize > TRIM_AT) {
		expect(tdb_store(tdb, key, new, TDB_REPLACE) == 0, "trim");
	}
	free(old.dptr);
}

static void append_shared(void)
{
	uint32_t n = random_below(SHARED_KEYS);
	struct entry *entry = &ledger->shared[n];
	uint32_t words[2] = { id, entry->done + 1 };
	char keybuf[64];
	TDB_DATA key = name(keybuf, "shared", 0, n);
	TDB_DATA value = { .dptr = (uint8_t *)words, .dsize = sizeof(words) };

	begin_change();
	expect(tdb_chainlock(tdb, key) == 0, "lock");
	if (random_below(8) == 0) {
		trim(key);
	}
	entry->intended = words[1];
	expect(tdb_append(tdb, key, value) == 0, "append");
	expect(tdb_chainunlock(tdb, key) == 0, "unlock");
	end_change();
	entry->done = entry->intended;
}

static void count_up_locked(TDB_DATA key)
{
	uint32_t tally[MEMBERS] = { 0 };
	TDB_DATA old = tdb_fetch(tdb, key);
	TDB_DATA new = { .dptr = (uint8_t *)tally, .dsize = sizeof(tally) };

	if (old.dptr != NULL) {
		expect(old.dsize == sizeof(tally), "torn tally");
		memcpy(tally, old.dptr, sizeof(tally));
		free(old.dptr);
	}
	expect(tally[id] == ledger->tally.done, "an increment was lost");
	ledger->tally.intended = ++tally[id];
	expect(tdb_store(tdb, key, new, TDB_REPLACE) == 0, "store of the tally");
}

/* Under a lock of its chain, or of all. */
static void count_up(void)
{
	char keybuf[64];
	TDB_DATA key = name(keybuf, "tally", 0, 0);
	int all = role == STEADY && random_below(50) == 0;

	begin_change();
	if (all) {
		expect(flock(gate, LOCK_EX) == 0, "gate");
	}
	expect((all ? tdb_lockall(tdb) : tdb_chainlock(tdb, key)) == 0, "lock");
	count_up_locked(key);
	expect((all ? tdb_unlockall(tdb) : tdb_chainunlock(tdb, key)) == 0, "unlock");
	if (all) {
		flock(gate, LOCK_UN);
	}
	end_change();
	ledger->tally.done = ledger->tally.intended;
	ledger->locks++;
}

/* A member of the set in its n-th version: a third of them are missing. */
static void store_of_set(uint32_t k, uint32_t n)
{
	char keybuf[64];
	uint8_t buf[1024];
	TDB_DATA key = name(keybuf, "set", id, k);

	if ((n + k) % 3 == 0) {
		expect(tdb_delete(tdb, key) == 0 || tdb_error(tdb) == TDB_ERR_NOEXIST, "delete");
	} else {
		expect(tdb_store(tdb, key, version(buf, id, n + k), TDB_REPLACE) == 0, "store");
	}
}

/* All of the set together, or nothing; prepared or not. */
static void change_set(void)
{
	struct entry *entry = &ledger->set;
	uint32_t n = entry->done + 1;
	int cancel = random_below(3) == 0;

	start();
	for (uint32_t k = 0; k < SET_KEYS; k++) {
		store_of_set(k, n);
	}
	if (random_below(2) == 0) {
		expect(tdb_transaction_prepare_commit(tdb) == 0, "prepare");
	}
	if (cancel) {
		expect(tdb_transaction_cancel(tdb) == 0, "cancel");
		ledger->cancelled++;
		leave_gate();
		return;
	}
	entry->intended = n;
	commit();
	entry->done = n;
}

static void add_to_account(uint32_t account, int32_t amount)
{
	char keybuf[64];
	TDB_DATA key = name(keybuf, "account", 0, account);
	TDB_DATA old = tdb_fetch(tdb, key);
	int32_t balance;
	TDB_DATA new = { .dptr = (uint8_t *)&balance, .dsize = 4 };

	expect(old.dptr != NULL && old.dsize == 4, "account");
	memcpy(&balance, old.dptr, 4);
	free(old.dptr);
	balance += amount;
	expect(tdb_store(tdb, key, new, TDB_MODIFY) == 0, "store of an account");
}

static void transfer(void)
{
	uint32_t from = random_below(ACCOUNTS), to = random_below(ACCOUNTS);

	start();
	add_to_account(from, -5);
	add_to_account(to, 5);
	commit();
}

static int look(struct tdb_context *db, TDB_DATA key, TDB_DATA data, void *private_data)
{
	uint32_t head[2];
	uint8_t buf[1024];
	TDB_DATA whole;

	if (memcmp(key.dptr, "own", 3) != 0) {
		return 0;
	}
	expect(data.dsize >= 8, "own record is short");
	memcpy(head, data.dptr, 8);
	whole = version(buf, head[1], head[0]);
	expect(whole.dsize == data.dsize && memcmp(buf, data.dptr, data.dsize) == 0, "torn record");
	return 0;
}

/*
 * When a commit was cut short, a traverse may have to roll it back while it stands on a record. Two
 * of them wait for each other then, and the kernel gives one of them an error: nothing is lost.
 */
static void traverse(void)
{
	int result;

	expect(flock(gate, LOCK_SH) == 0, "gate");
	if (random_below(2) == 0) {
		result = tdb_traverse(tdb, look, NULL);
	} else {
		result = tdb_traverse_read(tdb, look, NULL);
	}
	expect(result >= 0 || errno == EDEADLK, "traverse");
	flock(gate, LOCK_UN);
	ledger->traverses += result >= 0;
}

/* A lock with nothing done under it: a good moment to be killed. */
static void hold(void)
{
	char keybuf[64];
	TDB_DATA key = name(keybuf, "tally", 0, 0);
	int all = random_below(4) == 0;

	if (all) {
		expect(flock(gate, LOCK_EX) == 0, "gate");
	}
	expect((all ? tdb_lockall(tdb) : tdb_chainlock(tdb, key)) == 0, "lock to hold");
	usleep(random_below(500));
	expect((all ? tdb_unlockall(tdb) : tdb_chainunlock(tdb, key)) == 0, "unlock what was held");
	if (all) {
		flock(gate, LOCK_UN);
	}
	ledger->locks++;
}

static void step(void)
{
	uint32_t what = random_below(100);

	if (what < 50 || role == RECKLESS) {
		change_own();
	} else if (what < 70) {
		append_shared();
	} else if (what < 90) {
		count_up();
	} else if (what < 95) {
		change_set();
	} else {
		transfer();
	}
}

static void open_all(char **args)
{
	int flags = strtol(args[1], NULL, 16);
	int fd = open(args[2], O_RDWR);
	char path[4096];

	id = atoi(args[3]);
	role = strcmp(args[5], "steady") == 0 ? STEADY :
	       strcmp(args[5], "careful") == 0 ? CAREFUL : RECKLESS;
	mutexes = (flags & TDB_MUTEX_LOCKING) != 0;
	state = 88172645463325252ULL + id * 7919 + getpid() * 104729ULL;
	snprintf(path, sizeof(path), "%s.gate", args[0]);
	gate = open(path, O_RDWR | O_CREAT, 0600);
	ledger = mmap(NULL, sizeof(*ledger), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	expect(gate >= 0 && ledger != MAP_FAILED, "open of gate or ledger");
	tdb = tdb_open(args[0], 131, flags, O_RDWR | O_CREAT, 0600);
	expect(tdb != NULL, "open");
	for (uint32_t n = 0; n < OWN_KEYS; n++) {
		uint32_t seen = ledger->own[n].intended;
		next = seen > next ? seen : next;
	}
}

int main(int argc, char **argv)
{
	struct timespec now, end;

	expect(argc == 7, "wrong arguments");
	open_all(argv + 1);
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += (end.tv_nsec / 1000000 + atol(argv[5])) / 1000;
	do {
		for (int i = 0; i < 20; i++) {
			step();
		}
		if (random_below(20) == 0) {
			traverse();
		}
		if (random_below(20) == 0) {
			hold();
		}
		/* Others are to get their turns: a file lock knows no queue. */
		usleep(random_below(1000));
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < end.tv_sec);
	return tdb_close(tdb);
}
