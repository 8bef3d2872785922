"""Any bytes are read or refused: InputError is all that comes out, and soon.

``python tests/fuzz/long.py`` does the same for as long as wanted.
"""

import time

import pytest
from damaged import TARGETS, damaged
from hypothesis import HealthCheck, given, settings

LONGEST = 2.0  # seconds of the processor: a loaded machine is no finding
EXAMPLES = {"star": 40, "cs": 60, "mrc": 60, "compressed": 25, "settings": 15}
EXAMPLES |= {"run_folder": 60, "checkpoint": 60}


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_read_or_refused(name):
    @settings(
        max_examples=EXAMPLES[name],
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        derandomize=True,
        database=None,
    )
    @given(damaged(name))
    def check(data: bytes) -> None:
        start = time.process_time()
        TARGETS[name](data)
        assert time.process_time() - start < LONGEST

    check()
