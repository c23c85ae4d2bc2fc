// The way from Python to the workers.
#pragma once

#include <pybind11/pybind11.h>

#include "engine/workers/run.h"

namespace fastopt {

// Without the GIL, unless the work is over before another Python thread could make use of it.
template <class Task>
void run_released(const std::vector<Job<Task>>& jobs, int threads, Order order = Order::forwards) {
    if (elements(jobs) < machine.grain) {
        run(jobs, 1, order);
    } else {
        const pybind11::gil_scoped_release released;
        run(jobs, threads, order);
    }
}

}  // namespace fastopt
