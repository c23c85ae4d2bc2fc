"""The dropout family behind ``fastopt.nn.functional``.

- ``mask``: what chooses a mask: probability, seed, offset; and the scalars that follow from them
- ``call``: one application, without autograd, of a kernel to tensors of any layout
- ``autograd``: the way in; gradients; which of the ways below a call takes
- ``operators``: the same as operators of torch's dispatcher, for compilers and everybody else who looks on
- ``transforms``: the same for ``torch.func`` and ``torch.vmap``
"""
