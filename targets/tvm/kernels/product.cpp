// Product(a, b): products of matrices that are both made at run time, broadcast over what lies in front.
#include "gemm.h"

namespace {

struct Job {
    const float *a, *b;
    float* y;
    int64_t rows, depth, columns, activation;
    const edgec_tensor *left, *right, *made;
    edgec_scratch scratch;
    bool turned;  // b is (columns, depth)
};

// Where the matrix of a batch begins in a tensor that may be broadcast.
int64_t start(const edgec_tensor& of, const edgec_tensor& like, int64_t batch, int64_t size) {
    int64_t at = 0, step = size;
    for (int64_t axis = like.rank - 3; axis >= 0; --axis) {
        const int64_t place = batch % like.sizes[axis], mine = axis - (like.rank - of.rank);
        batch /= like.sizes[axis];
        if (mine < 0) continue;
        if (of.sizes[mine] > 1) at += place * step;
        step *= of.sizes[mine];
    }
    return at;
}

void task(int64_t index, void* data) {
    const Job& job = *static_cast<const Job*>(data);
    const Left a{job.a + start(*job.left, *job.made, index, job.rows * job.depth), job.depth};
    const float* b = job.b + start(*job.right, *job.made, index, job.depth * job.columns);
    float* y = job.y + index * job.rows * job.columns;
    float* panel = static_cast<float*>(job.scratch(job.depth * PANEL * 4));
    const Epilogue epilogue{nullptr, nullptr, nullptr, NONE};
    for (int64_t column = 0; column < job.columns; column += PANEL) {
        const int64_t count = at_most(PANEL, job.columns - column);
        for (int64_t k = 0; k < job.depth; ++k) {
            float* to = panel + k * PANEL;
            if (job.turned) {
                for (int64_t j = 0; j < count; ++j) to[j] = b[(column + j) * job.depth + k];
            } else {
                for (int64_t j = 0; j < count; ++j) to[j] = b[k * job.columns + column + j];
            }
            for (int64_t j = count; j < PANEL; ++j) to[j] = 0.0f;
        }
        multiply_panel(a, 0, job.rows, panel, job.depth, y, job.columns, column, count, epilogue);
    }
}

}  // namespace

EDGEC_CPU_KERNEL(Product) {
    const edgec_tensor &a = call->inputs[0], &b = call->inputs[1], &y = call->outputs[0];
    Job job;
    job.turned = attribute(*call, "turned").integer != 0;
    job.rows = y.sizes[y.rank - 2];
    job.columns = y.sizes[y.rank - 1];
    job.depth = a.sizes[a.rank - 1];
    if (b.sizes[b.rank - (job.turned ? 1 : 2)] != job.depth) return EDGEC_REFUSED;
    job.a = static_cast<const float*>(a.data);
    job.b = static_cast<const float*>(b.data);
    job.y = static_cast<float*>(y.data);
    job.left = &a;
    job.right = &b;
    job.made = &y;
    job.scratch = call->scratch;
    int64_t batches = 1;
    for (int64_t axis = 0; axis + 2 < y.rank; ++axis) batches *= y.sizes[axis];
    if (job.rows * job.columns > 0) run_all(*call, batches, task, &job, 1);
    return EDGEC_DONE;
}
