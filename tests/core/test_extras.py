import pytest

from inoculate.core.errors import InputError
from inoculate.core.extras import is_installed, require


def test_a_missing_package_is_one_line_with_the_command_that_installs_it():
    assert is_installed("numpy")
    require("numpy", "all", "counting")
    with pytest.raises(
        InputError, match=r"^drawing needs the package no_such_package: pip install 'inoculate\[plots\]'$"
    ):
        require("no_such_package", "plots", "drawing")
