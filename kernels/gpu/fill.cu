/* Fills memory with a word, and with poison before a kernel that must write all of it: a test on a GPU fills its outputs first,
 * since memory that happens to be zero hides what was never written. It is also the smallest kernel that there is, which shows
 * that a driver, an image and a stream work at all. */
#include <stdint.h>

struct fill {
    uint32_t *to;
    uint32_t word, n;
};

extern "C" __global__ void __launch_bounds__(256) fill(const __grid_constant__ struct fill p)
{
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < p.n; i += gridDim.x * blockDim.x)
        p.to[i] = p.word;
}
