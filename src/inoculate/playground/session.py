"""What the playground computes: one image attacked on one network or two. Nothing here knows the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inoculate.attacks.base import Attack
from inoculate.attribution.maps import grad_cam, integrated_gradients
from inoculate.core.errors import InputError, suggest
from inoculate.core.modes import frozen
from inoculate.core.options import is_number
from inoculate.core.pixels import to_float
from inoculate.core.rng import seeded
from inoculate.core.threat import Norm, Threat
from inoculate.data.dataset import Dataset
from inoculate.data.preprocessing import Preprocessing
from inoculate.evaluation.engine import Settings, measure_attack
from inoculate.models.classifier import Classifier
from inoculate.playground.upload import Picture, read_upload

STEPS = 8  # of each path integral
LARGEST_FACTOR = 4  # the largest eps, in those that the session was opened with
STEPS_TO_START = 16  # from eps 0
_TRIED = 8  # images, when one is chosen to start with


@dataclass(frozen=True, eq=False)
class Network:
    """A network to play with: its name, its classifier and the names of its outputs."""

    name: str
    classifier: Classifier
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Outcome:
    """One image attacked on one network.

    Fields:
        network: its name.
        classes: K names.
        truth: the class that the attack leads away from: the label, or where it is unknown the clean prediction.
        clean, attacked: float32, K: the probabilities on the image before and after the attack.
        image: float32, H×W×C in [0, 1], the attacked image.
        moved: float32, H×W×C: `image` minus the clean one.
        distance: of the two in the threat's norm.
        replayed: float32, K: the probabilities on the image that was crafted on the first network; None of that itself.
        attribution: float32, 2×H×W: integrated gradients for the class predicted before the attack, before and after;
            None where they were not computed.
        grad_cam: float32, 2×H×W, ≥ 0, for the same class; None where they were not computed, or the network has none.
        notes: what is missing and why, one phrase each.
    """

    network: str
    classes: tuple[str, ...]
    truth: int
    clean: NDArray[np.float32]
    attacked: NDArray[np.float32]
    image: NDArray[np.float32]
    moved: NDArray[np.float32]
    distance: float
    replayed: NDArray[np.float32] | None = None
    attribution: NDArray[np.float32] | None = None
    grad_cam: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()

    @property
    def before(self) -> int:
        """The class predicted before the attack."""
        return int(self.clean.argmax())

    @property
    def after(self) -> int:
        """The class predicted after the attack."""
        return int(self.attacked.argmax())

    @property
    def verdict(self) -> str:
        """`wrong before` (a clean error), `fooled` or `holds`."""
        return "wrong before" if self.before != self.truth else "fooled" if self.after != self.truth else "holds"


@dataclass(frozen=True, eq=False)
class Answer:
    """What an attack on a picture does, network by network."""

    picture: Picture
    attack: str
    threat: Threat
    outcomes: tuple[Outcome, ...]
    label: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the attributions are there too, as far as there can be any."""
        return all(each.attribution is not None or each.notes for each in self.outcomes)


@dataclass(frozen=True, eq=False)
class Session:
    """Networks, images and attacks to play with; requests are answered one at a time, from any thread.

    Fields:
        networks: one, or the one before and the one after its hardening.
        data: the images that can be chosen.
        reading: how an uploaded image is read, image size and channels included.
        attacks: by name.
        norm: of the threat.
        eps: at which the page starts. The largest is four times as much, or what the norm allows.
        seed: of the attacks' random numbers: the same request has the same answer.
        title: what is attacked.
        warnings: what looks wrong with the networks, one line each.
    """

    networks: tuple[Network, ...]
    data: Dataset
    reading: Preprocessing
    attacks: Mapping[str, Attack]
    norm: Norm = "linf"
    eps: float = 8 / 255
    seed: int = 0
    title: str = ""
    warnings: tuple[str, ...] = ()
    _turn: Any = field(default_factory=Lock, repr=False)

    @property
    def largest_eps(self) -> float:
        """The largest eps that is answered."""
        most = LARGEST_FACTOR * self.eps
        return min(most, 1.0) if self.norm == "linf" else most

    def picture(self, number: int) -> Picture:
        """Image `number` of the data. Raises `InputError` where there is none."""
        if not (isinstance(number, int) and 0 <= number < len(self.data)):
            raise InputError(f"image {number} is not there: give a number from 0 to {len(self.data) - 1}")
        return Picture(
            self.data.images[number].clone(), int(self.data.labels[number]), f"image {number} of {self.data.name}"
        )

    def first_right(self, numbers: Sequence[int]) -> int:
        """Of the first few of these images, the first that every network classifies correctly; else the first one."""
        for number in numbers[:_TRIED]:
            x, label = to_float(self.picture(number).pixels[None]), int(self.data.labels[number])
            with self._turn:
                if all(int(_probabilities(each, x, self.seed).argmax()) == label for each in self.networks):
                    return number
        return numbers[0]

    def upload(self, content: bytes) -> Picture:
        """The image in an uploaded file; raises `InputError`, one line, for a file that is refused."""
        return read_upload(content, self.reading)

    def answer(self, picture: Picture, attack: str, eps: float) -> Answer:
        """Attack `picture` on every network. Raises `InputError` for an unknown attack, an eps out of range, and an
        attack that does not fit.
        """
        threat, chosen = self._threat(eps), self._attack(attack)
        label = None if picture.label is None else self.data.classes[picture.label]
        outcomes: list[Outcome] = []
        with self._turn:
            for network in self.networks:
                found = self._attacked(network, picture, chosen, threat)
                if outcomes:
                    first = torch.from_numpy(outcomes[0].image).permute(2, 0, 1)[None]
                    found = replace(found, replayed=_probabilities(network, first, self.seed))
                outcomes.append(found)
        return Answer(picture, attack, threat, tuple(outcomes), label)

    def explained(self, answer: Answer) -> Answer:
        """The answer with attributions on the image before and after the attack."""
        with self._turn:
            pairs = zip(self.networks, answer.outcomes, strict=True)
            return replace(answer, outcomes=tuple(_attributed(*pair) for pair in pairs))

    def stages(self, picture: Picture, attack: str, eps: float, attributions: bool = True) -> Iterator[Answer]:
        """The answer at once, then, where `attributions` are wanted, with them."""
        answer = self.answer(picture, attack, eps)
        yield answer
        if attributions:
            yield self.explained(answer)

    def _threat(self, eps: float) -> Threat:
        most = self.largest_eps
        if not is_number(eps) or not 0 <= eps <= most * (1 + 1e-6):  # false for NaN too
            raise InputError(f"eps {eps} is out of range: give a number from 0 to {most:.4g}")
        return Threat(self.norm, round(eps) if self.norm == "l0" else min(float(eps), most))

    def _attack(self, name: str) -> Attack:
        if name not in self.attacks:
            raise InputError(f"attack '{name}' is not offered here: {suggest(str(name), tuple(self.attacks))}")
        return self.attacks[name]

    def _attacked(self, network: Network, picture: Picture, attack: Attack, threat: Threat) -> Outcome:
        """White-box, as `evaluate` does it: an image outside the threat model is refused."""
        clean = to_float(picture.pixels[None])
        before = _probabilities(network, clean, self.seed)
        truth = int(before.argmax()) if picture.label is None else picture.label
        data = Dataset.from_tensors(picture.pixels[None], torch.tensor([truth]), network.classes, self.data.name)
        settings = Settings(batch_size=1, seed=self.seed, keep_images=True)
        everything = torch.ones(1, dtype=torch.bool)
        (result,) = measure_attack(network.classifier, data, attack, [threat], everything, settings)
        assert result.images is not None
        x_adv = result.images.float()
        return Outcome(
            network.name,
            network.classes,
            truth,
            before,
            _probabilities(network, x_adv, self.seed),
            _planes_last(x_adv[0]),
            _planes_last(x_adv[0] - clean[0]),
            float(result.distance[0]),
        )


def _probabilities(network: Network, x: Tensor, seed: int) -> NDArray[np.float32]:
    """The probabilities (K) for one image, 1×C×H×W. Raises `InputError` where the outputs are not finite."""
    classifier = network.classifier
    x = classifier.placed(x)
    with classifier.ready(), seeded(seed, "play"):
        found = classifier.logits(x, torch.zeros(1, dtype=torch.long, device=x.device)).float().softmax(dim=1)[0]
    if not bool(found.isfinite().all()):
        raise InputError(f"{network.name} gives outputs that are not finite on this image: check its weights")
    probabilities: NDArray[np.float32] = found.cpu().numpy()
    return probabilities


def _attributed(network: Network, outcome: Outcome) -> Outcome:
    classifier = network.classifier
    if classifier.is_black_box:
        return replace(outcome, notes=("no attribution: the network gives no gradient",))
    pair = np.stack([outcome.image - outcome.moved, outcome.image])
    x = torch.from_numpy(pair).permute(0, 3, 1, 2).to(classifier.device, classifier.dtype)
    classes = torch.full((2,), outcome.before, device=x.device)
    with frozen(classifier.model):
        paths = integrated_gradients(classifier.model, x, classes, STEPS).float().cpu().numpy()
        cams = grad_cam(classifier.model, x, classes)
    return replace(outcome, attribution=paths, grad_cam=None if cams is None else cams.detach().float().cpu().numpy())


def _planes_last(image: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = image.detach().permute(1, 2, 0).contiguous().cpu().numpy()
    return found
