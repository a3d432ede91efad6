"""Robust representation matching: a student learns a robust teacher's features from clean images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.attacks.pgd import PGD
from inoculate.core.modes import frozen
from inoculate.core.options import require_fraction, require_nonnegative, require_positive
from inoculate.core.rng import drawn_seed, seeded
from inoculate.core.threat import Threat
from inoculate.models.acceleration.compiling import eager
from inoculate.models.acceleration.folding import FoldedCopies
from inoculate.models.head import head_of, recorded_features, require_head
from inoculate.training import losses
from inoculate.training.methods.adversarial import Batch, LossAndLogits, minimise, threat_at
from inoculate.training.methods.companion import follow, optimizer_like
from inoculate.training.methods.options import CommonOptions


@dataclass(frozen=True)
class RRM:
    """Cosine match of penultimate features to a robust teacher's, with a light cross-entropy (Vaishnavi et al. 2022).

    The first helper is the teacher. As published, the student sees clean images only. Features of another length go
    through a linear map, which becomes part of the student's last layer.

    Options:
        xent: weight of the cross-entropy; that of the match is 1.
        logits: weight of the divergence from the teacher's prediction.
        finish: the last fraction of the training, in which the student sees the images of one step from a random start,
            and still matches the teacher's features of the clean ones.
        step: length of that step, relative to eps.
    """

    xent: float = 0.005
    logits: float = 0.0
    finish: float = 0.0
    step: float = 1.25

    def __post_init__(self) -> None:
        require_nonnegative(xent=self.xent, logits=self.logits)
        require_fraction(finish=self.finish)
        require_positive(step=self.step)

    @property
    def loss_passes(self) -> int:
        return 1

    @property
    def passes(self) -> float:
        return self.loss_passes + 1 / 3 + self.finish

    def begin(self, threat: Threat, helpers: tuple[nn.Module, ...], common: CommonOptions) -> RRMMethod:
        head_of(helpers[0])  # raises now for a teacher without features
        return RRMMethod(self, threat, helpers[0], common)


class RRMMethod:
    """The update of `RRM`. It is a `Method`, and `Stateful`: the linear map between features of different lengths."""

    def __init__(self, options: RRM, threat: Threat, teacher: nn.Module, common: CommonOptions) -> None:
        self.options, self.threat, self.teacher, self.common = options, threat, teacher, common
        self.copies = FoldedCopies()
        self.mapping: Mapping | None = None
        self.checked = False
        self._loaded: dict[str, Any] | None = None

    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator,
        progress: float = 1.0,
        samples: Tensor | None = None,
    ) -> dict[str, float]:
        features, prediction = self._teach(x)
        head, seen = head_of(model), x
        if not self.checked:
            self._check(model, head, x)
        if self.mapping is None and head.in_features != features.shape[1]:
            self.mapping = Mapping(head, features.shape[1], optimizer, drawn_seed(generator), self._loaded)
        if 1 - progress < self.options.finish:
            batch = Batch(self.copies.current(model, x), x, y, threat_at(self.threat, self.common, progress), generator)
            seen = batch.craft(PGD(1, self.options.step))

        def objective() -> LossAndLogits:
            with eager(model), recorded_features(head) as inputs:  # a compiled network would not call a new hook
                logits = model(seen).float()
            own = inputs[-1].float()
            if self.mapping is not None:
                own, logits = self.mapping(own)
            loss = losses.rrm(own, features, logits, y, self.options.xent, self.common.smoothing)
            if self.options.logits:
                loss = loss + self.options.logits * losses.divergence(logits, prediction).mean()
            return LossAndLogits(loss, logits)

        metrics = minimise(model, optimizer, y, objective, self.common.awp)
        if self.mapping is not None:
            self.mapping.step(optimizer)
        return metrics

    def _check(self, model: nn.Module, head: nn.Linear, x: Tensor) -> None:
        """Raise `InputError` for a network whose logits do not come from its last linear layer alone."""
        for network, last in ((model, head), (self.teacher, head_of(self.teacher))):
            with eager(network), frozen(network), torch.no_grad(), recorded_features(last) as features:
                logits = network(x[:2])
            require_head(last, features, logits)
        self.checked = True

    def _teach(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's features (B×D) and logits (B×K) of the clean images."""
        with frozen(self.teacher), torch.no_grad(), recorded_features(head_of(self.teacher)) as features:
            logits: Tensor = self.teacher(x)
        return features[-1].float().clone(), logits.to(torch.float32, copy=True)

    def state_dict(self) -> dict[str, Any]:
        return {"mapping": None if self.mapping is None else self.mapping.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loaded = state["mapping"]


class Mapping(nn.Module):
    """A linear map to the teacher's features and a classifier on them; their product is the student's last layer."""

    def __init__(
        self,
        head: nn.Linear,
        features: int,
        like: torch.optim.Optimizer,
        seed: int,
        state: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.head = (head,)  # in a tuple, so that it is no part of this module
        with seeded(seed, "rrm"), torch.device(head.weight.device):
            self.project, self.classify = nn.Linear(head.in_features, features), nn.Linear(features, head.out_features)
        if state is not None:
            self.load_state_dict(state["layers"])
        self.optimizer = optimizer_like(like, self.parameters(), state and state["optimizer"])

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The student's features as the teacher's (B×D), and the logits (B×K)."""
        projected = self.project(features)
        return projected, self.classify(projected)

    def step(self, like: torch.optim.Optimizer) -> None:
        """One step at the learning rate of the student's optimiser; then the student's last layer is the product."""
        follow(self.optimizer, like)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        (head,) = self.head
        with torch.no_grad():
            head.weight.copy_(self.classify.weight @ self.project.weight)
            if head.bias is not None:
                head.bias.copy_(self.classify.weight @ self.project.bias + self.classify.bias)

    def state(self) -> dict[str, Any]:
        """The layers and their optimiser."""
        return {"layers": self.state_dict(), "optimizer": self.optimizer.state_dict()}
