/* The subcommands that live in serve/. argv[0] is the subcommand's name; the exit code is returned:
 * 0 done, 1 failed (one line on standard error says why), 2 wrong arguments. */
#ifndef STRATA_SERVE_COMMANDS_H
#define STRATA_SERVE_COMMANDS_H

/* strata serve MODEL [--adapter NAME=DIR]... [--option value]...: HTTP until SIGTERM or SIGINT. */
int cmd_serve(int argc, char **argv);

/* strata chat MODEL | --url URL: a conversation in the terminal. */
int cmd_chat(int argc, char **argv);

#endif
