"""Faster ways to run a classifier that give the same outputs up to rounding.

- `fast.fast(model)`: a verified copy for crafting examples; the original gives every verdict.
- `small_maps.inference_context(model)`: the original itself, for evaluating many batches.
- `folding.FoldedCopies`: copies that follow the weights of a network in training, for crafting on it.
- `compiling.compiled(model)`: a network compiled for the time of a training.
- `hardware`: memory format and arithmetic in which a device is fastest.
"""
