/* A program's subcommands as rows. */
#ifndef STRATA_CORE_SUBCOMMANDS_H
#define STRATA_CORE_SUBCOMMANDS_H

struct subcommand {
    const char *name;
    int (*run)(int argc, char **argv); /* argv[0] is the subcommand's name; returns the exit code */
    const char *help;                  /* one line */
    const char *example;               /* what stands behind the program and the name */
};

/* Runs the row that argv[1] names, or prints the list where argv[1] is --help, -h or help, or is
 * missing (on standard error, exit code 2). "--help" behind a row's name, however it is spelt (-h,
 * "help NAME"), goes to the row as --help, and its example is printed below what it says. An
 * unknown name is told with the nearest known one, exit code 2. `program` is what is typed before
 * the name. */
int subcommands_run(const struct subcommand *rows, int count, const char *program, int argc,
                    char **argv);

#endif
