// Linear(x, weight, bias, residual): a product with a weight that was laid out in panels beforehand.
#include "gemm.h"

namespace {

struct Job {
    Left x;
    const float* weight;
    float* y;
    Epilogue epilogue;
    int64_t rows, depth, columns;
    int64_t block, blocks;  // rows of a task, tasks of a panel
    int64_t panels, group;  // panels in all, and of a task
};

void task(int64_t index, void* data) {
    const Job& job = *static_cast<const Job*>(data);
    const int64_t row = index % job.blocks * job.block, first = index / job.blocks * job.group;
    for (int64_t panel = first; panel < at_most(first + job.group, job.panels); ++panel) {
        const int64_t column = panel * PANEL;
        multiply_panel(job.x, row, at_most(job.block, job.rows - row), job.weight + panel * job.depth * PANEL, job.depth,
                       job.y, job.columns, column, at_most(PANEL, job.columns - column), job.epilogue);
    }
}

}  // namespace

// Inputs x (rows, depth), weight (panels, depth, PANEL), bias (columns) or (0), residual like y or (0).
EDGEC_CPU_KERNEL(Linear) {
    const edgec_tensor &x = call->inputs[0], &weight = call->inputs[1], &bias = call->inputs[2],
                       &residual = call->inputs[3], &y = call->outputs[0];
    Job job;
    job.columns = y.sizes[y.rank - 1];
    job.depth = weight.sizes[1];
    job.rows = 1;
    for (int64_t axis = 0; axis + 1 < y.rank; ++axis) job.rows *= y.sizes[axis];
    if (weight.sizes[2] != PANEL || x.sizes[x.rank - 1] != job.depth) return EDGEC_REFUSED;
    job.x = {static_cast<const float*>(x.data), job.depth};
    job.weight = static_cast<const float*>(weight.data);
    job.y = static_cast<float*>(y.data);
    const bool adds = residual.sizes[0] != 0;
    job.epilogue = {bias.sizes[0] == 0 ? nullptr : static_cast<const float*>(bias.data), nullptr,
                    adds ? static_cast<const float*>(residual.data) : nullptr, attribute(*call, "activation").integer};
    job.panels = weight.sizes[0];
    const int64_t wanted = call->threads > 1 ? 4 * call->threads : 1;
    job.group = job.panels / wanted > 0 ? job.panels / wanted : 1;
    const int64_t groups = rounded_up(job.panels, job.group);
    job.block = groups >= wanted ? job.rows : rounded_up(rounded_up(job.rows, rounded_up(wanted, groups)), ROWS) * ROWS;
    job.blocks = job.rows == 0 ? 0 : rounded_up(job.rows, job.block);
    run_all(*call, groups * job.blocks, task, &job, 1);
    return EDGEC_DONE;
}
