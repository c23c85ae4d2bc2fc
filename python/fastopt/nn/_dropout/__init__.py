"""The dropout family behind ``fastopt.nn.functional``.

- ``mask``: what chooses a mask: probability, seed, offset; and the scalars that follow from them
- ``call``: one application, without autograd, of a kernel to tensors of any layout
- ``operators``: the same as operators of torch's dispatcher, for compilers, transforms and everybody else who looks on
- ``autograd``: the gradients of both
- ``dispatch``: the way in, and which of the two a call takes
"""
