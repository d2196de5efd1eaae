// Every kernel in one translation unit: what registers itself is linked with what looks it up.

#include "harness.cpp"
#include "mutants.cu"

// The files name their helpers as they like, as they do under nvcc.
namespace of_rms_norm {
#include "../rms_norm.cu"
}
namespace of_norm_rope {
#include "../norm_rope.cu"
}
namespace of_swiglu {
#include "../swiglu.cu"
}
namespace of_cross_entropy {
#include "../cross_entropy.cu"
}
namespace of_adamw {
#include "../adamw.cu"
}
namespace of_attention {
#include "../attention.cu"
}
