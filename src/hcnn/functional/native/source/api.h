// What Python and the variants share: plain structures of sizes and pointers, and the pool of threads.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

typedef void (*hcnn_task)(void* context, int task, float* scratch);

// Runs task 0 … tasks - 1 on at most `threads` threads, each with its own scratch of that many floats; throws
// std::bad_alloc if no thread gets any.
void hcnn_parallel(int tasks, int threads, size_t scratch, hcnn_task run, void* context);

// From now on the threads are those of this GOMP_parallel; null for a pool of our own.
void hcnn_set_team(void* function);

// A convolution along space and attributes per frequency; plan.py explains and makes the arrays.
struct HcnnConv {  // of the step of HCNN(+) too, whose filters h have this support and stride
    int32_t images, height, width, channels;   // x: (images, channels, height, width)
    int32_t filters, out_height, out_width;    // y: (images, outputs, filters, out_height, out_width)
    int32_t support[2], stride[2], wrap;       // along space; wrap: periodic, else zeros
    int32_t planes, dofs, outputs;             // planes of a spectrum of x, of one of y, positions of y
    int32_t aliases, groups;                   // input frequencies of an output frequency
    int32_t elu, average;                      // forward only: ELU, mean over the first `average` outputs apart
    int32_t rank;                              // of the step of HCNN(+): Q
    const int32_t* group;                      // (groups, 3): complex or real, first plane, first degree of freedom
    const int32_t* programs[4];                // analysis, synthesis, and their transposes
    const float* matrices[4];
};

struct HcnnNormalize {  // y: (images, oldest, others, filters, space)
    int32_t images, oldest, others, filters, space;
    float eps;
};

struct HcnnMoments {  // x: (images, maps, height, width)
    int32_t images, maps, height, width, wrap;
};

}  // extern "C"

struct HcnnVariant {
    const char* name;
    void (*conv)(const HcnnConv*, const float*, const float*, const float*, float*, int);
    void (*conv_backward)(const HcnnConv*, const float*, const float*, const float*, float*, float*, float*, int);
    void (*plus)(const HcnnConv*, const float*, const float*, const float*, const float*, float*, int);
    void (*plus_backward)(const HcnnConv*, const float*, const float*, const float*, const float*, const float*,
                          float*, float*, float*, float*, int);
    void (*normalize)(const HcnnNormalize*, const float*, const float*, const float*, float*, float*, float*, int);
    void (*normalize_backward)(const HcnnNormalize*, const float*, const float*, const float*, const float*,
                               const float*, const float*, float*, float*, float*, int);
    void (*scale_elu)(const HcnnNormalize*, const float*, const float*, const float*, float*, int);
    void (*moments)(const HcnnMoments*, const float*, double*, int);
    void (*moments_backward)(const HcnnMoments*, const float*, const float*, const float*, const float*, float*, int);
};
