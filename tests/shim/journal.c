/* The undo journal: what a power cut may take back, kept until a sync says that it no longer can.
 *
 * One file `undo-<inode>` for each inode that was written. It is shared by all processes, so that whoever
 * syncs settles what anybody wrote. Its head {base, floor, valid, sticky} counts *places*: bytes ever
 * appended, the first is 1; what lies below `floor` is on the platter, and when nothing else is left, the file
 * begins anew at its front. A record is appended before its write, and `valid` after it: a process may
 * be killed anywhere. A record whose write never happened restores what is there already.
 *
 * A sync covers all places there were when it began. It waits for writes in flight first: what it covers is
 * one number, and a write that is not covered must not drag down one that returned before it.
 * After a failed sync the head becomes *sticky*: no place is forgotten any more, and syncs are records
 * themselves, because what the failed one dropped stays lost until it is written anew (power.py replays it).
 *
 * One file `names` holds creations, renames and removals of regular files, each written after it happened
 * and under the lock; one that is missing because its process died between the two counts as durable, which
 * it may well be. A file that loses a name keeps another one in the folder `kept`, on the same file
 * system: `<folder>-<sequence>`, until that folder is synced.
 *
 * Folders themselves are always there. Mapped memory is not seen. Everything here runs under the lock.
 */
#define _GNU_SOURCE
#include "shim.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SECTOR = 512, CHUNK = 1 << 18, BUCKETS = 4096, JOURNALS_OPEN = 32, KEPT_MAX = 512 };
#define FRONT_MAX (4u << 20)

enum record_kind { RECORD_WRITE = 1, RECORD_SYNCED = 2, RECORD_FAILED = 3 };
enum change_kind { CHANGE_CREATE = 1, CHANGE_RENAME = 2, CHANGE_UNLINK = 3, FOLDER_SYNCED = 4, ALL_SYNCED = 5 };

struct head {
    uint64_t base, floor, valid, sticky;
};

struct record {
    uint64_t kind;
    uint64_t offset;   /* of the first sector; or the place that a sync covers up to */
    uint64_t touched;  /* bytes, whole sectors */
    uint64_t old_size; /* of the file */
    uint64_t image;    /* bytes that follow: what was there, as far as anything was */
};

struct change {
    uint32_t bytes;
    uint32_t kind;
    uint64_t sequence;
    uint64_t inode;
    uint64_t replaced;
    uint64_t folder, other_folder;
    uint32_t old_bytes, new_bytes;
};

bool journaling;
dev_t data_device;
static char data[PATH_MAX], journals[PATH_MAX], kept[PATH_MAX];
static size_t data_bytes;
static struct file *files[BUCKETS];
static struct {
    uint64_t inode;
    int fd;
} opened[JOURNALS_OPEN];
static unsigned next_opened;
static char chunk[CHUNK];

static void broken(const char *what)
{
    /* Going on would be a promise that no power cut can keep. */
    dprintf(2, "shim: %s: %s\n", what, strerror(errno));
    abort();
}

static void in_child(void)
{
    /* The threads whose writes are in flight live in the parent. */
    for (int i = 0; i < BUCKETS; i++)
        for (struct file *file = files[i]; file; file = file->next)
            memset(file->in_flight, 0, sizeof file->in_flight);
}

void journal_begin(const char *data_path, const char *journals_path, const char *kept_path)
{
    struct stat status;
    snprintf(data, sizeof data, "%s", data_path);
    snprintf(journals, sizeof journals, "%s", journals_path);
    snprintf(kept, sizeof kept, "%s", kept_path);
    data_bytes = strlen(data);
    journaling = control->journaling;
    if (stat(kept, &status) < 0)
        broken(kept);
    data_device = status.st_dev;
    pthread_atfork(NULL, NULL, in_child);
}

/* ------------------------------------------------------------ paths and files */

static void normalise(char *path)
{
    char *to = path;
    for (char *from = path; *from;) {
        while (*from == '/')
            from++;
        size_t length = strcspn(from, "/");
        if (length == 2 && from[0] == '.' && from[1] == '.') {
            while (to > path && *--to != '/')
                ;
        } else if (length && !(length == 1 && from[0] == '.')) {
            *to++ = '/';
            memmove(to, from, length);
            to += length;
        }
        from += length;
    }
    *to = 0;
}

const char *journal_below(int folder, const char *path, char *full)
{
    if (!path)
        return NULL;
    long length = 0;
    if (path[0] != '/') {
        if (folder == AT_FDCWD) {
            length = syscall(SYS_getcwd, full, PATH_MAX) - 1;
        } else {
            char link[64];
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            length = syscall(SYS_readlinkat, AT_FDCWD, link, full, PATH_MAX - 1);
        }
        if (length < 0)
            return NULL;
    }
    if ((size_t)length + strlen(path) + 2 > PATH_MAX)
        return NULL;
    full[length] = '/';
    strcpy(full + length + 1, path);
    normalise(full);
    if (strncmp(full, data, data_bytes) != 0 || (full[data_bytes] && full[data_bytes] != '/'))
        return NULL;
    return full[data_bytes] ? full + data_bytes + 1 : "";
}

struct file *journal_file(uint64_t inode)
{
    struct file *file = files[inode % BUCKETS];
    while (file && file->inode != inode)
        file = file->next;
    return file;
}

struct file *journal_remember(uint64_t inode, const char *below)
{
    struct file *file = journal_file(inode);
    if (!file) {
        file = calloc(1, sizeof *file);
        if (!file)
            broken("memory");
        file->inode = inode;
        file->next = files[inode % BUCKETS];
        files[inode % BUCKETS] = file;
    }
    snprintf(file->path, sizeof file->path, "%s", below);
    return file;
}

/* ------------------------------------------------------------ contents */

static int journal_fd(uint64_t inode, bool make)
{
    for (int i = 0; i < JOURNALS_OPEN; i++)
        if (opened[i].inode == inode)
            return opened[i].fd;
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/undo-%llu", journals, (unsigned long long)inode);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC | (make ? O_CREAT : 0), 0666);
    if (fd < 0) {
        if (make)
            broken(path);
        return -1;
    }
    /* Beyond the umask: the processes of one relay may have different users. */
    syscall(SYS_fchmod, fd, 0666);
    unsigned slot = next_opened++ % JOURNALS_OPEN;
    if (opened[slot].inode)
        syscall(SYS_close, opened[slot].fd);
    opened[slot].inode = inode;
    opened[slot].fd = fd;
    return fd;
}

static struct head head_of(int fd)
{
    struct head head;
    if (syscall(SYS_pread64, fd, &head, sizeof head, 0L) != (long)sizeof head)
        head = (struct head){1, 1, 1, 0};
    return head;
}

static void put(int fd, const void *from, size_t bytes, uint64_t at)
{
    while (bytes) {
        long done = syscall(SYS_pwrite64, fd, from, bytes, (long)at);
        if (done <= 0)
            broken("the journal cannot be written");
        from = (const char *)from + done;
        bytes -= (size_t)done;
        at += (uint64_t)done;
    }
}

static void copy_image(int journal, uint64_t at, int fd, uint64_t offset, uint64_t bytes)
{
    int reader = fd;
    while (bytes) {
        size_t wanted = bytes < CHUNK ? bytes : CHUNK;
        long got = syscall(SYS_pread64, reader, chunk, wanted, (long)offset);
        if (got < 0 && errno == EBADF && reader == fd) {
            char path[64];
            snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
            reader = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
            if (reader < 0)
                broken("a file cannot be read before it is written");
            continue;
        }
        if (got < 0)
            broken("a file cannot be read before it is written");
        memset(chunk + got, 0, wanted - (size_t)got);
        put(journal, chunk, wanted, at);
        offset += wanted, at += wanted, bytes -= wanted;
    }
    if (reader != fd)
        syscall(SYS_close, reader);
}

/* Append what is there now, between two offsets of the file; its place. */
static uint64_t append(struct file *file, int fd, uint64_t from, uint64_t to)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        broken("a file cannot be looked at before it is written");
    uint64_t size = (uint64_t)status.st_size;
    from -= from % SECTOR;
    to = (to + SECTOR - 1) / SECTOR * SECTOR;
    struct record record = {RECORD_WRITE, from, to > from ? to - from : 0, size, 0};
    if (record.touched && size > from)
        record.image = (to < size ? to : size) - from;
    int journal = journal_fd(file->inode, true);
    struct head head = head_of(journal);
    uint64_t place = head.valid, at = sizeof head + (place - head.base);
    put(journal, &record, sizeof record, at);
    copy_image(journal, at + sizeof record, fd, from, record.image);
    head.valid += sizeof record + record.image;
    put(journal, &head, sizeof head, 0);
    return place;
}

/* Let the writes in flight return. */
static void give_way(void)
{
    control_unlock();
    sched_yield();
    control_lock();
}

int journal_write(struct file *file, int fd, uint64_t offset, uint64_t bytes)
{
    int slot = 0;
    while (file->in_flight[slot]) {
        if (++slot == IN_FLIGHT) {
            give_way();
            slot = 0;
        }
    }
    file->in_flight[slot] = append(file, fd, offset, offset + bytes);
    return slot;
}

void journal_written(struct file *file, int slot)
{
    file->in_flight[slot] = 0;
}

void journal_resize(struct file *file, int fd, uint64_t size)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        return;
    append(file, fd, size, (uint64_t)status.st_size > size ? (uint64_t)status.st_size : 0);
}

uint64_t journal_place(struct file *file)
{
    int journal = journal_fd(file->inode, false);
    if (journal < 0)
        return 1;
    uint64_t place = head_of(journal).valid;
    for (int i = 0; i < IN_FLIGHT; i++)
        while (file->in_flight[i] && file->in_flight[i] < place)
            give_way();
    return place;
}

void journal_synced(struct file *file, uint64_t place, bool good)
{
    int journal = journal_fd(file->inode, false);
    if (journal < 0)
        return;
    struct head head = head_of(journal);
    /* A sync beside this one has already settled as much. */
    if (place <= head.floor)
        return;
    if (!good || head.sticky) {
        struct record record = {good ? RECORD_SYNCED : RECORD_FAILED, place, 0, 0, 0};
        put(journal, &record, sizeof record, sizeof head + (head.valid - head.base));
        head.valid += sizeof record;
        head.sticky = 1;
    } else {
        head.floor = place;
        if (head.floor == head.valid) {
            if (head.valid - head.base > FRONT_MAX)
                syscall(SYS_ftruncate, journal, (long)sizeof head);
            head.base = head.valid;
        }
    }
    put(journal, &head, sizeof head, 0);
}

/* Nothing of this number is in doubt: it belonged to a file that is gone for good. */
static void forget(uint64_t inode)
{
    int journal = journal_fd(inode, false);
    if (journal < 0)
        return;
    struct head head = head_of(journal);
    head = (struct head){head.valid, head.valid, head.valid, 0};
    put(journal, &head, sizeof head, 0);
}

/* ------------------------------------------------------------ names */

static uint64_t folder_of(int folder, const char *path)
{
    char name[PATH_MAX];
    struct stat status;
    snprintf(name, sizeof name, "%s", path);
    char *slash = strrchr(name, '/');
    if (slash)
        slash[slash == name] = 0;
    else
        strcpy(name, ".");
    return fstatat(folder, name, &status, 0) < 0 ? 0 : (uint64_t)status.st_ino;
}

static bool regular(int folder, const char *path, uint64_t *inode)
{
    struct stat status;
    if (fstatat(folder, path, &status, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(status.st_mode))
        return false;
    *inode = (uint64_t)status.st_ino;
    return true;
}

static void note(struct change change, const char *old, const char *new)
{
    static int names = -1;
    char path[PATH_MAX + 8];
    if (names < 0) {
        snprintf(path, sizeof path, "%s/names", journals);
        names = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (names < 0)
            broken(path);
        syscall(SYS_fchmod, names, 0666);
    }
    uint64_t valid;
    if (syscall(SYS_pread64, names, &valid, sizeof valid, 0L) != (long)sizeof valid)
        valid = sizeof valid;
    change.old_bytes = (uint32_t)strlen(old);
    change.new_bytes = (uint32_t)strlen(new);
    change.bytes = (uint32_t)sizeof change + change.old_bytes + change.new_bytes;
    put(names, &change, sizeof change, valid);
    put(names, old, change.old_bytes, valid + sizeof change);
    put(names, new, change.new_bytes, valid + sizeof change + change.old_bytes);
    valid += change.bytes;
    put(names, &valid, sizeof valid, 0);
}

/* Let kept files go: those of a folder up to a sequence number, or all (folder 0). */
static void let_go(uint64_t folder, uint64_t sequence)
{
    if (!atomic_load(&control->kept))
        return;
    DIR *listing = opendir(kept);
    if (!listing)
        return;
    struct dirent *entry;
    while ((entry = readdir(listing))) {
        unsigned long long its_folder, its_sequence;
        if (sscanf(entry->d_name, "%llu-%llu", &its_folder, &its_sequence) == 2 &&
            (!folder || its_folder == folder) && its_sequence <= sequence) {
            struct stat status;
            if (fstatat(dirfd(listing), entry->d_name, &status, 0) == 0 && status.st_nlink == 1)
                forget((uint64_t)status.st_ino);
            syscall(SYS_unlinkat, dirfd(listing), entry->d_name, 0);
            atomic_fetch_sub(&control->kept, 1);
        }
    }
    closedir(listing);
}

static uint64_t next_sequence(void)
{
    if (atomic_load(&control->kept) >= KEPT_MAX) {
        /* Nobody syncs this folder. A real kernel would have done so by itself long ago; so do we. */
        uint64_t sequence = atomic_fetch_add(&control->sequence, 1) + 1;
        note((struct change){.kind = ALL_SYNCED, .sequence = sequence}, "", "");
        let_go(0, sequence);
    }
    return atomic_fetch_add(&control->sequence, 1) + 1;
}

static void kept_path(char *path, uint64_t folder, uint64_t sequence)
{
    snprintf(path, PATH_MAX + 48, "%s/%llu-%llu", kept, (unsigned long long)folder, (unsigned long long)sequence);
}

void journal_created(uint64_t inode, const char *below, bool linked)
{
    char full[PATH_MAX + 1];
    if (!linked)
        forget(inode);
    snprintf(full, sizeof full, "%.*s/%s", (int)data_bytes, data, below);
    struct change change = {
        .kind = CHANGE_CREATE, .sequence = next_sequence(), .inode = inode, .folder = folder_of(AT_FDCWD, full)};
    note(change, "", below);
}

int journal_unlink(int folder, const char *path, const char *below)
{
    struct change change = {.kind = CHANGE_UNLINK};
    if (!regular(folder, path, &change.inode))
        return (int)syscall(SYS_unlinkat, folder, path, 0);
    char keep[PATH_MAX + 48];
    change.sequence = next_sequence();
    change.folder = folder_of(folder, path);
    kept_path(keep, change.folder, change.sequence);
    bool is_kept = syscall(SYS_linkat, folder, path, AT_FDCWD, keep, 0) == 0;
    int done = (int)syscall(SYS_unlinkat, folder, path, 0);
    int error = errno;
    if (done < 0) {
        if (is_kept)
            syscall(SYS_unlinkat, AT_FDCWD, keep, 0);
    } else {
        if (is_kept)
            atomic_fetch_add(&control->kept, 1);
        note(change, below, "");
    }
    errno = error;
    return done;
}

int journal_rename(int old_folder, const char *old, const char *old_below, int new_folder, const char *new,
                   const char *new_below)
{
    struct change change = {.kind = CHANGE_RENAME};
    if (!regular(old_folder, old, &change.inode))
        return (int)syscall(SYS_renameat2, old_folder, old, new_folder, new, 0);
    char keep[PATH_MAX + 48];
    bool is_kept = false;
    change.sequence = next_sequence();
    change.folder = folder_of(old_folder, old);
    change.other_folder = folder_of(new_folder, new);
    if (regular(new_folder, new, &change.replaced) && change.replaced != change.inode) {
        kept_path(keep, change.other_folder, change.sequence);
        is_kept = syscall(SYS_linkat, new_folder, new, AT_FDCWD, keep, 0) == 0;
    }
    int done = (int)syscall(SYS_renameat2, old_folder, old, new_folder, new, 0);
    int error = errno;
    if (done < 0) {
        if (is_kept)
            syscall(SYS_unlinkat, AT_FDCWD, keep, 0);
    } else if (change.replaced != change.inode) {
        if (is_kept)
            atomic_fetch_add(&control->kept, 1);
        note(change, old_below, new_below);
        struct file *file = journal_file(change.inode);
        if (file)
            snprintf(file->path, sizeof file->path, "%s", new_below);
    }
    errno = error;
    return done;
}

void journal_folder_synced(uint64_t folder, uint64_t sequence)
{
    note((struct change){.kind = FOLDER_SYNCED, .sequence = sequence, .folder = folder}, "", "");
    let_go(folder, sequence);
}

bool journal_boot_id(char *path)
{
    struct stat status;
    return snprintf(path, PATH_MAX, "%s/boot-id", journals) < PATH_MAX && stat(path, &status) == 0;
}
