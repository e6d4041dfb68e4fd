/* Preloaded into a child of the crash tests. It writes down, in order, every change that the child
 * makes to the files of one folder, and every flush, so that the test can build the folder as a
 * power cut would have left it. It can also let a flush fail, or the disk be full.
 *
 * CUT_FOLDER   the folder that is watched
 * CUT_LOG      where the record goes
 * CUT_FAIL     while this file exists: the next flush removes it and fails with EIO
 * CUT_FULL     while this file exists: no file grows (ENOSPC)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, TRUNCATE, UNLINK, RENAME, SYNC, SYNC_FAILED, OPENED };
#define MAX_FD 4096
#define NAME 128

static char names[MAX_FD][NAME];
static const char *folder, *fail_path, *full_path;
static size_t folder_len;
static int log_fd = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_open)(const char *, int, ...);
static int (*real_close)(int);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_unlink)(const char *);
static int (*real_rename)(const char *, const char *);

__attribute__((constructor)) static void start(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite");
    real_open = dlsym(RTLD_NEXT, "open");
    real_close = dlsym(RTLD_NEXT, "close");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_rename = dlsym(RTLD_NEXT, "rename");
    folder = getenv("CUT_FOLDER");
    fail_path = getenv("CUT_FAIL");
    full_path = getenv("CUT_FULL");
    const char *log = getenv("CUT_LOG");
    if (folder && log) {
        folder_len = strlen(folder);
        log_fd = real_open(log, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    }
}

static const char *watched(int fd) {
    return log_fd >= 0 && fd >= 0 && fd < MAX_FD && names[fd][0] ? names[fd] : NULL;
}

static const char *inside(const char *path) {
    if (log_fd < 0 || strncmp(path, folder, folder_len) != 0) return NULL;
    if (path[folder_len] == 0) return ".";
    return path[folder_len] == '/' && path[folder_len + 1] ? path + folder_len + 1 : NULL;
}

static void record(int op, const char *name, uint64_t offset, const void *data, uint64_t length) {
    struct { uint32_t op, name; uint64_t offset, length; } head =
        { op, strlen(name), offset, length };
    struct iovec parts[3] = {
        { &head, sizeof head }, { (void *)name, head.name }, { (void *)data, length } };
    if (writev(log_fd, parts, 3) < 0) abort();
}

static void opened(int fd, const char *path) {
    const char *name = inside(path);
    if (fd >= 0 && fd < MAX_FD && name && strlen(name) < NAME) {
        pthread_mutex_lock(&lock);
        strcpy(names[fd], name);
        record(OPENED, name, 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
}

#define MODE() mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, int); va_end(a); }

int open(const char *path, int flags, ...) {
    MODE(); int fd = real_open(path, flags, mode); opened(fd, path); return fd;
}
int open64(const char *path, int flags, ...) {
    MODE(); int fd = real_open(path, flags | O_LARGEFILE, mode); opened(fd, path); return fd;
}

int close(int fd) {
    if (fd >= 0 && fd < MAX_FD && fd != log_fd) names[fd][0] = 0;
    return real_close(fd);
}

static int is_full(int fd, uint64_t end) {
    struct stat at;
    return full_path && access(full_path, F_OK) == 0 && fstat(fd, &at) == 0
        && end > (uint64_t)at.st_size;
}

static ssize_t watched_write(int fd, const char *name, const void *data, size_t n, off_t at, int move) {
    pthread_mutex_lock(&lock);
    ssize_t done = -1;
    if (is_full(fd, at + n)) errno = ENOSPC;
    else done = move ? real_write(fd, data, n) : real_pwrite(fd, data, n, at);
    int fault = errno;
    if (done > 0) record(WRITE, name, at, data, done);
    pthread_mutex_unlock(&lock);
    errno = fault;
    return done;
}

ssize_t write(int fd, const void *data, size_t n) {
    const char *name = watched(fd);
    if (!name) return real_write(fd, data, n);
    return watched_write(fd, name, data, n, lseek(fd, 0, SEEK_CUR), 1);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    const char *name = watched(fd);
    return name ? watched_write(fd, name, data, n, at, 0) : real_pwrite(fd, data, n, at);
}
ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) { return pwrite(fd, data, n, at); }

int ftruncate(int fd, off_t length) {
    const char *name = watched(fd);
    if (!name) return real_ftruncate(fd, length);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (is_full(fd, length)) errno = ENOSPC;
    else done = real_ftruncate(fd, length);
    if (done == 0) record(TRUNCATE, name, length, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }

static int watched_sync(int fd, int (*sync)(int)) {
    const char *name = watched(fd);
    if (!name) return sync(fd);
    pthread_mutex_lock(&lock);
    int done;
    if (fail_path && access(fail_path, F_OK) == 0) {
        real_unlink(fail_path);
        record(SYNC_FAILED, name, 0, NULL, 0);
        errno = EIO;
        done = -1;
    } else {
        done = sync(fd);
        if (done == 0) record(SYNC, name, 0, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return done;
}
int fsync(int fd) { return watched_sync(fd, real_fsync); }
int fdatasync(int fd) { return watched_sync(fd, real_fdatasync); }

int unlink(const char *path) {
    const char *name = inside(path);
    int done = real_unlink(path);
    if (done == 0 && name) {
        pthread_mutex_lock(&lock);
        record(UNLINK, name, 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    return done;
}
int rename(const char *from, const char *to) {
    const char *name = inside(from), *other = inside(to);
    int done = real_rename(from, to);
    if (done == 0 && name && other) {
        pthread_mutex_lock(&lock);
        record(RENAME, name, 0, other, strlen(other));
        pthread_mutex_unlock(&lock);
    }
    return done;
}
