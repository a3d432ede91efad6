"""One of several processes that train together: started by `tests/training/test_distributed.py`.

Arguments: the folder for results, and the update at which the last process kills itself (0: never).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.training.methods.pgd_at import PGDAT
from inoculate.training.options import TrainingOptions
from inoculate.training.train import train

OPTIONS = TrainingOptions(batch_size=24, precision="fp32", limit=120, image_size=8)
KILL_AT = 0  # updates
CALLS = [0]


@dataclass(frozen=True)
class KillableAT:
    """PGD adversarial training whose process may kill itself in the middle of an update."""

    steps: int = 2
    passes: float = 3
    loss_passes: float = 1

    def examples(self, batch: Any) -> Any:
        CALLS[0] += 1
        if CALLS[0] == KILL_AT and int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return PGDAT(self.steps).examples(batch)

    def loss(self, batch: Any, x_adv: Any) -> Any:
        return PGDAT(self.steps).loss(batch, x_adv)


def run(out: Path | None, options: TrainingOptions = OPTIONS) -> Any:
    """Two epochs of adversarial training on digits; in one process where there is no launcher."""
    return train("small_cnn", "digits", KillableAT(), Threat("linf", 0.1), epochs=2, out=out, options=options)


def threads() -> list[str]:
    """Names of this process's threads (Linux)."""
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


def main(folder: Path) -> None:
    """Resume in `folder`/resumed, train anew in `folder`/whole, report what was seen."""
    torch.set_num_threads(1)
    run(folder / "resumed")
    whole = run(folder / "whole")
    facts: dict[str, Any] = {"history": whole.history, "reused": whole.reused}
    facts["reused_again"] = run(folder / "whole").reused
    facts["initialized"], facts["threads"] = torch.distributed.is_initialized(), threads()
    try:
        run(None, TrainingOptions(batch_size=25))
    except InputError as error:
        facts["error"] = str(error)
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    KILL_AT = int(sys.argv[2])
    main(Path(sys.argv[1]))
