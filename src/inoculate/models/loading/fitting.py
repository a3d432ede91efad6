"""Weights of the user's loaded into a network: which state dict of a file, what is converted, what is left out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from inoculate.core.errors import InputError
from inoculate.models.loading.matching import SHOWN, Match, describe, matches, normalization_pair, tied_tensors_differ
from inoculate.models.loading.weights import StateDict, read_state_dicts
from inoculate.models.normalize import MeanStd, describe_normalization, same_normalization

_log = logging.getLogger(__name__)
# Where several state dicts of a file fit, an average of weights (EMA) comes first, as in timm, then these.
PREFERRED = ("", "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module")


def split_weights(weights: str | Path) -> tuple[Path, str | None]:
    """The file, and which of the state dicts in it: `checkpoint.pth:ema` names the one under the key `ema`."""
    path = Path(weights)
    file, colon, label = str(weights).rpartition(":")
    if not path.exists() and colon and Path(file).is_file():
        return Path(file), label
    return path, None


def read_weights(weights: str | Path) -> list[StateDict]:
    """The state dicts in the file `weights`, or the one that is named behind a colon. Raises `InputError`."""
    path, label = split_weights(weights)
    if str(weights).startswith(("http://", "https:/")):
        raise InputError(f"weights {weights} are on another machine: download the file and give its path")
    states = read_state_dicts(path)
    if label is None:
        return states
    chosen = [state for state in states if ".".join(state.place) == label or label in state.place]
    return chosen or states


def load_into(
    network: nn.Module, weights: str | Path, *, classes: int | None = None, declared: MeanStd | None = None
) -> MeanStd | None:
    """Load a file of weights into `network`, the whole of it or nothing.

    weights: safetensors or a state dict that `torch.save` wrote, plain or under a key; `file.pth:KEY` names one of
    several. Prefixes of names are left out, and types are converted. classes: of the data, for messages. Returns the
    normalisation to put in front of the network: one in the file that the network has no place for, else the
    `declared` one. Raises `InputError` for a file that cannot be read, does not fit, or contradicts what is
    declared or inside the network.
    """
    match = best_match(network, read_weights(weights), weights, classes)
    inside = normalization_pair({k: v for k, v in network.state_dict().items() if k not in match.tensors})
    present = declared if inside is None else tuple(tuple(each.tolist()) for each in inside.values())
    held = held_normalization(match, weights, present)  # type: ignore[arg-type]
    load_match(network, match, weights)
    return declared if held is None or inside is not None else held


def best_match(
    network: nn.Module, states: Sequence[StateDict], weights: str | Path, classes: int | None = None
) -> Match:
    """How the weights fit the network; where several state dicts of the file do, the preferred one, and this is said.

    Raises `InputError` where none fits, none of several is preferred, or its values cannot be weights.
    """
    found = matches(states, network)
    if not found or not any(True for _ in network.state_dict()):
        raise InputError(f"weights {weights} cannot be loaded: the network has no weights of its own")
    fitting: dict[int, Match] = {}
    parameters = [name for name, _ in network.named_parameters()]
    for match in found:
        if match.fits:  # the same tensors may fit a network and the one inside it
            taken = next((match.tensors[name] for name in parameters if name in match.tensors), None)
            fitting.setdefault(0 if taken is None else taken.data_ptr(), match)
    if not fitting:
        raise InputError(
            f"weights {weights} do not fit the network ({describe(found[0], classes)}): give the network they were "
            "trained for, or other weights"
        )
    chosen = _preferred(list(fitting.values()), weights)
    _check_values(network, chosen, weights)
    return chosen


def load_match(network: nn.Module, match: Match, weights: str | Path) -> None:
    """Load what `best_match` found, and say what was done."""
    network.load_state_dict({**network.state_dict(), **match.tensors})
    kinds = sorted(
        {str(value.dtype).removeprefix("torch.") for value in match.tensors.values() if value.is_floating_point()}
        - {str(p.dtype).removeprefix("torch.") for p in network.parameters()}
    )
    done = [f"taken from '{'.'.join(match.state.place)}'"] if match.state.place else []
    done += [f"without the prefix '{match.prefix}'"] if match.prefix else []
    done += ["without the prefix '_orig_mod.'"] if any("_orig_mod." in name for name in match.state.tensors) else []
    done += [f"converted from {', '.join(kinds)}"] if kinds else []
    harmless = [name for name in match.harmless if not name.endswith("num_batches_tracked")]
    done += [f"without what changes no output ({_some(harmless)})"] if harmless else []
    outside = [name for name in match.outside if name not in match.harmless]
    done += [f"without {len(outside)} tensors of other networks ({_some(outside)})"] if outside else []
    if done:
        _log.info("weights %s: %s", weights, ", ".join(done))


def held_normalization(match: Match, weights: str | Path, declared: MeanStd | None) -> MeanStd | None:
    """The normalisation in a file as (mean, std) for pixels in [0, 1], if there is one, and say that it is used.

    Raises `InputError` for one that cannot be computed, or is not the declared one.
    """
    if match.normalization is None:
        return None
    mean, std = (tuple(float(number) for number in each) for each in match.normalization)
    if not all(torch.isfinite(each).all() for each in match.normalization) or min(std) <= 0:
        raise InputError(f"weights {weights} hold a normalisation that cannot be computed: mean {mean}, std {std}")
    scale = 255.0 if max(mean) > 1 else 1.0  # of pixels from 0 to 255
    held = tuple(each / scale for each in mean), tuple(each / scale for each in std)
    if declared is not None and not same_normalization(held, declared):
        raise InputError(
            f"weights {weights} hold the normalisation {describe_normalization(held)}, and "
            f"{describe_normalization(declared)} is declared or in the network: leave that out, or give the right one"
        )
    _log.info("weights %s hold their normalisation, which is used: %s", weights, describe_normalization(held))
    return held


def _preferred(fitting: list[Match], weights: str | Path) -> Match:
    _, label = split_weights(weights)
    named = [match for match in fitting if label is not None and label in (match.label, *match.label.split("."))]
    if label is not None and not named:
        raise InputError(f"weights {weights}: there is no '{label}', but {_labels(fitting)}: name one of these")
    ranked = sorted(named or fitting, key=_rank)
    if len(ranked) > 1 and _rank(ranked[0]) == _rank(ranked[1]):
        raise InputError(
            f"weights {weights} hold {len(ranked)} networks that fit ({_labels(ranked)}): name one, {weights}:"
            f"{ranked[0].label or ranked[1].label}"
        )
    if len(ranked) > 1:
        _log.warning(
            "weights %s hold %d networks that fit (%s): '%s' is used; %s:%s is another",
            weights, len(ranked), _labels(ranked), ranked[0].label, weights, ranked[1].label,
        )  # fmt: skip
    return ranked[0]


def _rank(match: Match) -> int:
    parts = match.label.lower().split(".")
    if any("ema" in part.split("_") for part in parts):
        return -1
    places = [PREFERRED.index(part) for part in parts if part in PREFERRED]
    return min(places) if len(places) == len(parts) else len(PREFERRED)


def _labels(found: Sequence[Match]) -> str:
    return _some([match.label or "(top)" for match in found])


def _check_values(network: nn.Module, match: Match, weights: str | Path) -> None:
    """Raise `InputError` for tensors that cannot be the weights of this network, though their shapes are right."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    taken = {name: value for name, value in match.tensors.items() if name in parameters}
    if strange := [name for name, value in taken.items() if _is_other_kind(value, parameters[name])]:
        kind = str(taken[strange[0]].dtype).removeprefix("torch.")
        raise InputError(
            f"weights {weights} are {kind} ({_some(strange)}), as of a quantised network: give the original"
        )
    if broken := [name for name, value in taken.items() if not value.float().isfinite().all()]:
        raise InputError(f"weights {weights} are not finite in {len(broken)} tensors ({_some(broken)}): give others")
    if differ := tied_tensors_differ(match, network):
        raise InputError(f"weights {weights} differ where the network has one tensor ({_some(differ)}): give others")


def _is_other_kind(value: Tensor, own: Tensor) -> bool:
    return value.is_quantized or value.is_floating_point() != own.is_floating_point()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
