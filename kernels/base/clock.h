/* Seconds of the monotonic clock, for durations alone: its zero is the machine's start. */
#ifndef STRATA_KERNELS_BASE_CLOCK_H
#define STRATA_KERNELS_BASE_CLOCK_H

double clock_seconds(void);

#endif
