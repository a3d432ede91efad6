"""The training method of a hardening."""

from __future__ import annotations

from inoculate.core.errors import InputError
from inoculate.hardening.options import HardeningOptions
from inoculate.training.methods.helpers import check_helpers
from inoculate.training.methods.registry import MethodLike, MethodSpec, as_method

IBP = "ibp"  # which certifies most where the time is short


def choose_method(method: MethodLike | None, options: HardeningOptions) -> MethodSpec | None:
    """The method that was asked for; None where the budget chooses it; IBP for a certified network.

    Raises `InputError` for a method that is not adversarial, and for options that do not belong to the method.
    """
    if options.certify and method is None:
        method = IBP
    if method is None and options.method_options:
        raise InputError("method options are for a method: name one, or leave both out")
    chosen = None if method is None else as_method(method, **options.method_options)
    if chosen is not None and not chosen.is_adversarial:
        raise InputError(f"method {chosen.name} trains against no attack: leave the method out, or use train")
    check_helpers(chosen.name if chosen else "a hardening without a method", options.teacher, options.surrogates)
    return chosen
