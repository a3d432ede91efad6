"""`inoculate play`: a page on which one image at a time is attacked."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from inoculate.cli import options
from inoculate.cli.loading import Asked, load
from inoculate.cli.output import print_notes, print_warnings
from inoculate.cli.parsers import parse_attacks, pick_device
from inoculate.cli.reading_options import adapts_attacks, reads_images
from inoculate.data.preprocessing import Preprocessing

Hardened = Annotated[
    str | None,
    options.topic_option(
        "--hardened", options.MODEL, "The network after its hardening: a folder, a SPEC, or weights for --model."
    ),
]
Host = Annotated[str, options.topic_option("--host", options.RUN, "Address to listen on; 0.0.0.0 lets others in.")]
Port = Annotated[
    int | None, options.topic_option("--port", options.RUN, "Port.", show_default="first free from 7860", max=65535)
]


@adapts_attacks
@reads_images
def play(
    model: options.Model,
    data: options.Data,
    preprocessing: Preprocessing,
    adaptation: dict[str, Any],
    weights: options.Weights = None,
    pretrained: options.Pretrained = False,
    outputs: options.Outputs = "logits",
    normalize: options.Normalize = None,
    class_names: options.ClassNames = None,
    classes: options.Classes = "all",
    hardened: Hardened = None,
    split: options.Split = "test",
    data_root: options.DataRoot = None,
    limit: options.Limit = None,
    attack: options.Attacks = "fgsm,pgd,apgd_ce,square,autoattack",
    norm: options.Norm = "linf",
    eps: options.Eps = "8/255",
    seed: options.Seed = 0,
    device: options.Device = "auto",
    host: Host = "127.0.0.1",
    port: Port = None,
) -> None:
    """Open a page on which images are attacked: drag eps, upload your own, compare before and after hardening.

    The page is served on this machine until Ctrl-C, and nothing leaves the machine. Needs the extra `play`.

    Example: inoculate play --model my_model --data my_images --hardened hardened
    """
    from inoculate.core.threat import Threat, parse_eps
    from inoculate.evaluation.inputs import Matching, resolve_attacks
    from inoculate.playground.play import PlayOptions, load_hardened, open_session
    from inoculate.playground.serve import require_gradio, serve

    require_gradio()
    offered, threat = resolve_attacks(parse_attacks(attack), adaptation), Threat(norm, parse_eps(eps))  # type: ignore[arg-type]
    network, images, reading, warnings = load(
        Asked(model, data, weights, pretrained, outputs, normalize, split, data_root, limit, seed), preprocessing
    )
    place = pick_device(device)
    print_notes(images.notes)
    print_warnings(warnings)
    after = None if hardened is None else load_hardened(hardened, model, images, outputs=outputs, normalize=normalize)
    settings = PlayOptions(
        model, reading, Matching(class_names, classes), seed, place, host, port  # type: ignore[arg-type]
    )  # fmt: skip
    session = open_session(
        network.to(place), images, offered, threat, hardened=after and after.to(place), options=settings
    )
    print_warnings(session.warnings)
    with serve(session, host, port) as page:
        typer.echo(f"Playground: {page.url} (Ctrl-C ends it)")
        try:
            page.wait()
        except KeyboardInterrupt:
            typer.echo("ended")
