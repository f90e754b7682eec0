/* sl_pack_write: a Hugging Face directory becomes a pack; sl_pack_write_random: a shape does
 * (pack.h).
 *
 * Everything that can be refused is refused before the first byte is written, except a NaN, which
 * only the conversion sees. The pack is built beside its place, as DST.tmp-PID, every file synced
 * and digested on the way, pack.json last; then one rename. Whatever fails, the half-built
 * directory is removed, so DST is whole or absent. Sources are mapped and dropped file by file:
 * memory stays at a few rows of the widest matrix for each thread. What a killed packer has left there goes with the next one. */
#include "base/cpu.h"
#include "base/rng.h"
#include "model/pack/pack_place.h"
#include "model/pack/pack_plan_impl.h"
#include "model/tokenizer/tokenizer.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* As published; the first must be there. */
static const char *const copied[] = {"config.json",           "generation_config.json", "tokenizer.json",
                                     "tokenizer_config.json", "chat_template.jinja",    "chat_template.json"};
enum { N_COPIED = sizeof copied / sizeof *copied };

struct pack_job {
    const char *src; /* NULL: random weights, and then `config` is the text of config.json */
    char *config;
    uint64_t seed;
    char *dst, *tmp, *parent;
    int lock; /* on tmp, while it is being built */
    const struct sl_pack_options *options;
    struct sl_shape shape;
    struct sl_index source;
    struct sl_pack_plan plan;
    struct sl_manifest manifest;
    uint64_t *digests, n_digests; /* of the blocks written so far */
    struct sl_progress progress;
    uint64_t needed;
    struct sl_piece_job pieces;
    struct sl_pack_summary summary;
};

static sl_status sync_dir(const char *path, struct sl_err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0) {
        int number = errno;
        if (fd >= 0)
            close(fd);
        return sl_fail(err, SL_E_IO, "can't sync %.200s: %s", path, strerror(number));
    }
    close(fd);
    return SL_OK;
}

/* ---- paths and what stands there already ---- */

static sl_status job_paths(struct pack_job *job, const char *dst, struct sl_err *err)
{
    size_t n = strlen(dst);
    while (n > 1 && dst[n - 1] == '/')
        n--;
    job->dst = strndup(dst, n);
    if (!job->dst || asprintf(&job->tmp, "%s.tmp-%ld", job->dst, (long)getpid()) < 0) {
        job->tmp = NULL;
        return sl_fail(err, SL_E_NOMEM, "no memory to pack into %.200s", dst);
    }
    const char *slash = strrchr(job->dst, '/');
    job->parent = !slash              ? strdup(".")
                  : slash == job->dst ? strdup("/")
                                      : strndup(job->dst, (size_t)(slash - job->dst));
    return job->parent ? SL_OK : sl_fail(err, SL_E_NOMEM, "no memory to pack into %.200s", dst);
}

static sl_status check_source(const struct pack_job *job, struct sl_err *err)
{
    struct stat st;
    if (stat(job->src, &st) != 0)
        return sl_fail(err, SL_E_DATA, "can't read %.200s: %s", job->src, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return sl_fail(err, SL_E_DATA,
                       "%.200s is not a directory; a checkpoint is one, with config.json "
                       "and safetensors files",
                       job->src);
    if (sl_pack_is_pack(job->src))
        return sl_fail(err, SL_E_USAGE, "%.200s is already a pack; use it as it is", job->src);
    return SL_OK;
}

static sl_status check_place(const struct pack_job *job, struct sl_err *err)
{
    struct stat st;
    if (job->dst[0] == '\0')
        return sl_fail(err, SL_E_USAGE, "the destination of the pack is empty; name a directory");
    if (lstat(job->dst, &st) != 0)
        return SL_OK;
    if (!job->options->force)
        return sl_fail(err, SL_E_USAGE, "%.200s exists; choose another place or use --force", job->dst);
    if (!S_ISDIR(st.st_mode) || !sl_pack_is_pack(job->dst))
        return sl_fail(err, SL_E_USAGE,
                       "%.200s exists and is not a pack, so --force does not replace it; "
                       "choose another place",
                       job->dst);
    return SL_OK;
}

/* ---- what will be written ---- */

static sl_status make_plan(struct pack_job *job, struct sl_err *err)
{
    uint64_t bytes = 0;
    bool scan = false;
    for (uint32_t i = 0; i < job->source.n_tensors; i++) {
        bytes += job->source.tensors[i].end - job->source.tensors[i].begin;
        scan |= job->source.tensors[i].type != SL_T_BF16;
    }
    sl_progress_start(&job->progress, job->options->progress && scan, "checking", bytes);
    sl_status status = sl_pack_plan_make(&job->plan, &job->shape, &job->options->formats,
                                         job->src ? &job->source : NULL, &job->progress, err);
    sl_progress_end(&job->progress);
    return status;
}

static sl_status check_room(struct pack_job *job, struct sl_err *err)
{
    struct stat st;
    job->needed = sl_pack_plan_bytes(&job->plan) + SL_PACK_MAX_MANIFEST / 4;
    job->needed += (job->needed / SL_PACK_BLOCK + job->plan.n_files) * sizeof *job->digests;
    for (int i = 0; job->src && i < N_COPIED; i++) {
        char *path = sl_path_join(job->src, copied[i]);
        if (!path)
            return sl_fail(err, SL_E_NOMEM, "no memory to pack %.200s", job->src);
        if (stat(path, &st) == 0)
            job->needed += (uint64_t)st.st_size;
        free(path);
    }
    struct statvfs room;
    if (statvfs(job->parent, &room) != 0)
        return sl_fail(err, SL_E_IO, "can't write into %.200s: %s", job->parent, strerror(errno));
    uint64_t available = (uint64_t)room.f_bavail * room.f_frsize;
    if (available < job->needed)
        return sl_fail(err, SL_E_IO,
                       "no room for %.160s: the pack needs %llu bytes and %llu are free; free some or "
                       "choose another place",
                       job->dst, (unsigned long long)job->needed, (unsigned long long)available);
    return SL_OK;
}

/* ---- writing ---- */

static struct sl_pack_file *next_file(struct pack_job *job, const char *name)
{
    assert(job->manifest.n_files < SL_PACK_MAX_FILES);
    struct sl_pack_file *file = &job->manifest.files[job->manifest.n_files++];
    assert(strlen(name) < sizeof file->name);
    strcpy(file->name, name);
    return file;
}

static sl_status write_text(struct pack_job *job, struct sl_pack_file *file, const char *text, size_t bytes,
                            struct sl_err *err)
{
    char *path = sl_path_join(job->tmp, file->name);
    if (!path)
        return sl_fail(err, SL_E_NOMEM, "no memory to write %.60s", file->name);
    struct sl_out out;
    sl_status status = sl_out_open(&out, path, job->needed, &job->progress, err);
    if (status == SL_OK)
        status = sl_out_write(&out, text, bytes, err);
    if (status == SL_OK)
        status = sl_out_finish(&out, file, err);
    sl_out_abandon(&out);
    free(path);
    return status;
}

static sl_status copy_files(struct pack_job *job, struct sl_err *err)
{
    if (!job->src)
        return write_text(job, next_file(job, copied[0]), job->config, strlen(job->config), err);
    for (int i = 0; i < N_COPIED; i++) {
        char *path = sl_path_join(job->src, copied[i]), *text = NULL;
        size_t bytes = 0;
        if (!path)
            return sl_fail(err, SL_E_NOMEM, "no memory to copy %.60s", copied[i]);
        if (i > 0 && access(path, F_OK) != 0) {
            free(path);
            continue;
        }
        sl_status status = sl_file_read(&text, &bytes, path, SL_PACK_MAX_TEXT, err);
        if (status == SL_OK)
            status = write_text(job, next_file(job, copied[i]), text, bytes, err);
        free(text);
        free(path);
        SL_TRY(status);
    }
    return SL_OK;
}

/* Rotations of one file: by class, since what is recorded is the format of a class in a layer. */
static sl_status choose_rotations(struct pack_job *job, struct sl_pack_plan_file *planned, struct sl_err *err)
{
    for (int c = 0; c < SL_CLASSES; c++) {
        struct sl_piece *pieces[sizeof planned->pieces / sizeof *planned->pieces];
        uint32_t n = 0;
        for (uint32_t i = 0; i < planned->n_pieces; i++)
            if (planned->pieces[i].class_ == (enum sl_class)c &&
                sl_dtype_is_integer(planned->pieces[i].dtype))
                pieces[n++] = &planned->pieces[i];
        if (n > 0)
            SL_TRY(sl_pieces_choose_rotation(pieces, n, &job->pieces, err));
    }
    return SL_OK;
}

static sl_status write_piece(struct pack_job *job, const struct sl_piece *piece, uint64_t bytes,
                             struct sl_out *out, struct sl_err *err)
{
    struct sl_quantise_report report = {0};
    struct sl_pack_class *class_ = &job->summary.classes[piece->class_];
    class_->use.weights += (uint64_t)piece->units * piece->rows * piece->k;
    class_->use.bytes += bytes;
    if (!job->src)
        return sl_piece_random(piece, &job->pieces, out, err);
    if (!sl_dtype_is_integer(piece->dtype))
        return sl_piece_convert(piece, &job->pieces, out, err);
    SL_TRY(sl_piece_quantise(piece, &job->pieces, out, &report, err));
    class_->signal += report.plain_signal;
    class_->noise += report.plain_noise;
    if (job->options->calibration) {
        class_->weighed_signal += report.signal;
        class_->weighed_noise += report.noise;
    }
    return SL_OK;
}

/* The tensors of one weights file in layout order; every second one may be padding. */
static sl_status write_tensors(struct pack_job *job, struct sl_pack_plan_file *planned, struct sl_out *out,
                               struct sl_err *err)
{
    static const uint8_t zeros[SL_PACK_ALIGN];
    const struct sl_pack_calibration *calibration = job->options->calibration;
    uint8_t *head;
    size_t bytes;
    if (calibration && planned != &job->plan.files[0]) /* the first is the embedding */
        SL_TRY(calibration->layer(calibration->arg,
                                  planned->layer == SL_NO_LAYER ? job->shape.n_layers : planned->layer, err));
    SL_TRY(choose_rotations(job, planned, err));
    SL_TRY(sl_layout_header(&planned->layout, &head, &bytes, err));
    sl_status status = sl_out_write(out, head, bytes, err);
    free(head);
    SL_TRY(status);
    uint32_t piece = 0;
    for (uint32_t i = 0; i < planned->layout.n_tensors; i++) {
        const struct sl_layout_tensor *t = &planned->layout.tensors[i];
        job->pieces.seed = sl_rng_at(job->seed, ((uint64_t)(planned - job->plan.files) << 8) + i);
        if (strncmp(t->name, "__pad.", 6) == 0)
            SL_TRY(sl_out_write(out, zeros, (size_t)(t->end - t->begin), err));
        else
            SL_TRY(write_piece(job, &planned->pieces[piece++], t->end - t->begin, out, err));
    }
    assert(piece == planned->n_pieces);
    return SL_OK;
}

static sl_status write_weights(struct pack_job *job, struct sl_pack_plan_file *planned, struct sl_err *err)
{
    char *path = sl_path_join(job->tmp, planned->name);
    if (!path)
        return sl_fail(err, SL_E_NOMEM, "no memory to write %.60s", planned->name);
    struct sl_out out;
    struct sl_pack_file *file = next_file(job, planned->name);
    sl_status status = sl_out_open(&out, path, job->needed, &job->progress, err);
    out.digests = &job->digests;
    out.n_digests = &job->n_digests;
    if (status == SL_OK)
        status = write_tensors(job, planned, &out, err);
    if (status == SL_OK)
        status = sl_out_finish(&out, file, err);
    sl_out_abandon(&out);
    free(path);
    for (uint32_t i = 0; i < job->source.n_files;
         i++) /* the pages are clean: the kernel may have them back */
        madvise((void *)(uintptr_t)job->source.files[i].map, (size_t)job->source.files[i].bytes,
                MADV_DONTNEED);
    return status;
}

static sl_status write_digests(struct pack_job *job, struct sl_err *err)
{
    char *text;
    size_t bytes;
    assert(job->n_digests == sl_manifest_blocks(&job->manifest, job->manifest.n_files));
    SL_TRY(sl_digests_print(job->digests, job->n_digests, &text, &bytes, err));
    sl_status status = write_text(job, next_file(job, SL_PACK_DIGESTS), text, bytes, err);
    free(text);
    return status;
}

static sl_status write_manifest(struct pack_job *job, struct sl_err *err)
{
    char *text;
    struct sl_pack_file itself = {.name = "pack.json"};
    job->manifest.version = SL_PACK_FORMAT;
    job->manifest.formats = sl_pack_plan_formats(&job->plan);
    if (!job->manifest.formats)
        return sl_fail(err, SL_E_NOMEM, "no memory to write pack.json");
    snprintf(job->manifest.sluice_version, sizeof job->manifest.sluice_version, "%s", SLUICE_VERSION);
    SL_TRY(sl_manifest_print(&job->manifest, &text, err));
    sl_status status = write_text(job, &itself, text, strlen(text), err);
    free(text);
    return status;
}

static sl_status write_all(struct pack_job *job, struct sl_err *err)
{
    struct sl_manifest *m = &job->manifest;
    SL_TRY(copy_files(job, err));
    m->embed = m->n_files;
    m->n_layers = job->shape.n_layers;
    for (uint32_t i = 0; i < m->n_layers; i++)
        m->layers[i] = m->embed + 1 + i;
    m->head = m->embed + 1 + m->n_layers;
    for (uint32_t i = 0; i < job->plan.n_files; i++)
        SL_TRY(write_weights(job, &job->plan.files[i], err));
    SL_TRY(write_digests(job, err));
    SL_TRY(write_manifest(job, err));
    return sync_dir(job->tmp, err);
}

/* The new pack takes its place at once; a replaced one is removed afterwards. */
static sl_status commit(struct pack_job *job, struct sl_err *err)
{
    struct stat st;
    bool replaces = job->options->force && lstat(job->dst, &st) == 0;
    if (replaces && renameat2(AT_FDCWD, job->tmp, AT_FDCWD, job->dst, RENAME_EXCHANGE) == 0) {
        sl_place_remove(job->tmp); /* the old one by now */
        return sync_dir(job->parent, err);
    }
    if (replaces) /* a file system without exchange: there is a moment without a pack, never half a
                     one */
        sl_place_remove(job->dst);
    if (rename(job->tmp, job->dst) != 0)
        return sl_fail(err, SL_E_IO, "can't rename %.120s to %.120s: %s", job->tmp, job->dst,
                       strerror(errno));
    return sync_dir(job->parent, err);
}

/* Whoever serves the pack loads it; one that is refused is refused before hours of packing. */
static sl_status try_tokenizer(const struct pack_job *job, struct sl_err *err)
{
    struct sl_tokenizer *tokenizer = NULL;
    char *path = sl_path_join(job->src, "tokenizer.json");
    if (!path)
        return sl_fail(err, SL_E_NOMEM, "no memory to read %.200s", job->src);
    sl_status status = access(path, F_OK) == 0 ? sl_tokenizer_load(&tokenizer, path, err) : SL_OK;
    sl_tokenizer_destroy(tokenizer);
    free(path);
    return status;
}

/* What is to be packed: the checkpoint's shape and tensors, or the shape alone. */
static sl_status read_source(struct pack_job *job, struct sl_err *err)
{
    if (!job->src)
        return sl_shape_parse(&job->shape, job->config, strlen(job->config), NULL, 0, err);
    SL_TRY(sl_shape_load(&job->shape, job->src, err));
    SL_TRY(try_tokenizer(job, err));
    return sl_index_open_dir(&job->source, job->src, err);
}

static sl_status job_run(struct pack_job *job, const char *dst, struct sl_err *err)
{
    SL_TRY(job_paths(job, dst, err));
    if (job->src)
        SL_TRY(check_source(job, err));
    SL_TRY(check_place(job, err));
    SL_TRY(read_source(job, err));
    SL_TRY(make_plan(job, err));
    SL_TRY(check_room(job, err));
    job->pieces = (struct sl_piece_job){
        .source = &job->source,
        .calibration = job->options->calibration,
        .rotate = job->src || job->options->rotate == SL_ROTATE_ON ? job->options->rotate : SL_ROTATE_OFF,
        .threads = sl_cpu_threads(job->options->threads, 1)};
    const char *slash = strrchr(job->dst, '/');
    sl_place_sweep(job->parent, slash ? slash + 1 : job->dst);
    SL_TRY(sl_place_make(job->tmp, &job->lock, err));
    sl_progress_start(&job->progress, job->options->progress, "packing", sl_pack_plan_bytes(&job->plan));
    sl_status status = write_all(job, err);
    if (status == SL_OK)
        status = commit(job, err);
    sl_progress_end(&job->progress);
    if (status != SL_OK)
        sl_place_remove(job->tmp);
    memcpy(job->summary.digest, job->manifest.digest, sizeof job->summary.digest);
    if (status == SL_OK && job->options->summary)
        *job->options->summary = job->summary;
    return status;
}

static void job_free(struct pack_job *job)
{
    sl_manifest_fini(&job->manifest);
    sl_pack_plan_free(&job->plan);
    sl_index_close(&job->source);
    if (job->lock >= 0)
        close(job->lock);
    free(job->config);
    free(job->digests);
    free(job->dst);
    free(job->tmp);
    free(job->parent);
    free(job);
}

sl_status sl_pack_write(const char *src, const char *dst, const struct sl_pack_options *options,
                        struct sl_err *err)
{
    struct pack_job *job = calloc(1, sizeof *job);
    if (!job)
        return sl_fail(err, SL_E_NOMEM, "no memory to pack %.200s", src);
    job->src = src;
    job->lock = -1;
    job->options = options;
    sl_status status = job_run(job, dst, err);
    job_free(job);
    return status;
}

sl_status sl_pack_write_random(const char *shape, uint32_t layers, uint64_t seed, const char *dst,
                               const struct sl_pack_options *options, struct sl_err *err)
{
    struct pack_job *job = calloc(1, sizeof *job);
    if (!job)
        return sl_fail(err, SL_E_NOMEM, "no memory to pack %.200s", shape);
    job->seed = seed;
    job->lock = -1;
    job->options = options;
    sl_status status = sl_random_config(shape, layers, &job->config, err);
    if (status == SL_OK) {
        status = job_run(job, dst, err);
        if (status == SL_E_DATA)
            sl_err_prefix(err, "shape %.100s", shape);
    }
    job_free(job);
    return status;
}
