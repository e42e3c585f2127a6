// All kernels for one instruction set; compiled once for each, with -DHCNN_VARIANT=its name.
#include <cstdlib>

#include "moments.h"
#include "plus_backward.h"

#define NAME_OF(variant) hcnn_##variant
#define NAMED(variant) NAME_OF(variant)
#define TEXT_OF(variant) #variant
#define TEXT(variant) TEXT_OF(variant)

extern const HcnnVariant NAMED(HCNN_VARIANT);
const HcnnVariant NAMED(HCNN_VARIANT) = {
    TEXT(HCNN_VARIANT), conv, conv_backward, plus, plus_backward, normalize, normalize_backward, scale_elu, moments, moments_backward,
};
