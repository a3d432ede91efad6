"""A copy of a classifier for crafting: BatchNorm folded, channels-last, bf16 where the processor gains from it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from inoculate.core.errors import InputError, one_line
from inoculate.core.modes import device_of, frozen
from inoculate.models.acceleration.cached_convolutions import try_forms, with_fixed_convolutions


def fast(model: nn.Module) -> nn.Module:
    """A quicker stand-in for `model` in eval mode, with the same input and output types; `model` is untouched.

    Use it to craft examples only: the verdict on them belongs to the original. A network whose BatchNorm cannot be
    folded without changing its outputs is copied as it is. TorchScript, or a model that cannot be copied (an ONNX
    session, an open file), is returned itself.
    """
    model = original(model)
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return model
    device = device_of(model)
    with torch.inference_mode(False):  # autograd could not pass through tensors made under inference_mode
        try:
            copied = copy.deepcopy(model)
        except Exception:  # each such object refuses in its own way
            return model
        quick = fold_batchnorm(copied.eval().requires_grad_(False))
    return _Fast(quick, torch.bfloat16 if gains_from_bf16(device) else None, model)


def original(model: nn.Module) -> nn.Module:
    """The model that a `fast` copy stands in for; any other model itself."""
    return model.original[0] if isinstance(model, _Fast) else model


@contextmanager
def full_precision(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, a `fast` copy calculates in fp32, for attacks that live on small differences; others stay as they are."""
    if not isinstance(model, _Fast):
        yield model
        return
    dtype, model.dtype = model.dtype, None
    try:
        yield model
    finally:
        model.dtype = dtype


def lay_out(model: nn.Module, image: Tensor) -> torch.memory_format:
    """Give the weights of `model` the layout that is quickest on images like this one (1×C×H×W); returns it.

    One grey image has both layouts: it is the weights that decide in which the maps come, so they are changed first.
    """
    model.to(memory_format=torch.channels_last)
    with frozen(model):
        layout = layout_for(model, image)
    model.to(memory_format=layout)
    return layout


def layout_for(model: nn.Module, image: Tensor) -> torch.memory_format:
    """How `model` takes images like this one (1×C×H×W): channels-last, which is quicker, if it does.

    A network that flattens its maps with `.view` refuses them.
    """
    try:
        with torch.no_grad():
            model(image.contiguous(memory_format=torch.channels_last))
    except Exception as error:  # the first pass that counts will say what else is wrong
        if "view size" in str(error):
            return torch.contiguous_format
    return torch.channels_last


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


@contextmanager
def compiled(model: nn.Module, wanted: bool = True) -> Iterator[nn.Module]:
    """Inside, `model` runs through kernels made for it (torch.compile), at its first pass and for each kind of pass.

    Raises `InputError` if they cannot be made here.
    """
    if not wanted:
        yield model
        return
    from torch._dynamo.exc import TorchDynamoException

    before = model._compiled_call_impl
    _compile(model)
    try:
        yield model
    except TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)  # of what the compiler said, not of what dynamo says of it
        raise InputError(
            f"the network cannot be compiled here ({one_line(cause)}): leave compile out, or install a C++ compiler "
            "(on a GPU: Triton)"
        ) from error
    finally:
        model._compiled_call_impl = before


def _compile(model: nn.Module) -> None:
    """Have `model` compiled at its next pass; on a GPU into graphs of kernels, each of which the host starts at once.

    The host needs longer to start the kernels of a pass one by one than a GPU needs to run them.
    """
    model.compile(mode="reduce-overhead" if device_of(model).type == "cuda" else None)


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
        theirs, mine = dict(model.named_modules()), dict(with_fixed_convolutions(folded).named_modules())
        self._copy, pairs = folded, _pairs(trial)
        if model._compiled_call_impl is not None:
            _compile(folded)
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


def gains_from_bf16(device: torch.device) -> bool:
    """Whether bf16 arithmetic is native on `device`; emulated bf16 is several times slower than fp32."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


class _Fast(nn.Module):
    """Runs `inner` on channels-last inputs (if it takes them), under autocast if a dtype is given; returns fp32 logits.

    `original` is kept beside it, in a tuple, so that it is no part of the copy: not moved, frozen or saved with it.
    """

    def __init__(self, inner: nn.Module, dtype: torch.dtype | None, original: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.dtype = dtype
        self.original = (original,)
        self.layout: torch.memory_format | None = None

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            if self.layout is None and x.ndim == 4:
                with torch.inference_mode(False), torch.autocast(x.device.type, enabled=False):
                    self.layout = lay_out(self.inner, x[:1])
                    try_forms(self.inner, x[:2].contiguous(memory_format=self.layout))
            logits: Tensor = self.inner(x.contiguous(memory_format=self.layout) if self.layout else x)
        return logits.float()


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
