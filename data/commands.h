/* The subcommands that live in data/. argv[0] is the subcommand's name; the exit code is returned:
 * 0 done, 1 failed (one line on standard error says why), 2 wrong arguments. */
#ifndef STRATA_DATA_COMMANDS_H
#define STRATA_DATA_COMMANDS_H

/* strata tokenize TOKENIZER [--jsonl] [--special] [--decode]: standard input to ids, or back. */
int cmd_tokenize(int argc, char **argv);

/* strata convert SRC DST: merges an adapter, exports safetensors and GGUF. */
int cmd_convert(int argc, char **argv);

/* strata data SUBCOMMAND ...: making corpora and vocabularies. */
int cmd_data(int argc, char **argv);

/* strata data bpe --vocab N --out tokenizer.json [--special TOKEN]... FILE...: trains a
 * byte-level BPE vocabulary. */
int cmd_data_bpe(int argc, char **argv);

/* strata data tokenize --tokenizer PATH --out FILE.h5 INPUT...: text and JSON lines to a token
 * file. */
int cmd_data_tokenize(int argc, char **argv);

#endif
