/* Writes the tiny model to a folder: for tests that are scripts. */
#include "tests/tiny_model.h"

#include <stdio.h>

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    struct tiny_model tiny;
    tiny_model_write(&tiny);
    int failed = rename(tiny.directory, argv[1]);
    tiny_model_remove(&tiny);
    return failed ? 1 : 0;
}
