"""What each family of CUDA kernels may take at most, and has to reach at least, in machine code.

The figures are those of nvcc 13.0. Where one has become worse, test_cuda_static.py fails and prints all of that family,
to be put here if there is a reason. After an improvement, `BAD` as a limit makes it print the new ones.
"""

from __future__ import annotations

from dataclasses import dataclass

RELEASE = "13.0"  # of nvcc
ARCHITECTURES = (80, 90)


@dataclass(frozen=True)
class Family:
    """A kernel that stands for its family, and bytes of operands per element.

    Where `loaded` is 0, only registers and blocks are compared: there is no loop that stands for the kernel, because a
    turn takes few of its branches, or because it goes through shared memory several times.
    """

    file: str
    kernel: str
    loaded: float
    needed: float  # the same without optional operands, such as a residual
    moved: float  # loaded and stored, without optional operands


FAMILIES = {
    "Adam, float32": Family(
        "optim/rules.cu", "update_vectors<OnePass<Adam<false>>, Plain<float>, Plain<float>>", 16, 16, 28
    ),
    "Adam, bfloat16": Family(
        "optim/rules.cu", "update_vectors<OnePass<Adam<false>>, Narrow<BFloat16>, Narrow<BFloat16>>", 8, 8, 14
    ),
    "Adam, bfloat16 with float32 states": Family(
        "optim/rules.cu", "update_vectors<OnePass<Adam<false>>, Narrow<BFloat16>, Plain<float>>", 12, 12, 22
    ),
    "Lion, float32": Family("optim/rules.cu", "update_vectors<OnePass<Lion>, Plain<float>, Plain<float>>", 12, 12, 20),
    "Lion, bfloat16": Family(
        "optim/rules.cu", "update_vectors<OnePass<Lion>, Narrow<BFloat16>, Narrow<BFloat16>>", 6, 6, 10
    ),
    "SGD, float32": Family("optim/rules.cu", "update_vectors<OnePass<Sgd>, Plain<float>, Plain<float>>", 8, 8, 12),
    "SGD, bfloat16": Family(
        "optim/rules.cu", "update_vectors<OnePass<Sgd>, Narrow<BFloat16>, Narrow<BFloat16>>", 4, 4, 6
    ),
    "Adan, float32": Family("optim/rules.cu", "update_vectors<OnePass<Adan>, Plain<float>, Plain<float>>", 24, 24, 44),
    "clipping, float32": Family("optim/rules.cu", "update_vectors<Clip, Plain<float>, Plain<float>>", 4, 4, 8),
    "clipping, bfloat16": Family("optim/rules.cu", "update_vectors<Clip, Narrow<BFloat16>, Narrow<BFloat16>>", 2, 2, 4),
    "norm of gradients, float32": Family("optim/reductions.cu", "reduce_chunks<Squares, Plain<float>>", 4, 4, 4),
    "norm of gradients, bfloat16": Family("optim/reductions.cu", "reduce_chunks<Squares, Narrow<BFloat16>>", 2, 2, 2),
    # A thread loads a factor of each row in addition. The columns of "odd" matrices are no multiple of 256.
    "Adafactor, squares, float32": Family("optim/adafactor.cu", "measure_tiles<Typed<Plain<float>, 1>>", 8, 8, 8),
    "Adafactor, size of the update, float32": Family(
        "optim/adafactor.cu", "measure_updates<Typed<Plain<float>, 1>>", 8.5, 4.5, 4
    ),
    "Adafactor, update, float32": Family(
        "optim/adafactor.cu", "apply_updates<Typed<Plain<float>, 1>, false>", 8.5, 8.5, 12
    ),
    "Adafactor, squares, bfloat16": Family("optim/adafactor.cu", "measure_tiles<Typed<Narrow<BFloat16>, 2>>", 4, 4, 4),
    "Adafactor, squares, odd, bfloat16": Family(
        "optim/adafactor.cu", "measure_tiles<Typed<Narrow<BFloat16>, 1>>", 4, 4, 4
    ),
    "Adafactor, size of the update, bfloat16": Family(
        "optim/adafactor.cu", "measure_updates<Typed<Narrow<BFloat16>, 2>>", 4.25, 2.25, 2
    ),
    "Adafactor, size of the update, odd, bfloat16": Family(
        "optim/adafactor.cu", "measure_updates<Typed<Narrow<BFloat16>, 1>>", 4.5, 2.5, 2
    ),
    "Adafactor, update, bfloat16": Family(
        "optim/adafactor.cu", "apply_updates<Typed<Narrow<BFloat16>, 2>, false>", 4.25, 4.25, 6
    ),
    "Adafactor, update, odd, bfloat16": Family(
        "optim/adafactor.cu", "apply_updates<Typed<Narrow<BFloat16>, 1>, false>", 4.5, 4.5, 6
    ),
    "dropout, float32": Family("dropout/dropout.cu", "drop_along<Dropout, Plain<float>, InOrder>", 4, 4, 8),
    "dropout across memory, float32": Family("dropout/across.cu", "drop_tiles<Dropout, Plain<float>, 4>", 4, 4, 8),
    "dropout and bias backward, float32": Family("dropout/sums.cu", "sum_rows<Plain<float>>", 4, 4, 8),
    "dropout, bfloat16": Family("dropout/dropout.cu", "drop_along<Dropout, Narrow<BFloat16>, InOrder>", 2, 2, 4),
    "dropout across memory, bfloat16": Family("dropout/across.cu", "drop_tiles<Dropout, Narrow<BFloat16>, 8>", 2, 2, 4),
    "dropout and bias backward, bfloat16": Family("dropout/sums.cu", "sum_rows<Narrow<BFloat16>>", 2, 2, 4),
    "BatchNorm, moments, planes, float32": Family("norm/planes.cu", "plane_moments<Plain<float>, false>", 4, 4, 4),
    "BatchNorm, sums, planes, float32": Family("norm/planes.cu", "plane_sums<Plain<float>, ReLU, false>", 12, 8, 8),
    "BatchNorm, moments, columns, float32": Family(
        "norm/columns.cu", "column_moments<Plain<float>, false, 1>", 4, 4, 4
    ),
    "BatchNorm, sums, columns, float32": Family(
        "norm/columns.cu", "column_sums<Plain<float>, ReLU, false, 1>", 12, 8, 8
    ),
    "BatchNorm, result, planes, float32": Family(
        "norm/apply.cu", "run_planes<Apply<ReLU>, Vectors<Plain<float>>, true>", 8, 4, 8
    ),
    "BatchNorm, result, odd planes, float32": Family(
        "norm/apply.cu", "run_planes<Apply<ReLU>, Vectors<Plain<float>>, false>", 8, 4, 8
    ),
    "BatchNorm, result, columns, float32": Family(
        "norm/apply.cu", "run_columns<Apply<ReLU>, Vectors<Plain<float>>, false>", 8, 4, 8
    ),
    "BatchNorm, gradient, planes, float32": Family(
        "norm/gradient.cu", "run_planes<Gradient<ReLU>, Vectors<Plain<float>>, true>", 16, 8, 12
    ),
    "BatchNorm, gradient, odd planes, float32": Family(
        "norm/gradient.cu", "run_planes<Gradient<ReLU>, Vectors<Plain<float>>, false>", 16, 8, 12
    ),
    "BatchNorm, gradient, columns, float32": Family(
        "norm/gradient.cu", "run_columns<Gradient<ReLU>, Vectors<Plain<float>>, false>", 16, 8, 12
    ),
    "BatchNorm, sum of two inputs, float32": Family("norm/apply.cu", "add<Vectors<Plain<float>>>", 8, 8, 12),
    "LayerNorm, weight's gradient, float32": Family(
        "norm/row_columns.cu", "sum_columns<Plain<float>, Identity, 4>", 8, 8, 8
    ),
    "BatchNorm, moments, planes, bfloat16": Family("norm/planes.cu", "plane_moments<Narrow<BFloat16>, true>", 2, 2, 2),
    "BatchNorm, sums, planes, bfloat16": Family("norm/planes.cu", "plane_sums<Narrow<BFloat16>, ReLU, true>", 6, 4, 4),
    "BatchNorm, moments, columns, bfloat16": Family(
        "norm/columns.cu", "column_moments<Narrow<BFloat16>, false, 2>", 2, 2, 2
    ),
    "BatchNorm, sums, columns, bfloat16": Family(
        "norm/columns.cu", "column_sums<Narrow<BFloat16>, ReLU, false, 2>", 6, 4, 4
    ),
    "BatchNorm, result, planes, bfloat16": Family(
        "norm/apply.cu", "run_planes<Apply<ReLU>, Vectors<Narrow<BFloat16>>, true>", 4, 2, 4
    ),
    "BatchNorm, result, odd planes, bfloat16": Family(
        "norm/apply.cu", "run_planes<Apply<ReLU>, Vectors<Narrow<BFloat16>>, false>", 4, 2, 4
    ),
    "BatchNorm, result, columns, bfloat16": Family(
        "norm/apply.cu", "run_columns<Apply<ReLU>, Vectors<Narrow<BFloat16>>, false>", 4, 2, 4
    ),
    "BatchNorm, gradient, planes, bfloat16": Family(
        "norm/gradient.cu", "run_planes<Gradient<ReLU>, Vectors<Narrow<BFloat16>>, true>", 8, 4, 6
    ),
    "BatchNorm, gradient, odd planes, bfloat16": Family(
        "norm/gradient.cu", "run_planes<Gradient<ReLU>, Vectors<Narrow<BFloat16>>, false>", 8, 4, 6
    ),
    "BatchNorm, gradient, columns, bfloat16": Family(
        "norm/gradient.cu", "run_columns<Gradient<ReLU>, Vectors<Narrow<BFloat16>>, false>", 8, 4, 6
    ),
    "LayerNorm, weight's gradient, bfloat16": Family(
        "norm/row_columns.cu", "sum_columns<Narrow<BFloat16>, Identity, 8>", 4, 4, 4
    ),
    "LayerNorm, result, float32": Family("norm/rows.cu", "normalize_rows<Plain<float>, 4>", 0, 0, 8),
    "LayerNorm, result, bfloat16": Family("norm/rows.cu", "normalize_rows<Narrow<BFloat16>, 8>", 0, 0, 4),
    "LayerNorm, gradient, float32": Family("norm/row_gradient.cu", "row_gradients<Plain<float>, 4>", 0, 0, 12),
    "LayerNorm, gradient, bfloat16": Family("norm/row_gradient.cu", "row_gradients<Narrow<BFloat16>, 8>", 0, 0, 6),
    "LAMB, sums, float32": Family(
        "optim/rules.cu", "measure_chunks<Lamb, ScaledMeasure<Lamb>, Typed<Plain<float>, 1>>", 24, 16, 16
    ),
    "LAMB, update, float32": Family(
        "optim/rules.cu", "update_vectors<ScaledApply<Lamb>, Plain<float>, Plain<float>>", 16, 16, 28
    ),
    "LAMB, sums, bfloat16": Family(
        "optim/rules.cu", "measure_chunks<Lamb, ScaledMeasure<Lamb>, Typed<Narrow<BFloat16>, 1>>", 16, 8, 8
    ),
    "LAMB, update, bfloat16": Family(
        "optim/rules.cu", "update_vectors<ScaledApply<Lamb>, Narrow<BFloat16>, Narrow<BFloat16>>", 8, 8, 14
    ),
    "Adam, element by element": Family(
        "optim/rules.cu", "update_elements<OnePass<Adam<false>>, float, false>", 0, 0, 28
    ),
    "L-BFGS, gradient": Family("vectors/vectors.cu", "gather_chunks<float>", 0, 0, 8),
    "L-BFGS, parameters": Family("vectors/vectors.cu", "scatter_pieces<float>", 0, 0, 12),
    # Per element of a row of the history; a thread's share of the gradient and the one before it comes in addition.
    "L-BFGS, products": Family("vectors/history.cu", "multiply_rows<float, 4, 4>", 6, 4, 4),
    "L-BFGS, combination": Family("vectors/combination.cu", "combine_vectors<float, 4>", 4, 4, 4),
    "L-BFGS, direction": Family("vectors/combination.cu", "measure_chunks<float>", 8, 8, 8),
    "L-BFGS, coefficients": Family("vectors/solve.cu", "solve_in_block", 0, 0, 0),
}

# All other kernels. Their work is small: they join partial results, or run once per tensor, parameter or table.
SMALL = {
    *("join_chunks", "join_blocks", "join_columns", "join_partials", "join_sums", "join_moments", "join_samples"),
    *("finalize_channels", "project_sets", "sum_parts", "sum_chunks", "make_scales", "make_factors", "clear_rows"),
    *("move_means", "make_row_factors", "write_known_sets", "evaluate_counted_sets", "write_words"),
    *("write_bits", "write_bytes"),  # of a mask that somebody asks for
}

BAD = (0, 32, 16, 0, 0, 999)  # a limit that no kernel meets

# On sm_80 and sm_90: registers, blocks on a multiprocessor, bytes of the narrowest access in the loop, waits for memory
# per turn of it, instructions per element, KB under way on a multiprocessor.
LIMITS = {
    "Adam, float32": ((56, 4, 16, 1, 84.0, 64), (56, 4, 16, 1, 84.2, 64)),
    "Adam, bfloat16": ((60, 4, 16, 1, 99.9, 64), (60, 4, 16, 1, 100.2, 64)),
    "Adam, bfloat16 with float32 states": ((59, 4, 16, 1, 90.4, 96), (62, 4, 16, 1, 91.2, 96)),
    "Lion, float32": ((51, 4, 16, 1, 52.2, 48), (52, 4, 16, 1, 53.0, 48)),
    "Lion, bfloat16": ((56, 4, 16, 1, 62.0, 48), (56, 4, 16, 1, 62.0, 48)),
    "SGD, float32": ((52, 4, 16, 1, 39.8, 64), (54, 4, 16, 1, 40.1, 64)),
    "SGD, bfloat16": ((56, 4, 16, 1, 46.2, 64), (53, 4, 16, 1, 46.9, 64)),
    "Adan, float32": ((70, 3, 16, 1, 104.8, 72), (70, 3, 16, 1, 104.5, 72)),
    "clipping, float32": ((32, 8, 16, 1, 9.1, 64), (32, 8, 16, 1, 9.0, 64)),
    "clipping, bfloat16": ((40, 6, 16, 1, 12.6, 48), (40, 6, 16, 1, 12.5, 48)),
    "norm of gradients, float32": ((34, 6, 4, 2, 4.4, 48), (32, 8, 4, 2, 4.4, 64)),
    "norm of gradients, bfloat16": ((32, 8, 2, 2, 5.4, 32), (32, 8, 2, 2, 5.4, 32)),
    "Adafactor, squares, float32": ((73, 3, 4, 1, 50.5, 48), (73, 3, 4, 1, 50.5, 48)),
    "Adafactor, size of the update, float32": ((64, 4, 4, 1, 51.8, 36), (64, 4, 4, 1, 52.1, 36)),
    "Adafactor, update, float32": ((64, 4, 4, 1, 52.6, 68), (64, 4, 4, 1, 52.8, 68)),
    "Adafactor, squares, bfloat16": ((112, 2, 4, 1, 47.0, 32), (114, 2, 4, 1, 46.8, 32)),
    "Adafactor, squares, odd, bfloat16": ((74, 3, 2, 1, 53.4, 24), (73, 3, 2, 1, 52.8, 24)),
    "Adafactor, size of the update, bfloat16": ((76, 3, 4, 1, 45.6, 27), (76, 3, 4, 1, 46.4, 27)),
    "Adafactor, size of the update, odd, bfloat16": ((64, 4, 2, 1, 54.6, 20), (64, 4, 2, 1, 54.5, 20)),
    "Adafactor, update, bfloat16": ((78, 3, 4, 1, 55.4, 51), (79, 3, 4, 1, 56.4, 51)),
    "Adafactor, update, odd, bfloat16": ((63, 4, 2, 1, 61.8, 36), (63, 4, 2, 1, 63.2, 36)),
    "dropout, float32": ((54, 4, 16, 1, 40.1, 32), (55, 4, 16, 1, 41.6, 32)),
    "dropout across memory, float32": ((86, 2, 16, 1, 31.2, 64), (89, 2, 16, 1, 32.0, 64)),
    "dropout and bias backward, float32": ((116, 2, 16, 1, 53.7, 64), (128, 2, 16, 1, 54.6, 64)),
    "dropout, bfloat16": ((64, 4, 16, 1, 44.4, 32), (63, 4, 16, 1, 44.7, 32)),
    "dropout across memory, bfloat16": ((86, 2, 16, 1, 22.6, 64), (91, 2, 16, 1, 22.9, 64)),
    "dropout and bias backward, bfloat16": ((116, 2, 16, 1, 56.7, 32), (125, 2, 16, 1, 57.4, 32)),
    "BatchNorm, moments, planes, float32": ((64, 4, 4, 1, 5.6, 64), (64, 4, 4, 1, 5.7, 64)),
    "BatchNorm, sums, planes, float32": ((64, 4, 4, 1, 36.0, 32), (64, 4, 4, 2, 38.2, 24)),
    "BatchNorm, moments, columns, float32": ((64, 4, 4, 1, 5.3, 64), (64, 4, 4, 1, 5.2, 64)),
    "BatchNorm, sums, columns, float32": ((64, 4, 4, 1, 39.5, 32), (64, 4, 4, 1, 42.8, 32)),
    "BatchNorm, result, planes, float32": ((32, 8, 16, 1, 19.1, 64), (37, 6, 16, 1, 21.1, 48)),
    "BatchNorm, result, odd planes, float32": ((44, 5, 16, 1, 28.2, 40), (45, 5, 16, 1, 30.2, 40)),
    "BatchNorm, result, columns, float32": ((46, 5, 16, 1, 10.9, 40), (46, 5, 16, 1, 11.5, 40)),
    "BatchNorm, gradient, planes, float32": ((40, 6, 16, 2, 31.2, 48), (40, 6, 16, 2, 33.5, 48)),
    "BatchNorm, gradient, odd planes, float32": ((48, 5, 16, 2, 47.2, 40), (48, 5, 16, 2, 49.0, 40)),
    "BatchNorm, gradient, columns, float32": ((48, 5, 16, 2, 23.2, 40), (48, 5, 16, 2, 24.5, 40)),
    "BatchNorm, sum of two inputs, float32": ((18, 8, 16, 1, 28.0, 64), (18, 8, 16, 1, 28.0, 64)),
    "LayerNorm, weight's gradient, float32": ((46, 10, 16, 4, 8.1, 40), (46, 10, 16, 4, 8.0, 40)),
    "BatchNorm, moments, planes, bfloat16": ((64, 4, 16, 1, 10.7, 64), (64, 4, 16, 1, 10.2, 64)),
    "BatchNorm, sums, planes, bfloat16": ((80, 3, 2, 1, 42.6, 48), (79, 3, 2, 1, 43.5, 48)),
    "BatchNorm, moments, columns, bfloat16": ((62, 4, 4, 1, 4.6, 64), (63, 4, 4, 1, 4.7, 64)),
    "BatchNorm, sums, columns, bfloat16": ((78, 3, 2, 1, 39.4, 24), (80, 3, 2, 1, 39.1, 24)),
    "BatchNorm, result, planes, bfloat16": ((32, 8, 16, 1, 18.8, 64), (38, 6, 16, 1, 19.9, 48)),
    "BatchNorm, result, odd planes, bfloat16": ((46, 5, 16, 1, 25.4, 40), (46, 5, 16, 1, 26.6, 40)),
    "BatchNorm, result, columns, bfloat16": ((64, 4, 16, 1, 14.7, 32), (64, 4, 16, 1, 14.9, 32)),
    "BatchNorm, gradient, planes, bfloat16": ((40, 6, 16, 2, 37.6, 48), (40, 6, 16, 2, 38.8, 48)),
    "BatchNorm, gradient, odd planes, bfloat16": ((58, 4, 16, 2, 50.0, 32), (56, 4, 16, 2, 51.2, 32)),
    "BatchNorm, gradient, columns, bfloat16": ((77, 3, 16, 2, 35.4, 24), (77, 3, 16, 2, 35.5, 24)),
    "LayerNorm, weight's gradient, bfloat16": ((64, 8, 16, 2, 10.6, 64), (64, 8, 16, 4, 10.3, 32)),
    "LayerNorm, result, float32": ((79, 3, 0, 0, 0, 0), (79, 3, 0, 0, 0, 0)),
    "LayerNorm, result, bfloat16": ((78, 3, 0, 0, 0, 0), (78, 3, 0, 0, 0, 0)),
    "LayerNorm, gradient, float32": ((71, 3, 0, 0, 0, 0), (72, 3, 0, 0, 0, 0)),
    "LayerNorm, gradient, bfloat16": ((77, 3, 0, 0, 0, 0), (80, 3, 0, 0, 0, 0)),
    "LAMB, sums, float32": ((95, 2, 4, 3, 133.2, 32), (96, 2, 4, 3, 133.6, 32)),
    "LAMB, update, float32": ((56, 4, 16, 1, 90.5, 64), (56, 4, 16, 1, 90.2, 64)),
    "LAMB, sums, bfloat16": ((95, 2, 2, 5, 138.2, 12), (95, 2, 2, 5, 138.5, 12)),
    "LAMB, update, bfloat16": ((60, 4, 16, 1, 104.6, 64), (61, 4, 16, 1, 104.9, 64)),
    "Adam, element by element": ((80, 3, 0, 0, 0, 0), (86, 2, 0, 0, 0, 0)),
    "L-BFGS, gradient": ((64, 4, 0, 0, 0, 0), (63, 4, 0, 0, 0, 0)),
    "L-BFGS, parameters": ((44, 5, 0, 0, 0, 0), (44, 5, 0, 0, 0, 0)),
    "L-BFGS, products": ((128, 2, 16, 2, 9.4, 24), (128, 2, 16, 1, 9.8, 32)),
    "L-BFGS, combination": ((102, 2, 16, 1, 4.5, 64), (110, 2, 16, 1, 4.5, 64)),
    "L-BFGS, direction": ((48, 5, 4, 2, 56.4, 40), (42, 5, 4, 1, 61.4, 80)),
    "L-BFGS, coefficients": ((32, 8, 0, 0, 0, 0), (36, 6, 0, 0, 0, 0)),
}
