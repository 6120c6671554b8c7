/* Logits, mean next-token loss and gradients of whole sequences. Nothing is generated. */
#ifndef STRATA_DATA_EVALUATE_H
#define STRATA_DATA_EVALUATE_H

#include "core/model.h"
#include "core/workspace.h"
#include "data/token_lines.h"

struct evaluate_request {
    struct model *model;     /* its parameters' gradients are set and cleared */
    struct adapter *adapter; /* NULL: the model alone. Else gradients are the adapter's */
    const struct kernels *kernels;
    int threads;     /* 0 takes all that the process may use */
    struct comm *tp; /* the ranks that the model's shard counts; NULL: this one alone */
    const struct token_lines *lines;
    const char *logits; /* NULL, or the safetensors file that gets logits.0, logits.1, ... (F32,
                           positions x vocabulary) and loss */
    const char
        *gradients; /* NULL (as it must be with other ranks), or the one that gets each weight's
                       gradient under its name in Hugging Face's (PEFT's) files, and loss */
};

struct evaluate_result {
    double loss; /* of all predicted tokens of all sequences, their mean by the lines' weights; NaN
                    when there is none */
    int64_t tokens, predicted; /* predicted: targets of a weight above 0 */
    double seconds;
};

/* Sequences run packed, up to a bounded number of tokens at once: the bits of logits don't depend
 * on it. Logits are written as they come. `loss` is left out of the files where nothing is
 * predicted, and gradients are refused (STATUS_CONFIG). With `tp` collective over it: every rank
 * gets the result, the first one writes the logits; a failure of one rank may leave the others
 * waiting, so its caller ends the job. */
enum status evaluate(const struct evaluate_request *request, struct evaluate_result *result);

#endif
