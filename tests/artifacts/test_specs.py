import ast
import subprocess
import sys

import pytest

from inoculate.artifacts import specs
from inoculate.artifacts.specs import code_digest, fingerprint


def test_specs_differ_by_value_not_by_order():
    assert fingerprint({"a": 1, "b": [1.5]}) == fingerprint({"b": [1.5], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


CODE = '''
"""Module."""
def f(*, a, b=1):
    """Function."""
    return a + b  # a comment
'''


def tokens(text):
    return "".join(specs._tokens(ast.parse(text)))


@pytest.mark.smoke
def test_only_code_counts():
    without = "def f( *,a,b = 1 ):\n    return (a + b)"
    assert tokens(CODE) == tokens(without)
    for changed in ("b=2", "*, a=1, b", "a, b=1"):
        assert tokens(CODE) != tokens(CODE.replace("*, a, b=1" if "," in changed else "b=1", changed)), changed
    assert tokens("x = None") != tokens("x = 0")
    assert tokens("def f():\n    'a'") == tokens("def f():\n    'b'"), "a docstring alone"


def test_modules_and_rooms():
    assert code_digest("inoculate.data.decode") == code_digest("inoculate.data.decode", "inoculate.data.decode")
    assert code_digest("inoculate.data") != code_digest("inoculate.data.decode")
    with pytest.raises(ValueError, match="no source file"):
        code_digest("inoculate.data.nothing")


def test_nothing_is_imported():
    code = (
        "import sys; from inoculate.artifacts.specs import code_digest; code_digest('inoculate.training');"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
