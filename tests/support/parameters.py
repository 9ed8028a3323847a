"""Tables of cases as the parameters of tests."""

import pytest


def named(table):
    """Returns the cases of a table as parameters of a test, with their names as ids."""
    return [pytest.param(case, id=name) for name, case in table.items()]
