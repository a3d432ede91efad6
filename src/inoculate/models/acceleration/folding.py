"""BatchNorm folded into the convolution before it, in copies of a network."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from inoculate.models.acceleration.cached_convolutions import cache_convolutions
from inoculate.models.acceleration.compiling import compile_in_place, is_compiled


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A copy in eval mode with each BatchNorm that follows a convolution folded into it, or `model` if that fails.

    Convolution and BatchNorm are paired in the order in which their parent defines them. The order of execution may
    differ, so the result must reproduce the outputs of `model` on random features before it is trusted.
    """
    folded = copy.deepcopy(model).eval()
    modules, pairs = dict(folded.named_modules()), _pairs(folded)
    for conv, norm in pairs:
        fused = fuse_conv_bn_eval(modules[conv], modules[norm])
        for name, module in ((conv, fused), (norm, nn.Identity())):
            parent, _, own = name.rpartition(".")
            setattr(modules[parent], own, module)
    return folded if pairs and _same_function(model, folded) else model


class FoldedCopy:
    """A folded copy of a network that is being trained, for crafting on it as it is in eval mode.

    `current` gives the copy the weights of that moment, which costs much less than a new copy. A network that cannot
    be copied or folded is its own twin.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = self._copy = model
        try:
            trial = copy.deepcopy(model).eval().requires_grad_(False)
        except Exception:  # each object that cannot be copied refuses in its own way
            return
        _randomise_batchnorm(trial)
        folded = fold_batchnorm(trial)
        if folded is trial:
            return
        theirs, mine = dict(model.named_modules()), dict(cache_convolutions(folded).named_modules())
        self._copy, pairs = folded, _pairs(trial)
        if is_compiled(model):
            compile_in_place(folded)
        self._folded = [(theirs[conv], theirs[norm], mine[conv]) for conv, norm in pairs]
        done = {name for pair in pairs for name in pair}
        self._others = [
            (module, theirs[name]) for name, module in mine.items() if name not in done and _own_tensors(module)
        ]

    @torch.no_grad()
    def current(self) -> nn.Module:
        """The copy, up to date."""
        if self._copy is self.model:
            return self.model
        for conv, norm, mine in self._folded:
            scale = (norm.running_var + norm.eps).rsqrt()
            scale = scale if norm.weight is None else scale * norm.weight
            torch.mul(conv.weight, scale[:, None, None, None], out=mine.weight)
            shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
            mine.bias.copy_(shift * scale if norm.bias is None else torch.addcmul(norm.bias, shift, scale))
        for module, original in self._others:
            for tensor, now in zip(_own_tensors(module), _own_tensors(original), strict=True):
                tensor.copy_(now)
        return self._copy


class FoldedCopies:
    """The twins of whichever networks a training crafts on."""

    def __init__(self) -> None:
        self._of: dict[nn.Module, FoldedCopy] = {}

    def current(self, model: nn.Module) -> nn.Module:
        """The folded copy of `model`, with the weights of this moment."""
        if model not in self._of:
            self._of[model] = FoldedCopy(model)
        return self._of[model].current()


def _pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names of each convolution and the BatchNorm defined right after it in the same parent."""
    found = []
    for place, parent in model.named_modules():
        for (first, conv), (second, norm) in itertools.pairwise(list(parent.named_children())):
            fits = isinstance(conv, nn.Conv2d) and type(norm) is nn.BatchNorm2d and norm.track_running_stats
            if fits and conv.out_channels == norm.num_features:
                found.append((f"{place}.{first}".lstrip("."), f"{place}.{second}".lstrip(".")))
    return found


def _own_tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _randomise_batchnorm(model: nn.Module) -> None:
    """Give BatchNorm random statistics: those of a new network change nothing, and would hide a wrong fold."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    if tensor is not None:
                        tensor.copy_(0.5 + torch.rand(tensor.shape, generator=g))


def _same_function(model: nn.Module, folded: nn.Module) -> bool:
    convolution = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    parameter = convolution.weight
    g = torch.Generator(parameter.device).manual_seed(0)
    for size in (32, 64, 224):  # the first size that the network takes decides
        x = torch.rand(
            4, convolution.in_channels, size, size, generator=g, device=parameter.device, dtype=parameter.dtype
        )
        try:
            with torch.no_grad():
                expected, got = copy.deepcopy(model).eval()(x), folded(x)
        except (RuntimeError, ValueError, AssertionError):
            continue
        return torch.allclose(expected, got, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    return False
