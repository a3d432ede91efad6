"""`python -m benchmarks`: all of them, one after the other."""

from __future__ import annotations

from benchmarks import fgsm_sweep, training

fgsm_sweep.main()
training.main()
