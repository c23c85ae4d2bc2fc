"""The implementation of normalization in ``fastopt.nn``.

- ``batch``: BatchNorm, whose statistics are those of a channel over all samples
- ``sample``: RMSNorm, LayerNorm, GroupNorm and InstanceNorm, whose statistics are those of one sample

What both are made of:

- ``dense``: brings tensors into the form that the kernels take
- ``checks``: explains what is wrong with tensors that the kernels refuse
- ``activations``: the activations after a norm, in torch's operations
- ``double_backward``: gradients of gradients
- ``operators``, ``inductor``: parts of the operators of torch's dispatcher, and what inductor compiles them to
- ``fusion``: decides what runs in one pass with a norm
- ``modules``: the base classes of the modules
"""
