"""`inoculate export`: a network as a file for deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inoculate.cli import options, variant_options
from inoculate.cli.loading import Asked, load
from inoculate.cli.output import print_notes, print_warnings
from inoculate.cli.reading_options import reads_images
from inoculate.data.preprocessing import Preprocessing

ModelArgument = Annotated[str, typer.Argument(help=options.MODEL_SPEC, metavar="MODEL")]
To = Annotated[str, options.topic_option("--to", options.OUTPUT, "onnx, int8 (ONNX in eight bits) or torchscript.")]
File = Annotated[Path, options.topic_option("--out", options.OUTPUT, "The file: .onnx, .ts or .pt.")]


@reads_images
def export(
    model: ModelArgument,
    data: options.Data,
    out: File,
    preprocessing: Preprocessing,
    to: To = "onnx",
    weights: options.Weights = None,
    pretrained: options.Pretrained = False,
    outputs: options.Outputs = "logits",
    normalize: options.Normalize = None,
    split: options.Split = "test",
    data_root: options.DataRoot = None,
    limit: options.Limit = 256,
    seed: options.Seed = 0,
) -> None:
    """Write a network for deployment, read the file back, and compare its logits with the network's on images.

    Example: inoculate export my_model --to int8 --data my_images --out my_model.int8.onnx
    """
    from inoculate.evaluation.export import export as run

    network, images, reading, warnings = load(
        Asked(model, data, weights, pretrained, outputs, normalize, split, data_root, limit, seed), preprocessing
    )
    chosen = variant_options.calibration([to], data, images, reading, data_root, seed)
    print_warnings(warnings)
    found = run(network, images, out, to, calibration=chosen, seed=seed)  # type: ignore[arg-type]
    print_notes(found.notes)
    print_warnings(found.warnings)
    typer.echo(found)
