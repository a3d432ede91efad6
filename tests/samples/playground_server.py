"""Serves a page for two networks on digits, prints its address and goes on until it is ended."""

import copy

from digits_samples import trained_digits
from playground_samples import OFFERED

from inoculate.core.threat import Threat
from inoculate.playground.play import play

if __name__ == "__main__":
    model, data = trained_digits()
    with play(model, data, OFFERED, Threat("linf", 0.1), hardened=copy.deepcopy(model)) as page:
        print(page.url, flush=True)
        page.wait()
