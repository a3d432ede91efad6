"""The job `play`: from a model and data to a page that attacks one image at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from inoculate.attacks.base import Attack
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat, refuse_mask, require_threat
from inoculate.data.dataset import Dataset
from inoculate.data.load import DataLike
from inoculate.data.preprocessing import AS_THEY_ARE, Preprocessing, as_size
from inoculate.evaluation.inputs import (
    Attacks,
    Matching,
    Prepared,
    is_spec,
    name_of_model,
    prepare_checked,
    resolve_attacks,
    resolve_data,
)
from inoculate.models.loading.checkpoints import WEIGHTS, made_by_function
from inoculate.models.loading.inputs import expected_preprocessing
from inoculate.models.loading.load import ModelLike, as_module, load_model
from inoculate.models.loading.weights import TORCH_SUFFIXES, holds_state_dict
from inoculate.playground.serve import LOOPBACK, Playground, require_gradio, serve
from inoculate.playground.session import Network, Session
from inoculate.report.names import short_name

ATTACKS = ("fgsm", "pgd", "apgd_ce", "square", "autoattack")
BEFORE, AFTER = "Before hardening", "After hardening"


@dataclass(frozen=True)
class PlayOptions:
    """Settings of `play` that are rarely changed.

    Args:
        name: of the model; by default its SPEC, else `model`.
        preprocessing: how an uploaded image is read; what it leaves open, the model SPEC and the data say.
        matching: of outputs with the classes of the data.
        seed: of the attacks' random numbers.
        device: where a model SPEC is loaded.
        host: the address to listen on; by default this machine alone can open the page.
        port: by default the first free one from 7860.
    """

    name: str | None = None
    preprocessing: Preprocessing = AS_THEY_ARE
    matching: Matching = field(default_factory=Matching)
    seed: int = 0
    device: str = "cpu"
    host: str = LOOPBACK
    port: int | None = None


def play(
    model: ModelLike,
    data: DataLike,
    attacks: Attacks = ATTACKS,
    threat: Threat = Threat(),
    *,
    hardened: ModelLike | None = None,
    options: PlayOptions = PlayOptions(),
) -> Playground:
    """Serve a page that attacks one image at a time; returns at once, and the result's `url` is the page's address.

    Args:
        model: as for `evaluate`.
        data: as for `evaluate`: the images that can be chosen.
        attacks: names or attack objects, as for `evaluate`, the first of which is chosen at the start.
        threat: norm and the eps at the start; the largest is four times as much.
        hardened: the network after its hardening, which is attacked beside `model`.
        options: everything else.

    Raises `InputError` for whatever cannot be loaded or attacked, and where Gradio is not installed.
    """
    require_gradio()
    session = open_session(model, data, attacks, threat, hardened=hardened, options=options)
    return serve(session, options.host, options.port)


def open_session(
    model: ModelLike,
    data: DataLike,
    attacks: Attacks = ATTACKS,
    threat: Threat = Threat(),
    *,
    hardened: ModelLike | None = None,
    options: PlayOptions = PlayOptions(),
) -> Session:
    """What `play` serves, without the page: see there."""
    images, offered = resolve_data(data, model), resolve_attacks(attacks)
    _check(images, offered, require_threat(threat))
    name = short_name(options.name or name_of_model(model))
    networks = {name: model}
    if hardened is not None:
        after = load_hardened(hardened, model, images)
        networks = {BEFORE: model, AFTER: after.to(options.device) if is_spec(hardened) else after}
    prepared = {each: _prepared(network, images, each, options) for each, network in networks.items()}
    doubts = dict.fromkeys(line for found in prepared.values() for line in found.warnings)
    own = expected_preprocessing(str(model)) if is_spec(model) else AS_THEY_ARE
    reading = replace(options.preprocessing.over(own), image_size=as_size(*images.image_size), channels=images.channels)
    return Session(
        tuple(Network(each, found.classifier, found.data.classes) for each, found in prepared.items()),
        images, reading, offered, threat.norm, threat.eps, options.seed,
        title=f"{name} on {images.name}" + ("" if hardened is None else ", before and after hardening"),
        warnings=(*doubts, *_exposed(options.host)),
    )  # fmt: skip


def load_hardened(
    hardened: ModelLike, model: ModelLike, data: Dataset, *, outputs: str = "logits", normalize: str | None = None
) -> nn.Module:
    """The network after its hardening: a model SPEC, or weights for the network that the SPEC `model` names.

    hardened: also a file of weights, or the folder of a network that a function of the user's builds. outputs,
    normalize: what is declared about that network. Raises `InputError` where it cannot be loaded.
    """
    if not is_spec(hardened):
        return as_module(hardened)
    path = Path(str(hardened))
    folder = path.is_dir() and made_by_function(path)
    weights = path / WEIGHTS if folder else path
    if not (folder or _is_weights(path)):
        return load_model(path if path.exists() else str(hardened), data)
    if not is_spec(model):
        raise InputError(f"{path} holds weights without a network: give the hardened network as a module")
    return load_model(str(model), data, weights=weights, outputs=outputs, normalize=normalize)


def _is_weights(path: Path) -> bool:
    return path.is_file() and (
        path.suffix == ".safetensors" or (path.suffix in TORCH_SUFFIXES and holds_state_dict(path))
    )


def _prepared(model: ModelLike, images: Dataset, name: str, options: PlayOptions) -> Prepared:
    found = prepare_checked(model, images, "fast", options.device, options.seed, name, options.matching)
    if found.classifier.labels_only:
        raise InputError(f"{name}: the model gives labels only, and the page shows probabilities: use evaluate")
    return found


def _exposed(host: str) -> list[str]:
    """A warning where the page is not for this machine alone."""
    return [] if host in (LOOPBACK, "localhost", "::1") else [f"others can open the page through {host}"]


def _check(images: Dataset, attacks: Sequence[str] | dict[str, Attack], threat: Threat) -> None:
    refuse_mask(threat, "the playground")
    if threat.eps == 0:
        raise InputError("eps 0 is no attack: give a size such as 8/255")
    if not len(images):
        raise InputError(f"{images.name} holds no images: give some")
    if not attacks:
        raise InputError("no attack is given: name one such as fgsm")
