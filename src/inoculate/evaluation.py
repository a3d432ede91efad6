"""Clean and adversarial accuracy, as rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from inoculate.attacks.attack import Attack
from inoculate.attacks.craft import AdvSet, to_float
from inoculate.attacks.gradient import FGSM
from inoculate.attacks.sweep import sweep
from inoculate.data.split import Split
from inoculate.errors import InputError
from inoculate.models.fast import fast
from inoculate.modes import frozen
from inoculate.rng import generator
from inoculate.row import Row
from inoculate.threat import Threat, distance

Progress = Callable[[int, int], None]
Precision = Literal["fast", "exact"]


@dataclass(frozen=True, eq=False)
class Verdict:
    """Which images (N, bool) a model got right at one eps, and the seconds it took to find out."""

    eps: float
    right: Tensor
    seconds: float

    def row(self, **labels: Any) -> Row:
        """The verdict as a row; `labels` are the row's remaining fields."""
        return Row.measured(
            correct=int(self.right.sum()), n=len(self.right), seconds=self.seconds, eps=self.eps, **labels
        )


def evaluate(
    model: nn.Module,
    split: Split,
    attacks: Mapping[str, Attack] | None = None,
    threats: Sequence[Threat] = (Threat(),),
    batch_size: int = 256,
    seed: int = 0,
    precision: Precision = "fast",
    *,
    name: str = "model",
    arm: str = "standard",
    records: dict[str, Tensor] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Row]:
    """Measure a classifier (float images in [0, 1] → logits) on a split: clean, then each attack at each threat.

    Attacks craft on the model (`white-box`), through its `fast` copy unless `precision="exact"`; the verdict is always
    the model's own. Every image counts: one that is misclassified clean is an error under every attack. `name`
    and `arm` label the rows; `records`, if given, receives per row key the images that were right (N, bool).
    Raises `InputError` for images or labels that the model cannot take.
    """
    if precision not in ("fast", "exact"):
        raise InputError(f"precision '{precision}' is unknown: use fast or exact")
    attacks = {"fgsm": FGSM()} if attacks is None else attacks
    labels: dict[str, Any] = {"dataset": split.name, "model": name, "arm": arm, "protocol": "white-box", "seed": seed}

    def tell(what: str) -> Progress | None:
        return None if progress is None else lambda done, total: progress(what, done, total)

    clean = judge_clean(model, split, batch_size, tell("clean"))
    found = [(clean, clean.row(**labels, attack="none", norm=threats[0].norm if threats else "linf"))]
    for key, attack in attacks.items():
        for family, epsilons in _families(threats):
            verdicts = judge_attack(
                model, split, attack, family, epsilons, clean.right,
                batch_size=batch_size, seed=seed, precision=precision, progress=tell(key),
            )  # fmt: skip
            found += [(v, v.row(**labels, attack=key, norm=family.norm)) for v in verdicts]
    if records is not None:
        records.update({row.key: verdict.right for verdict, row in found})
    return [row for _, row in found]


def judge_clean(model: nn.Module, split: Split, batch_size: int = 256, progress: Progress | None = None) -> Verdict:
    """Which images the model gets right as they are. Raises `InputError` if its outputs do not fit the labels."""
    began = time.perf_counter()
    with frozen(model), torch.no_grad():
        right = torch.zeros(len(split), dtype=torch.bool)
        for rows in _batches(torch.arange(len(split)), batch_size):
            x = to_float(split.images[rows]).to(_device(model), memory_format=torch.channels_last)
            y = split.labels[rows].to(_device(model))
            right[rows] = _judge(model, x, y, len(split.classes)).cpu()
            if progress:
                progress(int(rows[-1]) + 1, len(split))
    return Verdict(0.0, right, time.perf_counter() - began)


def judge_attack(
    model: nn.Module,
    split: Split,
    attack: Attack,
    threat: Threat,
    epsilons: Sequence[float],
    clean: Tensor,
    *,
    batch_size: int = 256,
    seed: int = 0,
    precision: Precision = "fast",
    progress: Progress | None = None,
) -> list[Verdict]:
    """White-box verdicts, one per eps. Only images right when `clean` (N, bool) are attacked: the rest are errors."""
    crafting = fast(model) if precision == "fast" else model

    def adversarial(x: Tensor, rows: Tensor) -> Iterator[tuple[float, Tensor]]:
        draw = generator(seed, "attack", int(rows[0]), device=x.device)
        return sweep(attack, crafting, x, split.labels[rows].to(x.device), threat, epsilons, generator=draw)

    return _judge_all(model, split, clean, threat, epsilons, adversarial, batch_size, progress)


def judge_replay(
    model: nn.Module,
    split: Split,
    examples: AdvSet,
    epsilons: Sequence[float],
    clean: Tensor,
    *,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Verdicts on examples that were crafted on another model (or another version of this one), one per eps.

    `examples` may cover more images than `split`, as long as the split is their beginning.
    """

    def adversarial(x: Tensor, rows: Tensor) -> Iterator[tuple[float, Tensor]]:
        return ((eps, examples.images(x, rows, eps)) for eps in epsilons)

    return _judge_all(model, split, clean, Threat(), epsilons, adversarial, batch_size, progress)


def _judge_all(
    model: nn.Module,
    split: Split,
    clean: Tensor,
    threat: Threat,
    epsilons: Sequence[float],
    adversarial: Callable[[Tensor, Tensor], Iterator[tuple[float, Tensor]]],
    batch_size: int,
    progress: Progress | None,
) -> list[Verdict]:
    device = _device(model)
    seconds = dict.fromkeys(epsilons, 0.0)
    standing = clean.nonzero().squeeze(1)
    done = 0
    with frozen(model):
        right = {eps: torch.zeros(len(split), dtype=torch.bool) for eps in epsilons}
        for rows in _batches(standing, batch_size):
            x = to_float(split.images[rows]).to(device, memory_format=torch.channels_last)
            y = split.labels[rows].to(device)
            began = time.perf_counter()
            for eps, x_adv in adversarial(x, rows):
                _check_allowed(x_adv, x, replace(threat, eps=eps))
                with torch.no_grad():
                    right[eps][rows] = _judge(model, x_adv, y, len(split.classes)).cpu()
                seconds[eps] += time.perf_counter() - began
                began = time.perf_counter()
            done += len(rows)
            if progress:
                progress(done, len(standing))
    return [Verdict(eps, right[eps], seconds[eps]) for eps in epsilons]


def _judge(model: nn.Module, x: Tensor, y: Tensor, classes: int) -> Tensor:
    """Which images of a batch the model gets right (B, bool); an output that is not finite is an error."""
    try:
        logits = model(x)
    except torch.cuda.OutOfMemoryError as error:
        raise InputError(f"no memory for {len(x)} images at once: lower --batch-size") from error
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the model does not take {'×'.join(map(str, x.shape[1:]))} images ({first}): "
            "load the data at the model's image size and channels"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] != classes:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"the model gives outputs of shape {shape}, it must give one logit per class: B×{classes}")
    right: Tensor = (logits.argmax(dim=1) == y) & logits.isfinite().all(dim=1)
    return right


def _check_allowed(x_adv: Tensor, x: Tensor, threat: Threat) -> None:
    """Raise `InputError` if an attack returned images that the threat model does not allow."""
    far = float(distance(x_adv, x, threat.norm).max())
    if far > threat.eps * (1 + 1e-4) + 1e-6 or x_adv.min() < threat.low - 1e-6 or x_adv.max() > threat.high + 1e-6:
        raise InputError(
            f"the attack left the ball or the pixel range ({threat.norm} distance {far:.4g} at eps {threat.eps:g}): "
            "its numbers would be worthless, mend the attack"
        )


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _batches(rows: Tensor, size: int) -> Iterable[Tensor]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _families(threats: Iterable[Threat]) -> list[tuple[Threat, list[float]]]:
    """Threats that differ in eps alone, together: a one-step attack serves them with a single gradient."""
    families: dict[tuple[str, float, float], tuple[Threat, list[float]]] = {}
    for threat in threats:
        key = (threat.norm, threat.low, threat.high)
        families.setdefault(key, (threat, []))[1].append(threat.eps)
    return list(families.values())
