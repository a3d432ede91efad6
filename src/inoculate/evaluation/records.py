"""Per-image records and adversarial images on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from inoculate.core.errors import InputError
from inoculate.core.modes import device_of, frozen
from inoculate.core.pixels import eight_bits, to_float
from inoculate.core.row import Row
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.per_sample import Verdict


def write_records(path: Path, split: Dataset, rows: Sequence[Row], verdicts: Mapping[str, Verdict]) -> None:
    """One line per image and row of the evaluation, as a Parquet file.

    Columns: `image` (its place in the split), `label`, the row's `attack`, `norm`, `eps` and `seed`, `clean_predicted`,
    `predicted` (on the adversarial image, −1 if not finished), `margin` (best wrong logit minus the true one there),
    `right`, `finished`, `distance` of the adversarial image, `broken_by` (the attack, or null) and `breaks_at`: the
    smallest distance at which this attack broke the image at any eps (0 if it is wrong as it is, null if none did).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    clean = verdicts[rows[0].key]
    assert clean.outcome is not None
    smallest: dict[tuple[str, str], Tensor] = {}
    for row in rows[1:]:
        verdict = verdicts[row.key]
        assert verdict.outcome is not None
        broken = ~verdict.right if verdict.known is None else ~verdict.right & verdict.known
        at = torch.where(broken, verdict.outcome.distance, torch.inf)
        key = (row.attack, row.norm)
        smallest[key] = torch.minimum(smallest.get(key, at), torch.where(clean.right, at, 0.0))
    tables = []
    for row in rows:
        verdict = verdicts[row.key]
        outcome, n = verdict.outcome, len(split)
        assert outcome is not None
        known = torch.ones(n, dtype=torch.bool) if verdict.known is None else verdict.known
        names = outcome.names or (row.attack,)
        by = outcome.broken_by if outcome.names else torch.where(~verdict.right & clean.right & known, 0, -1)
        breaks_at = smallest.get((row.attack, row.norm))
        columns: dict[str, Any] = {
            "image": np.arange(n), "label": split.labels.numpy(),
            "attack": [row.attack] * n, "norm": [row.norm] * n, "eps": np.full(n, row.eps),
            "seed": np.full(n, row.seed),
            "clean_predicted": clean.outcome.predicted.numpy(), "predicted": outcome.predicted.numpy(),
            "margin": outcome.margin.numpy(), "right": verdict.right.numpy(), "finished": known.numpy(),
            "distance": outcome.distance.numpy(),
            "broken_by": pa.array(
                [names[i] if i >= 0 and row.attack != "none" else None for i in by.tolist()], pa.string()
            ),
            "breaks_at": pa.array(
                [None] * n if breaks_at is None else [v if v < float("inf") else None for v in breaks_at.tolist()],
                pa.float64(),
            ),
        }  # fmt: skip
        tables.append(pa.table(columns))
    pq.write_table(pa.concat_tables(tables), path)


@dataclass
class Gallery:
    """Writes adversarial images as 8-bit PNGs that stay inside the ball, and reads them back to see if they still fool.

    Use it as `evaluate(..., keep=gallery.keep)`, then `gallery.verify()`. Only images that fool the model before they
    are rounded are written: `<folder>/<attack>/<norm>-<eps>/<image>-<true class>-as-<predicted class>.png`.
    """

    folder: Path
    model: nn.Module
    split: Dataset
    written: dict[tuple[str, float], list[tuple[Path, int]]] = field(default_factory=dict)

    def keep(self, attack: str, rows: Tensor, x_adv: Tensor, threat: Threat) -> None:
        """Write those images of a batch (B×C×H×W in [0, 1]) that the model gets wrong. Grey or RGB."""
        if x_adv.shape[1] not in (1, 3):
            raise InputError(f"images with {x_adv.shape[1]} channels cannot be saved as PNG: leave out --save-images")
        labels = self.split.labels[rows]
        with frozen(self.model), torch.no_grad():
            predicted = self.model(x_adv).argmax(dim=1).cpu()
        place = self.folder / attack / f"{threat.norm}-{threat.eps:g}"
        place.mkdir(parents=True, exist_ok=True)
        done = self.written.setdefault((attack, threat.eps), [])
        pixels = eight_bits(x_adv.cpu(), self.split.images[rows], threat)
        for i in (predicted != labels).nonzero().squeeze(1).tolist():
            names = (_plain(self.split.classes[int(c)]) for c in (labels[i], predicted[i]))
            path = place / f"{int(rows[i]):06}-{'-as-'.join(names)}.png"
            array = pixels[i].permute(1, 2, 0).numpy()
            Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(path)
            done.append((path, int(rows[i])))

    def verify(self) -> dict[tuple[str, float], tuple[int, int]]:
        """Per attack and eps: how many images were written, and how many still fool the model when read from disk."""
        device = device_of(self.model)
        found = {}
        for key, files in self.written.items():
            still = 0
            for start in range(0, len(files), 256):
                batch = files[start : start + 256]
                pixels = torch.stack([_read(path) for path, _ in batch])
                labels = self.split.labels[torch.tensor([row for _, row in batch])]
                with frozen(self.model), torch.no_grad():
                    predicted = self.model(to_float(pixels.to(device))).argmax(dim=1).cpu()
                still += int((predicted != labels).sum())
            found[key] = (len(files), still)
        return found


def _read(path: Path) -> Tensor:
    array = np.asarray(Image.open(path))
    return torch.from_numpy(array.copy()).view(*array.shape[:2], -1).permute(2, 0, 1)


def _plain(name: str) -> str:
    """A class name as part of a file name."""
    return "".join(c if c.isalnum() else "_" for c in name)[:40]
