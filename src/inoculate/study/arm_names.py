"""Names of the arms that differ in their data, free of torch: study files are read with it."""

ARMS = ("standard", "augmented", "transferred", "noise", "duplicates")
CONTROLS = ("noise", "duplicates")
WITH_COPIES = ("transferred", *CONTROLS)
