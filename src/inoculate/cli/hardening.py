"""The steps of `inoculate harden`: from a model SPEC to a measured, saved, described network."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from inoculate.cli.common import remove_stale_outputs, writable
from inoculate.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from inoculate.core.row import Row
    from inoculate.core.threat import Threat
    from inoculate.data.dataset import Dataset
    from inoculate.hardening.schedule import Schedule
    from inoculate.models.loading.checkpoints import ModelSpec
    from inoculate.training.methods.base import Method
    from inoculate.training.samples import TrainingSet
    from inoculate.training.trainer import Recipe

CHECKS_PER_EPOCH, MOST_ROUNDS = 2, 40
SEEN_OFTEN = 5  # epochs from which photographs are varied: until then they are hardly known by heart
BEFORE_EPOCHS = 2  # of ordinary training, where a network comes without weights


@dataclass(frozen=True, eq=False)
class HardeningData:
    """What everything is measured and trained on."""

    train: Dataset
    val: Dataset
    test: Dataset
    threat: Threat
    seed: int

    @property
    def samples(self) -> TrainingSet:
        """The training part as it is."""
        from inoculate.training.samples import training_set

        return training_set("standard", self.train, (), seed=self.seed)


def load_bench(
    data: str, model: str, data_root: Path | None, image_size: int | None, limit: int | None, test_images: int,
    threat: Threat, seed: int,
) -> HardeningData:  # fmt: skip
    """The images: the test part is for the measurements alone."""
    from inoculate.cli.evaluate import load_images

    train, val, test = (
        load_images(data, part, data_root, image_size, size, seed, model)
        for part, size in (("train", limit), ("val", None), ("test", test_images))
    )
    return HardeningData(train, val, test, threat, seed)


def load_network_for(
    model: str, images: Dataset, weights: Path | None, pretrained: bool, stem: str, declared: Mapping[str, str],
    seed: int, device: str,
) -> tuple[nn.Module, ModelSpec | None, bool | None]:  # fmt: skip
    """The network to harden, how to rebuild it (None for a factory's), and whether it comes trained (None: unknown)."""
    from inoculate.cli.evaluate import load_network
    from inoculate.models.loading.checkpoints import ModelSpec, load_weights, read_description
    from inoculate.models.loading.specs import ONNX, TORCHSCRIPT
    from inoculate.models.normalize import check_channels
    from inoculate.models.small_cnn import SMALL_CNN

    if pretrained and weights is not None:
        raise InputError(f"--pretrained and --weights {weights} are two sets of weights: leave one out")
    if pretrained and model == SMALL_CNN:
        raise InputError("small_cnn has no weights of others: leave --pretrained out")
    if (pretrained or stem != "imagenet") and (Path(model).is_dir() or ":" in model):
        raise InputError(f"model {model} brings its weights and its stem: leave --pretrained and --stem out")
    if Path(model).suffix in ONNX + TORCHSCRIPT:
        raise InputError(f"model {model} is an exported file and cannot be trained: give file.py:factory and --weights")
    if Path(model).suffix == ".py":
        raise InputError(f"model {model} is a file of functions: say which one makes the network, {model}:factory")
    if Path(model).is_dir() or ":" in model:
        network = load_network(model, images, device, weights=weights, seed=seed, **declared)  # type: ignore[arg-type]
        if Path(model).is_dir():
            return network, read_description(Path(model)).spec, True
        return network, None, True if weights is not None else None
    if "outputs" in declared:
        raise InputError(f"model {model} gives logits: leave --outputs out")
    spec = ModelSpec.fitting(model, images, stem, pretrained)  # type: ignore[arg-type]
    if normalize := understood(declared)["normalize"]:
        check_channels(normalize, images.channels)
        spec = replace(spec, mean=normalize[0], std=normalize[1])
    network = spec.build(seed=seed, pretrained=pretrained)
    if weights is not None:
        load_weights(weights, network)
    return network.to(device).eval(), spec, weights is not None


def understood(declared: Mapping[str, str]) -> dict[str, Any]:
    """What `--outputs` and `--normalize` say, as the arguments of `load_model`."""
    from inoculate.models.normalize import parse_normalize

    normalize = declared.get("normalize")
    return {
        "outputs": declared.get("outputs", "logits"),
        "normalize": None if normalize is None else parse_normalize(normalize),
    }


def is_trained(network: nn.Module, images: Dataset) -> bool:
    """Whether a network that somebody brings has been trained: it does better than one answer for all."""
    from inoculate.evaluation.engine import judge_clean

    part = images.limit(min(256, len(images)), seed=0)
    right, classes = judge_clean(network, part).right.float(), set(part.labels.tolist())
    balanced = sum(float(right[part.labels == each].mean()) for each in classes) / len(classes)
    return balanced > 1 / len(classes) + 0.2


def check_augment(augment: str, images: Dataset) -> None:
    """Raise `InputError` for an augmentation that is unknown."""
    from inoculate.data.augment import augmenter

    if augment != "auto":
        augmenter(augment, images.image_size)  # its own check


def policy_for(augment: str, images: Dataset, epochs: float) -> str:
    """The augmentation: `auto` moves and mirrors photographs that are seen often; grey images and digits stay alone."""
    from inoculate.data.augment import default_policy

    if augment != "auto":
        return augment
    photos = images.channels == 3 and default_policy(images.name) != "digits"
    return "shifts" if photos and epochs >= SEEN_OFTEN else "none"


def schedule_for(
    folder: Path, chosen: Any, budget: str, epochs: int | None, network: nn.Module, bench: HardeningData, batch_size: int,
    lr: float,
) -> Schedule:  # fmt: skip
    """Method and number of updates: as told, or what the time buys by a timing that a resumed run finds again."""
    from inoculate.artifacts.files import read_json, write_json
    from inoculate.core.duration import parse_duration
    from inoculate.hardening.schedule import COMMON_OPTIONS, Schedule, choose, enough, ladder_for, seconds_per_pass
    from inoculate.training.methods.registry import get_method
    from inoculate.training.trainer import updates_in

    if epochs is not None:
        method, updates = (
            chosen or get_method("pgd_at", **COMMON_OPTIONS),
            updates_in(epochs, len(bench.train), batch_size),
        )
        return Schedule(method, updates, f"{epochs} epochs, {updates} updates")
    seconds, file = parse_duration(budget), folder / "pass.json"
    if not file.is_file():
        write_json(file, {"seconds": seconds_per_pass(network, bench.samples, bench.threat, batch_size, lr)})
    per_pass = float(read_json(file)["seconds"])
    epoch = len(bench.train) / batch_size
    if chosen is not None:
        return choose(seconds, per_pass, epoch, [(chosen, 0.0)])
    return choose(seconds, per_pass, epoch, ladder_for(bench.threat, network), enough(bench.threat, epoch))


def recipe_for(
    schedule: Schedule, bench: HardeningData, batch_size: int, lr: float, augment: str, in_time: bool
) -> Recipe:
    """The recipe of a schedule: a validation every half epoch, as far as a budget (`in_time`) has room for them."""
    from inoculate.hardening.schedule import SPARE
    from inoculate.training.trainer import Recipe
    from inoculate.training.validation import passes

    epochs = schedule.updates * batch_size / len(bench.train)
    rounds = min(schedule.updates, MOST_ROUNDS, round(CHECKS_PER_EPOCH * epochs))
    recipe = Recipe(schedule.updates, batch_size=batch_size, lr=lr, augment=augment)
    if in_time:
        one = passes(len(bench.val), recipe.val_images) / batch_size
        rounds = min(rounds, int((1 - SPARE) * schedule.updates * schedule.choice.passes / one))
    return schedule.choice.adapt(replace(recipe, rounds=max(1, rounds)))


def train_hardened(
    folder: Path, network: nn.Module, bench: HardeningData, update: Method, recipe: Recipe, model: str,
    fallback: Method | None = None,
) -> list[dict[str, float]]:  # fmt: skip
    """Train in place, or go on where an earlier run stopped; the history."""
    from inoculate.cli.progress import Bar
    from inoculate.training.trainer import fit

    with Bar(Console(), f"harden {model} on {bench.train.name}") as bar:
        return fit(
            network, bench.samples, bench.val, update, recipe, seed=bench.seed, folder=writable(folder / "after"),
            progress=bar, threat=bench.threat, fallback=fallback,
        )  # fmt: skip


def keep_the_better(
    folder: Path, network: nn.Module, start: Mapping[str, Tensor], bench: HardeningData, recipe: Recipe,
    history: list[dict[str, float]],
) -> str:  # fmt: skip
    """Put back the weights that a trained network came with if no round withstands more, and say so ("": not needed).

    Judged as the rounds are, on the same validation images.
    """
    from inoculate.models.loading.checkpoints import load_weights
    from inoculate.training.monitors import selection_key
    from inoculate.training.trainer import BEST, best_round
    from inoculate.training.validation import measured

    network.load_state_dict(start)
    came, best = measured(network, bench.val, bench.threat, recipe.val_images), history[best_round(history)]
    if selection_key(best) < selection_key(came):
        return (
            f"no round of the training was as good under PGD-10 on validation images ({best['val_robust']:.1%}, clean "
            f"{best['val_accuracy']:.1%}) as the network as it came ({came['val_robust']:.1%}, clean "
            f"{came['val_accuracy']:.1%}): its weights are as they came (more time or a smaller --lr may help)"
        )
    load_weights(folder / "after" / BEST, network)
    return ""


def measure_before(
    folder: Path, network: nn.Module, trained: bool, bench: HardeningData, batch_size: int, lr: float
) -> tuple[list[Row], str]:
    """Rows of the network as it came, or of a copy trained in the ordinary way; and in words which."""
    import copy

    from inoculate.artifacts.rows import read_rows, write_rows
    from inoculate.cli.progress import Bar
    from inoculate.training.methods.base import standard
    from inoculate.training.trainer import Recipe, fit, updates_in

    words = "the network as it came (whether it had seen these test images before is not known)"
    if not trained:
        words = f"the same network after {BEFORE_EPOCHS} epochs of ordinary training"
    file = folder / "before.json"
    if file.is_file():
        return read_rows(file), words
    if not trained:
        updates = updates_in(BEFORE_EPOCHS, len(bench.train), batch_size)
        network, recipe = copy.deepcopy(network), Recipe(updates, rounds=1, batch_size=batch_size, lr=lr)
        with Bar(Console(), "ordinary training, to compare with") as bar:
            place = writable(folder / "before")
            fit(network, bench.samples, bench.val, standard, recipe, seed=bench.seed, folder=place, progress=bar)
    rows = measure(network, bench, "before", "standard", {})
    write_rows(file, rows)
    return rows, words


def measure(network: nn.Module, bench: HardeningData, name: str, arm: str, kept: dict[str, Tensor]) -> list[Row]:
    """Clean, FGSM, PGD-20 and AutoAttack (where there is one for this norm); `kept` receives the adversarial images."""
    from inoculate.attacks.registry import get_attack
    from inoculate.cli.progress import Steps
    from inoculate.core.pixels import to_float
    from inoculate.evaluation.evaluate import evaluate

    attacks = {"fgsm": get_attack("fgsm"), "pgd": get_attack("pgd", steps=20, step=0.125)}
    if bench.threat.norm != "l1":
        strongest = "autoattack" if len(bench.test.classes) >= 4 else "autoattack_binary"
        attacks[strongest] = get_attack(strongest)

    def keep(attack: str, rows: Tensor, x_adv: Tensor, _: Threat) -> None:
        kept.setdefault(attack, to_float(bench.test.images))[rows] = x_adv.cpu()

    steps = Steps()
    rows = evaluate(
        network, bench.test, attacks, [bench.threat], seed=bench.seed, name=name, arm=arm, keep=keep, progress=steps
    )
    steps.close()
    return rows


def show_table(before: list[Row], after: list[Row]) -> None:
    """Print accuracies before and after, side by side."""
    typer.echo(f"{'':18}{'before':>8}{'after':>8}   95 % interval, {after[0].n} test images")
    for old, new in zip(before, after, strict=True):
        name = "clean" if new.attack == "none" else f"{new.attack} {new.eps:.4g}"
        typer.echo(f"{name:18}{old.accuracy:8.1%}{new.accuracy:8.1%}   [{new.ci_low:.1%}, {new.ci_high:.1%}]")


def save_hardened(
    out: Path, network: nn.Module, spec: ModelSpec | None, model: str, declared: Mapping[str, str],
    facts: dict[str, Any],
) -> None:  # fmt: skip
    """Write a folder that `evaluate --model` reads; a factory's network is rebuilt by its factory."""
    from inoculate.models.loading.checkpoints import save_factory_weights, save_model
    from inoculate.models.loading.outputs import Declared

    remove_stale_outputs(out)
    if spec is not None:
        save_model(out, network, replace(spec, pretrained=False), **facts)
    else:
        inner = Declared(**understood(declared)).unwrap(network)
        save_factory_weights(out, inner, model, declared, **facts)


def wrappers(declared: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """What `load_model` puts around a network that is so declared: module, name, further arguments as Python."""
    from inoculate.models.loading.outputs import WRAPPERS

    said, found = understood(declared), []
    if "outputs" in declared:
        found.append(("loading.outputs", WRAPPERS[said["outputs"]].__name__, ""))
    if said["normalize"]:
        mean, std = said["normalize"]
        found.append(("normalize", "normalized", f", {mean}, {std}"))
    return found


def function_in_python(model: str) -> str:
    """The lines that import the function of `file.py:factory` or `package.module:factory`."""
    place, _, function = model.rpartition(":")
    if not place.endswith(".py"):
        return f"from {place} import {function}\n"
    file = Path(place)
    found = "" if file.parent == Path() else f"import sys\n\nsys.path.append({str(file.parent)!r})\n"
    if file.stem.isidentifier():
        return f"{found}from {file.stem} import {function}  # {place}\n"
    return f"{found}from importlib import import_module\n\n{function} = import_module({file.stem!r}).{function}\n"


def check_onnx() -> None:
    """Raise `InputError` now, not after the training, if no ONNX file could be written or checked here."""
    from importlib.util import find_spec

    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise InputError(f"--onnx needs {package}: pip install 'inoculate[onnx]'")


def check_export(network: nn.Module, images: Dataset) -> None:
    """Raise `InputError` now, not after the training, if this network cannot be written as ONNX."""
    from tempfile import TemporaryDirectory

    from inoculate.models.loading.onnx import export_onnx

    with TemporaryDirectory() as folder:
        export_onnx(network, Path(folder) / "model.onnx", tuple(images.images.shape[1:]))  # type: ignore[arg-type]


def export_checked(out: Path, network: nn.Module, bench: HardeningData, kept: dict[str, Tensor], last: Row) -> str:
    """Write model.onnx and hold it against the network on the images of the strongest attack; what came of it."""
    import torch

    from inoculate.core.modes import device_of
    from inoculate.core.pixels import to_float
    from inoculate.models.loading.onnx import OnnxModel, export_onnx

    export_onnx(network, out / "model.onnx", tuple(bench.test.images.shape[1:]))  # type: ignore[arg-type]
    images, labels = kept.get(last.attack, to_float(bench.test.images)), bench.test.labels
    session = OnnxModel(out / "model.onnx")
    with torch.no_grad():
        theirs = session(images).argmax(dim=1)
        ours = torch.cat(
            [network(part.to(device_of(network))).argmax(dim=1).cpu() for part in torch.split(images, 256)]
        )
    differ, right = int((theirs != ours).sum()), int((theirs == labels).sum())
    # Some attacks end on the very boundary between two classes, where rounding decides.
    if differ > max(1, 0.02 * len(images)):
        raise InputError(
            f"{out / 'model.onnx'} and the network disagree on {differ} of {len(images)} adversarial images: "
            "do not use it; try another version of torch or onnxruntime"
        )
    text = (
        f"`model.onnx` was run with onnxruntime on the images of {last.attack}: {right} of {len(images)} right "
        f"({right / len(images):.1%}; the network itself {last.accuracy:.1%}), {differ} predictions differ."
    )
    typer.echo(text.replace("`", ""))
    return text


def training_in_words(
    schedule: Schedule, recipe: Recipe, bench: HardeningData, history: list[dict[str, float]], kept_as_it_came: bool
) -> str:
    """What the card says of the training: what was done, which weights were kept, why this method."""
    options = ", ".join(f"{key} {value:.4g}" for key, value in schedule.choice.spec.items() if key != "method")
    made = round(history[-1]["update"])
    planned = "" if made == recipe.updates else f" (of {recipe.updates} that were planned)"
    seen = f"under PGD-10 on {min(recipe.val_images, len(bench.val))} validation images"
    kept = f"Weights of the round that was best {seen}."
    if kept_as_it_came:
        kept = f"No round was better {seen} than the network as it came, so its weights are those that it came with."
    return (
        f"`{schedule.choice.name}` ({options}): {made} updates{planned} of {recipe.batch_size} images out of "
        f"{len(bench.train)}, {recipe.optimizer}, one cycle to a learning rate of {recipe.lr:g}, augmentation "
        f"{recipe.augment}. {kept} Why so: {schedule.reason}."
    )


def write_card(
    out: Path, model: str, spec: ModelSpec | None, declared: Mapping[str, str], bench: HardeningData, method: str,
    training: str, before: list[Row], after: list[Row], earlier: str, warnings: list[str], exported: str,
    data: Sequence[str],
) -> None:  # fmt: skip
    """Write README.md, the robustness card; `method` made the weights ("": they are as they came)."""
    from inoculate.artifacts.files import write_text
    from inoculate.artifacts.versions import versions
    from inoculate.hardening.card import Facts, card

    weights = out / "weights.safetensors"
    size = ["--image-size", str(bench.test.image_size[0])]
    said = [part for name, value in declared.items() for part in (f"--{name}", value)]
    loaded = [str(out)] if spec else [model, "--weights", str(weights), *said, *size]
    threat = ["--eps", f"{bench.threat.eps:.6g}", "--norm", bench.threat.norm]
    load = shlex.join(["inoculate", "evaluate", "--model", *loaded, *data, "--attack", after[-1].attack, *threat])
    python = f"from inoculate import load_model\n\nmodel = load_model({str(out)!r})"
    if not spec:
        python = (
            f"from pathlib import Path\n\nfrom inoculate.models.loading.checkpoints import load_weights\n"
            f"{function_in_python(model)}\n"
            f"model = {model.rpartition(':')[2]}().eval()\nload_weights(Path({str(weights)!r}), model)"
        )
        for module, name, arguments in wrappers(declared):
            python = f"from inoculate.models.{module} import {name}\n{python}\nmodel = {name}(model{arguments})"
    python += "\nlogits = model(images)  # float images in [0, 1], B×C×H×W"
    facts = Facts(
        title=f"{spec.name if spec else model} for {bench.train.name}" + (", hardened" if method else ""),
        dataset=bench.train.name, digest=bench.train.digest, network=spec.name if spec else model,
        method=method, norm=bench.threat.norm, eps=bench.threat.eps, seed=bench.seed, before=earlier,
        training=training, load=load, python=python, versions=versions(), warnings=warnings, exported=exported,
    )  # fmt: skip
    write_text(out / "README.md", card(facts, before, after))
