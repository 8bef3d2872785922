from pathlib import Path

import pytest

from cryo2d.cli import config_dir
from cryo2d.jobs import handbook
from cryo2d.jobs.settings import SETTINGS

CONF = config_dir()
PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


@pytest.mark.parametrize("job", sorted(SETTINGS))
def test_every_setting_has_a_row_and_a_meaning(job):
    rows = {entry.key: entry for entry in handbook.entries(job, CONF)}
    assert set(SETTINGS[job]) - set(rows) == set()
    assert [key for key, row in rows.items() if not row.meaning] == []
    assert all(rows[key].values == rule.expected for key, rule in SETTINGS[job].items())


def test_the_page_is_what_the_program_says():
    remake = "remake it: cryo2d settings format=markdown > docs/settings.md"
    assert PAGE.read_text(encoding="utf-8") == handbook.markdown(CONF), remake


def test_comments_belong_to_the_keys_below_them(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "# Header.\n\n# Both.\none: 1\ntwo: 2\n\nbare: 3\n# Object.\n# More.\nobject:\n"
        "  _target_: a.B\n  own: 4\n  # Other.\n  other: 5\nlast: 6\n"
    )
    assert handbook.header(path) == ["Header."]
    assert handbook.meanings(path) == {
        "one": "Both.",
        "two": "Both.",
        "bare": "",
        "object": "Object. More.",
        "object._target_": "Object. More.",
        "object.own": "Object. More.",
        "object.other": "Other.",
        "last": "Object. More.",
    }


def test_the_overview_has_every_job_and_every_choice():
    text = handbook.overview(CONF)
    assert [job for job in SETTINGS if f"\n  {job} " not in text] == []
    for group in ("experiment", "hardware", "logger"):
        for path in (CONF / group).glob("*.yaml"):
            assert f"  {group}={path.stem} " in text
