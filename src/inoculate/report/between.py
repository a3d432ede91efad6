"""Both bounds of an accuracy: what is proved of a network, and what the strongest attack leaves of it."""

from __future__ import annotations

from dataclasses import dataclass

from inoculate.core.results import hardest
from inoculate.core.row import CERTIFIED
from inoculate.report.formatting import attack_name, percent
from inoculate.report.results import Measurement, Results

BEST = "best possible attack"


@dataclass(frozen=True)
class Between:
    """Accuracy under the best possible attack lies between `proved` and `attacked`, the lowest under an attack."""

    proved: Measurement
    attacked: Measurement

    @property
    def attack(self) -> str:
        """The name of the strongest attack."""
        return attack_name(self.attacked.rows[0].attack)

    @property
    def words(self) -> str:
        """Both, such as `20.0 to 40.0`; one where they are equal."""
        low, high = percent(self.proved.accuracy), percent(self.attacked.accuracy)
        return low if low == high else f"{low} to {high}"


def between(results: Results, model: str, arm: str, eps: float) -> Between | None:
    """Both bounds of a network at one eps; None where either was not measured."""
    proved = results.find(model, arm, CERTIFIED, eps, "white-box")
    tried = [results.find(model, arm, attack, eps, "white-box") for attack in results.attacks]
    attacked = [number for number in tried if number is not None]
    if proved is None or not attacked:
        return None
    return Between(proved, hardest(attacked))
