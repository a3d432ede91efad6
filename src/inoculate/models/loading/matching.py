"""State dicts of the user's fitted to a network: as a whole, or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from inoculate.models.loading.weights import StateDict

SHOWN = 5  # names of each kind in a message
# Parts of a name that a wrapper adds in any place: of torch.compile, of sharding, of checkpointing.
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# What is counted, or computed when a network is built: neither the file nor the network need have it.
COMPUTED = re.compile(
    r"(^|\.)(num_batches_tracked|n_averaged|total_ops|total_params|relative_position_index|relative_coords_table"
    r"|attn_mask|position_ids)$"
)
# Layers in a file that the published networks run in training alone, or never.
UNUSED = re.compile(r"^(aux1|aux2|AuxLogits|sub_block1)\.")
WEIGHT_NORM = {"weight_g": "original0", "weight_v": "original1"}  # the older names and the newer ones
MEANS, STDS = ("mean", "mu", "image_mean", "pixel_mean"), ("std", "sigma", "image_std", "pixel_std")


class Shapes(NamedTuple):
    """A tensor whose shape in the file is not that in the network."""

    name: str
    file: tuple[int, ...]
    network: tuple[int, ...]


@dataclass(frozen=True)
class Match:
    """How a state dict fits a network.

    tensors: by their names in the network. prefix: what names in the file begin with and names in the network do not.
    missing: names of the network that the file lacks. unexpected: names in the file that the network lacks. outside:
    names in the file without the prefix. harmless: names in the file that do not matter. normalization: a mean and a
    std in the file that the network has no place for.
    """

    state: StateDict
    prefix: str
    tensors: Mapping[str, Tensor]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong: tuple[Shapes, ...]
    outside: tuple[str, ...]
    harmless: tuple[str, ...]
    normalization: tuple[Tensor, Tensor] | None = None

    @property
    def fits(self) -> bool:
        """Whether the whole network is in the file, and nothing else under the prefix."""
        return not self.problems and bool(self.tensors)

    @property
    def problems(self) -> int:
        """How many tensors are missing, unexpected, or of another shape."""
        return len(self.missing) + len(self.unexpected) + len(self.wrong)

    @property
    def label(self) -> str:
        """Where the state dict is in its file, such as `state_dict` or `teacher`; empty for a plain one."""
        return ".".join((*self.state.place, *filter(None, self.prefix.split("."))))


def matches(states: Iterable[StateDict], network: nn.Module) -> list[Match]:
    """Every reasonable way to fit one of the state dicts to `network`, best first.

    A name may have a prefix in the file (`module.`), or in the network (a wrapper that holds all of its parameters).
    """
    found = [
        _match(state, _unwrapped(state.tensors), prefix, network, inner)
        for state in states
        for inner in _levels(network)
        for prefix in _prefixes(_unwrapped(state.tensors), network.get_submodule(inner))
    ]
    return sorted(found, key=lambda match: match.problems)  # stable: the outermost level first


def describe(match: Match, classes: int | None = None) -> str:
    """What does not fit, in one line: counts, and the first names of each kind.

    classes: of the data, to name a head that was made for another number of them.
    """
    if not match.tensors and not match.wrong:
        return (
            f"none of the {len(match.state.tensors)} names fits: the file has {_some(match.state.tensors)}; "
            f"the network {_some(match.missing)}"
        )
    special = "" if match.missing or match.unexpected else _known_mismatch(match.wrong, classes)
    parts = [f"{len(match.missing)} missing ({_some(match.missing)})"] if match.missing else []
    parts += [f"{len(match.unexpected)} unexpected ({_some(match.unexpected)})"] if match.unexpected else []
    if match.wrong:
        shapes = [f"{each.name} {_times(each.file)}, not {_times(each.network)}" for each in match.wrong]
        parts.append(f"{len(match.wrong)} of another shape ({_some(shapes)})")
    return f"{special}{'; ' if special else ''}{', '.join(parts)}"


def tied_tensors_differ(match: Match, network: nn.Module) -> list[str]:
    """Names of tensors that are one in the network, and that the file gives different values."""
    return [
        name
        for name, first in _tied(network).items()
        if name in match.tensors and first in match.tensors
        and not torch.equal(match.tensors[name], match.tensors[first])
    ]  # fmt: skip


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, value in tensors.items():
        for part in WRAPPERS:
            name = name.replace(part, "")
        found[name] = value
    return found


def _levels(network: nn.Module) -> Iterator[str]:
    """The paths of `network` and of the modules inside it that hold all it learns, from outside in.

    Outside an inner one there is at most a normalisation.
    """
    path = ""
    while True:
        yield path
        module = network.get_submodule(path)
        holders = [name for name, child in module.named_children() if any(True for _ in child.parameters())]
        if len(holders) != 1 or any(True for _ in module.parameters(recurse=False)):
            return
        outside = [name for name in module.state_dict() if not name.startswith(f"{holders[0]}.")]
        if not all(name.rpartition(".")[2] in (*MEANS, *STDS) for name in outside):
            return
        path = f"{path}.{holders[0]}".lstrip(".")


def _prefixes(tensors: Mapping[str, Tensor], network: nn.Module) -> list[str]:
    """What may stand before the network's names in the file, found by its first and its last parameter."""
    names = [name for name, _ in network.named_parameters()]
    ends = {names[0], names[-1]} if names else set()
    found = {name[: -len(end)] for name in tensors for end in ends if name == end or name.endswith(f".{end}")}
    return sorted({"", *found}, key=len)


def _match(state: StateDict, tensors: Mapping[str, Tensor], prefix: str, network: nn.Module, inner: str) -> Match:
    """Fit what has the prefix in the file to the module at the path `inner` of the network."""
    module, path = network.get_submodule(inner), f"{inner}." if inner else ""
    own = module.state_dict()
    given = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    given = _named_as(given, own)
    extra = {name: value for name, value in given.items() if name not in own}
    extra |= {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    pair = normalization_pair(extra)
    taken = pair.keys() if pair else set()
    fitting = {name: value for name, value in given.items() if name in own and _same_shape(value, own[name])}
    tied = _tied(module)
    missing = [name for name in own if name not in given and not _may_lack(name, given, tied)]
    return Match(
        state, prefix,
        {f"{path}{name}": value.reshape(_shape(own[name], value)) for name, value in fitting.items()},
        tuple(missing),
        tuple(name for name in given if name not in own and name not in taken and not _is_harmless(name)),
        tuple(
            Shapes(name, tuple(value.shape), tuple(own[name].shape))
            for name, value in given.items() if name in own and name not in fitting
        ),
        tuple(name for name in tensors if not name.startswith(prefix) and name not in taken),
        tuple(name for name in extra if _is_harmless(name)),
        None if pair is None else tuple(pair.values()),  # type: ignore[arg-type]
    )  # fmt: skip


def _named_as(given: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the network's names where a wrapper of a part of it, or the older weight norm, has others."""
    found = {}
    for name, value in given.items():
        parent, _, last = name.rpartition(".")
        first, _, rest = name.partition(".")  # torch.nn.DataParallel around a part of the network
        others = [".".join((first, *(part for part in rest.split(".") if part != "module")))]
        if last in WEIGHT_NORM:
            others.append(f"{parent}.parametrizations.weight.{WEIGHT_NORM[last]}".lstrip("."))
        found[next((each for each in (name, *others) if each in own), name)] = value
    return found


def normalization_pair(extra: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The one pair of a mean and a std among tensors by name; None where there is none, or several that differ."""
    pairs: list[dict[str, Tensor]] = []
    for name, mean in extra.items():
        parent, dot, last = name.rpartition(".")
        if last not in MEANS:
            continue
        other = f"{parent}{dot}{STDS[MEANS.index(last)]}"
        std = extra.get(other)
        if std is not None and mean.numel() == std.numel() <= 4 and mean.is_floating_point():
            pairs.append({name: mean.float().flatten(), other: std.float().flatten()})
    return pairs[0] if len(pairs) == 1 else None


def _tied(module: nn.Module) -> dict[str, str]:
    """Names of parameters that are the same tensor as an earlier one, and the name of that one."""
    first: dict[int, str] = {}
    found = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            found[name] = first[id(parameter)]
    return found


def _may_lack(name: str, given: Mapping[str, Tensor], tied: Mapping[str, str]) -> bool:
    """Whether a tensor of the network need not be in the file: it is tied to one that is, or computed or counted."""
    one = tied.get(name, name)
    same = {one, *(other for other, first in tied.items() if first == one)}
    return not same.isdisjoint(given) or COMPUTED.search(name) is not None


def _is_harmless(name: str) -> bool:
    """Whether a tensor of a file changes no output of a network that lacks it."""
    return COMPUTED.search(name) is not None or UNUSED.search(name) is not None


def _same_shape(value: Tensor, own: Tensor) -> bool:
    """Whether the shapes agree but for sides of 1, as those of a linear layer and a 1×1 convolution do."""
    if is_lazy(own):
        return True
    return [side for side in value.shape if side != 1] == [side for side in own.shape if side != 1]


def _shape(own: Tensor, value: Tensor) -> Sequence[int]:
    return value.shape if is_lazy(own) else own.shape


def _known_mismatch(wrong: Sequence[Shapes], classes: int | None) -> str:
    """What a difference in shape alone means, where it can be told."""
    parents = {each.name.rpartition(".")[0] for each in wrong}
    if len(parents) == 1 and all(each.file[1:] == each.network[1:] for each in wrong):
        head, made, wanted = next(iter(parents)), wrong[0].file[:1], wrong[0].network[:1]
        if wanted == (classes,) or classes is None:
            return (
                f"the classifier head {head} of the file has {_times(made)} classes and the network's {_times(wanted)}"
            )
    if len(wrong) == 1 and len(wrong[0].file) == 4 and wrong[0].file[0] == wrong[0].network[0]:
        if wrong[0].file[2:] == wrong[0].network[2:]:
            return f"the file is for {wrong[0].file[1]} channels and the network for {wrong[0].network[1]}"
        return f"the first layer of the file has a {_times(wrong[0].file[2:])} kernel"
    if all("pos_embed" in each.name or "position" in each.name for each in wrong):
        return "the file is for another image size than the network"
    return ""


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:SHOWN]) + (", …" if len(listed) > SHOWN else "")


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "a number"
