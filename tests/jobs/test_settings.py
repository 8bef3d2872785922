import pytest

from cryo2d.jobs.settings import SETTINGS, is_known, nearest

KEYS = sorted({key for table in SETTINGS.values() for key in table})


@pytest.mark.parametrize("key", [key for key in KEYS if len(key.rsplit(".", 1)[-1]) >= 5])
def test_a_slip_of_one_letter_suggests_the_right_key(key):
    start = key.rfind(".") + 1
    for i in range(start, len(key)):
        slip = key[:i] + key[i + 1 :]
        assert key in nearest(slip, tuple(KEYS)), slip


def test_a_key_without_its_group_is_found():
    assert nearest("num_classes", tuple(SETTINGS["classify"]))[0] == "model.num_classes"
    assert nearest("optimizer.icuf", tuple(SETTINGS["classify"]))[0] == "model.icuf"


def test_nonsense_suggests_nothing():
    assert nearest("qqqq", tuple(SETTINGS["classify"])) == []


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("model.icuf", True),
        ("model", True),
        ("model.icu", False),
        ("model.icuf.more", False),
        ("logger.mine.anything", True),
        ("hardware.trainer.limit_train_batches", True),
        ("optimizer.step_size.floor", True),
        ("optimizer.reseed.settle", True),
        ("loggers", False),
    ],
)
def test_only_free_objects_take_new_keys(key, known):
    assert is_known("classify", key) is known
