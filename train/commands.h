/* Subcommands of this folder; argv[0] is the subcommand's name; the result is the exit code. */
#ifndef STRATA_TRAIN_COMMANDS_H
#define STRATA_TRAIN_COMMANDS_H

/* The exit code of a run that was stopped and goes on when it is started again: sysexits.h's
 * EX_TEMPFAIL. */
enum { EXIT_STOPPED = 75 };

/* strata bench scaling: how training gets faster with more ranks; 75 when a run was stopped. */
int cmd_bench(int argc, char **argv);

/* strata eval MODEL --tokens IDS.jsonl | --text FILE ...: logits, loss, gradients, perplexity; on
 * several ranks tensor parallel over all of them. */
int cmd_eval(int argc, char **argv);

/* strata inspect PATH [--json]: what a model file, a token file or a checkpoint holds. */
int cmd_inspect(int argc, char **argv);

/* strata plan: the layouts of a job that fit, ranked, without its devices. */
int cmd_plan(int argc, char **argv);
int cmd_plot(int argc, char **argv);

/* strata preflight: what the nodes of a job can do, before it begins; 69 when one is broken. */
int cmd_preflight(int argc, char **argv);
int cmd_trace(int argc, char **argv);
int cmd_train(int argc, char **argv);

#endif
