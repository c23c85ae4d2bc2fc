"""Batch normalization behind ``fastopt.nn``.

- ``call``: one application, without autograd, of the kernels to tensors of any layout
- ``checks``: what is wrong with arguments that the kernels refuse
- ``composite``: the same in torch's own operations, for derivatives beyond the first backward pass
- ``operators``: the same as operators of torch's dispatcher, for compilers, transforms and everybody else who looks on
- ``autograd``: the gradients of both
- ``dense``: tensors as the kernels take them
- ``sync``: statistics over several processes
- ``fusion``: what can run as one with a norm
- ``inductor``: the same in operations that a compiler fuses
- ``dispatch``: the way in, and which of them a call takes
- ``modules``: what the modules have in common
"""
