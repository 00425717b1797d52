/* The system calls of a process, in front of libc's (LD_PRELOAD).
 *
 * Each call asks the control block whether it is to fail; what changes a file below the data folder is
 * entered in the undo journal first. What a descriptor means is asked from the kernel (`fstat`) at each
 * call instead of being remembered: descriptors are duplicated, inherited and closed behind our back, and
 * a child between vfork and exec shares this memory.
 *
 * Not seen: stdio inside libc, io_uring, mapped stores, sendfile and copy_file_range into files, O_DSYNC,
 * `sync` and `syncfs` (they count for nothing).
 */
#define _GNU_SOURCE
#include "shim.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define BOOT_ID "/proc/sys/kernel/random/boot_id"

/* ------------------------------------------------------------ what a call is about */

struct target {
    enum where where;
    struct file *file; /* below the data folder, and regular */
    uint64_t folder;   /* the inode of a folder below it, where asked for */
};

static struct target target_of(int fd)
{
    struct target target = {WHERE_ELSEWHERE, NULL, 0};
    struct stat status;
    int error = errno;
    if (fstat(fd, &status) < 0) {
        errno = error;
    } else if (S_ISSOCK(status.st_mode)) {
        target.where = WHERE_SOCKET;
    } else if (S_ISREG(status.st_mode) && status.st_dev == data_device) {
        control_lock();
        target.file = journal_file((uint64_t)status.st_ino);
        control_unlock();
        if (target.file)
            target.where = WHERE_BELOW;
    }
    return target;
}

static void folder_below(struct target *target, int fd, char *name)
{
    struct stat status;
    if (target->where != WHERE_ELSEWHERE || fstat(fd, &status) < 0 || !S_ISDIR(status.st_mode))
        return;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (length < 0)
        return;
    path[length] = 0;
    const char *below = journal_below(AT_FDCWD, path, name);
    if (below) {
        memmove(name, below, strlen(below) + 1);
        target->where = WHERE_BELOW;
        target->folder = (uint64_t)status.st_ino;
    }
}

static int ask_fd(enum kind kind, struct target target, int fd)
{
    if (target.file)
        return control_ask(kind, target.where, target.file->path);
    if (target.where == WHERE_SOCKET)
        return control_ask(kind, target.where, "socket");
    char path[PATH_MAX] = "";
    if (control_recording()) {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
        path[length < 0 ? 0 : length] = 0;
    }
    return control_ask(kind, target.where, path);
}

/* ------------------------------------------------------------ open */

static int open_below(int folder, const char *path, const char *below, int flags, mode_t mode, bool existed)
{
    struct stat status;
    bool emptied = journaling && existed && (flags & O_TRUNC) && (flags & O_ACCMODE) != O_RDONLY;
    control_lock();
    int fd = (int)syscall(SYS_openat, folder, path, emptied ? flags & ~O_TRUNC : flags, mode);
    int error = errno;
    if (fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) {
        struct file *file = journal_remember((uint64_t)status.st_ino, below);
        if (emptied) {
            journal_resize(file, fd, 0);
            syscall(SYS_ftruncate, fd, 0L);
        }
        if (journaling && !existed)
            journal_created((uint64_t)status.st_ino, below, false);
    }
    control_unlock();
    errno = error;
    return fd;
}

static int open_any(int folder, const char *path, int flags, mode_t mode)
{
    if (idle())
        return (int)syscall(SYS_openat, folder, path, flags, mode);
    char full[PATH_MAX], boot_id[PATH_MAX];
    struct stat status;
    inside = 1;
    const char *below = journal_below(folder, path, full);
    int error = errno;
    bool existed = !(flags & O_CREAT) || fstatat(folder, path, &status, AT_SYMLINK_NOFOLLOW) == 0;
    errno = error;
    int fd = -1;
    if ((error = ask_path(existed ? KIND_OPEN : KIND_CREATE, below, path))) {
        errno = error;
    } else if (below && (flags & O_TMPFILE) != O_TMPFILE) {
        fd = open_below(folder, path, below, flags, mode, existed);
    } else {
        /* A power cut starts the machine anew: power.py writes the id of that start. */
        if (journaling && path && !strcmp(path, BOOT_ID) && journal_boot_id(boot_id))
            path = boot_id;
        fd = (int)syscall(SYS_openat, folder, path, flags, mode);
    }
    inside = 0;
    return fd;
}

#define MODE_OF(flags, mode)                                                                                         \
    mode_t mode = 0;                                                                                                 \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                                                                         \
        va_list more;                                                                                                \
        va_start(more, flags);                                                                                       \
        mode = va_arg(more, mode_t);                                                                                 \
        va_end(more);                                                                                                \
    }

EXPORT int open(const char *path, int flags, ...)
{
    MODE_OF(flags, mode)
    return open_any(AT_FDCWD, path, flags, mode);
}

EXPORT int openat(int folder, const char *path, int flags, ...)
{
    MODE_OF(flags, mode)
    return open_any(folder, path, flags, mode);
}

EXPORT int creat(const char *path, mode_t mode)
{
    return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

EXPORT int close(int fd)
{
    if (!idle()) {
        struct target target = {WHERE_ELSEWHERE, NULL, 0};
        inside = 1;
        /* Closed often and never failed: what it is about is asked only for a record. */
        if (control_recording())
            target = target_of(fd);
        ask_fd(KIND_CLOSE, target, fd);
        inside = 0;
    }
    return (int)syscall(SYS_close, fd);
}

/* ------------------------------------------------------------ read and write */

/* 0: go on, with what it is about in `target`; otherwise the call has failed and `errno` says how. */
static int transfer_fails(enum kind kind, int fd, struct target *target)
{
    int error = errno;
    inside = 1;
    *target = target_of(fd);
    int failed = ask_fd(kind, *target, fd);
    inside = 0;
    errno = failed ? failed : error;
    return failed;
}

#define READS(fd, call)                                                                                              \
    struct target target;                                                                                            \
    if (!idle() && transfer_fails(KIND_READ, fd, &target))                                                           \
        return -1;                                                                                                   \
    return call;

EXPORT ssize_t read(int fd, void *to, size_t bytes)
{
    READS(fd, syscall(SYS_read, fd, to, bytes))
}

EXPORT ssize_t readv(int fd, const struct iovec *to, int count)
{
    READS(fd, syscall(SYS_readv, fd, to, count))
}

EXPORT ssize_t pread(int fd, void *to, size_t bytes, off_t offset)
{
    READS(fd, syscall(SYS_pread64, fd, to, bytes, offset))
}

EXPORT ssize_t preadv64(int fd, const struct iovec *to, int count, off64_t offset)
{
    READS(fd, syscall(SYS_preadv, fd, to, count, offset, 0L))
}

EXPORT ssize_t preadv64v2(int fd, const struct iovec *to, int count, off64_t offset, int flags)
{
    READS(fd, syscall(SYS_preadv2, fd, to, count, offset, 0L, flags))
}

EXPORT ssize_t recv(int fd, void *to, size_t bytes, int flags)
{
    READS(fd, syscall(SYS_recvfrom, fd, to, bytes, flags, NULL, NULL))
}

EXPORT ssize_t recvfrom(int fd, void *restrict to, size_t bytes, int flags, struct sockaddr *restrict address,
                        socklen_t *restrict length)
{
    READS(fd, syscall(SYS_recvfrom, fd, to, bytes, flags, address, length))
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    READS(fd, syscall(SYS_recvmsg, fd, message, flags))
}

/* A slot to hand back, or -1. `offset` below zero: where the descriptor stands. */
static int before_write(struct target target, int fd, off64_t offset, uint64_t bytes)
{
    if (!target.file || !journaling || !bytes)
        return -1;
    int error = errno;
    inside = 1;
    control_lock();
    if (offset < 0) {
        struct stat status;
        bool appends = syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND;
        offset = appends && fstat(fd, &status) == 0 ? status.st_size : syscall(SYS_lseek, fd, 0L, SEEK_CUR);
    }
    int slot = journal_write(target.file, fd, (uint64_t)offset, bytes);
    control_unlock();
    inside = 0;
    errno = error;
    return slot;
}

static ssize_t after_write(struct target target, int slot, ssize_t done)
{
    if (slot >= 0) {
        int error = errno;
        inside = 1;
        control_lock();
        journal_written(target.file, slot);
        control_unlock();
        inside = 0;
        errno = error;
    }
    return done;
}

#define WRITES(fd, offset, bytes, call)                                                                              \
    struct target target;                                                                                            \
    if (idle())                                                                                                      \
        return call;                                                                                                 \
    if (transfer_fails(KIND_WRITE, fd, &target))                                                                     \
        return -1;                                                                                                   \
    int slot = before_write(target, fd, offset, bytes);                                                              \
    return after_write(target, slot, call);

static uint64_t bytes_of(const struct iovec *from, int count)
{
    uint64_t bytes = 0;
    for (int i = 0; i < count; i++)
        bytes += from[i].iov_len;
    return bytes;
}

EXPORT ssize_t write(int fd, const void *from, size_t bytes)
{
    WRITES(fd, -1, bytes, syscall(SYS_write, fd, from, bytes))
}

EXPORT ssize_t writev(int fd, const struct iovec *from, int count)
{
    WRITES(fd, -1, bytes_of(from, count), syscall(SYS_writev, fd, from, count))
}

EXPORT ssize_t pwrite(int fd, const void *from, size_t bytes, off_t offset)
{
    WRITES(fd, offset, bytes, syscall(SYS_pwrite64, fd, from, bytes, offset))
}

EXPORT ssize_t pwritev64(int fd, const struct iovec *from, int count, off64_t offset)
{
    WRITES(fd, offset, bytes_of(from, count), syscall(SYS_pwritev, fd, from, count, offset, 0L))
}

EXPORT ssize_t pwritev64v2(int fd, const struct iovec *from, int count, off64_t offset, int flags)
{
    WRITES(fd, offset, bytes_of(from, count), syscall(SYS_pwritev2, fd, from, count, offset, 0L, flags))
}

EXPORT ssize_t send(int fd, const void *from, size_t bytes, int flags)
{
    WRITES(fd, 0, 0, syscall(SYS_sendto, fd, from, bytes, flags, NULL, 0))
}

EXPORT ssize_t sendto(int fd, const void *from, size_t bytes, int flags, const struct sockaddr *address,
                      socklen_t length)
{
    WRITES(fd, 0, 0, syscall(SYS_sendto, fd, from, bytes, flags, address, length))
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    WRITES(fd, 0, 0, syscall(SYS_sendmsg, fd, message, flags))
}

/* ------------------------------------------------------------ sizes and syncs */

static int sync_any(int fd, long number)
{
    if (idle())
        return (int)syscall(number, fd);
    char name[PATH_MAX] = "";
    uint64_t place = 0;
    inside = 1;
    struct target target = target_of(fd);
    folder_below(&target, fd, name);
    int failed = target.folder ? control_ask(KIND_SYNC, WHERE_BELOW, name) : ask_fd(KIND_SYNC, target, fd);
    bool entered = journaling && (target.file || target.folder);
    if (entered) {
        control_lock();
        place = target.file ? journal_place(target.file) : atomic_load(&control->sequence);
        control_unlock();
    }
    int done = failed ? fail(failed) : (int)syscall(number, fd);
    int error = errno;
    if (entered) {
        control_lock();
        if (target.file)
            journal_synced(target.file, place, done == 0);
        else if (done == 0)
            journal_folder_synced(target.folder, place);
        control_unlock();
    }
    inside = 0;
    errno = error;
    return done;
}

EXPORT int fsync(int fd)
{
    return sync_any(fd, SYS_fsync);
}

EXPORT int fdatasync(int fd)
{
    return sync_any(fd, SYS_fdatasync);
}

EXPORT int ftruncate(int fd, off_t size)
{
    if (idle())
        return (int)syscall(SYS_ftruncate, fd, size);
    inside = 1;
    struct target target = target_of(fd);
    int error = ask_fd(KIND_TRUNCATE, target, fd);
    int done;
    if (error) {
        done = fail(error);
    } else if (target.file && journaling) {
        /* Under the lock throughout: a write that grows the file meanwhile would lose its before-image. */
        control_lock();
        journal_resize(target.file, fd, (uint64_t)size);
        done = (int)syscall(SYS_ftruncate, fd, size);
        error = errno;
        control_unlock();
        errno = error;
    } else {
        done = (int)syscall(SYS_ftruncate, fd, size);
    }
    inside = 0;
    return done;
}

EXPORT int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    if (idle())
        return (int)syscall(SYS_fallocate, fd, mode, offset, bytes);
    inside = 1;
    struct target target = target_of(fd);
    int error = ask_fd(KIND_FALLOCATE, target, fd), slot = -1;
    if (!error && target.file && journaling) {
        control_lock();
        /* Without a mode it only grows the file; with one it may empty a range. */
        if (mode)
            slot = journal_write(target.file, fd, (uint64_t)offset, (uint64_t)bytes);
        else
            journal_resize(target.file, fd, UINT64_MAX);
        control_unlock();
    }
    int done = error ? fail(error) : (int)syscall(SYS_fallocate, fd, mode, offset, bytes);
    inside = 0;
    return (int)after_write(target, slot, done);
}

EXPORT int posix_fallocate(int fd, off_t offset, off_t bytes)
{
    return fallocate(fd, 0, offset, bytes) < 0 ? errno : 0;
}

/* ------------------------------------------------------------ calls that are only counted and failed */

static int path_fails(enum kind kind, int folder, const char *path)
{
    if (idle())
        return 0;
    char full[PATH_MAX];
    int error = errno;
    inside = 1;
    int failed = ask_path(kind, journal_below(folder, path, full), path);
    inside = 0;
    errno = failed ? failed : error;
    return failed;
}

static int fd_fails(enum kind kind, int fd)
{
    struct target target;
    char name[PATH_MAX] = "";
    if (idle())
        return 0;
    int error = errno;
    inside = 1;
    target = target_of(fd);
    folder_below(&target, fd, name);
    int failed = target.folder ? control_ask(kind, WHERE_BELOW, name) : ask_fd(kind, target, fd);
    inside = 0;
    errno = failed ? failed : error;
    return failed;
}

static int socket_fails(enum kind kind)
{
    int failed = idle() ? 0 : control_ask(kind, WHERE_SOCKET, "socket");
    if (failed)
        errno = failed;
    return failed;
}

EXPORT int mkdir(const char *path, mode_t mode)
{
    return path_fails(KIND_MKDIR, AT_FDCWD, path) ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

EXPORT int mkdirat(int folder, const char *path, mode_t mode)
{
    return path_fails(KIND_MKDIR, folder, path) ? -1 : (int)syscall(SYS_mkdirat, folder, path, mode);
}

/* The rest is more than one system call: libc's own does it. */
#define LIBC(name, result, ...)                                                                                      \
    static result (*libcs)(__VA_ARGS__);                                                                             \
    if (!libcs)                                                                                                      \
        *(void **)&libcs = dlsym(RTLD_NEXT, name);

EXPORT int statvfs(const char *restrict path, struct statvfs *restrict status)
{
    LIBC("statvfs", int, const char *, struct statvfs *)
    return path_fails(KIND_STATVFS, AT_FDCWD, path) ? -1 : libcs(path, status);
}

EXPORT int statvfs64(const char *restrict path, struct statvfs64 *restrict status)
{
    LIBC("statvfs64", int, const char *, struct statvfs64 *)
    return path_fails(KIND_STATVFS, AT_FDCWD, path) ? -1 : libcs(path, status);
}

EXPORT int fstatvfs64(int fd, struct statvfs64 *status)
{
    LIBC("fstatvfs64", int, int, struct statvfs64 *)
    return fd_fails(KIND_STATVFS, fd) ? -1 : libcs(fd, status);
}

EXPORT DIR *opendir(const char *path)
{
    LIBC("opendir", DIR *, const char *)
    return path_fails(KIND_LIST, AT_FDCWD, path) ? NULL : libcs(path);
}

EXPORT DIR *fdopendir(int fd)
{
    LIBC("fdopendir", DIR *, int)
    return fd_fails(KIND_LIST, fd) ? NULL : libcs(fd);
}

EXPORT void *mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    /* Memory that is no file's belongs to allocators, which may ask for it anywhere, even in the shim. */
    if (fd >= 0 && !(flags & MAP_ANONYMOUS) && fd_fails(KIND_MMAP, fd))
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, at, bytes, protection, flags, fd, offset);
}

EXPORT int socket(int domain, int type, int protocol)
{
    return socket_fails(KIND_SOCKET) ? -1 : (int)syscall(SYS_socket, domain, type, protocol);
}

EXPORT int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    return socket_fails(KIND_CONNECT) ? -1 : (int)syscall(SYS_connect, fd, address, length);
}

EXPORT int accept4(int fd, struct sockaddr *restrict address, socklen_t *restrict length, int flags)
{
    return socket_fails(KIND_ACCEPT) ? -1 : (int)syscall(SYS_accept4, fd, address, length, flags);
}

EXPORT int accept(int fd, struct sockaddr *restrict address, socklen_t *restrict length)
{
    return socket_fails(KIND_ACCEPT) ? -1 : (int)syscall(SYS_accept4, fd, address, length, 0);
}

EXPORT int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    return socket_fails(KIND_EPOLL) ? -1 : (int)syscall(SYS_epoll_ctl, epoll, operation, fd, event);
}

/* ------------------------------------------------------------ the names of large files */

_Static_assert(sizeof(off_t) == sizeof(off64_t), "a machine of 64 bits: one call has two names");

#define ALSO(name, call) EXPORT __typeof__(call) name __attribute__((alias(#call), copy(call)))

ALSO(open64, open);
ALSO(openat64, openat);
ALSO(creat64, creat);
ALSO(pread64, pread);
ALSO(pwrite64, pwrite);
ALSO(ftruncate64, ftruncate);
ALSO(fallocate64, fallocate);
ALSO(posix_fallocate64, posix_fallocate);
ALSO(mmap64, mmap);
