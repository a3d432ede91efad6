"""As strong as the reference? A trained folder under our attacks and under pyautoattack's, on the same test images.

`python -m benchmarks.strength --model FOLDER --data mnist --norm linf --eps 0.3 [--images 1000] [--seeds 3]
[--members apgd_ce,apgd_t,fab_t,square] [--whole | --among MEMBER]`. FAB-T starts from the image itself and draws no
random numbers: one run is enough. `--whole` also runs the port's whole AutoAttack. The first seed is run on every
image. The following ones leave out what nothing had broken by then, neither of both sides nor our `autoattack`, and
count it as standing. `--among apgd_ce` leaves out from the start what our APGD-CE does not break, for a member whose
budget is long: believe it only where a run with `--whole` has shown that nothing breaks the rest.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.common import launch, machine
from inoculate import Dataset, EvaluationOptions, Threat, evaluate, load_data
from inoculate.core.pixels import to_float
from inoculate.core.threat import parse_eps
from inoculate.models.loading.checkpoints import read_description
from inoculate.models.loading.load import load_model

MEMBERS = {"apgd_ce": "apgd-ce", "apgd_t": "apgd-t", "fab_t": "fab-t", "square": "square"}
BATCH = 250


def ours(model: nn.Module, split: Dataset, threat: Threat, attack: str, seed: int) -> Tensor:
    """Which images (N, bool) stand under our attack."""
    options = EvaluationOptions(checks=False)
    found = evaluate(model, split, [attack], [threat], batch_size=BATCH, seed=seed, options=options)
    return found.per_image[found[1]].right


def port(model: nn.Module, split: Dataset, threat: Threat, attack: str, seed: int) -> Tensor:
    """Which images (N, bool) stand under the port's member of this name, or under all of them."""
    import pyautoattack

    norm = {"linf": "Linf", "l2": "L2"}[threat.norm]
    whole = pyautoattack.AutoAttack(model, norm=norm, eps=threat.eps, seed=seed, version="standard")
    others = len(split.classes) - 1
    whole.apgd_targeted.n_target_classes = whole.fab.n_target_classes = min(9, others)
    if attack in MEMBERS:
        whole.attacks_to_run = [MEMBERS[attack]]
    elif others < 3:
        whole.attacks_to_run = ["apgd-ce", "fab-t", "square"]  # the targeted loss needs four classes
    x, y = to_float(split.images), split.labels
    x_adv, _ = whole.run_standard_evaluation(x, y, batch_size=BATCH)
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in x_adv.split(BATCH)]) == y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--data-root")
    parser.add_argument("--norm", default="linf", choices=("linf", "l2"))
    parser.add_argument("--eps", required=True, type=parse_eps)
    parser.add_argument("--images", default=1000, type=int)
    parser.add_argument("--seeds", default=3, type=int)
    parser.add_argument("--members", default=",".join(MEMBERS))
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--whole", action="store_true")
    either.add_argument("--among", choices=MEMBERS)
    chosen = parser.parse_args()
    model, spec = load_model(chosen.model), read_description(chosen.model).spec
    model.requires_grad_(False)
    size = {"image_size": spec.image_size, "channels": spec.channels}
    split = load_data(chosen.data, "test", data_root=chosen.data_root, **size).limit(chosen.images, seed=0)
    threat = Threat(chosen.norm, chosen.eps)
    print(f"{chosen.model}, {chosen.data}, {threat}, {len(split)} test images; {machine()}", flush=True)
    autoattack = "autoattack" if len(split.classes) > 3 else "autoattack_binary"
    runs: list[tuple[str, int]] = [] if chosen.among else [(autoattack, 0)]
    runs += [(m, seed) for seed in range(chosen.seeds) for m in chosen.members.split(",") if seed == 0 or m != "fab_t"]
    every = torch.ones(len(split), dtype=torch.bool)
    # by anything in the first seed; the others do not change it
    unbroken = ours(model, split, threat, chosen.among, 0) if chosen.among else every
    for name, seed in runs:
        rows = (~unbroken if seed or chosen.among else every).nonzero().squeeze(1)
        part, said = split.subset(rows), []
        for side in (ours, port) if name in MEMBERS or chosen.whole else (ours,):
            began = time.perf_counter()
            stands = unbroken.clone()
            stands[rows] = side(model, part, threat, name, seed)
            unbroken = unbroken & stands
            seconds = time.perf_counter() - began
            said.append(f"{side.__name__} {100 * float(stands.float().mean()):5.1f} % in {seconds:5.0f} s")
        print(f"  {name:18} seed {seed}, {len(part):4} images tried   {'   '.join(said)}", flush=True)


if __name__ == "__main__":
    launch(main)
