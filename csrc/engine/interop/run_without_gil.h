// Runs work that Python has asked for on the worker threads.
#pragma once

#include <pybind11/pybind11.h>

#include "engine/workers/run.h"

namespace fastopt {

// Releases the GIL, unless the work ends before another Python thread could use the time.
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
