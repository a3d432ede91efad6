"""The command line: the only place that prints, parses or picks a device."""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from inoculate.errors import InputError
from inoculate.spec import fingerprint

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Measure how image classifiers fail under adversarial attack, and harden them.",
    pretty_exceptions_enable=False,
)
study_app = typer.Typer(no_args_is_help=True, help="Run whole studies from a YAML file.")
app.add_typer(study_app, name="study")

DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", envvar="INOCULATE_DATA", help="Folder searched for <name>/ before the hub."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only this many images, drawn evenly over the classes.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps …; auto takes the fastest there is.")]
# Newer typer carries its own copy of click: this is the usage error of whichever copy is in use.
USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
USER_MENDS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
}


@study_app.command("run")
def study_run(
    file: Annotated[Path, typer.Argument(help="The study, a YAML file.")],
    data_root: DataRoot = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results and artefacts [runs/<name>].")] = None,
    store: Annotated[
        Path | None, typer.Option(help="Folder for artefacts, to share them between runs [OUT/store].")
    ] = None,
    only: Annotated[str | None, typer.Option(help="Only this dataset of the study.")] = None,
    limit: Limit = None,
    device: Device = "auto",
) -> None:
    """Train, attack, craft, retrain, and print the tables; finished steps are never done twice."""
    from inoculate.report.claims import claims
    from inoculate.report.tables import paper_tables
    from inoculate.report.write import write_report
    from inoculate.store import Store
    from inoculate.study.config import load_study
    from inoculate.study.manifest import write_manifest
    from inoculate.study.plan import plan
    from inoculate.study.run import Run
    from inoculate.watch import Screen

    study = load_study(file)
    if limit is not None:
        study = study.model_copy(update={"limit": limit})
    if only is not None and only not in study.datasets:
        raise InputError(f"--only {only}: {file} has no such dataset, choose one of {', '.join(study.datasets)}")
    folder = writable(out or Path("runs") / study.name)
    run = Run(study, Store(writable(store or folder / "store")), data_root, lambda: pick_device(device))
    screen = Screen(Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 150))
    try:
        run.go(screen, plan(study, only))
    finally:
        screen.close()
        run.recall(plan(study))
        if run.rows:
            write_report(folder, run.rows, run.records, run.surrogates, run.parameters)
            write_manifest(folder, run)
    screen.show(paper_tables(run.rows, run.surrogates))
    for claim in claims(run.rows, run.records, run.surrogates, run.parameters):
        screen.console.print(f"• {claim.sentence}", markup=False, highlight=False, soft_wrap=True)
    if not screen.made:
        screen.console.print("Everything was already there: nothing was computed again.")
    screen.console.print(
        f"Results: {folder}/tables.md, results.json, figures/", markup=False, highlight=False, soft_wrap=True
    )


@study_app.command("plan")
def study_plan(
    file: Annotated[Path, typer.Argument(help="The study, a YAML file.")],
    only: Annotated[str | None, typer.Option(help="Only this dataset of the study.")] = None,
) -> None:
    """List the steps of a study in the order in which they are done."""
    from inoculate.study.config import load_study
    from inoculate.study.plan import plan

    for number, cell in enumerate(plan(load_study(file), only), start=1):
        typer.echo(f"{number:4} {cell.title}")


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Option(help="timm name, package.module:factory, file.py:factory, or a trained folder.")
    ],
    data: Annotated[str, typer.Option(help="mnist, cifar10, cats_vs_dogs, digits, a hub id owner/name, or a folder.")],
    weights: Annotated[Path | None, typer.Option(help="safetensors file to load into the model.")] = None,
    pretrained: Annotated[bool, typer.Option(help="Download timm's weights for the model.")] = False,
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    data_root: DataRoot = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels at which images are loaded.")] = None,
    limit: Limit = None,
    attack: Annotated[str, typer.Option(help="Attack names, separated by commas.")] = "fgsm,pgd",
    norm: Annotated[str, typer.Option(help="linf, l2 or l1.")] = "linf",
    eps: Annotated[str, typer.Option(help="Sizes in units of [0, 1], separated by commas: 0.01,8/255.")] = "8/255",
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 256,
    precision: Annotated[
        str, typer.Option(help="How attacks craft: fast or exact. The verdict is always exact.")
    ] = "fast",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")] = None,
    device: Device = "auto",
) -> None:
    """Measure clean and adversarial accuracy of a model on a dataset."""
    from inoculate.attacks.registry import attack_named
    from inoculate.data.sources import load_data
    from inoculate.evaluation import evaluate as measure
    from inoculate.models.resolve import expected_size, resolve_model
    from inoculate.report.rows import write_rows
    from inoculate.threat import Threat, parse_eps

    threats = [Threat(norm, parse_eps(text)) for text in eps.split(",")]  # type: ignore[arg-type]
    attacks = {name.strip(): attack_named(name.strip()) for name in attack.split(",")}
    if json_file is not None:
        writable(json_file.parent)
    expected = expected_size(model)
    size, channels = (image_size or expected[0], expected[1]) if expected else (image_size, None)
    images = load_data(data, split, data_root=data_root, image_size=size, channels=channels)
    if limit is not None:
        images = images.limit(limit, seed=seed)
    height, _ = images.image_size
    network = resolve_model(
        model,
        class_names=images.classes,
        channels=images.channels,
        image_size=height,
        weights=weights,
        pretrained=pretrained,
    ).to(pick_device(device))
    rows = measure(network, images, attacks, threats, batch_size, seed, precision, name=model)  # type: ignore[arg-type]
    typer.echo(f"{model} on {len(images)} images of {images.name} ({split})")
    for row in rows:
        what = "clean" if row.attack == "none" else f"{row.attack} {row.norm} eps {row.eps:.4g}"
        typer.echo(f"  {what:28} {row.accuracy:6.1%}  [{row.ci_low:.1%}, {row.ci_high:.1%}]  {row.seconds:.1f} s")
    if not (weights or pretrained or expected or ":" in model):
        typer.echo(f"note: {model} has random weights; give --weights, --pretrained or a trained folder", err=True)
    if json_file is not None:
        write_rows(json_file, rows)


@app.command()
def train(
    model: Annotated[str, typer.Option(help="A timm name such as resnet18.")],
    data: Annotated[str, typer.Option(help="mnist, cifar10, cats_vs_dogs, digits, a hub id owner/name, or a folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the trained model.")],
    data_root: DataRoot = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels at which images are loaded.")] = None,
    limit: Limit = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training part.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per update.")] = 64,
    lr: Annotated[float, typer.Option(min=1e-9, help="Peak learning rate.")] = 2e-3,
    stem: Annotated[str, typer.Option(help="imagenet, or small for small images.")] = "imagenet",
    augment: Annotated[str, typer.Option(help="Augmentation: none, digits or photos.")] = "none",
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    device: Device = "auto",
) -> None:
    """Train a classifier and write a folder that `evaluate --model` reads. Run it again to go on after a stop.

    The test part that `evaluate` uses is never seen; the validation part chooses the epoch that is kept.
    """
    from inoculate.data.sources import load_data
    from inoculate.defences.fit import Recipe, best_round, fit
    from inoculate.defences.methods import standard
    from inoculate.defences.transferred import training_set
    from inoculate.models.checkpoint import ModelSpec, save_model
    from inoculate.store import write_json
    from inoculate.watch import Bar

    images, validation = (
        load_data(data, part, data_root=data_root, image_size=image_size) for part in ("train", "val")
    )
    if limit is not None:
        images = images.limit(limit, seed=seed)
    mean, std = images.channel_statistics()
    spec = ModelSpec(model, images.classes, images.channels, images.image_size[0], stem, mean=mean, std=std)  # type: ignore[arg-type]
    network = spec.build(seed=seed).to(pick_device(device))
    recipe = Recipe(
        epochs * -(-len(images) // batch_size), rounds=epochs, batch_size=batch_size, lr=lr, augment=augment
    )
    made_from = {"model": asdict(spec), "recipe": asdict(recipe), "data": images.digest, "seed": seed}
    unfinished = writable(out / f".unfinished-{fingerprint(made_from)}")
    with Bar(Console(), f"train {model} on {images.name}") as bar:
        samples = training_set("standard", images, (), seed=seed)
        history = fit(network, samples, validation, standard, recipe, seed=seed, folder=unfinished, progress=bar)
    save_model(out, network, spec, seed=seed, data=images.digest)
    write_json(out / "history.json", history)
    shutil.rmtree(unfinished)
    best = history[best_round(history)]
    typer.echo(f"{out}: validation accuracy {best['val_accuracy']:.1%} after {best['update']:.0f} updates")


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


def writable(folder: Path) -> Path:
    """`folder`, made if need be; raises `InputError` now if nothing can be written there."""
    probe = folder / ".inoculate-write-test"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}): give another folder with --out") from error
    return folder


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 2 the user's input is wrong (one line on stderr), 130 interrupted."""
    sys.exit(_guarded(lambda: app(arguments, standalone_mode=False)))


def _guarded(work: Callable[[], Any]) -> int:
    try:
        code = int(work() or 0)
    except InputError as error:
        return _fail(str(error))
    except USAGE_ERROR as error:
        message = error.format_message()  # empty where the help has just been shown instead
        return _fail(f"{message} See inoculate --help") if message else 2
    except OSError as error:
        if error.errno not in USER_MENDS:
            raise
        return _fail(
            f"{error.filename or 'a file'} cannot be read or written ({error.strerror}): free space or change the path"
        )
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:  # typer may also turn Ctrl-C into this code itself
        typer.echo("interrupted: run the same command again to go on", err=True)
    return code


def _fail(message: str) -> int:
    typer.echo("error: " + " ".join(message.split()), err=True)
    return 2
