"""What proves that the class of an image cannot change, by name; and the order in which cheap proofs go first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from inoculate.certification.bounds.graph import Graph
from inoculate.certification.bounds.margins import Relaxation, margin_bounds
from inoculate.core.options import require_one_of
from inoculate.core.threat import Threat

SMOOTHING = "smoothing"  # certifies another classifier than the network, see `certify_smoothed`
BUDGET = 2**29  # bytes of a batch of images
MOST_IMAGES = 256
MOST_CROWN = 2**27  # values in front of ReLUs times values in all; so many take CROWN about a second an image


class Certifier(Protocol):
    """One way to prove margins of a network.

    `largest_batch` is how many images fit into memory. `margins` are lower bounds (B) of the true logit minus the
    largest other one, for all images of the threat around `x` (B×C×H×W) with labels `y` (B). `pays` says whether it
    ends in reasonable time.
    """

    @property
    def name(self) -> str: ...

    def largest_batch(self, graph: Graph) -> int: ...

    def pays(self, graph: Graph) -> bool: ...

    def margins(self, graph: Graph, x: Tensor, y: Tensor, threat: Threat) -> Tensor: ...


@dataclass(frozen=True)
class Bounds:
    """Margins by `margin_bounds`; in fp32 with outward rounding, or in float64."""

    name: str
    method: Relaxation
    dtype: torch.dtype = torch.float64

    def largest_batch(self, graph: Graph) -> int:
        sizes, width = graph.sizes, self.dtype.itemsize
        image = 4 * width * sum(sizes) + (0 if self.method == "ibp" else 32 * graph.classes * max(sizes))
        return max(1, min(BUDGET // image, 8 if self.method == "crown" else MOST_IMAGES))

    def pays(self, graph: Graph) -> bool:
        return self.method != "crown" or graph.kinked_values * sum(graph.sizes) <= MOST_CROWN

    def margins(self, graph: Graph, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        found = margin_bounds(graph, x.to(self.dtype), y, threat, self.method)
        return found.scatter(1, y[:, None], torch.inf).amin(dim=1)


QUICK = Bounds("ibp", "ibp", torch.float32)
EXACT, CROWN_IBP, CROWN = Bounds("ibp in float64", "ibp"), Bounds("crown-ibp", "crown-ibp"), Bounds("crown", "crown")
CERTIFIERS: Mapping[str, tuple[Certifier, ...]] = {
    "auto": (QUICK, CROWN_IBP, CROWN),
    "ibp": (QUICK, EXACT),
    "crown-ibp": (QUICK, CROWN_IBP),
    "crown": (QUICK, CROWN_IBP, CROWN),
}


def require_method(method: str) -> None:
    """Raise `InputError` for an unknown method."""
    require_one_of((*CERTIFIERS, SMOOTHING), method=method)


def get_certifiers(method: str, graph: Graph) -> tuple[Certifier, ...]:
    """The certifiers of a method in the order of their cost; of `auto` those that end in reasonable time."""
    return tuple(each for each in CERTIFIERS[method] if method != "auto" or each.pays(graph))
