#include "tests/layout_settings.h"

static const struct covering_axis axes[LAYOUT_AXES] = {
    [AXIS_PP] = {"pp", {"1", "2", "4", "8"}},
    [AXIS_TP] = {"tp", {"1", "2", "4", "8"}},
    [AXIS_CP] = {"cp", {"1", "2", "4"}},
    [AXIS_DP] = {"dp", {"1", "2", "4", "8"}},
    [AXIS_ZERO] = {"zero", {"0", "1", "2", "3"}},
    [AXIS_SCHEDULE] = {"schedule", {"-", "gpipe", "1f1b", "interleaved", "zb-h1"}},
    [AXIS_SEQUENCE] = {"sp", {"-", "on", "off"}},
    [AXIS_MODE] = {"mode", {"full", "lora", "nf4", "q8_0"}},
    [AXIS_MICRO] = {"micro", {"all", "2", "1"}},
    [AXIS_PACKING] = {"packing", {"off", "whole", "split"}},
    [AXIS_TIED] = {"tied", {"no", "yes"}},
    [AXIS_RECOMPUTE] = {"recompute", {"none", "selective", "full"}},
    [AXIS_ORDER] = {"order", {"tp-cp-dp-pp", "dp-tp-cp-pp", "pp-cp-tp-dp"}},
};

/* What each value is on a command line. */
static const char *const words[LAYOUT_AXES][COVERING_VALUES] = {
    [AXIS_PP] = {"pp=1", "pp=2", "pp=4", "pp=8"},
    [AXIS_TP] = {"tp=1", "tp=2", "tp=4", "tp=8"},
    [AXIS_CP] = {"cp=1", "cp=2", "cp=4"},
    [AXIS_DP] = {"dp=1", "dp=2", "dp=4", "dp=8"},
    [AXIS_ZERO] = {"zero=0", "zero=1", "zero=2", "zero=3"},
    [AXIS_SCHEDULE] = {"", "schedule=gpipe", "schedule=1f1b", "schedule=interleaved chunks=2",
                       "schedule=zb-h1"},
    [AXIS_SEQUENCE] = {"", "sequence=true", "sequence=false"},
    [AXIS_MODE] = {"mode=full", LORA " lora.dropout=0.1", LORA " model.weights=nf4",
                   LORA " model.weights=stored"},
    [AXIS_MICRO] = {"", "micro_batch=2", "micro_batch=1"},
    [AXIS_PACKING] = {"data.packing=off", "data.packing=whole", "data.packing=split"},
    [AXIS_TIED] = {"", ""},
    [AXIS_RECOMPUTE] = {"recompute=none", "recompute=selective", "recompute=full"},
    [AXIS_ORDER] = {"order=tp-cp-dp-pp", "order=dp-tp-cp-pp", "order=pp-cp-tp-dp"},
};

/* A quantized base is wide enough to give each of 8 ranks whole blocks; 4 layers are enough for
 * most. */
static const char *const models[][2][2] = {{{"heads8", "heads8_tied"}, {"wide", "wide_tied"}},
                                           {{"deep8", "deep8_tied"}, {"wide8", "wide8_tied"}}};

/* Of 9 sequences, a replica of 8 has two, the others one. Gradients are larger than what they are
 * clipped to. The seed is one of those whose gradients of a few elements, of norms of queries and
 * keys, aren't small by chance: with others one rank's differ from those of plain loops by 1.2e-6.
 */
#define ALWAYS "seed=12 global_batch=9 clip=0.1 export=false"

int layout_degree(const struct covering_row *row, enum layout_axis axis) {
    int choice = row->choice[axis];
    return choice == COVERING_OPEN ? 1 : atoi(axes[axis].values[choice]);
}

int layout_ranks(const struct covering_row *row) {
    return layout_degree(row, AXIS_PP) * layout_degree(row, AXIS_TP) * layout_degree(row, AXIS_CP) *
           layout_degree(row, AXIS_DP);
}

static bool is(const struct covering_row *row, enum layout_axis axis, const char *value) {
    int choice = row->choice[axis];
    return choice != COVERING_OPEN && strcmp(axes[axis].values[choice], value) == 0;
}

/* Decided, and something else. */
static bool is_not(const struct covering_row *row, enum layout_axis axis, const char *value) {
    return row->choice[axis] != COVERING_OPEN && !is(row, axis, value);
}

/* Axes that have, or may yet have, more than one rank. */
static int wide_axes(const struct covering_row *row) {
    int count = 0;
    for (int axis = AXIS_PP; axis <= AXIS_DP; axis++)
        count += covering_values(&axes[axis]) > 1 && !is(row, (enum layout_axis)axis, "1");
    return count;
}

static const char *excluded(const struct covering_row *row) {
    if (layout_ranks(row) > LAYOUT_MOST_RANKS) return "more than 8 ranks";
    if (is(row, AXIS_PP, "1") && is_not(row, AXIS_SCHEDULE, "-"))
        return "one stage has nothing to schedule";
    if (is_not(row, AXIS_PP, "1") && is(row, AXIS_SCHEDULE, "-")) return "stages have a schedule";
    if (is(row, AXIS_PP, "8") && is(row, AXIS_SCHEDULE, "interleaved"))
        return "refused: 8 layers can't be cut into 16 parts";
    if (is(row, AXIS_SCHEDULE, "zb-h1") && is(row, AXIS_RECOMPUTE, "full"))
        return "refused: zb-h1 keeps activations for later";
    if (is(row, AXIS_TP, "1") && is_not(row, AXIS_SEQUENCE, "-"))
        return "one tensor-parallel rank has all tokens";
    if (is_not(row, AXIS_TP, "1") && is(row, AXIS_SEQUENCE, "-"))
        return "tensor-parallel ranks split tokens or don't";
    if (is(row, AXIS_DP, "1") && is(row, AXIS_CP, "1") && is_not(row, AXIS_ZERO, "0"))
        return "one replica has nothing to share";
    if (is(row, AXIS_DP, "8") && is(row, AXIS_MICRO, "2"))
        return "no share of 9 sequences is above 2";
    if (is_not(row, AXIS_ORDER, "tp-cp-dp-pp") && wide_axes(row) < 2)
        return "one axis has one order";
    if (is(row, AXIS_TP, "8") && is(row, AXIS_MODE, "nf4"))
        return "refused: 256 columns in 8 parts cut a block of 64";
    return NULL;
}

const struct covering_space layout_space = {axes, LAYOUT_AXES, LAYOUT_LEADING, excluded};

static void add(char text[LAYOUT_WORDS], const struct covering_row *row, int first, int end) {
    for (int axis = first; axis < end; axis++) {
        size_t length = strlen(text);
        snprintf(text + length, LAYOUT_WORDS - length, " %s", words[axis][row->choice[axis]]);
    }
}

static void name_model(char name[LAYOUT_WORDS], const struct covering_row *row) {
    int parts = layout_degree(row, AXIS_PP) * (is(row, AXIS_SCHEDULE, "interleaved") ? 2 : 1);
    bool quantized = is(row, AXIS_MODE, "nf4") || is(row, AXIS_MODE, "q8_0");
    snprintf(name, LAYOUT_WORDS, "%s%s", models[parts > 4][quantized][row->choice[AXIS_TIED]],
             is(row, AXIS_MODE, "q8_0") ? ".gguf" : "");
}

void layout_say(struct layout_words *w, const struct covering_row *row) {
    struct covering_row plain = *row;
    plain.choice[AXIS_MICRO] = plain.choice[AXIS_RECOMPUTE] = 0;
    strcpy(w->training, ALWAYS);
    strcpy(w->same, ALWAYS);
    *w->layout = 0;
    name_model(w->model, row);
    add(w->training, row, LAYOUT_LEADING, AXIS_ORDER);
    add(w->same, &plain, LAYOUT_LEADING, AXIS_ORDER);
    add(w->layout, row, 0, LAYOUT_LEADING);
    add(w->layout, row, AXIS_ORDER, LAYOUT_AXES);
    w->row = (struct layout_case){layout_ranks(row), w->model, w->training, w->layout};
    w->alone = (struct layout_case){1, w->model, w->same, ""};
}
