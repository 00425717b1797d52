/* The calls that make, move and remove names below the data folder, in front of libc's.
 *
 * Each is done under the lock together with its note, so that the journal has them in the order in which
 * they happened. Only regular files are noted: folders are always there.
 */
#define _GNU_SOURCE
#include "shim.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

static int unlink_any(int folder, const char *path, int flags)
{
    if (idle())
        return (int)syscall(SYS_unlinkat, folder, path, flags);
    char full[PATH_MAX];
    inside = 1;
    const char *below = journal_below(folder, path, full);
    int error = ask_path(KIND_UNLINK, below, path);
    int done;
    if (error) {
        done = fail(error);
    } else if (below && journaling && !flags) {
        control_lock();
        done = journal_unlink(folder, path, below);
        error = errno;
        control_unlock();
        errno = error;
    } else {
        done = (int)syscall(SYS_unlinkat, folder, path, flags);
    }
    inside = 0;
    return done;
}

EXPORT int unlink(const char *path)
{
    return unlink_any(AT_FDCWD, path, 0);
}

EXPORT int unlinkat(int folder, const char *path, int flags)
{
    return unlink_any(folder, path, flags);
}

EXPORT int rmdir(const char *path)
{
    return unlink_any(AT_FDCWD, path, AT_REMOVEDIR);
}

static int rename_any(int old_folder, const char *old, int new_folder, const char *new)
{
    if (idle())
        return (int)syscall(SYS_renameat2, old_folder, old, new_folder, new, 0);
    char full_old[PATH_MAX], full_new[PATH_MAX];
    inside = 1;
    const char *old_below = journal_below(old_folder, old, full_old);
    const char *new_below = journal_below(new_folder, new, full_new);
    int error = ask_path(KIND_RENAME, new_below, new);
    int done;
    if (error) {
        done = fail(error);
    } else if (old_below && new_below && journaling) {
        control_lock();
        done = journal_rename(old_folder, old, old_below, new_folder, new, new_below);
        error = errno;
        control_unlock();
        errno = error;
    } else {
        done = (int)syscall(SYS_renameat2, old_folder, old, new_folder, new, 0);
    }
    inside = 0;
    return done;
}

EXPORT int rename(const char *old, const char *new)
{
    return rename_any(AT_FDCWD, old, AT_FDCWD, new);
}

EXPORT int renameat(int old_folder, const char *old, int new_folder, const char *new)
{
    return rename_any(old_folder, old, new_folder, new);
}

static int link_any(int old_folder, const char *old, int new_folder, const char *new, int flags)
{
    if (idle())
        return (int)syscall(SYS_linkat, old_folder, old, new_folder, new, flags);
    char full[PATH_MAX];
    struct stat status;
    inside = 1;
    const char *below = journal_below(new_folder, new, full);
    int error = ask_path(KIND_LINK, below, new);
    int done;
    if (error) {
        done = fail(error);
    } else {
        control_lock();
        done = (int)syscall(SYS_linkat, old_folder, old, new_folder, new, flags);
        error = errno;
        if (done == 0 && below && journaling && fstatat(new_folder, new, &status, AT_SYMLINK_NOFOLLOW) == 0)
            journal_created((uint64_t)status.st_ino, below, true);
        control_unlock();
        errno = error;
    }
    inside = 0;
    return done;
}

EXPORT int link(const char *old, const char *new)
{
    return link_any(AT_FDCWD, old, AT_FDCWD, new, 0);
}

EXPORT int linkat(int old_folder, const char *old, int new_folder, const char *new, int flags)
{
    return link_any(old_folder, old, new_folder, new, flags);
}
