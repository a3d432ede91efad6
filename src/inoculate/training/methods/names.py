"""Names of the training methods, free of torch: study files and the command line's help are read with it."""

STANDARD = "standard"
# Methods of `registry.py` that train against a threat; each may be an arm of a study.
METHOD_ARMS = (
    "pgd_at",
    "fgsm_rs",
    "n_fgsm",
    "fgsm_pgi",
    "fgsm_rs_then_pgd",
    "free",
    "trades",
    "mart",
    "ensemble",
    "ard",
    "rslad",
    "rrm",
    "live_surrogate",
    "gaussian",
    "ibp",
    "crown_ibp",
    "mtl_ibp",
    "sabr",
)
# Those whose accuracy interval bounds prove, which then chooses the round that is kept.
CERTIFIED = ("ibp", "crown_ibp", "mtl_ibp", "sabr")
# Those that carry state from batch to batch, so that no batch can be divided.
STATEFUL = ("free", "fgsm_pgi", "rrm", "live_surrogate")
# Methods that need other networks.
NEEDS_TEACHER = ("ard", "rslad", "rrm")
NEEDS_SURROGATES = ("ensemble",)
NEEDS_NETWORK = ("live_surrogate",)
