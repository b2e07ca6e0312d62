/* driver.c: runs a fuzz target over files, for builds without libFuzzer. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static long file_size(FILE *file)
{
    if (fseek(file, 0, SEEK_END) != 0)
        return -1;
    long size = ftell(file);
    rewind(file);
    return size;
}

/* A block of exactly the file's size, so that a sanitizer sees a read past its end. */
static int replay(FILE *file)
{
    long size = file_size(file);
    if (size < 0)
        return -1;
    uint8_t *bytes = malloc(size > 0 ? (size_t)size : 1);
    if (!bytes)
        return -1;
    size_t got = fread(bytes, 1, (size_t)size, file);
    if (got == (size_t)size)
        LLVMFuzzerTestOneInput(bytes, got);
    free(bytes);
    return got == (size_t)size ? 0 : -1;
}

int main(int count, char **arguments)
{
    int failures = 0;
    for (int i = 1; i < count; i++) {
        FILE *file = fopen(arguments[i], "rb");
        if (!file || replay(file) < 0) {
            fprintf(stderr, "%s: cannot be read\n", arguments[i]);
            failures++;
        }
        if (file)
            fclose(file);
    }
    printf("%d files replayed\n", count - 1 - failures);
    return failures == 0 ? 0 : 1;
}
