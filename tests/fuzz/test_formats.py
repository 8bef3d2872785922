"""Any bytes are read or refused: InputError is all that comes out, and soon.

``python tests/fuzz/long.py`` does the same for as long as wanted.
"""

import pytest
from damaged import TARGETS, damaged
from hypothesis import HealthCheck, given, settings

EXAMPLES = {"star": 60, "cs": 80, "mrc": 80, "compressed": 30, "settings": 40}


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_read_or_refused(name):
    @settings(
        max_examples=EXAMPLES[name],
        deadline=2000,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        derandomize=True,
        database=None,
    )
    @given(damaged(name))
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()
