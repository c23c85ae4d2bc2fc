"""RMSNorm, LayerNorm, GroupNorm and InstanceNorm: one operation, whose kinds differ in what a mean belongs to.

- ``call``: applies the kernels to tensors of any layout, without autograd
- ``checks``: explains what is wrong with arguments that the kernels refuse
- ``composite``: the same in torch's own operations, for derivatives beyond the first backward pass
- ``operators``: the same as operators of torch's dispatcher, for compilers, transforms and modes
- ``autograd``: the gradients of kernels and operators
- ``inductor``: the same in operations that a compiler fuses
- ``dispatch``: the entry, which chooses among them for each call
- ``modules``: the base classes of the modules
"""
