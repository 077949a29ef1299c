// Preloaded: counts the calls that change what is on disk, below one folder, and lets one of them fail or be the last.
//
//   FAULT_UNDER   the folder; a call counts if its path, or its descriptor's, holds this text
//   FAULT_LOG     a file to which every call that counts is appended, a line each
//   FAULT_AT      the number of the call, from 1
//   FAULT_HOW     kill, or an error number

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_int calls;

static int under(const char *path) {
    const char *folder = getenv("FAULT_UNDER");
    return folder && path && strstr(path, folder);
}

static int under_fd(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return under(path);
}

// Counts a call; 1 if it has to fail, with errno set.
static int fault(const char *call) {
    int number = atomic_fetch_add(&calls, 1) + 1;
    const char *log = getenv("FAULT_LOG"), *at = getenv("FAULT_AT"), *how = getenv("FAULT_HOW");
    if (log) {
        int (*open_)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
        ssize_t (*write_)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
        int fd = open_(log, O_WRONLY | O_CREAT | O_APPEND, 0644);
        if (fd >= 0) {
            if (write_(fd, call, strlen(call)) < 0 || write_(fd, "\n", 1) < 0) abort();
            close(fd);
        }
    }
    if (!at || atoi(at) != number) return 0;
    if (!strcmp(how, "kill")) raise(SIGKILL);
    errno = atoi(how);
    return 1;
}

#define NEXT(name) __typeof__(&name) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define PATH_CALL(name, counted, parameters, arguments)         \
    int name parameters {                                       \
        NEXT(name);                                             \
        return (counted) && fault(#name) ? -1 : next arguments; \
    }

#define FD_CALL(type, name, parameters, arguments)                 \
    type name parameters {                                         \
        NEXT(name);                                                \
        return under_fd(fd) && fault(#name) ? -1 : next arguments; \
    }

PATH_CALL(mkdir, under(path), (const char *path, mode_t mode), (path, mode))
PATH_CALL(rmdir, under(path), (const char *path), (path))
PATH_CALL(unlink, under(path), (const char *path), (path))
PATH_CALL(unlinkat, under(path) || under_fd(at), (int at, const char *path, int flags), (at, path, flags))
PATH_CALL(rename, under(to), (const char *from, const char *to), (from, to))
PATH_CALL(renameat2, under(to), (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags))
PATH_CALL(link, under(to), (const char *from, const char *to), (from, to))
PATH_CALL(linkat, under(to), (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags))
FD_CALL(ssize_t, write, (int fd, const void *bytes, size_t count), (fd, bytes, count))
FD_CALL(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))
FD_CALL(int, fsync, (int fd), (fd))
FD_CALL(int, fdatasync, (int fd), (fd))
FD_CALL(int, ftruncate64, (int fd, off64_t size), (fd, size))
FD_CALL(int, fchmod, (int fd, mode_t mode), (fd, mode))

#define OPEN_CALL(name)                                                                   \
    int name(const char *path, int flags, ...) {                                          \
        NEXT(name);                                                                       \
        va_list rest;                                                                     \
        va_start(rest, flags);                                                            \
        mode_t mode = va_arg(rest, mode_t);                                               \
        va_end(rest);                                                                     \
        int writes = (flags & O_ACCMODE) != O_RDONLY;                                     \
        return writes && under(path) && fault(#name) ? -1 : next(path, flags, mode);      \
    }

OPEN_CALL(open)
OPEN_CALL(open64)

#define OPENAT_CALL(name)                                                                 \
    int name(int at, const char *path, int flags, ...) {                                  \
        NEXT(name);                                                                       \
        va_list rest;                                                                     \
        va_start(rest, flags);                                                            \
        mode_t mode = va_arg(rest, mode_t);                                               \
        va_end(rest);                                                                     \
        int writes = (flags & O_ACCMODE) != O_RDONLY;                                     \
        return writes && under(path) && fault(#name) ? -1 : next(at, path, flags, mode);  \
    }

OPENAT_CALL(openat)
OPENAT_CALL(openat64)
