"""Calls of a model that change none of its inputs and return logits, whatever its `forward` does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from inoculate.core.deadline import OutOfTimeError
from inoculate.core.errors import InputError, one_line
from inoculate.core.outputs import describe_output, labels_in, logits_of, place_of_logits

LABELS_ONLY = (
    "the model gives labels only: attack it with hopskipjump or rays, which need no more; "
    "everything else needs an output per class"
)


@dataclass(frozen=True)
class Behaviour:
    """What a model did at its first pass: whether it edited its input in place, and the type that it returned.

    Where it returned no tensor, `place` says what the logits are in its output, and `form` which tensors it holds.
    """

    edits_input: bool
    returns: type
    place: str = field(default="output", compare=False)
    form: str = field(default="", compare=False)

    @property
    def is_plain(self) -> bool:
        """Whether the model can be called as it is: it leaves its input alone and returns a tensor."""
        return not self.edits_input and issubclass(self.returns, Tensor)


_OBSERVED: WeakKeyDictionary[nn.Module, Behaviour] = WeakKeyDictionary()  # one entry for each model that still lives


def behaviour(model: nn.Module) -> Behaviour:
    """What `model` did at its first pass inside `pure_calls`; plain if there was none."""
    return _OBSERVED.get(model, Behaviour(False, Tensor)) if isinstance(model, nn.Module) else Behaviour(False, Tensor)


def call(model: nn.Module, x: Tensor) -> Tensor:
    """The outputs of `model` for images (B×C×H×W): floats, B×K or B.

    `x` stays as it is. Raises `InputError` where the model does not take the images, or returns anything else.
    """
    return _outputs(_run(model, x), model, x)


def predicted_classes(model: nn.Module, x: Tensor) -> Tensor:
    """The class (B, int64) that `model` gives each image (B×C×H×W): its label, else that of its largest output.

    Raises `InputError` where the model does not take the images, or returns neither labels nor an output per class.
    """
    found = labels_or_outputs(model, x)
    if not found.is_floating_point():
        return found
    if found.ndim == 1 or found.shape[1] == 1:
        raise single_output(found)
    return found.argmax(dim=1)


def labels_or_outputs(model: nn.Module, x: Tensor) -> Tensor:
    """The labels (B, int64) of a model that gives labels only, else its outputs, as `call` returns them."""
    output = _run(model, x)
    labels = labels_in(output, len(x))
    return _outputs(output, model, x) if labels is None else labels.to(x.device)


def _run(model: nn.Module, x: Tensor) -> Any:
    """What `model` returns for images; of logits inside of a container, these."""
    try:
        return logits_of(model(x if takes_hooks(model) else x.clone()))
    except (InputError, OutOfTimeError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the user's code raises
        raise InputError(
            f"the model does not take {'×'.join(map(str, x.shape[1:]))} images ({one_line(error)}): "
            "load the data at the model's image size and channels, --image-size and --channels, in Python "
            "load_data(…, image_size=…, channels=…)"
        ) from error


def _outputs(output: Any, model: nn.Module, x: Tensor) -> Tensor:
    """`output` of `model` for the images `x`; raises `InputError` where it is not floats, B×K or B."""
    if not isinstance(output, Tensor):
        raise InputError(
            f"the model returns {type(output).__name__}, not a tensor: let its forward return the logits"
            f"{describe_output(output, len(x))}"
        )
    if labels_in(output, len(x)) is not None:
        raise InputError(LABELS_ONLY)
    if not output.is_floating_point() or output.layout is not torch.strided:
        kind = str(output.dtype if output.layout is torch.strided else output.layout).removeprefix("torch.")
        raise InputError(
            f"the model returns {kind} numbers, not logits: let its forward return a dense tensor of floats"
        )
    if output.ndim not in (1, 2) or len(output) != len(x):
        raise InputError(
            f"the model gives outputs of shape {tuple(output.shape)} for {len(x)} images{behaviour(model).form}: "
            f"it must give one logit per class, {len(x)}×K"
        )
    return output.to(x.device)


def single_output(outputs: Tensor) -> InputError:
    """The error for a model that gives one number per image, `outputs`: it says how to declare it."""
    declared = "probabilities" if bool(((outputs >= 0) & (outputs <= 1)).all()) else "single-logit"
    return InputError(
        "the model gives a single number per image for two classes: "
        f"declare it with --outputs {declared}, in Python load_model(model, outputs='{declared}') "
        "(large for the second class)"
    )


def takes_hooks(model: nn.Module) -> bool:
    """Whether hooks can be put on `model`: not on a function, on TorchScript, or on what was compiled in place."""
    is_module = isinstance(model, nn.Module) and not isinstance(model, torch.jit.ScriptModule)
    return is_module and model._compiled_call_impl is None


@contextmanager
def pure_calls(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, a model that edits its input gets a copy of it, and of what a model returns the logits come back.

    The model is observed at its first pass, which gets a copy of its input. One that is plain is called directly from
    then on. TorchScript, which takes no hooks, and a model that was compiled in place, which they would have compiled
    again, are called directly; `call` does the same for them.
    """
    known = _OBSERVED.get(model)
    if not takes_hooks(model) or (known is not None and known.is_plain):
        yield model
        return
    observer = _Observer()
    hooks = [model.register_forward_pre_hook(observer.before), model.register_forward_hook(observer.after)]
    try:
        yield model
    finally:
        for hook in hooks:
            hook.remove()


class _Observer:
    """Hooks around one model: they copy its input, note what it does at its first pass, and take out the logits."""

    def __init__(self) -> None:
        self.original: Tensor | None = None
        self.version = 0

    def before(self, model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        known = _OBSERVED.get(model)
        if known is not None and not known.edits_input:
            return None
        x, *others = inputs
        copy = x.clone()
        self.original, self.version = x, copy._version
        return (copy, *others)

    def after(self, model: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if model not in _OBSERVED and self.original is not None:
            copy = inputs[0]
            edited = copy._version != self.version or not torch.equal(copy.detach(), self.original.detach())
            words = () if isinstance(output, Tensor) else (place_of_logits(output), describe_output(output, len(copy)))
            _OBSERVED[model] = Behaviour(edited, type(output), *words)
        self.original = None
        return logits_of(output)
