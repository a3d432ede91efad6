"""The attacks by name, as the command line and study files know them."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

from inoculate.attacks.apgd import APGD
from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.base import Attack
from inoculate.attacks.bim import BIM
from inoculate.attacks.carlini_wagner import CarliniWagner
from inoculate.attacks.deepfool import DeepFool
from inoculate.attacks.fab import FAB
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.fmn import FMN
from inoculate.attacks.hopskipjump import HopSkipJump
from inoculate.attacks.interop.art import ArtAttack
from inoculate.attacks.interop.foolbox import FoolboxAttack
from inoculate.attacks.interop.torchattacks import TorchattacksAttack
from inoculate.attacks.mifgsm import MIFGSM
from inoculate.attacks.one_step_target import OneStepTarget
from inoculate.attacks.patch import Patch
from inoculate.attacks.pgd import PGD
from inoculate.attacks.rays import RayS
from inoculate.attacks.short_ensemble import ShortEnsemble
from inoculate.attacks.sigma_zero import SigmaZero
from inoculate.attacks.sparse_rs import SparseRS
from inoculate.attacks.square import Square
from inoculate.core.errors import InputError, suggest
from inoculate.core.options import require_text
from inoculate.models.loading.factories import import_function

ATTACKS: dict[str, Any] = {
    "fgsm": FGSM(),
    "one_step_target": OneStepTarget(),
    "bim": BIM(),
    "pgd": PGD(),
    "mifgsm": MIFGSM(),
    "difgsm": MIFGSM(diversity=0.5),
    "tifgsm": MIFGSM(blur=15),
    "apgd_ce": APGD(),
    "apgd_dlr": APGD(loss="dlr"),
    "apgd_t": APGD(loss="dlr", targets=9),
    "fab_t": FAB(),
    "square": Square(),
    "short_ensemble": ShortEnsemble(),
    "deepfool": DeepFool(),
    "carlini_wagner": CarliniWagner(),
    "fmn": FMN(),
    "sigma_zero": SigmaZero(),
    "sparse_rs": SparseRS(),
    "patch": Patch(),
    "hopskipjump": HopSkipJump(),
    "rays": RayS(),
    "autoattack": AutoAttack(),
    "autoattack_thorough": AutoAttack(termination_ratio=math.inf),
    "autoattack_quick": AutoAttack("quick", targets=3, termination_ratio=0.6),
    "autoattack_binary": AutoAttack("binary"),
    "autoattack_rand": AutoAttack("rand"),
}
LIBRARIES: dict[str, Any] = {"foolbox": FoolboxAttack, "torchattacks": TorchattacksAttack, "art": ArtAttack}


def get_attack(name: str, **options: Any) -> Attack:
    """The attack of a registry name, such as `pgd`, or of another library, such as `foolbox:PGD`.

    Args:
        name: of the table of attacks, or `foolbox:Name`, `torchattacks:Name` or `art:Name` with that library's class
            name.
        options: fields of the attack to change, such as `steps=20`. A `loss` may also be the SPEC of a function of
            your own, `file.py:function` or `package.module:function`.

    Raises `InputError` for an unknown name or option, naming the nearest known one, and for an option out of its range.
    """
    require_text(attack=name)
    library, colon, theirs = name.partition(":")
    if colon:
        if library not in LIBRARIES:
            raise InputError(f"library '{library}' is unknown: write foolbox:Name, torchattacks:Name or art:Name")
        peer: Attack = LIBRARIES[library](theirs, options)
        return peer
    if name not in ATTACKS:
        raise InputError(f"attack '{name}' is unknown: {suggest(name, tuple(ATTACKS))}")
    known = tuple(field.name for field in fields(ATTACKS[name]))
    for option in options:
        if option not in known:
            raise InputError(f"attack {name} has no option '{option}': {suggest(option, known)}")
    if ":" in str(options.get("loss")):
        options["loss"] = import_function(str(options["loss"]), "loss")
    attack: Attack = replace(ATTACKS[name], **options)
    return attack
