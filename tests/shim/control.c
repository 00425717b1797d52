/* The control block: a file that a harness made and every process under the shim has mapped.
 *
 * Counting and failing take no lock, because a signal handler may write to its pipe while the thread that
 * it interrupts holds the lock. The lock is for the journal alone; it is robust, since processes die in it.
 * A harness arms a rule by writing it whole before `armed`, as one writer; the shim only counts it down.
 */
#define _GNU_SOURCE
#include "shim.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct control *control;
_Thread_local int inside;
static struct process *self;

void control_lock(void)
{
    if (pthread_mutex_lock(&control->lock) == EOWNERDEAD)
        pthread_mutex_consistent(&control->lock);
}

void control_unlock(void)
{
    pthread_mutex_unlock(&control->lock);
}

static void make_lock(int fd)
{
    /* A pthread lock can only be made in C: the first process does it, under a lock that needs no making. */
    syscall(SYS_flock, fd, LOCK_EX);
    if (!atomic_load(&control->lock_made)) {
        pthread_mutexattr_t attributes;
        pthread_mutexattr_init(&attributes);
        pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
        pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
        pthread_mutex_init(&control->lock, &attributes);
        atomic_store(&control->lock_made, 1);
    }
    syscall(SYS_flock, fd, LOCK_UN);
}

static struct process *slot_of(int32_t pid)
{
    /* A program that executes another keeps its pid, and so its slot. */
    for (int i = 0; i < PROCESSES; i++)
        if (atomic_load(&control->processes[i].pid) == pid)
            return &control->processes[i];
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < PROCESSES; i++) {
            struct process *process = &control->processes[i];
            int32_t holder = atomic_load(&process->pid);
            /* The dead are replaced last: a harness may still want to read them. */
            bool free = holder == 0 || (pass == 1 && syscall(SYS_kill, holder, 0) < 0 && errno == ESRCH);
            if (free && atomic_compare_exchange_strong(&process->pid, &holder, pid))
                return process;
        }
    }
    return NULL;
}

static void take_slot(void)
{
    self = slot_of((int32_t)getpid());
    if (!self)
        return;
    atomic_store(&self->recording, 0);
    for (int kind = 0; kind < COUNTERS; kind++)
        atomic_store(&self->counts[kind], 0);
    memset(self->words, 0, sizeof self->words);
    long fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    char words[4096];
    long length = syscall(SYS_read, fd, words, sizeof words);
    syscall(SYS_close, fd);
    size_t used = 0;
    self->words[used++] = ' ';
    /* Paths are long and name no role: they are left out, so that what follows them has room. */
    for (long at = 0; at < length; at += (long)strnlen(words + at, (size_t)(length - at)) + 1) {
        size_t word = strnlen(words + at, (size_t)(length - at));
        if (word && !memchr(words + at, '/', word) && used + word + 2 < sizeof self->words) {
            memcpy(self->words + used, words + at, word);
            used += word;
            self->words[used++] = ' ';
        }
    }
}

bool control_recording(void)
{
    return self && atomic_load_explicit(&self->recording, memory_order_relaxed);
}

static void record(enum kind kind, enum where where, const char *path, int error)
{
    uint64_t number = atomic_fetch_add(&control->recorded, 1);
    if (number >= CALLS)
        return;
    struct call *call = &control->calls[number];
    call->pid = (int32_t)getpid();
    call->kind = (uint8_t)kind;
    call->where = (uint8_t)where;
    call->failed = (uint8_t)(error != 0);
    if (path)
        strncpy(call->path, path, sizeof call->path - 1);
    atomic_store(&call->written, 1);
}

static bool path_fits(const char *wanted, const char *path)
{
    size_t length = strlen(wanted), its_length = path ? strlen(path) : 0;
    if (!length)
        return true;
    if (wanted[length - 1] != '$')
        return path && strstr(path, wanted);
    length--;
    return path && its_length >= length && !memcmp(path + its_length - length, wanted, length);
}

static bool concerns(struct rule *rule, enum kind kind, enum where where, const char *path)
{
    if (!(rule->kinds & (1u << kind)) || !(rule->where & where))
        return false;
    if (rule->pid && rule->pid != (int32_t)getpid())
        return false;
    if (rule->word[0]) {
        char word[sizeof rule->word + 2] = " ";
        strcat(strncat(word, rule->word, sizeof rule->word - 1), " ");
        if (!self || !strstr(self->words, word))
            return false;
    }
    return path_fits(rule->path, path);
}

static int rule_against(enum kind kind, enum where where, const char *path)
{
    for (int i = 0; i < RULES; i++) {
        struct rule *rule = &control->rules[i];
        if (!atomic_load(&rule->armed) || !concerns(rule, kind, where, path))
            continue;
        int64_t left = atomic_fetch_sub(&rule->countdown, 1);
        if (left == 1 || (left < 1 && rule->lasting)) {
            atomic_fetch_add(&rule->fired, 1);
            atomic_fetch_add(&control->fired, 1);
            return rule->error;
        }
    }
    return 0;
}

int control_ask(enum kind kind, enum where where, const char *path)
{
    int error = kind == KIND_CLOSE ? 0 : rule_against(kind, where, path);
    if (self)
        atomic_fetch_add_explicit(&self->counts[kind], 1, memory_order_relaxed);
    if (control_recording())
        record(kind, where, path, error);
    return error;
}

static void in_child(void)
{
    take_slot();
}

void journal_begin(const char *data, const char *journals, const char *kept);

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("SHIM_CONTROL"), *data = getenv("SHIM_DATA"), *kept = getenv("SHIM_KEPT");
    const char *journals = getenv("SHIM_JOURNALS");
    if (!path || !data || !kept || !journals)
        return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *mapped =
        (void *)syscall(SYS_mmap, NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0L);
    if (mapped != MAP_FAILED && ((struct control *)mapped)->magic == MAGIC) {
        /* While `control` is NULL the calls go straight through: it is set last. */
        inside = 1;
        control = mapped;
        make_lock(fd);
        take_slot();
        journal_begin(data, journals, kept);
        pthread_atfork(NULL, NULL, in_child);
        inside = 0;
    }
    syscall(SYS_close, fd);
}
