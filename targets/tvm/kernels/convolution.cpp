// Convolution(x, weight, bias, residual) over two axes: a product of the weight with columns of the picture, and
// plane by plane where each channel has a filter of its own.
#include "gemm.h"

namespace {

struct Shape {
    int64_t channels, height, width;         // of the input
    int64_t made, rows, columns;             // of the output
    int64_t tall, wide;                      // the filter
    int64_t down, right;                     // strides
    int64_t top, left;                       // padding in front
    int64_t down_step, right_step;           // dilations
    int64_t groups;
};

constexpr int64_t LINES = 4;  // rows of a plane at a time

struct Job {
    Shape shape;
    const float *x, *weight;
    float* y;
    Epilogue epilogue;
    edgec_scratch scratch;
    int64_t tiles;     // of the columns of a picture
    int64_t together;  // panels of a tile
};

// Columns of a panel that lie side by side in the output.
struct Run {
    int64_t place, count;  // in the panel
    int64_t row, column;   // in the input, of the filter's first number
};

inline int64_t runs_of(const Shape& s, int64_t first, int64_t count, Run (&runs)[PANEL]) {
    int64_t found = 0;
    for (int64_t place = 0; place < count;) {
        const int64_t row = (first + place) / s.columns, column = (first + place) % s.columns;
        const int64_t here = at_most(s.columns - column, count - place);
        runs[found++] = {place, here, row * s.down - s.top, column * s.right - s.left};
        place += here;
    }
    return found;
}

// Numbers that lie apart, one by one: a vector's gather takes longer.
__attribute__((optimize("no-tree-vectorize"))) void copy_apart(const float* from, float* to, int64_t begin, int64_t end,
                                                               int64_t step) {
    for (int64_t j = begin; j < end; ++j) to[j] = from[j * step];
}

// One panel of the matrix (channels * filter, columns) whose product with the weight is the convolution.
void gather(const Shape& s, const float* x, int64_t first, int64_t count, float* panel) {
    Run runs[PANEL];
    const int64_t found = runs_of(s, first, count, runs), channels = s.channels / s.groups;
    for (int64_t c = 0; c < channels; ++c) {
        const float* plane = x + c * s.height * s.width;
        for (int64_t ky = 0; ky < s.tall; ++ky) {
            for (int64_t kx = 0; kx < s.wide; ++kx, panel += PANEL) {
                for (int64_t j = 0; j < PANEL; j += W) store(panel + j, splat(0.0f));
                for (int64_t each = 0; each < found; ++each) {
                    const Run& run = runs[each];
                    const int64_t row = run.row + ky * s.down_step, column = run.column + kx * s.right_step;
                    if (row < 0 || row >= s.height) continue;
                    const float* from = plane + row * s.width;
                    // The first that is not left of the picture, and the first that is right of it.
                    const int64_t begin = column < 0 ? rounded_up(-column, s.right) : 0;
                    const int64_t end = column >= s.width ? 0 : at_most(run.count, (s.width - 1 - column) / s.right + 1);
                    float* to = panel + run.place;
                    if (s.right == 1) {
                        for (int64_t j = begin; j < end; ++j) to[j] = from[column + j];
                    } else {
                        copy_apart(from + column, to, begin, end, s.right);
                    }
                }
            }
        }
    }
}

// The same where the filter is one number: rows are copied.
void gather_points(const float* x, int64_t size, int64_t channels, int64_t first, int64_t count, float* panel) {
    for (int64_t c = 0; c < channels; ++c, panel += PANEL) {
        const float* from = x + c * size + first;
        if (count == PANEL) {
#pragma GCC unroll 8
            for (int64_t j = 0; j < PANEL; j += W) store(panel + j, load(from + j));
            continue;
        }
        for (int64_t j = 0; j < count; ++j) panel[j] = from[j];
        for (int64_t j = count; j < PANEL; ++j) panel[j] = 0.0f;
    }
}

void tile(int64_t index, void* data) {
    const Job& job = *static_cast<const Job*>(data);
    const Shape& s = job.shape;
    const int64_t size = s.rows * s.columns, channels = s.channels / s.groups, made = s.made / s.groups;
    const int64_t depth = channels * s.tall * s.wide;
    const int64_t group = index / job.tiles % s.groups, picture = index / job.tiles / s.groups;
    const float* x = job.x + (picture * s.channels + group * channels) * s.height * s.width;
    float* const panel = static_cast<float*>(job.scratch(depth * PANEL * 4));
    const bool points = s.tall * s.wide == 1 && s.down == 1 && s.right == 1 && s.rows == s.height && s.columns == s.width;
    const Left weight{job.weight + group * made * depth, depth};
    float* y = job.y + (picture * s.made + group * made) * size;
    Epilogue epilogue = job.epilogue;
    if (epilogue.row != nullptr) epilogue.row += group * made;
    if (epilogue.residual != nullptr) epilogue.residual += y - job.y;
    const int64_t begin = index % job.tiles * job.together * PANEL;
    for (int64_t first = begin; first < at_most(size, begin + job.together * PANEL); first += PANEL) {
        const int64_t count = at_most(PANEL, size - first);
        if (points)
            gather_points(x, size, channels, first, count, panel);
        else
            gather(s, x, first, count, panel);
        multiply_panel(weight, 0, made, panel, depth, y, size, first, count, epilogue);
    }
}

// One output plane of a filter of its own. The padded input lies in `right` phases, so that every product is over
// neighbours whatever the stride.
void filter_plane(const Shape& s, const float* x, const float* weight, float shift, float* y, float* work) {
    const int64_t reach = (s.wide - 1) * s.right_step + 1;
    const int64_t across = (s.columns - 1) * s.right + reach, phase = rounded_up(across, s.right) + W;
    const int64_t down = (s.rows - 1) * s.down + (s.tall - 1) * s.down_step + 1;
    for (int64_t row = 0; row < down; ++row) {
        const int64_t at = row - s.top;
        float* line = work + row * s.right * phase;
        for (int64_t j = 0; j < s.right * phase; ++j) line[j] = 0.0f;
        if (at < 0 || at >= s.height) continue;
        const float* from = x + at * s.width;
        const int64_t last = at_most(across - s.left, s.width);
        if (s.right == 1) {
            for (int64_t j = 0; j < last; ++j) line[j + s.left] = from[j];
        } else {
            for (int64_t j = 0; j < last; ++j)
                line[(j + s.left) % s.right * phase + (j + s.left) / s.right] = from[j];
        }
    }
    // Some rows at once: one sum would wait for itself.
    for (int64_t row = 0; row < s.rows; row += LINES) {
        const int64_t here = at_most(LINES, s.rows - row);
        for (int64_t column = 0; column < s.columns; column += W) {
            Vec sum[LINES];
            const float* lines[LINES];
            for (int64_t i = 0; i < LINES; ++i) {
                sum[i] = splat(shift);
                lines[i] = work + (row + at_most(i, here - 1)) * s.down * s.right * phase + column;
            }
            for (int64_t ky = 0; ky < s.tall; ++ky) {
                for (int64_t kx = 0; kx < s.wide; ++kx) {
                    const int64_t dx = kx * s.right_step;
                    const int64_t at = ky * s.down_step * s.right * phase +
                                       (s.right == 1 ? dx : dx % s.right * phase + dx / s.right);
                    const Vec factor = splat(weight[ky * s.wide + kx]);
#pragma GCC unroll 4
                    for (int64_t i = 0; i < LINES; ++i) sum[i] += load(lines[i] + at) * factor;
                }
            }
            for (int64_t i = 0; i < here; ++i) {
                float* to = y + (row + i) * s.columns + column;
                if (column + W <= s.columns) {
                    store(to, sum[i]);
                } else {
                    for (int64_t j = 0; j < s.columns - column; ++j) to[j] = sum[i][j];
                }
            }
        }
    }
}

void plane(int64_t index, void* data) {
    const Job& job = *static_cast<const Job*>(data);
    const Shape& s = job.shape;
    const int64_t size = s.rows * s.columns, channel = index % s.made, picture = index / s.made;
    const int64_t across = (s.columns - 1) * s.right + (s.wide - 1) * s.right_step + 1;
    const int64_t down = (s.rows - 1) * s.down + (s.tall - 1) * s.down_step + 1;
    const int64_t phase = rounded_up(across, s.right) + W;
    float* work = static_cast<float*>(job.scratch((down * s.right * phase + W) * 4));
    const int64_t from = picture * s.channels + channel / (s.made / s.groups);
    float* y = job.y + index * size;
    filter_plane(s, job.x + from * s.height * s.width, job.weight + channel * s.tall * s.wide,
                 job.epilogue.row == nullptr ? 0.0f : job.epilogue.row[channel], y, work);
    if (job.epilogue.activation != NONE) activate(job.epilogue.activation, y, size);
    if (job.epilogue.residual == nullptr) return;
    const float* residual = job.epilogue.residual + index * size;
    for (int64_t j = 0; j < size; ++j) y[j] += residual[j];
}

}  // namespace

EDGEC_CPU_KERNEL(Convolution) {
    const edgec_tensor &x = call->inputs[0], &weight = call->inputs[1], &bias = call->inputs[2],
                       &residual = call->inputs[3], &y = call->outputs[0];
    if (x.rank != 4 || weight.rank != 4 || y.rank != 4) return EDGEC_REFUSED;
    const auto number = [&](const char* name) { return attribute(*call, name).integer; };
    Job job;
    job.shape = {x.sizes[1],       x.sizes[2],       x.sizes[3],       y.sizes[1],        y.sizes[2],
                 y.sizes[3],       weight.sizes[2],  weight.sizes[3],  number("down"),    number("right"),
                 number("top"),    number("left"),   number("down_step"), number("right_step"), number("groups")};
    const Shape& s = job.shape;
    if (weight.sizes[1] * s.groups != s.channels || weight.sizes[0] != s.made) return EDGEC_REFUSED;
    job.x = static_cast<const float*>(x.data);
    job.weight = static_cast<const float*>(weight.data);
    job.y = static_cast<float*>(y.data);
    job.epilogue = {nullptr, bias.sizes[0] == 0 ? nullptr : static_cast<const float*>(bias.data),
                    residual.sizes[0] == 0 ? nullptr : static_cast<const float*>(residual.data), number("activation")};
    job.scratch = call->scratch;
    if (y.sizes[0] * s.made * s.rows * s.columns == 0) return EDGEC_DONE;
    if (weight.sizes[1] == 1) {
        run_all(*call, y.sizes[0] * s.made, plane, &job, 1);
        return EDGEC_DONE;
    }
    const int64_t panels = rounded_up(s.rows * s.columns, PANEL), wanted = call->threads > 1 ? 8 * call->threads : 1;
    job.together = panels * s.groups / wanted > 0 ? at_most(panels, panels * s.groups / wanted) : 1;
    job.tiles = rounded_up(panels, job.together);
    run_all(*call, y.sizes[0] * s.groups * job.tiles, tile, &job, 1);
    return EDGEC_DONE;
}
