"""TorchScript files as classifiers. Nothing is unpickled."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.core.errors import InputError, one_line
from inoculate.models.loading.weights import holds_code, holds_state_dict, without_network


class ScriptedModel(nn.Module):
    """A TorchScript module inside an ordinary one, which takes hooks."""

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Any:
        return self.module(x)


def load_torchscript(path: Path) -> ScriptedModel:
    """The module that `torch.jit.save` wrote, on the CPU; gradients pass through it.

    A file written by `torch.save`, which is a pickle, is recognised by its contents and refused. Raises
    `InputError`.
    """
    if not holds_code(path):
        if holds_state_dict(path):
            raise without_network(path)
        raise InputError(
            f"model {path} is not a TorchScript file but a pickle or damaged, and pickles are never opened: export it "
            "with torch.jit.script(model).save('model.ts'), or give file.py:factory and --weights as safetensors"
        )
    try:
        with warnings.catch_warnings():  # deprecated, but such files will be in use for years
            warnings.simplefilter("ignore", FutureWarning)
            module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"model {path} cannot be loaded ({one_line(error)}): export it again with this torch"
        ) from error
    return ScriptedModel(module)
