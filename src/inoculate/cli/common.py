"""Options and checks that the commands share."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inoculate.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from inoculate.core.threat import Threat
    from inoculate.data.dataset import Dataset

DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", envvar="INOCULATE_DATA", help="Folder searched for <name>/ before the hub."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only this many images, drawn evenly over the classes.")]
Data = Annotated[str, typer.Option(help="mnist, cifar10, cats_vs_dogs, digits, a hub id owner/name, or a folder.")]
ImageSize = Annotated[int | None, typer.Option(help="Side in pixels at which images are loaded.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random draw.")]
Norm = Annotated[str, typer.Option(help="linf, l2 or l1.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per batch.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps …; auto takes the fastest there is.")]

MEASURED = ("history.json", "README.md", "results.json", "model.onnx")  # what is written of a model, the first last


def pick_device(name: str) -> str:
    """The device called `name`, or for `auto` the fastest there is. Raises `InputError` if it is not there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device '{name}' cannot be used here: choose cpu or auto") from error
    return name


def warn_large_eps(threats: Iterable[Threat], images: Dataset) -> None:
    """Warn of an eps that cannot be meant for these images."""
    from inoculate.core.threat import large_eps_warning

    for threat in threats:
        if said := large_eps_warning(threat, tuple(images.images.shape[1:])):
            typer.echo(f"warning: {said}", err=True)


def writable(folder: Path) -> Path:
    """`folder`, made if need be; raises `InputError` now if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".inoculate-") as probe:  # a name no other process has
            probe.write(b"\0" * 4096)
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}): give another folder with --out") from error
    return folder


def check_out(out: Path, data: str, inputs: Iterable[str | Path | None]) -> None:
    """Raise `InputError` where a model in `out` would overwrite what it is made from or is not ours, or lie among the
    images."""
    from inoculate.models.loading.checkpoints import DESCRIPTION, MODEL_FOLDER, WEIGHTS

    place = out.resolve()
    for each in inputs:
        path = Path(each or "").resolve()
        if each is not None and ((path.is_dir() and path == place) or (path.is_file() and path == place / WEIGHTS)):
            raise InputError(f"--out {out} is where {each} is read from, which would be lost: give another folder")
    if not MODEL_FOLDER.matches(out):
        stopped = any(path.is_dir() for path in out.glob(".unfinished-*"))  # a moment before it described its weights
        for name in (*MEASURED, DESCRIPTION, WEIGHTS):
            if (out / name).exists() and not (stopped and name == WEIGHTS):
                raise InputError(f"{out / name} is not of a model that was trained here and would be lost: give "
                                 "another folder with --out")  # fmt: skip
    images = Path(data).resolve()
    if Path(data).is_dir() and (place == images or images in place.parents):
        raise InputError(f"--out {out} lies in --data {data}, where a folder is a class: give a folder elsewhere")


def finished(out: Path, run: str) -> bool:
    """Whether `out` holds all that this very run made (`run` is its fingerprint); then it says so."""
    from inoculate.artifacts.files import read_json
    from inoculate.models.loading.checkpoints import DESCRIPTION, MODEL_FOLDER

    whole = MODEL_FOLDER.matches(out) and (out / "history.json").is_file()
    done = whole and read_json(out / DESCRIPTION).get("run") == run
    if done:
        typer.echo(f"{out}: this command has finished here before; to do it again, remove the folder")
    return bool(done)


def remove_stale_outputs(out: Path) -> None:
    """Take away what was measured of the weights in `out`, before new ones are written there.

    The history comes last with the new ones, so that `finished` can tell whether all has been written.
    """
    for name in MEASURED:
        (out / name).unlink(missing_ok=True)


def writable_file(path: Path) -> Path:
    """`path`, its folder made if need be; raises `InputError` now if no file can be written there."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file to write")
    writable(path.parent)
    return path


def load_images(
    data: str, part: str, data_root: Path | None, image_size: int | None, limit: int | None, seed: int, model: str
) -> Dataset:
    """The images to evaluate on, at the size and with the channels that a trained folder asks for."""
    from inoculate.data.load import load_data
    from inoculate.models.loading.specs import expected_size

    expected = expected_size(model)
    size, channels = (image_size or expected[0], expected[1]) if expected else (image_size, None)
    images = load_data(data, part, data_root=data_root, image_size=size, channels=channels)
    return images if limit is None else images.limit(limit, seed=seed)


def note_random(specs: list[str]) -> None:
    """Say which of these models would be measured with the weights that chance gave them."""
    from inoculate.models.loading.specs import brings_weights

    for spec in specs:
        if not brings_weights(spec):
            typer.echo(f"note: {spec} has random weights; give --weights, --pretrained or a trained folder", err=True)


def warn_of(network: nn.Module, images: Dataset, seed: int, who: str = "") -> None:
    """Say what looks wrong with a network on a few of the images."""
    from inoculate.models.checks import inspect_model

    sample = images.limit(min(64, len(images)), seed=seed)
    try:
        found = inspect_model(network, sample.images, sample.labels, len(images.classes))
    except InputError as error:
        raise InputError(f"{who}{error}") from error
    for finding in found:
        typer.echo(f"warning: {who}{finding}", err=True)


def load_network(
    spec: str,
    images: Dataset,
    device: str,
    *,
    weights: Path | None = None,
    pretrained: bool = False,
    outputs: str = "logits",
    normalize: str | None = None,
    seed: int = 0,
) -> nn.Module:
    """The classifier that a model SPEC means, for these images; in eval mode.

    What weights chance gives it depends on `seed` alone.
    """
    from inoculate.models.loading.load import load_model

    return load_model(
        spec, images, weights=weights, pretrained=pretrained, outputs=outputs, normalize=normalize, seed=seed
    ).to(device)
