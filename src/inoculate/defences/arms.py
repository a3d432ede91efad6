"""Names of the study's arms, apart from the code that builds them so that reading a study file stays quick."""

ARMS = ("standard", "augmented", "transferred", "noise", "duplicates")
WITH_COPIES = ("transferred", "noise", "duplicates")
