"""Specs: plain JSON values that say how an artefact is made, and their fingerprints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical(spec: Mapping[str, Any]) -> str:
    """The one spelling of a spec: sorted keys, no spaces, no NaN."""
    return json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(spec: Mapping[str, Any]) -> str:
    """20 hex digits that name whatever is made from `spec`; equal specs, equal names."""
    return hashlib.sha256(canonical(spec).encode()).hexdigest()[:20]
