#include "kernels/gpu/cublaslt.h"

#include <dlfcn.h>

void *cublaslt_symbol(void **library, const char *name) {
    static const char *const files[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
    for (int i = 0; !*library && i < 3; i++) *library = dlopen(files[i], RTLD_NOW | RTLD_LOCAL);
    return *library ? dlsym(*library, name) : NULL;
}
