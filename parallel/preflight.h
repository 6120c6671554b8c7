/* What every node of a job can do, and which are slow or broken: half a minute before a job of
 * days.
 *
 * Figures of a node, of all its ranks together:
 *   gemm      fp32 matrix product (256 x 1024 x 1024) on each rank's threads, all ranks at once
 *   memory    STREAM's add (McCalpin 1995) over arrays beyond the caches: 3 x 4 bytes an element
 *   network   messages of 4 MiB to and fro, one pair of nodes at a time on either: bytes one way
 *   latency   half of the round trip of 8 bytes
 *   clock     CLOCK_REALTIME minus that of the first node
 * Each is the median of its repetitions. Nodes form a ring in the order of their lowest ranks; a
 * node's network figures are the better ones of its two links, so that a slow neighbour does not
 * make it look slow. All ranks compute the same product, whose bits are equal on healthy machines
 * (kernels/matmul.h); a rank that finds others, or not the same ones every time, is wrong. */
#ifndef STRATA_PARALLEL_PREFLIGHT_H
#define STRATA_PARALLEL_PREFLIGHT_H

#include "parallel/parallel.h"

enum { PREFLIGHT_HOST_BYTES = 64, PREFLIGHT_ROUNDS = 3 };

struct preflight_node {
    char host[PREFLIGHT_HOST_BYTES];
    int ranks;
    double gemm_gflops, memory_gbs; /* sums over the ranks */
    double available_gib;           /* memory, the least that a rank sees */
    double network_gbs, latency_us; /* 0 where there is one node */
    double clock_ms;
    bool wrong;
};

/* Where a figure makes a node slow or broken, as parts of the median over the nodes (of an even
 * number of them the better one, so that one of two can be slow). Latency is slow at more than
 * twice the median and broken at more than ten times. */
struct preflight_limits {
    double slow, broken; /* 0.8, 0.5 */
    double memory_gib;   /* a node with less memory available is broken */
    double clock_ms;     /* a clock further off is named, as slow */
};

enum preflight_verdict { PREFLIGHT_FINE, PREFLIGHT_SLOW, PREFLIGHT_BROKEN };

struct preflight_finding {
    enum preflight_verdict verdict;
    char reason[256]; /* every figure that is not fine; "" when all are */
};

/* "fine", "slow", "broken" */
const char *preflight_verdict_name(enum preflight_verdict verdict);

/* findings (count) out, nodes (count) in. A figure that is not a number above 0 is a broken one,
 * but for the network's where there is one node. STATUS_MEMORY alone. */
enum status preflight_judge(struct preflight_finding *findings, const struct preflight_node *nodes,
                            int count, const struct preflight_limits *limits);

/* Whom node `place` of `count` talks with in a round, -1 for nobody; PREFLIGHT_ROUNDS rounds bring
 * every pair of neighbours on the ring together once. */
int preflight_partner(int round, int place, int count);

/* What the watchdog of a process that hangs can say. */
struct preflight_stage {
    _Atomic(const char *) doing; /* a string literal */
    _Atomic(int) with;           /* a node's place on the ring, or -1 */
};

/* Measures for about `seconds`. *nodes (count), which the caller frees, is filled on rank 0; NULL
 * on the others. Collective. */
enum status preflight_measure(struct parallel *parallel, double seconds,
                              struct preflight_stage *stage, struct preflight_node **nodes,
                              int *count);

/* What Slurm calls this node, else its host name. */
void preflight_host(char host[PREFLIGHT_HOST_BYTES]);

#endif
