/* The subcommands that live in core/. argv[0] is the subcommand's name; the exit code is returned:
 * 0 done, 1 failed (one line on standard error says why), 2 wrong arguments. */
#ifndef STRATA_CORE_COMMANDS_H
#define STRATA_CORE_COMMANDS_H

/* strata inspect FILE [--json]: what a model file holds, from its header alone. */
int cmd_inspect(int argc, char **argv);

#endif
