"""Attacks that the tests of the playground offer: one step, several, by queries alone, and an ensemble."""

from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.pgd import PGD
from inoculate.attacks.short_ensemble import ShortEnsemble
from inoculate.attacks.square import Square

OFFERED = {"fgsm": FGSM(), "pgd": PGD(), "square": Square(queries=100), "short_ensemble": ShortEnsemble()}
