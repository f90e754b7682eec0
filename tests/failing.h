/* Allocations that fail when a test says so: our calls of malloc and its brothers come here (--wrap, CMakeLists.txt). Only the thread that
 * is armed is failed, so the process's other threads go on. Included once a program, since it defines what the linker asks for. */
#ifndef SL_TESTS_FAILING_H
#define SL_TESTS_FAILING_H

#include <stdbool.h>
#include <stdlib.h>

static _Thread_local long countdown = -1; /* -1: not armed; 0: the next allocation fails */
static _Thread_local bool failed;

static bool fails(void)
{
    if (countdown < 0)
        return false;
    if (countdown-- > 0)
        return false;
    failed = true;
    return true;
}

/* The linker sends our calls here (--wrap, CMakeLists.txt) and the names with __real_ to the allocator. */
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *p, size_t bytes);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *p, size_t bytes);
char *__wrap_strdup(const char *text);

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}
void *__wrap_calloc(size_t n, size_t bytes)
{
    return fails() ? NULL : __real_calloc(n, bytes);
}
void *__wrap_realloc(void *p, size_t bytes)
{
    return fails() ? NULL : __real_realloc(p, bytes);
}
char *__wrap_strdup(const char *text)
{
    return fails() ? NULL : __real_strdup(text);
}

#endif
