"""One small network in every form in which users bring a model: what it returns, how it runs, what it keeps."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from inoculate.data.dataset import Dataset

CLASSES = 4


@functools.cache
def quarters(n: int = 48, seed: int = 0) -> Dataset:
    """Noisy images, whose class is the brightest quarter."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % CLASSES
    x = torch.rand(n, 3, 8, 8, generator=g)
    for i, label in enumerate(y.tolist()):
        x[i, :, 4 * (label // 2) :, 4 * (label % 2) :][:, :4, :4] += 0.15
    return Dataset.from_tensors((x / 1.35 * 255).round().to(torch.uint8), y, classes="abcd")


class Body(nn.Module):
    """Convolution, BatchNorm, ReLU, linear layer; 3×8×8 images to 4 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Linear(128, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().flatten(1))


@functools.cache
def trained() -> Body:
    """A trained body, in eval mode. Copy it before you change it."""
    data = quarters(256, seed=1)
    x, y = data.images / 255, data.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Body()
        optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
        for _ in range(40):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    return net.eval()


def body() -> Body:
    """A trained body of the caller's own."""
    return copy.deepcopy(trained())


class Returns(nn.Module):
    """Passes its logits and its input to `pack`, and returns the result."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any], inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.pack = body() if inner is None else inner, pack

    def forward(self, x: Tensor) -> Any:
        return self.pack(self.inner(x), x)


class Takes(nn.Module):
    """The body behind a function of its input."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.change = body(), change

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.change(x))


class LogitsLast(NamedTuple):
    features: Tensor
    logits: Tensor


class Pair(NamedTuple):
    scores: Tensor
    features: Tensor


@dataclass
class Detailed:
    loss: Tensor | None
    logits: Tensor
    hidden_states: tuple[Tensor, ...]


RETURNS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "logits in a dict": lambda z, x: {"features": x, "logits": z},
    "out in a dict": lambda z, x: OrderedDict(aux=x, out=z),
    "logits before out": lambda z, x: {"out": x, "logits": z},
    "tuple": lambda z, x: (z, x),
    "tuple of one": lambda z, x: (z,),
    "list": lambda z, x: [z, x],
    "named tuple": lambda z, x: LogitsLast(x, z),
    "named tuple without logits": lambda z, x: Pair(z, x),
    "object": lambda z, x: SimpleNamespace(loss=None, logits=z),
    "dataclass": lambda z, x: Detailed(None, z, (x, x)),
    "tuple that starts with None": lambda z, x: (None, z, x),
    "dict in a tuple": lambda z, x: ({"logits": z}, x),
    "tuple in a dict": lambda z, x: {"logits": (z, x)},
    "dict in a dict": lambda z, x: {"out": {"logits": z, "boxes": x}},
    "object in a tuple": lambda z, x: (Detailed(None, z, ()), x),
    "tuple in a tuple": lambda z, x: ((z, x), x),
}


class OwnTrain(nn.Module):
    """Its own `train` switches noise on; the flags of its modules say nothing of it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.noise = body(), 50.0

    def train(self, mode: bool = True) -> OwnTrain:
        self.noise = 50.0 if mode else 0.0
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.inner(x)
        return z + self.noise * torch.randn_like(z) if self.noise else z


class OwnEval(OwnTrain):
    """`eval` is its own too, and does not call `train`."""

    def eval(self) -> OwnEval:
        self.noise = 0.0
        for module in self.modules():
            module.training = False
        return self


class KeepsByHook(nn.Module):
    """Reads the features that a hook on its own layer has collected."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = body()
        self.inner.norm.register_forward_hook(lambda module, inputs, output: self.keep(output))

    def keep(self, output: Tensor) -> None:
        self.features = output

    def forward(self, x: Tensor) -> Tensor:
        self.inner(x)
        z: Tensor = self.inner.head(self.features.relu().flatten(1))
        return z


class KeepsInList(nn.Module):
    """Collects features in a list of its hook's closure, which grows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, found = body(), []
        self.inner.norm.register_forward_hook(lambda module, inputs, output: found.append(output))
        self.found: Callable[[], list[Tensor]] = lambda: found

    def forward(self, x: Tensor) -> Tensor:
        self.inner(x)
        z: Tensor = self.inner.head(self.found().pop().relu().flatten(1))
        return z


class ReplacedForward(nn.Module):
    """`forward` of a layer is replaced by a closure over the original object."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = inner = body()
        inner.forward = lambda x: inner.head(inner.norm(inner.conv(x)).relu().flatten(1))  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.inner(x)
        return z


class OwnCall(Body):
    """Its `__call__` does more than `forward`."""

    def __call__(self, x: Tensor) -> Any:
        return super().__call__(x * 1.0) + 0.0


class Counts(nn.Module):
    """Counts its calls in a buffer and in a number."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.number = body(), 0
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.number += 1
        z: Tensor = self.inner(x)
        return z


class Options(nn.Module):
    """`forward` has further arguments with defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = body()

    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 1.0, **others: Any) -> Tensor:
        z: Tensor = self.inner(x)
        return z * scale


class Checkpointed(nn.Module):
    """Keeps no activations for its gradient."""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.inner, self.use_reentrant = body(), use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = checkpoint(self.inner, x, use_reentrant=self.use_reentrant)
        return z


class InnerAutocast(nn.Module):
    """Computes in bfloat16, whatever its input is."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = body()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            z: Tensor = self.inner(x)
        return z


class CastsInside(nn.Module):
    """Computes in another dtype than that of its input."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = body().to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.inner(x.to(self.dtype))
        return z


def normed(how: Callable[[nn.Module], nn.Module]) -> Body:
    """The body with reparametrised weights, after a pass with gradients."""
    net = body()
    how(net.conv)
    how(net.head)
    net(torch.rand(2, 3, 8, 8)).sum().backward()
    net.zero_grad()
    return net


class CallableObject:
    """A callable that is no module."""

    def __init__(self) -> None:
        self.net = body()

    def __call__(self, x: Tensor) -> Tensor:
        z: Tensor = self.net(x)
        return z


def own_call() -> nn.Module:
    net = OwnCall()
    net.load_state_dict(trained().state_dict())
    return net.eval()


def compiled_in_place() -> nn.Module:
    net = body()
    net.compile(backend="eager")
    return net


def scripted_part() -> nn.Module:
    net = Takes(lambda x: x)
    net.inner = torch.jit.script(net.inner)
    return net.eval()


def averaged() -> nn.Module:
    from torch.optim.swa_utils import AveragedModel

    return AveragedModel(body()).eval()


def exported() -> nn.Module:
    dim = torch.export.Dim("batch", min=1, max=4096)
    return torch.export.export(body(), (torch.rand(3, 3, 8, 8),), dynamic_shapes=({0: dim},)).module()


def ensemble() -> nn.Module:
    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = nn.ModuleList([body(), body()])

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([member(x) for member in self.members]).mean(0)

    return Ensemble().eval()


def shared() -> nn.Module:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = self.two = body()

        def forward(self, x: Tensor) -> Tensor:
            return (self.one(x) + self.two(x)) / 2

    return Shared().eval()


def pruned() -> nn.Module:
    from torch.nn.utils import prune

    net = body()
    prune.l1_unstructured(net.conv, "weight", amount=0.0)
    net(torch.rand(2, 3, 8, 8)).sum().backward()
    return net


def made_under_inference_mode() -> nn.Module:
    with torch.inference_mode():
        net = Body()
        net.load_state_dict(trained().state_dict())
    return net.eval()


def partly_in_training() -> nn.Module:
    net = body()
    net.norm.train()
    return net


def with_lock() -> nn.Module:
    import threading

    net = body()
    net.lock = threading.Lock()
    return net


def memory() -> nn.Module:
    """Remembers the features of its last pass for others to read."""

    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = body()
            self.last = None

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.inner.conv(x)
            return self.inner(x)

    net = Remembers().eval()
    net(torch.rand(2, 3, 8, 8))
    return net


FORMS: dict[str, Callable[[], Any]] = {
    **{name: functools.partial(lambda pack: Returns(pack).eval(), pack) for name, pack in RETURNS.items()},
    "lambda": lambda: (lambda net: lambda x: net(x))(body()),
    "lambda around a net in train mode": lambda: (lambda net: lambda x: net(x))(OwnTrain().train()),
    "partial": lambda: functools.partial(torch.func.functional_call, body(), {}),
    "bound method": lambda: body().forward,
    "callable object": CallableObject,
    "DataParallel": lambda: nn.DataParallel(body()),
    "script": lambda: torch.jit.script(body()),
    "trace": lambda: torch.jit.trace(body(), torch.rand(2, 3, 8, 8)),
    "frozen script": lambda: torch.jit.freeze(torch.jit.script(body())),
    "script of a part": scripted_part,
    "own train": lambda: OwnTrain().train(),
    "own eval": lambda: OwnEval().train(),
    "train mode": lambda: body().train(),
    "partly in train mode": partly_in_training,
    "edits its input": lambda: Takes(lambda x: x.mul_(2).div_(2)).eval(),
    "in-place activation first": lambda: nn.Sequential(nn.Hardtanh(-1, 2, inplace=True), body()).eval(),
    "function that edits its input": lambda: (lambda net: lambda x: net(x.mul_(2).div_(2)))(body()),
    "keeps by hook": lambda: KeepsByHook().eval(),
    "keeps in a list": lambda: KeepsInList().eval(),
    "replaced forward": lambda: ReplacedForward().eval(),
    "own call": own_call,
    "counts": lambda: Counts().eval(),
    "options": lambda: Options().eval(),
    "checkpoint": lambda: Checkpointed(False).eval(),
    "weight norm": lambda: normed(nn.utils.weight_norm),
    "weight norm parametrization": lambda: normed(nn.utils.parametrizations.weight_norm),
    "pruned": pruned,
    "frozen parameters": lambda: body().requires_grad_(False),
    "ensemble": ensemble,
    "shared": shared,
    "averaged": averaged,
    "exported": exported,
    "fx": lambda: torch.fx.symbolic_trace(body()),
    "float64": lambda: body().double(),
    "float64 output": lambda: Returns(lambda z, x: z.double()).eval(),
    "float64 inside": lambda: CastsInside(torch.float64).eval(),
    "half": lambda: body().half(),
    "half inside": lambda: CastsInside(torch.half).eval(),
    "bfloat16 output": lambda: Returns(lambda z, x: z.bfloat16()).eval(),
    "with a lock": with_lock,
    "remembers": memory,
}
ROUNDED = {
    "bfloat16": lambda: body().bfloat16(),
    "bfloat16 inside": lambda: CastsInside(torch.bfloat16).eval(),
    "autocast inside": lambda: InnerAutocast().eval(),
}
