"""How each artefact of a study is made. Everything heavy is imported and done here; `run` decides what is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from inoculate.artifacts.files import read_json, write_json
from inoculate.attacks.base import Attack
from inoculate.attacks.craft import AdvSet, craft
from inoculate.attacks.registry import get_attack
from inoculate.attribution.explain import choose, explain
from inoculate.core.errors import InputError
from inoculate.core.rng import generator
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.data.load import decode_source
from inoculate.data.sources import Source
from inoculate.data.split import Parts, partition
from inoculate.evaluation.engine import judge_attack, judge_clean, judge_replay
from inoculate.evaluation.per_sample import Verdict
from inoculate.models.acceleration.fast import fast
from inoculate.models.build import check_name
from inoculate.models.loading.load import load_model
from inoculate.study.config import AttackChoice, DatasetConfig, Study, Training

Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True, eq=False)
class Data:
    """A dataset of the study: its train, val and test parts, and which images of the pool they are."""

    train: Dataset
    val: Dataset
    test: Dataset
    parts: Parts
    digest: str
    skipped: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Job:
    """What every artefact of one dataset and seed is made with."""

    study: Study
    data: Data
    seed: int
    device: str
    progress: Progress

    @property
    def training(self) -> Training:
        """How this dataset's networks are trained."""
        return self.study.training_for(self.data.train.name)

    def tell(self, done: int, total: int) -> None:
        """Progress without facts."""
        self.progress(done, total, {})


def load_parts(study: Study, source: Source, dataset: DatasetConfig, name: str, seed: int, progress: Progress) -> Data:
    """Decode (or find decoded) the dataset and split it; the test part is shuffled, so its beginning is a sample."""
    for model in study.models:  # a misspelt network is found before hours of work, not after
        check_name(model)
    decoded = decode_source(
        source,
        image_size=dataset.image_size,
        channels=dataset.channels,
        progress=lambda what, done, total: progress(done, total, {}),
    )
    split = replace(decoded.data, name=name)
    kept = torch.arange(len(split))
    if study.limit is not None and study.limit < len(split):
        kept = limited(split, study.limit)
    if study.split.official_test and not decoded.has_test:
        raise InputError(f"{name} has no test split of its own: set official_test: false")
    official = decoded.official_test[kept.numpy()] if study.split.official_test else None
    fractions = (study.split.train, study.split.val, study.split.test)
    parts = partition(split.labels[kept], seed=seed, fractions=fractions, test_mask=official)
    parts = Parts(*(kept.numpy()[part] for part in (parts.train, parts.val, parts.test)))
    order = torch.randperm(len(parts.test), generator=generator(seed, "test order")).numpy()
    parts = replace(parts, test=parts.test[order])
    train, val, test = (split.subset(part) for part in (parts.train, parts.val, parts.test))
    return Data(train, val, test, parts, split.digest, split.skipped)


def limited(split: Dataset, limit: int) -> torch.Tensor:
    """Positions of a stratified sample of `limit` images."""
    numbered = replace(split, images=torch.arange(len(split)).view(-1, 1, 1, 1))
    return numbered.limit(limit, seed=0).images.flatten()


def check_parts(folder: Path, data: Data) -> None:
    """Raise `InputError` if the artefact in `folder` holds other images or another split than `data`.

    Networks in the same store were trained on the stored split: tested on another, they would see training images.
    """
    stored = np.load(folder / "indices.npz", allow_pickle=False)
    same = all(np.array_equal(stored[name], getattr(data.parts, name)) for name in ("train", "val", "test"))
    if not same or read_json(folder / "split.json")["digest"] != data.digest:
        raise InputError(
            f"{data.train.name}: images or their split differ from those that this store was made with "
            "(another library version?): give a new folder with --out"
        )


def save_parts(folder: Path, data: Data) -> None:
    """The split as an artefact: indices into the pool, and the pool's content hash."""
    np.savez(folder / "indices.npz", train=data.parts.train, val=data.parts.val, test=data.parts.test)
    write_json(
        folder / "split.json", {"digest": data.digest, "skipped": list(data.skipped), "classes": data.train.classes}
    )


def make_examples(folder: Path, job: Job, choice: AttackChoice, fitted: Path, split: Dataset) -> None:
    """Craft on a trained network, once for all eps."""
    how, network = job.study.evaluation, trained(fitted, job.device)
    examples = craft(
        build_attack(choice),
        fast(network) if how.precision == "fast" else network,
        split,
        Threat(job.study.norm, max(job.study.eps)),
        batch_size=how.batch_size,
        seed=job.seed,
        progress=job.tell,
    )
    examples.save(folder)


def make_clean(folder: Path, job: Job, fitted: Path) -> None:
    """Measure a network on the test images as they are."""
    part = job.data.test.subset(range(job.study.evaluation.of(len(job.data.test))))
    network = trained(fitted, job.device)
    _save_verdicts(folder, [judge_clean(network, part, job.study.evaluation.batch_size, job.tell)])


def make_verdicts(
    folder: Path, job: Job, choice: AttackChoice, fitted: Path, clean: Path, examples: Path | None
) -> None:
    """Measure a network under an attack, or on the stored `examples`, given its verdicts on `clean` images."""
    study, network = job.study, trained(fitted, job.device)
    right = read_verdicts(clean)[0].right
    right = right[: choice.images or len(right)]
    part, batch_size = job.data.test.subset(range(len(right))), study.evaluation.batch_size
    if examples is not None:
        stored = AdvSet.load(examples)
        epsilons = study.eps_for(choice)
        verdicts = judge_replay(network, part, stored, epsilons, right, batch_size=batch_size, progress=job.tell)
    else:
        verdicts = _attacked(job, choice, network, part, right)
    _save_verdicts(folder, verdicts)


def _attacked(job: Job, choice: AttackChoice, network: nn.Module, part: Dataset, right: torch.Tensor) -> list[Verdict]:
    return judge_attack(
        network,
        part,
        build_attack(choice),
        Threat(job.study.norm, max(job.study.eps)),
        job.study.eps_for(choice),
        right,
        batch_size=job.study.evaluation.batch_size,
        seed=job.seed,
        precision=job.study.evaluation.precision,
        progress=job.tell,
    )


def _save_verdicts(folder: Path, verdicts: list[Verdict]) -> None:
    np.save(folder / "right.npy", torch.stack([v.right for v in verdicts]).numpy(), allow_pickle=False)
    write_json(folder / "verdicts.json", [{"eps": v.eps, "seconds": v.seconds} for v in verdicts])


def read_verdicts(folder: Path) -> list[Verdict]:
    """What `make_verdicts` wrote."""
    right = torch.from_numpy(np.load(folder / "right.npy", allow_pickle=False))
    facts = json.loads((folder / "verdicts.json").read_text())
    return [Verdict(fact["eps"], right[i], fact["seconds"]) for i, fact in enumerate(facts)]


def make_explanation(folder: Path, job: Job, model: str, arm: str, fitted: Path, standard: Path, clean: Path) -> None:
    """Explain a network of an arm, on images that its `standard` version gets right (its verdicts are in `clean`)."""
    study = job.study
    assert study.explanations is not None
    amounts = study.explanations.amounts
    right = read_verdicts(clean)[0].right
    part, attack = job.data.test.subset(range(len(right))), build_attack(study.attacks[study.transfer])
    explained = explain(
        trained(fitted, job.device),
        part,
        attack,
        Threat(study.norm, max(study.eps)),
        amounts,
        shown=choose(part, right, amounts.images),
        before=None if arm == "standard" else trained(standard, job.device),
        batch_size=study.evaluation.batch_size,
        seed=job.seed,
        progress=job.tell,
        name=model,
        arm=arm,
        attack_name=study.transfer,
    )
    explained.save(folder)


def make_choice(folder: Path, job: Job, fitted: dict[str, Path]) -> None:
    """The most vulnerable standard network: lowest mean adversarial accuracy on validation (never on test)."""
    evaluation, accuracy = job.study.evaluation, {}
    part = job.data.val.limit(evaluation.of(len(job.data.val)), seed=job.seed)
    for name, path in fitted.items():
        network = trained(path, job.device)
        right = judge_clean(network, part, evaluation.batch_size).right
        verdicts = _attacked(job, job.study.attacks[job.study.transfer], network, part, right)
        accuracy[name] = sum(v.right.float().mean().item() for v in verdicts) / len(verdicts)
    write_json(
        folder / "choice.json", {"surrogate": min(accuracy, key=lambda name: accuracy[name]), "accuracy": accuracy}
    )


def build_attack(choice: AttackChoice) -> Attack:
    """The attack of a study file's entry."""
    attack: Attack = get_attack(choice.attack, **choice.options)
    return attack


@lru_cache(maxsize=2)
def trained(folder: Path, device: str) -> nn.Module:
    """A trained network, kept in memory while the next few cells need it."""
    return load_model(folder).to(device)
