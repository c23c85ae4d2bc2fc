"""The implementation of the dropout family in ``fastopt.nn.functional``.

- ``mask``: what determines a mask (probability, seed, offset), and the scalars that follow
- ``call``: applies a kernel to tensors of any layout, without autograd
- ``operators``: the same as operators of torch's dispatcher, for compilers, transforms and modes
- ``autograd``: the gradients of kernels and operators
- ``dispatch``: the entry, which chooses between them for each call
"""
