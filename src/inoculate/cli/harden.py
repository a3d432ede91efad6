"""`inoculate harden`: a model and images in, a hardened model with its robustness card out."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from inoculate.cli.common import BatchSize, Data, DataRoot, Device, ImageSize, Limit, Seed, pick_device, writable
from inoculate.cli.train import Eps, Norm, Options, Surrogates, Teacher, helper_networks, parse_options
from inoculate.errors import InputError
from inoculate.spec import fingerprint

if TYPE_CHECKING:
    from torch import Tensor, nn

    from inoculate.data.split import Split
    from inoculate.defences.budget import Schedule
    from inoculate.defences.fit import Recipe
    from inoculate.defences.methods import Method
    from inoculate.models.checkpoint import ModelSpec
    from inoculate.row import Row
    from inoculate.threat import Threat

MODEL = "timm name or small_cnn (trained from scratch), a trained folder, package.module:factory or file.py:factory."
PEAK, PEAK_PLAIN = 2e-3, 5e-3  # of the learning rate, with and without BatchNorm
CHECKS_PER_EPOCH, MOST_ROUNDS = 2, 40
BEFORE_EPOCHS = 2  # of ordinary training, where a network comes without weights


@dataclass(frozen=True, eq=False)
class Bench:
    """What everything is measured and trained on."""

    train: Split
    val: Split
    test: Split
    threat: Threat
    seed: int


def harden(
    model: Annotated[str, typer.Option(help=MODEL)],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the hardened model and its card.")],
    eps: Eps = "8/255",
    norm: Norm = "linf",
    method: Annotated[str | None, typer.Option(help="pgd_at, fast, free, trades, mart, … [chosen by --budget]")] = None,
    option: Options = None,
    budget: Annotated[str, typer.Option(help="Time for training: 30m chooses method and schedule for it.")] = "10m",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data, in place of a budget.")] = None,
    weights: Annotated[Path | None, typer.Option(help="safetensors file to load into the model.")] = None,
    pretrained: Annotated[bool, typer.Option(help="Start from timm's weights.")] = False,
    stem: Annotated[str, typer.Option(help="imagenet, or small for small images.")] = "imagenet",
    teacher: Teacher = None,
    surrogate: Surrogates = None,
    data_root: DataRoot = None,
    image_size: ImageSize = None,
    limit: Limit = None,
    test_images: Annotated[int, typer.Option(min=10, help="Test images that are attacked for the card.")] = 500,
    batch_size: BatchSize = 128,
    lr: Annotated[float | None, typer.Option(min=1e-9, help="Peak rate [0.002; small_cnn 0.005].")] = None,
    augment: Annotated[str, typer.Option(help="Augmentation: none, digits or photos.")] = "none",
    onnx: Annotated[bool, typer.Option(help="Write model.onnx too, and check it on the adversarial images.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:  # fmt: skip
    """Train a classifier to withstand attacks; write a folder that `evaluate` reads, and a card of what was measured.

    The test part is seen by the measurements alone. Run the same command again to go on after a stop.
    """
    from inoculate.defences.guards import alarms
    from inoculate.defences.registry import method_named
    from inoculate.report.rows import write_rows
    from inoculate.store import write_json
    from inoculate.threat import Threat, parse_eps

    threat = Threat(norm, parse_eps(eps))  # type: ignore[arg-type]
    if threat.eps == 0:
        raise InputError("eps 0 is no attack: give a size such as 8/255")
    if method is None and option:
        raise InputError("--option is for a --method: name one, or leave both out")
    chosen = None if method is None else method_named(method, **parse_options(option))
    bench = _bench(data, model, data_root, image_size, limit, test_images, threat, seed)
    place = pick_device(device)
    network, spec, trained = _network(model, bench.train, weights, pretrained, stem, seed, place)
    peak = lr or (PEAK_PLAIN if model == "small_cnn" else PEAK) * (0.1 if trained else 1)
    made_from = {
        "model": model, "weights": str(weights), "pretrained": pretrained, "stem": stem, "threat": asdict(threat),
        "method": None if chosen is None else chosen.spec, "budget": [budget, epochs], "data": bench.train.digest,
        "helpers": [str(teacher), surrogate or []], "batch_size": batch_size, "lr": peak, "augment": augment,
        "seed": seed,
    }  # fmt: skip
    unfinished = writable(out / f".unfinished-{fingerprint(made_from)}")
    schedule = _schedule(unfinished, chosen, budget, epochs, network, bench, batch_size, peak)
    typer.echo(f"{schedule.choice.name}: {schedule.reason}")
    helpers = helper_networks(schedule.choice.name, teacher, surrogate, bench.train, place, seed)
    update = schedule.choice.begin(threat, helpers)  # what is missing is found now, not after the measurements
    before, earlier = _before(unfinished, network, trained, bench, batch_size, peak)
    recipe = _recipe(schedule, len(bench.train), batch_size, peak, augment)
    history = _fit(unfinished, network, bench, update, recipe, model)
    kept: dict[str, Tensor] = {}
    after = _measure(network, bench, model, schedule.choice.name, kept)
    _table(before, after)
    facts = {"method": schedule.choice.spec, "threat": asdict(threat), "seed": seed, "data": bench.train.digest}
    _save(out, network, spec, model, bench, facts)
    exported = _export(out, network, bench, kept, after[-1]) if onnx else ""
    warnings = [message for _, message in alarms(history)] if recipe.guard else []
    for message in warnings:
        typer.echo(f"warning: {message}", err=True)
    _write_card(out, model, spec, bench, schedule, recipe, before, after, earlier, warnings, exported)
    write_rows(out / "results.json", [*before, *after])
    write_json(out / "history.json", history)
    shutil.rmtree(unfinished)
    typer.echo(f"{out}: weights, README.md (robustness card), results.json" + (", model.onnx" if onnx else ""))


def _bench(
    data: str, model: str, data_root: Path | None, image_size: int | None, limit: int | None, test_images: int,
    threat: Threat, seed: int,
) -> Bench:  # fmt: skip
    from inoculate.cli.evaluate import load_images

    train, val, test = (
        load_images(data, part, data_root, image_size, size, seed, model)
        for part, size in (("train", limit), ("val", None), ("test", test_images))
    )
    return Bench(train, val, test, threat, seed)


def _network(
    model: str, images: Split, weights: Path | None, pretrained: bool, stem: str, seed: int, device: str
) -> tuple[nn.Module, ModelSpec | None, bool]:
    """The network to harden, how to rebuild it (None for a factory's), and whether it has been trained before."""
    from inoculate.cli.evaluate import load_network
    from inoculate.models.build import scale_for
    from inoculate.models.checkpoint import ModelSpec, load_weights, read_description
    from inoculate.models.exported import ONNX, TORCHSCRIPT

    if Path(model).suffix in ONNX + TORCHSCRIPT:
        raise InputError(f"model {model} is an exported file and cannot be trained: give file.py:factory and --weights")
    if Path(model).is_dir():
        return load_network(model, images, device, weights=weights), read_description(Path(model))[0], True
    if ":" in model:
        return load_network(model, images, device, weights=weights), None, True
    mean, std = scale_for(model, images.channel_statistics())
    spec = ModelSpec(model, images.classes, images.channels, images.image_size[0], stem, pretrained, mean, std)  # type: ignore[arg-type]
    network = spec.build(seed=seed, pretrained=pretrained and weights is None)
    if weights is not None:
        load_weights(weights, network)
    return network.to(device), spec, weights is not None


def _schedule(
    folder: Path, chosen: Any, budget: str, epochs: int | None, network: nn.Module, bench: Bench, batch_size: int,
    lr: float,
) -> Schedule:  # fmt: skip
    """Method and number of updates: as told, or what the time buys by a timing that a resumed run finds again."""
    from inoculate.cli.evaluate import parse_duration
    from inoculate.defences.budget import EXTRAS, Schedule, choose, seconds_per_pass
    from inoculate.defences.registry import method_named
    from inoculate.defences.transferred import training_set
    from inoculate.store import read_json, write_json

    epoch = -(-len(bench.train) // batch_size)
    if epochs is not None:
        method = chosen or method_named("pgd_at", **EXTRAS)
        return Schedule(method, epochs * epoch, f"{epochs} epochs of {epoch} updates")
    seconds, file = parse_duration(budget), folder / "pass.json"
    if not file.is_file():
        samples = training_set("standard", bench.train, (), seed=bench.seed)
        write_json(file, {"seconds": seconds_per_pass(network, samples, bench.threat, batch_size, lr)})
    per_pass = float(read_json(file)["seconds"])
    if chosen is None:
        return choose(seconds, per_pass, epoch)
    return choose(seconds, per_pass, epoch, ladder=((chosen, 0.0),))


def _recipe(schedule: Schedule, images: int, batch_size: int, lr: float, augment: str) -> Recipe:
    from inoculate.defences.fit import Recipe

    epochs, extras = schedule.updates * batch_size / images, schedule.choice.extras
    rounds = max(1, min(schedule.updates, MOST_ROUNDS, round(CHECKS_PER_EPOCH * epochs)))
    return Recipe(
        schedule.updates, rounds=rounds, batch_size=batch_size, lr=lr, augment=augment, average=extras.average,
        warmup=extras.warmup, guard=schedule.choice.guarded,
    )  # fmt: skip


def _fit(
    folder: Path, network: nn.Module, bench: Bench, update: Method, recipe: Recipe, model: str
) -> list[dict[str, float]]:
    from inoculate.defences.fit import fit
    from inoculate.defences.transferred import training_set
    from inoculate.watch import Bar

    samples = training_set("standard", bench.train, (), seed=bench.seed)
    with Bar(Console(), f"harden {model} on {bench.train.name}") as bar:
        return fit(
            network, samples, bench.val, update, recipe, seed=bench.seed, folder=writable(folder / "after"),
            progress=bar, threat=bench.threat,
        )  # fmt: skip


def _before(
    folder: Path, network: nn.Module, trained: bool, bench: Bench, batch_size: int, lr: float
) -> tuple[list[Row], str]:
    """Rows of the network as it came, or of a copy trained in the ordinary way; and in words which."""
    import copy

    from inoculate.defences.fit import Recipe, fit
    from inoculate.defences.methods import standard
    from inoculate.defences.transferred import training_set
    from inoculate.report.rows import read_rows, write_rows
    from inoculate.watch import Bar

    words = "the network as it came"
    if not trained:
        words = f"the same network after {BEFORE_EPOCHS} epochs of ordinary training"
    file = folder / "before.json"
    if file.is_file():
        return read_rows(file), words
    if not trained:
        updates = BEFORE_EPOCHS * -(-len(bench.train) // batch_size)
        network, recipe = copy.deepcopy(network), Recipe(updates, rounds=1, batch_size=batch_size, lr=lr)
        samples = training_set("standard", bench.train, (), seed=bench.seed)
        with Bar(Console(), "ordinary training, to compare with") as bar:
            place = writable(folder / "before")
            fit(network, samples, bench.val, standard, recipe, seed=bench.seed, folder=place, progress=bar)
    rows = _measure(network, bench, "before", "standard", {})
    write_rows(file, rows)
    return rows, words


def _measure(network: nn.Module, bench: Bench, name: str, arm: str, kept: dict[str, Tensor]) -> list[Row]:
    """Clean, FGSM, PGD-20 and AutoAttack (where there is one for this norm); `kept` receives the adversarial images."""
    from inoculate.attacks.craft import to_float
    from inoculate.attacks.registry import attack_named
    from inoculate.evaluation import evaluate
    from inoculate.watch import Steps

    attacks = {"fgsm": attack_named("fgsm"), "pgd": attack_named("pgd", steps=20, step=0.125)}
    if bench.threat.norm != "l1":
        strongest = "autoattack" if len(bench.test.classes) >= 4 else "autoattack_binary"
        attacks[strongest] = attack_named(strongest)

    def keep(attack: str, rows: Tensor, x_adv: Tensor, _: Threat) -> None:
        kept.setdefault(attack, to_float(bench.test.images))[rows] = x_adv.cpu()

    steps = Steps()
    rows = evaluate(
        network, bench.test, attacks, [bench.threat], seed=bench.seed, name=name, arm=arm, keep=keep, progress=steps
    )
    steps.close()
    return rows


def _table(before: list[Row], after: list[Row]) -> None:
    typer.echo(f"{'':18}{'before':>8}{'after':>8}   95 % interval, {after[0].n} test images")
    for old, new in zip(before, after, strict=True):
        name = "clean" if new.attack == "none" else f"{new.attack} {new.eps:.4g}"
        typer.echo(f"{name:18}{old.accuracy:8.1%}{new.accuracy:8.1%}   [{new.ci_low:.1%}, {new.ci_high:.1%}]")


def _save(
    out: Path, network: nn.Module, spec: ModelSpec | None, model: str, bench: Bench, facts: dict[str, Any]
) -> None:
    from inoculate.models.checkpoint import save_factory_weights, save_model

    if spec is not None:
        save_model(out, network, replace(spec, pretrained=False), **facts)
    else:
        save_factory_weights(out, network, model, **facts)


def _export(out: Path, network: nn.Module, bench: Bench, kept: dict[str, Tensor], last: Row) -> str:
    """Write model.onnx and hold it against the network on the images of the strongest attack; what came of it."""
    import torch

    from inoculate.models.export import export_onnx
    from inoculate.models.exported import load_onnx
    from inoculate.modes import device_of

    export_onnx(network, out / "model.onnx", tuple(bench.test.images.shape[1:]))  # type: ignore[arg-type]
    images, labels = kept.get(last.attack, bench.test.images.float() / 255), bench.test.labels
    session = load_onnx(out / "model.onnx")
    with torch.no_grad():
        theirs = session(images).argmax(dim=1)
        ours = torch.cat(
            [network(part.to(device_of(network))).argmax(dim=1).cpu() for part in torch.split(images, 256)]
        )
    differ, right = int((theirs != ours).sum()), int((theirs == labels).sum())
    if differ > 0.005 * len(images):
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


def _write_card(
    out: Path, model: str, spec: ModelSpec | None, bench: Bench, schedule: Schedule, recipe: Recipe, before: list[Row],
    after: list[Row], earlier: str, warnings: list[str], exported: str,
) -> None:  # fmt: skip
    from inoculate.card import Facts, card
    from inoculate.report.rows import write_text
    from inoculate.study.manifest import versions

    options = ", ".join(f"{key} {value:.4g}" for key, value in schedule.choice.spec.items() if key != "method")
    load = f"inoculate evaluate --model {out if spec else model} --data {bench.train.name} --attack autoattack"
    load += "" if spec else f" --weights {out / 'weights.safetensors'}"
    facts = Facts(
        title=f"{spec.name if spec else model} for {bench.train.name}, hardened",
        dataset=bench.train.name, digest=bench.train.digest, network=spec.name if spec else model,
        method=schedule.choice.name, norm=bench.threat.norm, eps=bench.threat.eps, seed=bench.seed, before=earlier,
        training=(
            f"`{schedule.choice.name}` ({options}): {recipe.updates} updates of {recipe.batch_size} images out of "
            f"{len(bench.train)}, {recipe.optimizer}, one cycle to a learning rate of {recipe.lr:g}, augmentation "
            f"{recipe.augment}. Weights of the round that was best under PGD-10 on "
            f"{min(recipe.val_images, len(bench.val))} validation images. Why so: {schedule.reason}."
        ),
        load=f"{load} --eps {bench.threat.eps:.6g} --norm {bench.threat.norm}", versions=versions(), warnings=warnings,
        exported=exported,
    )  # fmt: skip
    write_text(out / "README.md", card(facts, before, after))
