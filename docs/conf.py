"""How the documentation is built: Sphinx with MyST, the reference from docstrings."""

from pathlib import Path

import typer

import inoculate
from inoculate.cli import app

project = "inoculate"
author = "The inoculate developers"
project_copyright = "The inoculate developers"
version = release = inoculate.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
napoleon_custom_sections = [("Options", "params_style"), ("Fields", "params_style")]
napoleon_numpy_docstring = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_generated"]
suppress_warnings = ["myst.xref_missing"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
default_role = "code"  # docstrings mark code with single backticks
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"inoculate {version}"
html_theme_options = {
    "source_repository": "https://github.com/inoculate/inoculate/",
    "source_branch": "main",
    "source_directory": "docs/",
}


def command_line_page() -> str:
    """Every command with its options, from the command line itself."""
    return "\n\n".join(_page(typer.main.get_command(app), "inoculate"))


def _page(command, name) -> list[str]:
    inner = getattr(command, "commands", None)
    if inner is not None:
        return [part for key, each in inner.items() for part in _page(each, f"{name} {key}")]
    text = [f"## {name}", (command.help or "").split("\f")[0].strip()]
    rows = ["| option | meaning | default |", "|---|---|---|"]
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        names = ", ".join(f"`{each}`" for each in [*parameter.opts, *parameter.secondary_opts])
        if parameter.param_type_name == "argument":
            names = f"`{(parameter.metavar or parameter.name).upper()}`"
        meaning = (getattr(parameter, "help", "") or "").replace("|", "\\|")
        default = "required" if parameter.required else _default(parameter.default)
        rows.append(f"| {names} | {meaning} | {default} |")
    return [*text, "\n".join(rows)]


def _default(value) -> str:
    return "" if value is None or value in ((), [], "") or callable(value) else f"`{value}`"


generated = Path(__file__).parent / "_generated"
generated.mkdir(exist_ok=True)
(generated / "command-line.md").write_text(command_line_page() + "\n", encoding="utf-8")
