#define _GNU_SOURCE
#include "core/model_file.h"

#include "core/model_file_internal.h"
#include "core/path_hint.h"
#include "core/text.h"
#include "kernels/base/printable.h"
#include "kernels/dequantize.h"
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

bool file_tensor_measure(struct file_tensor *tensor) {
    const struct dtype_info *info = dtype_info(tensor->dtype);
    int64_t elements = 1, bytes;
    for (int i = 0; i < tensor->dims; i++)
        if (tensor->shape[i] < 0 || __builtin_mul_overflow(elements, tensor->shape[i], &elements))
            return false;
    if (elements % info->block_elements != 0) return false;
    if (__builtin_mul_overflow(elements / info->block_elements, (int64_t)info->block_bytes, &bytes))
        return false;
    tensor->elements = elements;
    tensor->bytes = (size_t)bytes;
    return true;
}

enum status model_file_add_tensor(struct model_file *file, const struct file_tensor *tensor,
                                  const char *name, size_t name_bytes) {
    struct model_file_internal *internal = file->internal;
    if (file->tensor_count == internal->tensor_capacity) {
        int capacity = internal->tensor_capacity ? 2 * internal->tensor_capacity : 64;
        struct file_tensor *tensors = realloc(file->tensors, (size_t)capacity * sizeof *tensors);
        if (!tensors) return status_fail(STATUS_MEMORY, "no memory for %d tensors", capacity);
        file->tensors = tensors;
        internal->tensor_capacity = capacity;
    }
    char *copy = strndup(name, name_bytes);
    if (!copy) return status_fail(STATUS_MEMORY, "no memory for a tensor's name");
    bool duplicate = false;
    enum status status =
        name_index_add(&internal->tensor_names, copy, name_bytes, file->tensor_count, &duplicate);
    char text[PRINTABLE_SIZE];
    if (status == STATUS_OK && duplicate)
        status = status_fail(STATUS_FORMAT, "tensor %s is there twice",
                             printable(text, sizeof text, name, name_bytes));
    if (status != STATUS_OK) {
        free(copy);
        return status;
    }
    struct file_tensor *slot = &file->tensors[file->tensor_count++];
    *slot = *tensor;
    slot->name = copy;
    return STATUS_OK;
}

static enum status add_source(struct model_file *file, const char *path,
                              struct model_source **source) {
    struct model_file_internal *internal = file->internal;
    if (internal->source_count == internal->source_capacity) {
        int capacity = internal->source_capacity ? 2 * internal->source_capacity : 8;
        struct model_source **sources =
            realloc(internal->sources, (size_t)capacity * sizeof(struct model_source *));
        if (!sources) return status_fail(STATUS_MEMORY, "%s: no memory to open it", path);
        internal->sources = sources;
        internal->source_capacity = capacity;
    }
    *source = calloc(1, sizeof **source);
    char *copy = strdup(path);
    if (!*source || !copy) {
        free(*source);
        free(copy);
        return status_fail(STATUS_MEMORY, "%s: no memory to open it", path);
    }
    (*source)->path = copy;
    (*source)->bytes = (const unsigned char *)"";
    internal->sources[internal->source_count++] = *source;
    return STATUS_OK;
}

static enum status map_descriptor(int descriptor, struct model_source *source) {
    struct stat info;
    if (fstat(descriptor, &info) != 0)
        return status_fail(STATUS_IO, "%s: %s", source->path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return status_fail(STATUS_IO, "%s: not a regular file", source->path);
    if (info.st_size == 0) return STATUS_OK;
    void *bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (bytes == MAP_FAILED)
        return status_fail(STATUS_IO, "%s: can't be mapped: %s", source->path, strerror(errno));
    source->bytes = bytes;
    source->size = (size_t)info.st_size;
    source->mapped = true;
    return STATUS_OK;
}

enum status model_file_map(struct model_file *file, const char *path,
                           const struct model_source **out) {
    struct model_source *source = NULL;
    TRY(add_source(file, path, &source));
    *out = source;
    /* Not blocking, lest the path be a pipe that nobody writes to. */
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) return status_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    enum status status = map_descriptor(descriptor, source);
    close(descriptor);
    return status;
}

static bool is_model_name(const char *name) {
    return ends_with(name, ".safetensors") || ends_with(name, ".safetensors.index.json") ||
           ends_with(name, ".gguf");
}

/* Rank of a name in a directory: the standard names win over others. */
static int preference(const char *name) {
    if (strcmp(name, "model.safetensors") == 0) return 4;
    if (strcmp(name, "model.safetensors.index.json") == 0) return 3;
    if (strcmp(name, "adapter_model.safetensors") == 0) return 2;
    return is_model_name(name) && name[0] != '.' ? 1 : 0;
}

/* The model in a directory, as a path that the caller frees. */
static enum status choose_file(const char *directory, char **path) {
    *path = NULL;
    DIR *folder = opendir(directory);
    if (!folder) return status_fail(STATUS_IO, "%s: %s", directory, strerror(errno));
    char *best = NULL;
    int rank = 0, equals = 0;
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        int found = preference(entry->d_name);
        equals += found == rank;
        if (found <= rank) continue;
        rank = found;
        equals = 1;
        free(best);
        best = strdup(entry->d_name);
    }
    closedir(folder);
    enum status status = STATUS_OK;
    if (rank == 0)
        status = status_fail(STATUS_IO, "%s: holds no .safetensors or .gguf file", directory);
    else if (equals > 1)
        status = status_fail(STATUS_CONFIG, "%s: holds %d model files; name one of them", directory,
                             equals);
    else if (!best || asprintf(path, "%s/%s", directory, best) < 0)
        status = status_fail(STATUS_MEMORY, "%s: no memory for a path", directory);
    if (status != STATUS_OK) *path = NULL;
    free(best);
    return status;
}

/* A file that nobody called safetensors and that can't be: what it is says more than what is wrong
 * with its header. */
static enum status refuse_foreign(const struct model_source *source) {
    const char *what = path_hint_bytes(source->bytes, source->size);
    if (what) return status_fail(STATUS_FORMAT, "neither GGUF nor safetensors, but %s", what);
    return status_fail(STATUS_FORMAT, "neither a GGUF nor a safetensors file");
}

static bool is_foreign(const struct model_source *source) {
    uint64_t header;
    if (ends_with(source->path, ".safetensors")) return false;
    if (source->size < sizeof header) return true;
    memcpy(&header, source->bytes, sizeof header);
    return header > source->size;
}

static enum status parse_source(struct model_file *file, const struct model_source *source,
                                bool header_only) {
    bool gguf = ends_with(source->path, ".gguf") ||
                (source->size >= 4 && memcmp(source->bytes, "GGUF", 4) == 0);
    enum status status = gguf ? gguf_parse(file, source, header_only)
                         : is_foreign(source)
                             ? refuse_foreign(source)
                             : safetensors_parse(file, source, header_only, NULL, NULL);
    return status == STATUS_OK ? status : status_context(status, "%s", source->path);
}

static enum status open_file(struct model_file *file, const char *path, bool header_only) {
    if (ends_with(path, ".json")) return safetensors_parse_index(file, path, header_only);
    const struct model_source *source;
    TRY(model_file_map(file, path, &source));
    return parse_source(file, source, header_only);
}

static enum status begin(struct model_file *file, const char *path) {
    *file = (struct model_file){.data_present = true};
    file->internal = calloc(1, sizeof *file->internal);
    file->path = strdup(path);
    const char *slash = strrchr(path, '/');
    file->directory = !slash          ? strdup(".")
                      : slash == path ? strdup("/")
                                      : strndup(path, (size_t)(slash - path));
    if (!file->internal || !file->path || !file->directory)
        return status_fail(STATUS_MEMORY, "%s: no memory to open it", path);
    return STATUS_OK;
}

static enum status open_directory(struct model_file *file, const char *path, bool header_only) {
    char *chosen;
    free(file->directory);
    file->directory = strdup(path);
    if (!file->directory) return status_fail(STATUS_MEMORY, "%s: no memory to open it", path);
    enum status chosen_status = choose_file(path, &chosen);
    if (chosen_status != STATUS_OK) return path_hint_model(chosen_status, path);
    enum status status = open_file(file, chosen, header_only);
    free(chosen);
    return status;
}

enum status model_file_open(struct model_file *file, const char *path, bool header_only) {
    enum status status = begin(file, path);
    struct stat info;
    if (status == STATUS_OK) {
        bool directory = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
        status = directory ? open_directory(file, path, header_only)
                           : open_file(file, path, header_only);
    }
    if (status != STATUS_OK) model_file_close(file);
    return status;
}

enum status model_file_open_bytes(struct model_file *file, const void *bytes, size_t size,
                                  const char *name, bool header_only) {
    enum status status = begin(file, name);
    struct model_source *source = NULL;
    if (status == STATUS_OK) status = add_source(file, name, &source);
    if (status == STATUS_OK) {
        source->bytes = bytes;
        source->size = size;
        status = parse_source(file, source, header_only);
    }
    if (status != STATUS_OK) model_file_close(file);
    return status;
}

static void free_internal(struct model_file_internal *internal) {
    for (int i = 0; i < internal->source_count; i++) {
        struct model_source *source = internal->sources[i];
        if (source->mapped) munmap((void *)(uintptr_t)source->bytes, source->size);
        free(source->path);
        free(source);
    }
    free(internal->sources);
    name_index_free(&internal->tensor_names);
    name_index_free(&internal->value_keys);
    free(internal);
}

void model_file_close(struct model_file *file) {
    for (int i = 0; i < file->tensor_count; i++) free((void *)(uintptr_t)file->tensors[i].name);
    for (int i = 0; i < file->note_count; i++) {
        free((void *)(uintptr_t)file->notes[i].key);
        free((void *)(uintptr_t)file->notes[i].value);
    }
    if (file->internal) free_internal(file->internal);
    free(file->tensors);
    free(file->notes);
    free(file->values);
    free(file->path);
    free(file->directory);
    *file = (struct model_file){0};
}

const struct file_tensor *model_file_find(const struct model_file *file, const char *name) {
    if (!file->internal) return NULL;
    int32_t index = name_index_find(&file->internal->tensor_names, name, strlen(name));
    return index < 0 ? NULL : &file->tensors[index];
}

static const struct model_source *source_of(const struct model_file *file,
                                            const struct file_tensor *tensor) {
    uintptr_t data = (uintptr_t)tensor->data;
    for (int i = 0; i < file->internal->source_count; i++) {
        const struct model_source *source = file->internal->sources[i];
        uintptr_t bytes = (uintptr_t)source->bytes;
        if (data >= bytes && data < bytes + source->size) return source;
    }
    return NULL;
}

void model_file_forget(const struct model_file *file, const struct file_tensor *tensor) {
    const struct model_source *source = tensor->data ? source_of(file, tensor) : NULL;
    if (!source || !source->mapped) return; /* borrowed memory has no file to come back from */
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = ((uintptr_t)tensor->data + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)tensor->data + tensor->bytes) / page * page;
    if (end > first) madvise((void *)first, end - first, MADV_DONTNEED);
}

enum status file_tensor_read_f32(const struct file_tensor *tensor, int64_t first, int64_t count,
                                 float *out) {
    const struct dtype_info *info = dtype_info(tensor->dtype);
    assert(first >= 0 && count >= 0 && first <= tensor->elements - count);
    assert(first % info->block_elements == 0 && count % info->block_elements == 0);
    char text[PRINTABLE_SIZE];
    printable(text, sizeof text, tensor->name, strlen(tensor->name));
    if (!tensor->data && count > 0)
        return status_fail(STATUS_FORMAT, "%s: tensor %s has no data in the file", tensor->file,
                           text);
    const char *data = tensor->data;
    if (count > 0 && !dequantize(out, tensor->dtype,
                                 data + dtype_bytes(tensor->dtype, (size_t)first), (size_t)count))
        return status_fail(STATUS_UNSUPPORTED, "%s: tensor %s is stored as %s, which is not read",
                           tensor->file, text, info->name);
    return STATUS_OK;
}
