#include "core/context.h"

#include "kernels/base/units.h"

static struct context_run chunk(int64_t tokens, int chunks, int number) {
    int64_t base = tokens / chunks, rest = tokens % chunks;
    return (struct context_run){base * number + min_i64(number, rest), base + (number < rest)};
}

void context_runs(int64_t tokens, int ranks, int rank, struct context_run runs[2]) {
    runs[0] = chunk(tokens, 2 * ranks, rank);
    runs[1] = chunk(tokens, 2 * ranks, 2 * ranks - 1 - rank);
}

int64_t context_tokens(int64_t tokens, int ranks, int rank) {
    struct context_run runs[2];
    context_runs(tokens, ranks, rank, runs);
    return runs[0].count + runs[1].count;
}

/* Keys and values of a rank, or their gradients. */
struct block {
    void *k, *v;
};

/* One block on its way. */
struct passage {
    struct comm_request k, v;
};

/* One walk round the ring. */
struct walk {
    const struct exec *exec;
    const struct context *context;
    int64_t width;        /* elements of a key */
    struct block here;    /* keys and values of this step */
    struct block room[2]; /* where those of others come to */
    struct passage send, receive;
};

static int ranks_of(const struct walk *w) {
    return w->exec->cp->size;
}

static int next_rank(const struct walk *w) {
    return (w->exec->cp->rank + 1) % ranks_of(w);
}

static int previous_rank(const struct walk *w) {
    return (w->exec->cp->rank + ranks_of(w) - 1) % ranks_of(w);
}

/* Keys of the rank `step` places before me. */
static int64_t keys_at(const struct walk *w, int step) {
    int rank = (w->exec->cp->rank + ranks_of(w) - step) % ranks_of(w);
    return context_tokens(w->context->tokens, ranks_of(w), rank);
}

static struct context_step step_at(const struct walk *w, int step) {
    return w->context->steps ? w->context->steps[step] : (struct context_step){0};
}

static void start_send(const struct walk *w, struct passage *passage, struct block block,
                       int64_t rows, enum dtype type) {
    struct comm *cp = w->exec->cp;
    comm_start_send(cp, w->exec->stream, block.k, rows * w->width, type, next_rank(w), &passage->k);
    comm_start_send(cp, w->exec->stream, block.v, rows * w->width, type, next_rank(w), &passage->v);
}

static void start_receive(const struct walk *w, struct passage *passage, struct block block,
                          int64_t rows, enum dtype type) {
    struct comm *cp = w->exec->cp;
    int from = previous_rank(w);
    comm_start_recv(cp, w->exec->stream, block.k, rows * w->width, type, from, &passage->k);
    comm_start_recv(cp, w->exec->stream, block.v, rows * w->width, type, from, &passage->v);
}

static void wait_for(const struct walk *w, struct passage *passage) {
    comm_wait(w->exec->cp, w->exec->stream, &passage->k);
    comm_wait(w->exec->cp, w->exec->stream, &passage->v);
}

static struct walk begin_walk(const struct exec *exec, const struct batch *batch,
                              const struct attention_shape *shape, struct block mine) {
    struct walk w = {.exec = exec,
                     .context = batch->context,
                     .width = (int64_t)shape->kv_heads * shape->head_dim,
                     .here = mine};
    int64_t elements = context_room(w.context->tokens, ranks_of(&w)) * w.width;
    for (int i = 0; i < 2; i++)
        w.room[i] = (struct block){scratch_act(exec, elements), scratch_act(exec, elements)};
    return w;
}

/* Sends the keys of this step on, and asks for those of the next, if there is one. */
static void begin_step(struct walk *w, int step) {
    enum dtype act = w->exec->k->act;
    if (step + 1 == ranks_of(w)) return;
    start_receive(w, &w->receive, w->room[step % 2], keys_at(w, step + 1), act);
    start_send(w, &w->send, w->here, keys_at(w, step), act);
}

static void end_step(struct walk *w, int step) {
    wait_for(w, &w->receive);
    wait_for(w, &w->send);
    w->here = w->room[step % 2];
}

static void ring_forward(const struct exec *exec, const struct batch *batch,
                         const struct attention_forward_args *a) {
    int64_t elements = batch->tokens * a->shape.heads * a->shape.head_dim;
    size_t mark = arena_mark(exec->scratch);
    struct attention_part_forward_args part = {.o = scratch_f32(exec, elements),
                                               .lse = a->lse,
                                               .q = a->q,
                                               .tokens = batch->tokens,
                                               .first = true,
                                               .shape = a->shape};
    struct walk w = begin_walk(exec, batch, &a->shape, (struct block){a->kv->k, a->kv->v});
    for (int step = 0; step < ranks_of(&w); step++) {
        const struct context_step mine = step_at(&w, step);
        begin_step(&w, step);
        part.k = w.here.k;
        part.v = w.here.v;
        part.parts = mine.parts;
        part.count = mine.count;
        if (mine.count > 0 || part.first) exec->k->attention_part_forward(exec->stream, &part);
        part.first = false;
        end_step(&w, step);
    }
    exec->k->round_f32(exec->stream, a->o, part.o, elements);
    arena_release(exec->scratch, mark);
}

/* Gradients of keys and values on their way home, fp32. */
struct gradients {
    struct block fresh, arriving, leaving;
    struct passage send, receive;
};

static void swap_blocks(struct block *a, struct block *b) {
    struct block kept = *a;
    *a = *b;
    *b = kept;
}

static struct gradients push_gradients(const struct walk *w) {
    int64_t elements = context_room(w->context->tokens, ranks_of(w)) * w->width;
    struct gradients g = {0};
    struct block *blocks[] = {&g.fresh, &g.arriving, &g.leaving};
    for (int i = 0; i < 3; i++)
        *blocks[i] = (struct block){scratch_f32(w->exec, elements), scratch_f32(w->exec, elements)};
    return g;
}

/* fresh = what this rank and those before it give the keys of the step. */
static void add_arriving(const struct walk *w, struct gradients *g, int step) {
    const struct exec *exec = w->exec;
    int64_t elements = keys_at(w, step) * w->width;
    wait_for(w, &g->receive);
    if (step == 0) return;
    if (step_at(w, step).count == 0) {
        swap_blocks(&g->fresh, &g->arriving);
        return;
    }
    exec->k->accumulate_f32(exec->stream, g->fresh.k, g->arriving.k, elements);
    exec->k->accumulate_f32(exec->stream, g->fresh.v, g->arriving.v, elements);
}

/* Between two ranks messages come in the order they were started: gradients of the step before,
 * then keys. */
static void ring_backward(const struct exec *exec, const struct batch *batch,
                          const struct attention_backward_args *a) {
    int64_t elements = batch->tokens * a->shape.heads * a->shape.head_dim;
    size_t mark = arena_mark(exec->scratch);
    struct attention_part_backward_args part = {.dq = scratch_f32(exec, elements),
                                                .scratch = a->scratch,
                                                .dout = a->dout,
                                                .q = a->q,
                                                .o = a->o,
                                                .lse = a->lse,
                                                .tokens = batch->tokens,
                                                .first = true,
                                                .shape = a->shape};
    struct block mine = {(void *)(uintptr_t)a->k, (void *)(uintptr_t)a->v};
    struct walk w = begin_walk(exec, batch, &a->shape, mine);
    struct gradients g = push_gradients(&w);
    for (int step = 0; step < ranks_of(&w); step++) {
        const struct context_step seen = step_at(&w, step);
        if (step > 0) start_receive(&w, &g.receive, g.arriving, keys_at(&w, step), DTYPE_F32);
        begin_step(&w, step);
        part.dk = g.fresh.k;
        part.dv = g.fresh.v;
        part.k = w.here.k;
        part.v = w.here.v;
        part.keys = keys_at(&w, step);
        part.parts = seen.parts;
        part.count = seen.count;
        if (seen.count > 0 || part.first) exec->k->attention_part_backward(exec->stream, &part);
        part.first = false;
        add_arriving(&w, &g, step);
        wait_for(&w, &g.send);
        swap_blocks(&g.leaving, &g.fresh);
        start_send(&w, &g.send, g.leaving, part.keys, DTYPE_F32);
        end_step(&w, step);
    }
    start_receive(&w, &g.receive, g.arriving, batch->tokens, DTYPE_F32);
    wait_for(&w, &g.receive);
    wait_for(&w, &g.send);
    exec->k->round_f32(exec->stream, a->dq, part.dq, elements);
    exec->k->round_f32(exec->stream, a->dk, g.arriving.k, batch->tokens * w.width);
    exec->k->round_f32(exec->stream, a->dv, g.arriving.v, batch->tokens * w.width);
    arena_release(exec->scratch, mark);
}

void context_attention_forward(const struct exec *exec, const struct batch *batch,
                               const struct attention_forward_args *args) {
    if (batch->context)
        ring_forward(exec, batch, args);
    else
        exec->k->attention_forward(exec->stream, args);
}

void context_attention_backward(const struct exec *exec, const struct batch *batch,
                                const struct attention_backward_args *args) {
    if (batch->context)
        ring_backward(exec, batch, args);
    else
        exec->k->attention_backward(exec->stream, args);
}
