"""Names of the study's arms, apart from the code that builds them so that reading a study file stays quick."""

ARMS = ("standard", "augmented", "transferred", "noise", "duplicates")
CONTROLS = ("noise", "duplicates")
WITH_COPIES = ("transferred", *CONTROLS)

# Training methods (`registry.py`), each an arm on the clean training part, and what some need beside the network.
METHOD_ARMS = (
    "pgd_at",
    "fgsm_rs",
    "fgsm_rs_then_pgd",
    "free",
    "trades",
    "mart",
    "ensemble",
    "ard",
    "rslad",
    "live_surrogate",
)
NEEDS_TEACHER = ("ard", "rslad")
NEEDS_SURROGATES = ("ensemble",)
NEEDS_NETWORK = ("live_surrogate",)
