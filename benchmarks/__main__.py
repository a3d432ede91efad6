"""`python -m benchmarks`: all of them, one after the other."""

from __future__ import annotations

from benchmarks import adversarial_training, autoattack, fgsm_sweep, pgd, training

fgsm_sweep.main()
pgd.main()
training.main()
adversarial_training.main()
autoattack.main()
