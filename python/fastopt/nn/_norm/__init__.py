"""The implementation of normalization in ``fastopt.nn``.

- ``dense``: brings tensors into the form that the kernels take
- ``fusion``: decides what runs in one pass with a norm
- ``batch``: statistics over the batch
"""
