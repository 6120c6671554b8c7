#include "train/plan_layer.h"

#include <math.h>

static double act_bytes(const struct plan_place *p) {
    return p->habits->bf16 ? 2.0 : 4.0;
}

/* Ranks between which the residual stream's tokens are split. */
static double stream_ranks(const struct plan_place *p) {
    return p->layout->sequence ? p->tp : 1.0;
}

static double local_rows(const struct plan_place *p, const struct plan_product *product) {
    double rows = product->rows / (product->shard == SHARD_ROWS ? p->tp : 1.0);
    return fmax(rows, product->row_unit);
}

static double local_cols(const struct plan_place *p, const struct plan_product *product) {
    return product->cols / (product->shard == SHARD_COLS ? p->tp : 1.0);
}

double plan_local_layer(const struct plan_place *p) {
    double sum = 0.0;
    for (int i = 0; i < p->model->product_count; i++)
        sum += local_rows(p, &p->model->products[i]) * local_cols(p, &p->model->products[i]);
    return sum;
}

double plan_local_words(const struct plan_place *p) {
    return p->model->vocab * p->model->hidden / p->tp;
}

double plan_local_trained(const struct plan_place *p) {
    double rank = p->model->lora_rank, sum = 0.0;
    if (!(rank > 0.0)) return plan_local_layer(p);
    for (int i = 0; i < p->model->product_count; i++) {
        const struct plan_product *product = &p->model->products[i];
        if (product->adapted) sum += rank * (local_rows(p, product) + local_cols(p, product));
    }
    return sum;
}

double plan_message_bytes(const struct plan_place *p) {
    return p->tokens * p->model->hidden * act_bytes(p) / stream_ranks(p);
}

/* A product is as slow as its operations, or as moving its operands is. */
static double product(const struct plan_place *p, double m, double n, double k, double bytes) {
    return fmax(plan_product_seconds(p->device, p->habits->bf16, m, n, k),
                plan_memory_seconds(p->device, bytes));
}

/* Of the (rows, cols) matrix of a layer or the head; weights' gradients are added up in fp32. */
static void add_matrix(const struct plan_place *p, struct plan_cost *cost, double rows, double cols,
                       bool trained) {
    double n = p->tokens, act = act_bytes(p), moved = (n * (rows + cols) + rows * cols) * act;
    cost->forward += product(p, n, rows, cols, moved);
    cost->input += product(p, n, cols, rows, moved);
    if (trained)
        cost->weight += product(p, rows, cols, n, n * (rows + cols) * act + 8.0 * rows * cols);
}

/* With a factor: so thin that moving the rest takes as long as computing. */
static double thin(const struct plan_place *p, double m, double n, double k, double elements) {
    return plan_product_seconds(p->device, p->habits->bf16, m, n, k) +
           plan_memory_seconds(p->device, elements * act_bytes(p));
}

/* u = x A^T, y += u B^T; backward makes u again, then the two inputs' gradients, of which one is
 * added, and the two factors'. */
static void add_pair(const struct plan_place *p, struct plan_cost *cost, double rows, double cols) {
    double n = p->tokens, rank = p->model->lora_rank;
    double down = thin(p, n, rank, cols, n * (cols + rank));
    cost->forward += down + thin(p, n, rows, rank, n * (2.0 * rows + rank));
    cost->input +=
        thin(p, n, rank, rows, n * (rows + rank)) + thin(p, n, cols, rank, n * (2.0 * cols + rank));
    cost->weight += 2.0 * down + thin(p, rows, rank, n, n * (rows + rank));
}

/* Of selective recomputation: the cheap products, and the tokens that they are made of. */
static double cheap_seconds(const struct plan_place *p) {
    struct plan_cost cost = {0};
    for (int i = 0; i < p->model->product_count; i++) {
        const struct plan_product *each = &p->model->products[i];
        double rows = local_rows(p, each), cols = local_cols(p, each);
        if (!each->cheap) continue;
        add_matrix(p, &cost, rows, cols, false);
        if (each->adapted) add_pair(p, &cost, rows, cols);
    }
    if (!p->layout->sequence || p->tp < 2.0) return cost.forward;
    struct cost_link link = cost_group_link(&p->network, &p->layout->mesh, 1u << MESH_TP);
    double bytes = p->tokens * p->model->hidden * act_bytes(p);
    return cost.forward + (1.0 - p->device->tensor_overlap) *
                              cost_collective(COST_ALL_GATHER, (int)p->tp, bytes, &link);
}

static void add_products(const struct plan_place *p, struct plan_cost *cost) {
    bool lora = p->model->lora_rank > 0.0;
    for (int i = 0; i < p->model->product_count; i++) {
        const struct plan_product *each = &p->model->products[i];
        double rows = local_rows(p, each), cols = local_cols(p, each);
        add_matrix(p, cost, rows, cols, !lora);
        if (each->adapted) add_pair(p, cost, rows, cols);
    }
}

/* Tokens that a token looks back at, in the mean over layers. */
static double reach(const struct plan_place *p) {
    double length = (double)p->layout->length, window = p->model->window, all = length / 2.0;
    if (!(p->model->sliding > 0.0) || window >= length) return all;
    double near = window - window * window / (2.0 * length);
    return p->model->sliding * near + (1.0 - p->model->sliding) * all;
}

/* Two products forward; backward five, of which one makes the scores again. Scores that are stored
 * are 2.5 times as many bytes of memory as elements, half of them masked and computed all the same
 * (softmax, mask and dropout read and write them; Korthikanti et al., arXiv:2205.05198). */
static double add_attention(const struct plan_place *p, struct plan_cost *cost) {
    double once = 4.0 * p->tokens * reach(p) * p->model->q / p->tp, forward;
    bool bf16 = p->habits->bf16;
    if (p->habits->scores_stored) {
        double scores = p->tokens * (double)p->layout->length * p->model->heads / p->tp;
        forward = plan_attention_seconds(p->device, bf16, 2.0 * once) +
                  plan_memory_seconds(p->device, 8.0 * scores);
        cost->input += 2.0 * forward;
    } else {
        forward = plan_attention_seconds(p->device, bf16, once);
        cost->input += 2.5 * forward;
    }
    cost->forward += forward;
    return forward;
}

/* Norms, rotation, gating and residual sums: elements that are read or written for a token. */
static void add_elementwise(const struct plan_place *p, struct plan_cost *cost) {
    const struct plan_model *m = p->model;
    double stream = 10.0 * m->hidden / stream_ranks(p);
    double inner = (4.0 * (m->q + m->kv) + (m->gated ? 3.0 : 2.0) * m->ffn) / p->tp;
    double seconds = plan_memory_seconds(p->device, p->tokens * (stream + inner) * act_bytes(p));
    cost->forward += seconds;
    cost->input += 2.0 * seconds;
}

/* Forward two sums over the layer's ranks, backward two; split by tokens each sum is a gather and
 * a scatter, and backward gathers the two inputs again. */
static void add_sums(const struct plan_place *p, struct plan_cost *cost) {
    int ranks = (int)p->tp;
    if (ranks == 1) return;
    struct cost_link link = cost_group_link(&p->network, &p->layout->mesh, 1u << MESH_TP);
    double bytes = p->tokens * p->model->hidden * act_bytes(p);
    double gather = cost_collective(COST_ALL_GATHER, ranks, bytes, &link);
    double sum = cost_collective(COST_ALL_REDUCE, ranks, bytes, &link);
    double shown = 1.0 - p->device->tensor_overlap;
    bool split = p->layout->sequence;
    double forward = shown * (split ? 4.0 * gather : 2.0 * sum);
    double backward = shown * (split ? 6.0 * gather : 2.0 * sum);
    cost->forward += forward;
    cost->input += backward;
    cost->tensor += forward + backward;
}

/* Keys and values go round the ring while attention computes; backward their gradients do too. */
static void add_ring(const struct plan_place *p, struct plan_cost *cost, double attention) {
    int ranks = p->layout->mesh.size[MESH_CP];
    if (ranks == 1) return;
    struct cost_link link = cost_hop_link(&p->network, &p->layout->mesh, MESH_CP);
    double bytes =
        2.0 * p->tokens * fmax(p->model->kv / p->tp, p->model->q / p->model->heads) * act_bytes(p);
    double round = (ranks - 1) * cost_collective(COST_SEND, 2, bytes, &link);
    double hidden = p->device->replica_overlap > 0.0 ? attention : 0.0;
    double forward = fmax(0.0, round - hidden), backward = fmax(0.0, 2.0 * round - 2.5 * hidden);
    cost->forward += forward;
    cost->input += backward;
    cost->tensor += forward + backward;
}

/* Weights arrive a layer ahead, their gradients leave while the next layer computes. */
static void add_shards(const struct plan_place *p, struct plan_cost *cost) {
    const struct mesh *mesh = &p->layout->mesh;
    int ranks = mesh->size[MESH_DP] * mesh->size[MESH_CP];
    if (p->layout->zero < 2 || ranks == 1) return;
    struct cost_link link = cost_group_link(&p->network, mesh, 1u << MESH_DP | 1u << MESH_CP);
    double gather =
        p->layout->zero < 3
            ? 0.0
            : cost_collective(COST_ALL_GATHER, ranks, plan_local_layer(p) * act_bytes(p), &link);
    double scatter = cost_collective(COST_REDUCE_SCATTER, ranks,
                                     plan_local_trained(p) * p->habits->gradient_bytes, &link);
    double hides = p->device->replica_overlap;
    double forward = fmax(0.0, gather - hides * cost->forward);
    double backward = fmax(0.0, gather + scatter - hides * (cost->input + cost->weight));
    /* a buffer is cleared, filled from the others and added to the share */
    double passes = plan_memory_seconds(p->device, 24.0 * plan_local_trained(p));
    cost->forward += forward;
    cost->input += backward + passes;
    cost->tensor += forward + backward;
}

struct plan_cost plan_layer_cost(const struct plan_place *p) {
    struct plan_cost cost = {0};
    add_products(p, &cost);
    double attention = add_attention(p, &cost);
    add_elementwise(p, &cost);
    add_sums(p, &cost);
    add_ring(p, &cost, attention);
    if (p->layout->recompute == RECOMPUTE_FULL) cost.input += cost.forward;
    if (p->layout->recompute == RECOMPUTE_SELECTIVE) cost.input += cheap_seconds(p);
    add_shards(p, &cost);
    return cost;
}

struct plan_cost plan_head_cost(const struct plan_place *p) {
    struct plan_cost cost = {0};
    add_matrix(p, &cost, p->model->vocab / p->tp, p->model->hidden, !(p->model->lora_rank > 0.0));
    /* logits in fp32 are written once and read three times */
    cost.input += plan_memory_seconds(p->device, 16.0 * p->tokens * p->model->vocab / p->tp);
    cost.input += cost.forward;
    cost.forward = 0.0;
    return cost;
}
