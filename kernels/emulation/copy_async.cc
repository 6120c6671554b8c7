/* cp.async: the destination is poison until the thread that copies has waited, whatever was there.
 */
#include "kernels/emulation/asynchronous.h"

#include <string.h>

using namespace emulation;

void gpu_copy_async16(void *shared, const void *global, bool valid, const char *file, int line) {
    struct thread *thread = self;
    maybe_switch({"gpu_copy_async16", file, line});
    thread->at = {"gpu_copy_async16", file, line};
    if ((uintptr_t)shared % 16 != 0 || (valid && (uintptr_t)global % 16 != 0))
        fail("16 bytes that are not aligned to 16 on both sides");
    if (!shared_holds(thread->cta, shared)) fail("%p is not in the block's shared memory", shared);
    access_write(shared, 16);
    if (valid) access_read(global, 16);
    memset(shared, 0xff, 16);
    thread->cta->asynchronous->small[thread->number].open.push_back(
        {shared, valid ? global : nullptr});
}

void gpu_copy_commit() {
    struct small_copies *mine = &self->cta->asynchronous->small[self->number];
    mine->groups.push_back(std::move(mine->open));
    mine->open.clear();
}

void emulation_copy_wait(int groups) {
    struct small_copies *mine = &self->cta->asynchronous->small[self->number];
    for (; (int)mine->groups.size() > groups; mine->groups.pop_front())
        for (const struct small_copy &copy : mine->groups.front()) {
            access_write(copy.to, 16);
            if (copy.from)
                memcpy(copy.to, copy.from, 16);
            else
                memset(copy.to, 0, 16);
        }
}
