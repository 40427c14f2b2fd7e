/* What a kernel is called with, whoever calls it: tensors and attributes. */
#ifndef EDGEC_ARGUMENTS_H
#define EDGEC_ARGUMENTS_H

#include <stdint.h>

enum { EDGEC_FLOAT32, EDGEC_FLOAT16, EDGEC_BFLOAT16, EDGEC_INT32, EDGEC_BOOL };

/* Dense and row-major. */
typedef struct {
    void* data;
    const int64_t* sizes;
    int64_t rank;
    int64_t type; /* EDGEC_… */
} edgec_tensor;

/* All that an op declares are given, those that a node leaves out with their defaults. */
typedef struct {
    const char* name;
    int64_t integer;
    double number;
} edgec_attribute;

/* What a kernel returns: all is done; the sizes are outside what it takes; another variant shall do it. */
enum { EDGEC_DONE = 0, EDGEC_REFUSED = 1, EDGEC_NOT_MINE = 2 };

#ifdef __cplusplus
namespace {

/* An attribute of a call, whose name the op declares. */
template <typename Call>
inline const edgec_attribute& attribute(const Call& call, const char* name) {
    int64_t place = 0;
    for (; place + 1 < call.attribute_count; ++place) {
        const char *one = call.attributes[place].name, *other = name;
        while (*one != '\0' && *one == *other) ++one, ++other;
        if (*one == *other) break;
    }
    return call.attributes[place];
}

}  // namespace
#endif
#endif
