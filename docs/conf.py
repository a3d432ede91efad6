"""How the documentation is built: Sphinx with MyST, the reference from docstrings."""

from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import typer
from torch import Tensor

import inoculate
from inoculate.cli import app

project = "inoculate"
author = "The inoculate developers"
project_copyright = "The inoculate developers"
version = release = inoculate.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
napoleon_custom_sections = [(name, "params_style") for name in ("Options", "Fields", "Columns", "Facts", "Arrays")]
napoleon_numpy_docstring = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_generated"]
suppress_warnings = ["myst.xref_missing"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
smartquotes = False  # they would turn `--` into a dash
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
    text = [f"## {name}", *_help(command.help or "")]
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


def _help(text) -> list[str]:
    """The help of a command: its sentences, and its example as code."""
    words, _, example = text.split("\f")[0].strip().partition("Example: ")
    return [words.strip(), f"```text\n{example}\n```"] if example else [words]


def _default(value) -> str:
    return "" if value is None or value in ((), [], "") or callable(value) else f"`{value}`"


generated = Path(__file__).parent / "_generated"
generated.mkdir(exist_ok=True)
(generated / "command-line.md").write_text(command_line_page() + "\n", encoding="utf-8")


def show_fields(app, what, name, obj, options, signature, return_annotation):
    """The signature of a dataclass: its fields with their defaults; the docstring has the types."""
    if what != "class" or not is_dataclass(obj):
        return None
    shown = [
        field.name if field.default is MISSING and field.default_factory is MISSING else f"{field.name}={_value(field)}"
        for field in fields(obj)
        if field.init
    ]
    return f"({', '.join(shown)})", None


def _value(field):
    value = field.default if field.default is not MISSING else field.default_factory()
    return repr(value) if not isinstance(value, Tensor) else "…"


def setup(app):
    app.connect("autodoc-process-signature", show_fields)
