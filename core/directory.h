/* Folders: made with those above them, and names that outlive a crash. */
#ifndef STRATA_CORE_DIRECTORY_H
#define STRATA_CORE_DIRECTORY_H

#include "kernels/base/status.h"

/* Makes `path` and the folders above it that are missing, as mkdir -p does; a folder that is there
 * is fine. Of every new one the parent is synced, where the file system can do that. STATUS_IO
 * names the part that can't be made and why, or that a file is in the way. */
enum status directory_make(const char *path);

/* The same for the folder that the file `path` is to lie in. */
enum status directory_make_for(const char *path);

/* Syncs the names that a folder holds. STATUS_IO names it. */
enum status directory_sync(const char *path);

/* The same for the folder that holds `path`: the name of what was just made there outlives a crash
 * from then on. */
enum status directory_sync_parent(const char *path);

#endif
