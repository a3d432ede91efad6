"""BatchNorm folded into the convolution before it, in copies of a network."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from inoculate.core.copying import copy_module
from inoculate.core.outputs import logits_of
from inoculate.models.acceleration.cached_convolutions import cache_convolutions
from inoculate.models.acceleration.compiling import compile_in_place, is_compiled, uncompiled
from inoculate.models.acceleration.verification import Reference

TRIAL_SIZES = (32, 64, 224)  # pixels
CHECKS = 2  # of a copy in training: with its first weights, and after an update


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A copy in eval mode with each BatchNorm that follows a convolution folded into it, or `model` if that fails.

    Convolution and BatchNorm are paired in the order in which their parent defines them. The order of execution may
    differ, so the copy must give the logits of `model` for random images.
    """
    pairs = _pairs(model)
    if not pairs:
        return model
    folded = copy_module(model).eval()
    modules = dict(folded.named_modules())
    for conv, norm in pairs:
        fused = fuse_conv_bn_eval(modules[conv], modules[norm])
        for name, module in ((conv, fused), (norm, nn.Identity())):
            parent, _, own = name.rpartition(".")
            setattr(modules[parent], own, module)
    return folded if _same_function(model, folded) else model


class FoldedCopy:
    """A folded copy of a network in training, for crafting on it as it is in eval mode.

    `current` gives the copy the network's present weights, which costs much less than a new copy. A network that
    cannot be copied or folded, or whose copy gives other logits, is used itself.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = self._copy = model
        self._checks_left = CHECKS
        source = uncompiled(model)
        try:
            trial = copy_module(source).eval().requires_grad_(False)
        except Exception:  # each object that cannot be copied refuses in its own way
            return
        _randomise_batchnorm(trial)
        folded = fold_batchnorm(trial)
        if folded is trial:
            return
        originals, copies = dict(source.named_modules()), dict(cache_convolutions(folded).named_modules())
        self._copy, pairs = folded, _pairs(trial)
        if is_compiled(model):
            compile_in_place(folded)
        self._folded = [(originals[conv], originals[norm], copies[conv]) for conv, norm in pairs]
        in_pairs = {name for pair in pairs for name in pair}
        self._others = [
            (module, originals[name])
            for name, module in copies.items()
            if name not in in_pairs and _own_tensors(module)
        ]

    def current(self, images: Tensor) -> nn.Module:
        """The copy with the present weights, which the first calls verify on some of `images`; else the model."""
        if self._copy is self.model:
            return self.model
        self._update()
        if self._checks_left:
            self._checks_left -= 1
            if not Reference(self.model, images).matches(self._copy):
                self._copy = self.model
        return self._copy

    @torch.no_grad()
    def _update(self) -> None:
        for conv, norm, fused in self._folded:
            scale = (norm.running_var + norm.eps).rsqrt()
            scale = scale if norm.weight is None else scale * norm.weight
            torch.mul(conv.weight, scale[:, None, None, None], out=fused.weight)
            shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
            fused.bias.copy_(shift * scale if norm.bias is None else torch.addcmul(norm.bias, shift, scale))
        for module, original in self._others:
            for tensor, now in zip(_own_tensors(module), _own_tensors(original), strict=True):
                tensor.copy_(now)


class FoldedCopies:
    """The folded copies of all networks that a training crafts on."""

    def __init__(self) -> None:
        self._of: dict[nn.Module, FoldedCopy] = {}

    def current(self, model: nn.Module, images: Tensor) -> nn.Module:
        """The folded copy of `model` with its present weights, verified on some of `images`; else `model`."""
        if model not in self._of:
            self._of[model] = FoldedCopy(model)
        return self._of[model].current(images)


def _pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names of each convolution and the BatchNorm defined right after it in the same parent."""
    found = []
    for place, parent in model.named_modules():
        for (first, conv), (second, norm) in itertools.pairwise(list(parent.named_children())):
            fits = isinstance(conv, nn.Conv2d) and type(norm) is nn.BatchNorm2d and norm.track_running_stats
            if fits and conv.out_channels == norm.num_features and not _computes_weights(conv):
                found.append((f"{place}.{first}".lstrip("."), f"{place}.{second}".lstrip(".")))
    return found


def _computes_weights(module: nn.Module) -> bool:
    """Whether the weights are computed at each call, as by a weight norm, so that none can be folded into them."""
    return bool(module._forward_pre_hooks) or is_parametrized(module)


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
    """Whether both give the same logits for random images, of the first size that the network takes."""
    convolution = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    parameter = convolution.weight
    g = torch.Generator(parameter.device).manual_seed(0)
    for size in TRIAL_SIZES:
        x = torch.rand(
            4, convolution.in_channels, size, size, generator=g, device=parameter.device, dtype=parameter.dtype
        )
        try:
            with torch.no_grad():
                expected, got = (logits_of(m(x.clone())) for m in (copy_module(model).eval(), folded))
                return torch.allclose(expected, got, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
        except Exception:  # whatever the user's code raises
            continue
    return False
