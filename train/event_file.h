/* TensorBoard event files: scalars by step.
 *
 * A file is a row of TFRecords: length (u64), masked CRC-32C of the length (u32), data, masked
 * CRC-32C of the data (u32), all little-endian; masked = ((c >> 15 | c << 17) + 0xa282ead8) mod
 * 2^32. The data is a protobuf message Event; written are Event          1 wall_time (double), 2
 * step (int64), 3 file_version ("brain.Event:2"), 5 summary (Summary), 7 session_log (SessionLog)
 *     Summary        1 value (Summary.Value, repeated)
 *     Summary.Value  1 tag (string), 2 simple_value (float)
 *     SessionLog     1 status: 1 = START, after which readers forget events from its step on
 * Sources: TensorFlow's guide "TFRecord and tf.train.Example"; tensorflow/core/util/event.proto and
 * tensorflow/core/framework/summary.proto; protobuf's "Encoding"; CRC-32C: RFC 3720, appendix B.4.
 */
#ifndef STRATA_TRAIN_EVENT_FILE_H
#define STRATA_TRAIN_EVENT_FILE_H

#include "kernels/base/status.h"
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct event_file {
    FILE *file;
    char path[4096];
};

struct event_scalar {
    const char *tag; /* "train/loss"; at most EVENT_TAG_BYTES */
    double value;    /* written as a float; may be NaN or infinite */
};

enum { EVENT_MAX_SCALARS = 32, EVENT_TAG_BYTES = 64 };

/* Makes a new file in `folder` (made if need be; its parent is there), named by time, host and
 * process as TensorBoard looks for it. Events of earlier files from `first_step` on no longer
 * count. STATUS_IO names the path. */
enum status event_file_open(struct event_file *events, const char *folder, int64_t first_step);
void event_file_close(struct event_file *events); /* may be called twice, and on a zeroed struct */

/* One event with `count` scalars, flushed. Nothing happens on a file that isn't open. */
enum status event_file_write(struct event_file *events, int64_t step,
                             const struct event_scalar *scalars, int count);

/* CRC-32C of `bytes` bytes, as it is (not masked). */
uint32_t event_file_crc(const void *data, size_t bytes);

#endif
