"""The job `certify`: what is proven of a classifier, beside what attacks leave of it on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from inoculate.certification.bounds.region import require_bounded_norm
from inoculate.certification.certifiers import SMOOTHING, require_method
from inoculate.certification.smoothing import Smoothing
from inoculate.core.errors import InputError
from inoculate.core.progress import Progress
from inoculate.core.threat import Threat, require_threats
from inoculate.data.load import DataLike
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.inputs import (
    Attacks,
    name_of_model,
    random_weights_warning,
    resolve_attacks,
    resolve_data,
    resolve_model,
)
from inoculate.evaluation.natural import Natural
from inoculate.evaluation.proofs import Proofs
from inoculate.evaluation.result import Evaluation
from inoculate.evaluation.votes import certify_votes, require_smoothed_norm
from inoculate.models.loading.load import ModelLike


@dataclass(frozen=True)
class CertificationOptions:
    """Settings of `certify`.

    Options:
        method: `ibp`, `crown-ibp` or `crown` (see `margin_bounds`), each after the cheaper ones; `auto` is all that end
            in reasonable time. `smoothing` certifies another classifier, which votes over noisy copies of an image.
        smoothing: how it does, with `smoothing`.
        evaluation: as for `evaluate`. A time budget holds for the attacks, and once more for the proofs: images that
            are not reached are not certified. The workers of an executor attack batches, and then prove them.
    """

    method: str = "auto"
    smoothing: Smoothing = Smoothing()
    evaluation: EvaluationOptions = EvaluationOptions()

    def __post_init__(self) -> None:
        require_method(self.method)


def certify(
    model: ModelLike,
    data: DataLike,
    threats: Sequence[Threat] = (Threat(),),
    attacks: Attacks = ("autoattack",),
    *,
    batch_size: int | None = None,
    seed: int = 0,
    options: CertificationOptions = CertificationOptions(),
    progress: Progress | None = None,
) -> Evaluation:
    """Prove which images a classifier gets right whatever the attack, and attack the same images.

    The accuracy under the best possible attack lies between the certified one and the lowest under an attack. An image
    is certified at a threat if the model gets it right, and a lower bound of its margin over every image that an attack
    may return exceeds what rounding can explain. Cheap bounds go first, tighter ones get what is left.

    Args:
        model: as for `evaluate`, in fp32, of layers whose bounds are known: convolution, linear, BatchNorm, ReLU and
            other monotone activations, pooling, additions, changes of shape.
        data: as for `evaluate`.
        threats: norms (L∞, L2, L1) and sizes; proven is also what the evaluation's options name as `certified`.
        attacks: as for `evaluate`; an empty list leaves them out.
        batch_size: images at a time, by default what fits into memory.
        seed: of every random draw.
        options: everything else.
        progress: as for `evaluate`; for the proofs called as `(what, done, all)` with numbers of images.

    With `smoothing` the clean and the certified rows are those of the smoothed classifier, in L2 only, and nothing is
    attacked: an attack on the network says nothing of its votes.

    Returns:
        What `evaluate` returns, with a row for each threat whose `attack` is `certified`, and a check of each that
        fails where an attack broke a certified image. The margin of an image is minus a lower bound of the true logit
        minus the largest other one.

    Raises `InputError` for a layer without bounds, which it names, for L0, and as `evaluate` does.
    """
    threats, attacks, own = require_threats(threats), resolve_attacks(attacks), options.evaluation
    if not threats:
        raise InputError("there is no threat to certify: give one such as [Threat('linf', 0.1)]")
    smoothed, proven = options.method == SMOOTHING, tuple(dict.fromkeys((*threats, *own.certified)))
    for threat in proven:
        (require_smoothed_norm if smoothed else require_bounded_norm)(threat)
    images = resolve_data(data, model)
    own = replace(own, name=own.name or name_of_model(model), certified=())
    network = resolve_model(model, images, own.device)
    natural = Natural.begin(network, images, threats[0].norm, batch_size, seed, own)
    if smoothed:
        with natural.spread(own) as spread:
            found = certify_votes(spread, proven, options.smoothing, own.start_budget(), progress)
        return replace(found, warnings=[*random_weights_warning(model), *found.warnings])
    proofs = Proofs.begin(natural, options.method, batch_size, progress)
    how: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "options": own, "progress": progress}
    found = evaluate(network, images, attacks, threats, **how)
    found = replace(found, warnings=[*random_weights_warning(model), *found.warnings])
    with natural.spread(own) as spread:
        return replace(proofs, natural=spread).added_to(found, proven, own.start_budget())
