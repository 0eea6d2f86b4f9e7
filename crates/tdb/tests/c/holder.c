/*
 * Takes a lock of a TDB file through libtdb.
 *
 * holder PATH FLAGS hold LOCK    takes it, prints "held", keeps it until its input ends
 * holder PATH FLAGS try LOCK     exit status 0 if it can be had without waiting, 1 if not
 *
 * LOCK is chain:KEY, chain_read:KEY, all, all_read, transaction, traverse (stands on the first
 * record) or walk (stands on the first record, then goes on to the last).
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
#include <tdb.h>

static void wait_for_end(void)
{
	char c;

	puts("held");
	fflush(stdout);
	while (read(0, &c, 1) > 0) {
	}
}

static int stand(struct tdb_context *tdb, TDB_DATA key, TDB_DATA data, void *private_data)
{
	wait_for_end();
	return 1;
}

static int walk(struct tdb_context *tdb, TDB_DATA key, TDB_DATA data, void *private_data)
{
	wait_for_end();
	return 0;
}

static int take(struct tdb_context *tdb, const char *lock)
{
	const char *colon = strchr(lock, ':');
	TDB_DATA key = { .dptr = NULL };

	if (colon != NULL) {
		key.dptr = (uint8_t *)(colon + 1);
		key.dsize = strlen(colon + 1);
	}
	if (strncmp(lock, "chain:", 6) == 0) {
		return tdb_chainlock_nonblock(tdb, key);
	}
	if (strncmp(lock, "chain_read:", 11) == 0) {
		return tdb_chainlock_read_nonblock(tdb, key);
	}
	if (strcmp(lock, "all") == 0) {
		return tdb_lockall_nonblock(tdb);
	}
	if (strcmp(lock, "all_read") == 0) {
		return tdb_lockall_read_nonblock(tdb);
	}
	if (strcmp(lock, "transaction") == 0) {
		return tdb_transaction_start_nonblock(tdb);
	}
	exit(2);
}

int main(int argc, char **argv)
{
	struct tdb_context *tdb;

	if (argc != 5) {
		return 2;
	}
	tdb = tdb_open(argv[1], 0, strtol(argv[2], NULL, 16), O_RDWR, 0);
	if (tdb == NULL) {
		perror("tdb_open");
		return 2;
	}
	if (strcmp(argv[4], "traverse") == 0) {
		return tdb_traverse_read(tdb, stand, NULL) == 1 ? 0 : 1;
	}
	if (strcmp(argv[4], "walk") == 0) {
		return tdb_traverse_read(tdb, walk, NULL) >= 0 ? 0 : 1;
	}
	if (take(tdb, argv[4]) != 0) {
		return 1;
	}
	if (strcmp(argv[3], "hold") == 0) {
		wait_for_end();
	}
	return 0;
}
