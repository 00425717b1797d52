/* What the parts of the shim share. tests/shim/control.py has the same layout and the same numbers.
 *
 *   control.c  the mapped block through which a harness counts, records and fails calls
 *   journal.c  before-images of what was written and not synced, and names that may be undone
 *   names.c    the calls that change names, in front of libc's
 *   shim.c     all other calls
 *
 * The shim talks to the kernel by `syscall`, never through libc's wrappers: those are its own.
 */
#ifndef SHIM_H
#define SHIM_H

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

enum kind {
    KIND_OPEN,
    KIND_CREATE,
    KIND_READ,
    KIND_WRITE,
    KIND_SYNC,
    KIND_TRUNCATE,
    KIND_FALLOCATE,
    KIND_RENAME,
    KIND_UNLINK,
    KIND_LINK,
    KIND_MKDIR,
    KIND_STATVFS,
    KIND_LIST,
    KIND_MMAP,
    KIND_SOCKET,
    KIND_CONNECT,
    KIND_ACCEPT,
    KIND_EPOLL,
    KIND_CLOSE,
    KINDS
};

enum where { WHERE_BELOW = 1, WHERE_SOCKET = 2, WHERE_ELSEWHERE = 4 };

enum { RULES = 16, PROCESSES = 64, CALLS = 16384, COUNTERS = 32 };

struct rule {
    _Atomic uint32_t armed;
    int32_t pid; /* 0: any process */
    uint32_t kinds;
    uint32_t where;
    int32_t error;
    uint32_t lasting;
    _Atomic int64_t countdown;
    _Atomic uint64_t fired;
    char word[48]; /* of the command line; empty: any */
    char path[160]; /* part of it; empty: any */
};

struct process {
    _Atomic int32_t pid;
    _Atomic uint32_t recording;
    char words[184]; /* the command line, each word between spaces */
    _Atomic uint64_t counts[COUNTERS];
};

struct call {
    int32_t pid;
    uint8_t kind;
    uint8_t where;
    uint8_t failed;
    _Atomic uint8_t written;
    char path[120];
};

struct control {
    uint64_t magic;
    _Atomic uint32_t lock_made;
    uint32_t journaling;
    _Atomic uint64_t sequence;
    _Atomic uint64_t fired;
    _Atomic uint64_t recorded;
    _Atomic uint64_t kept;
    uint64_t spare[2];
    pthread_mutex_t lock;
    char padding[128 - sizeof(pthread_mutex_t)];
    struct rule rules[RULES];
    struct process processes[PROCESSES];
    struct call calls[CALLS];
};

_Static_assert(sizeof(struct rule) == 248, "control.py reads it");
_Static_assert(sizeof(struct process) == 448, "control.py reads it");
_Static_assert(sizeof(struct call) == 128, "control.py reads it");
_Static_assert(offsetof(struct control, rules) == 192, "control.py reads it");

#define MAGIC 0x314d494853ULL

/* A file below the data folder, as this process knows it. */
enum { IN_FLIGHT = 32 };
struct file {
    uint64_t inode;
    struct file *next;
    char path[256]; /* below the data folder, for records of calls */
    uint64_t in_flight[IN_FLIGHT]; /* places of records whose write has not returned; 0: free */
};

/* control.c */

extern struct control *control; /* NULL: the shim does nothing */
extern _Thread_local int inside; /* this thread is in the shim: its calls are the shim's own */

void control_lock(void);
void control_unlock(void);
/* Count, record, and say what to fail with: an errno, or 0. `path` may be NULL. */
int control_ask(enum kind kind, enum where where, const char *path);
bool control_recording(void);

/* journal.c: all under the lock */

extern bool journaling;
extern dev_t data_device;

/* The part of a path below the data folder, or NULL; `full` has PATH_MAX bytes. */
const char *journal_below(int folder, const char *path, char *full);
struct file *journal_file(uint64_t inode);
struct file *journal_remember(uint64_t inode, const char *below);

/* A slot of `in_flight` to hand back when the write returned; -1: nothing to hand back. */
int journal_write(struct file *file, int fd, uint64_t offset, uint64_t bytes);
void journal_written(struct file *file, int slot);
void journal_resize(struct file *file, int fd, uint64_t size);
/* Up to where a sync that begins now covers. */
uint64_t journal_place(struct file *file);
void journal_synced(struct file *file, uint64_t place, bool good);

void journal_created(uint64_t inode, const char *below, bool linked);
int journal_unlink(int folder, const char *path, const char *below);
int journal_rename(int old_folder, const char *old, const char *old_below, int new_folder, const char *new,
                   const char *new_below);
/* The path of the file that holds the id of the machine's start, if a power cut has changed it. */
bool journal_boot_id(char *path);
void journal_folder_synced(uint64_t folder, uint64_t sequence);

/* Shared by the calls. */

#define EXPORT __attribute__((visibility("default")))

/* Under the shim's own hands, or without a harness, a call is the kernel's alone. */
static inline bool idle(void)
{
    return !control || inside;
}

static inline int fail(int error)
{
    errno = error;
    return -1;
}

static inline int ask_path(enum kind kind, const char *below, const char *path)
{
    return control_ask(kind, below ? WHERE_BELOW : WHERE_ELSEWHERE, below ? below : path);
}

#endif
