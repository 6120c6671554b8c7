/* Prints docs/config.md: every key that a run file may have. */
#include "train/options.h"

#include <stdio.h>
#include <stdlib.h>

int main(void) {
    static struct run_options options;
    struct config_table tables[RUN_TABLES];
    char *markdown;
    run_options_tables(&options, tables);
    if (config_document(tables, RUN_TABLES, &markdown) != STATUS_OK) {
        fprintf(stderr, "%s\n", status_message());
        return 1;
    }
    printf("# Keys of a run file\n\n"
           "A run file is YAML; `train: {lr: 1e-3}` and `train.lr: 1e-3` say the same, and "
           "`train.lr=1e-3` after the file's name overrides it. Written by "
           "`build/config_document > docs/config.md`; a test compares.\n\n%s",
           markdown);
    free(markdown);
    return 0;
}
