"""What `harden` returns: a hardened network, its measurements before and after, and how it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from torch import nn

from inoculate.artifacts.files import read_json, write_bytes, write_json, write_text
from inoculate.artifacts.output import Output, remove_files
from inoculate.core.errors import InputError
from inoculate.core.results import html_of, name_of, table_of
from inoculate.core.row import Row
from inoculate.core.threat import Threat
from inoculate.evaluation.checks import Check
from inoculate.evaluation.files import load_results, load_thumbnails, save_results, save_thumbnails
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.thumbnails import Thumbnails
from inoculate.hardening.card import CardFacts, render_card
from inoculate.models.loading.checkpoints import DESCRIPTION, MODEL_FOLDER
from inoculate.models.loading.network import Network, reload_network
from inoculate.training.checkpoint import History

CARD, ONNX = "README.md", "model.onnx"
UNSAVED = Path("hardened")  # where the card of a result that was not saved says the model is


@dataclass(frozen=True, eq=False, repr=False)
class Hardened:
    """A hardened network with its measurements. It iterates over the rows before and after.

    Fields:
        network: the classifier, and how it is rebuilt.
        before, after: rows of the same attacks, clean first.
        history: one entry per validation round of the training.
        per_image: the result on every test image, by row.
        facts: what the card says beside the rows.
        run: fingerprint of everything that the result was made from.
        image_facts: `labels`, `classes` and `sources` of the test images, as `evaluation.json` holds them.
        thumbnails: small copies of the test images that fail first after hardening.
        onnx: content of `model.onnx`, where it was asked for.
        folder: where the result is saved, if it is.
        reused: whether the folder held the finished result of the same call, so that nothing was computed.
    """

    network: Network
    threat: Threat
    before: list[Row]
    after: list[Row]
    history: History
    per_image: dict[Row, PerSampleResult]
    facts: CardFacts
    run: str
    image_facts: Mapping[str, Any] = field(default_factory=dict)
    thumbnails: Thumbnails = field(default_factory=Thumbnails.none)
    onnx: bytes | None = None
    folder: Path | None = None
    reused: bool = False

    def __iter__(self) -> Iterator[Row]:
        yield from self.before
        yield from self.after

    def __len__(self) -> int:
        return len(self.before) + len(self.after)

    def __getitem__(self, index: int) -> Row:
        rows: list[Row] = [*self.before, *self.after]
        return rows[index]

    @property
    def model(self) -> nn.Module:
        """The hardened classifier in eval mode: float images in [0, 1] → logits."""
        return self.network.model

    @property
    def method(self) -> str:
        """The name of the training method; its options are in `facts.training.method`."""
        return str(self.facts.training.method["method"])

    @property
    def warnings(self) -> list[str]:
        """What a reader of the numbers must know."""
        return list(self.facts.warnings)

    @property
    def checks(self) -> list[Check]:
        """Whether the delivered network's numbers can be trusted; made on some of the test images."""
        return list(self.facts.checks)

    @property
    def card(self) -> str:
        """The robustness card in Markdown."""
        return render_card(self.facts, self.before, self.after, self.folder or UNSAVED)

    def save(self, folder: str | Path) -> Path:
        """Write weights, card, rows and history into `folder`, in place of an earlier model; returns the folder.

        Raises `InputError` where it holds files that no job of this package wrote.
        """
        folder = Path(folder)
        Output(folder, {}, MODEL_FOLDER).check()
        remove_files(folder, (MODEL_FOLDER.completion, *MODEL_FOLDER.derived))
        self.write(folder)
        write_json(folder / MODEL_FOLDER.completion, self.history)
        return folder

    def write(self, folder: Path) -> None:
        """Write all files but the history, which marks a folder as complete."""
        facts: dict[str, Any] = {"threat": self.threat.as_dict(), "seed": self.facts.seed, "data": self.facts.digest}
        if self.facts.reading:
            facts["reading"] = dict(self.facts.reading)
        if not self.facts.training.kept_original:
            fallback = self.facts.training.fallback
            facts |= {"method": dict(self.facts.training.method)} | ({"fallback": fallback} if fallback else {})
        self.network.save(folder, **facts, run=self.run, card=asdict(self.facts))
        if self.onnx is not None:
            write_bytes(folder / ONNX, self.onnx)
        write_text(folder / CARD, render_card(self.facts, self.before, self.after, folder))
        save_thumbnails(folder, self.thumbnails)
        save_results(folder, [*self], self.per_image, self.image_facts)

    @classmethod
    def load(cls, folder: str | Path, model: nn.Module | None = None) -> Hardened:
        """Read what `save`, or `harden` with `out`, wrote.

        Where a module of the user's was hardened, `model` is that module, built as before; it is copied. Raises
        `InputError` for a folder without a complete hardened model.
        """
        folder = Path(folder)
        description = read_json(folder / DESCRIPTION) if MODEL_FOLDER.matches(folder) else {}
        if "card" not in description or not (folder / MODEL_FOLDER.completion).is_file():
            raise InputError(f"{folder} holds no complete hardened model: give a folder that harden wrote")
        rows, per_image, facts = load_results(folder)
        before, after = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        return cls(
            network=reload_network(folder, after[0].model, model), threat=Threat.from_dict(description["threat"]),
            before=before, after=after, history=read_json(folder / MODEL_FOLDER.completion),
            image_facts={name: value for name, value in facts.items() if name != "results"},
            thumbnails=load_thumbnails(folder), per_image=per_image, facts=CardFacts.from_json(description["card"]),
            run=description["run"], onnx=(folder / ONNX).read_bytes() if (folder / ONNX).is_file() else None,
            folder=folder,
        )  # fmt: skip

    def table(self) -> dict[str, list[Any]]:
        """Columns of the rows before and after, ready for `pandas.DataFrame`."""
        return table_of([*self])

    def report(self, path: str | Path | None = None) -> Path:
        """Write an HTML page to `path`, by default `report.html` in the result's folder; returns the path."""
        from inoculate import write_report  # lies above this room

        return write_report(self, path)

    @property
    def title(self) -> str:
        """What was hardened on what."""
        return f"{self.facts.network} for {self.facts.dataset}, before and after hardening by {self.method}"

    def __repr__(self) -> str:
        pairs = zip(self.before, self.after, strict=True)
        rows = [f"  {name_of(after):28} {before.accuracy:6.1%} -> {after.accuracy:6.1%}" for before, after in pairs]
        return "\n".join([self.title, *rows, *(f"  warning: {message}" for message in self.warnings)])

    def _repr_html_(self) -> str:
        from inoculate import main_figure  # the report lies above this room

        lines = [f"warning: {message}" for message in self.warnings]
        return html_of([*self], self.title) + main_figure(self) + "<br>\n".join(map(escape, lines))
