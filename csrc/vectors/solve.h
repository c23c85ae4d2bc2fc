// The coefficients of a direction of L-BFGS: its two loops over the pairs (s, y), in numbers instead of vectors, which
// is the compact form of Byrd, Nocedal and Schnabel (1994).
#pragma once

#include "common.h"

namespace fastopt {

// A history of `count` pairs by age, the oldest first. Its products are in matrices whose rows and columns go round:
// `first` belongs to the oldest pair. Pairs are as in products(): steps s, changes of the gradient y.
struct History {
    int64_t count, first, capacity;
    double *step_changes, *change_changes;  // s.y of the older s and the newer y, and y.y; both symmetric
    const double* products;                 // of each s, then of each y: with the gradient, with the newest y
    double* coefficients;                   // of the gradient, of each s, of each y
    bool adds;                              // the newest pair is not in the matrices yet
};

namespace {

struct Pairs {
    const History& h;

    FASTOPT_HD int64_t place(int64_t pair) const {
        const int64_t at = h.first + pair;
        return at < h.capacity ? at : at - h.capacity;
    }
    FASTOPT_HD double& sy(int64_t row, int64_t pair) const { return h.step_changes[row * h.capacity + place(pair)]; }
    FASTOPT_HD double& yy(int64_t row, int64_t pair) const { return h.change_changes[row * h.capacity + place(pair)]; }
};

// `for_each(n, f)` calls f(i) for all i below n, in any order, and ends when all have ended.
template <class ForEach>
FASTOPT_HD void solve(const History& h, ForEach for_each) {
    const Pairs pairs{h};
    const int64_t count = h.count, newest = pairs.place(count - 1);
    double *const of_steps = h.coefficients + 1, *const of_changes = of_steps + count;
    if (h.adds)
        for_each(count, [=](int64_t i) {
            const double sy = h.products[2 * i + 1], yy = h.products[2 * (count + i) + 1];
            pairs.sy(newest, i) = pairs.sy(pairs.place(i), count - 1) = sy;
            pairs.yy(newest, i) = pairs.yy(pairs.place(i), count - 1) = yy;
        });
    const double scale = pairs.sy(newest, count - 1) / pairs.yy(newest, count - 1);
    for_each(count, [=](int64_t i) {
        of_changes[i] = -h.products[2 * i];
        of_steps[i] = -h.products[2 * (count + i)];
    });
    // Here of_changes[j] is s_j.q, and alpha = s_j.q / s_j.y_j; q loses alpha y_j.
    for (int64_t j = count - 1; j >= 0; --j) {
        const int64_t row = pairs.place(j);
        const double alpha = of_changes[j] / pairs.sy(row, j);
        for_each(j, [=](int64_t i) { of_changes[i] -= alpha * pairs.sy(row, i); });
        for_each(count, [=](int64_t i) { of_steps[i] -= alpha * pairs.yy(row, i); });
    }
    for_each(count, [=](int64_t i) {
        of_changes[i] /= pairs.sy(pairs.place(i), i);
        of_steps[i] *= scale;
    });
    // And of_steps[j] is y_j.r, beta = y_j.r / s_j.y_j; r gains (alpha - beta) s_j.
    for (int64_t j = 0; j < count; ++j) {
        const int64_t row = pairs.place(j);
        const double gain = of_changes[j] - of_steps[j] / pairs.sy(row, j);
        for_each(count - j - 1, [=](int64_t k) { of_steps[j + 1 + k] += gain * pairs.sy(row, j + 1 + k); });
    }
    for_each(count, [=](int64_t i) {
        of_steps[i] = of_changes[i] - of_steps[i] / pairs.sy(pairs.place(i), i);
        of_changes[i] *= -scale;
    });
    for_each(1, [=](int64_t) { h.coefficients[0] = -scale; });
}

}  // namespace
}  // namespace fastopt
