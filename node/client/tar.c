/* Blocks of 512 bytes: a header, the bytes, zeros to the end of the block; two blocks of zeros end it. */
#include "node/client/tar.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum {
    BLOCK = 512,
    NAME = 100,
    MODE_AT = 100,
    SIZE_AT = 124,
    TIME_AT = 136,
    SUM_AT = 148,
    TYPE_AT = 156,
    MAGIC_AT = 257
};

static sl_status broken(struct sl_tar *tar, struct sl_err *err)
{
    sl_status status =
        sl_fail(err, SL_E_IO, "cannot write %s: %s; give another file with --to", tar->path, strerror(errno));
    sl_tar_drop(tar);
    return status;
}

sl_status sl_tar_begin(struct sl_tar *tar, const char *path, uint64_t at_s, struct sl_err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    *tar = (struct sl_tar){.path = path, .at_s = at_s};
    if (fd < 0 && errno == EEXIST)
        return sl_fail(err, SL_E_EXISTS, "%s is there already; move it away, or give another file with --to",
                       path);
    if (fd < 0)
        return sl_fail(err, SL_E_IO, "cannot write %s: %s; give another file with --to", path,
                       strerror(errno));
    tar->file = fdopen(fd, "wb");
    if (!tar->file) {
        close(fd);
        return broken(tar, err);
    }
    return SL_OK;
}

sl_status sl_tar_add(struct sl_tar *tar, const char *name, const char *data, size_t bytes, struct sl_err *err)
{
    static const char zeros[BLOCK];
    char header[BLOCK] = {0};
    unsigned sum = 0;
    if (strlen(name) >= NAME)
        return sl_fail(err, SL_E_INTERNAL, "the name %.40s is too long for an archive", name);
    memcpy(header, name, strlen(name));
    memcpy(header + MODE_AT,
           "0000600\0"
           "0000000\0"
           "0000000",
           23);
    snprintf(header + SIZE_AT, 12, "%011llo", (unsigned long long)bytes);
    snprintf(header + TIME_AT, 12, "%011llo", (unsigned long long)tar->at_s & 077777777777);
    memset(header + SUM_AT, ' ', 8);
    header[TYPE_AT] = '0';
    memcpy(header + MAGIC_AT,
           "ustar\0"
           "00",
           8);
    for (size_t i = 0; i < BLOCK; i++)
        sum += (unsigned char)header[i];
    snprintf(header + SUM_AT, 8, "%06o", sum);
    size_t rest = bytes % BLOCK ? BLOCK - bytes % BLOCK : 0;
    if (fwrite(header, 1, BLOCK, tar->file) != BLOCK || fwrite(data, 1, bytes, tar->file) != bytes ||
        fwrite(zeros, 1, rest, tar->file) != rest)
        return broken(tar, err);
    return SL_OK;
}

sl_status sl_tar_end(struct sl_tar *tar, struct sl_err *err)
{
    static const char zeros[2 * BLOCK];
    if (fwrite(zeros, 1, sizeof zeros, tar->file) != sizeof zeros || fflush(tar->file) != 0)
        return broken(tar, err);
    int closed = fclose(tar->file);
    tar->file = NULL;
    return closed == 0 ? SL_OK : broken(tar, err);
}

void sl_tar_drop(struct sl_tar *tar)
{
    if (tar->file)
        fclose(tar->file);
    tar->file = NULL;
    unlink(tar->path);
}
