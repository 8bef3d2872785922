from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from cryo2d.cli import config_dir
from cryo2d.errors import InputError
from cryo2d.jobs import overrides, settings
from cryo2d.jobs.rules import Condition, OrNull, Whole


def report(*typed: str, job: str = "classify", **options: object) -> str:
    """What the user is told, or nothing."""
    try:
        overrides.check(job, typed, config_dir(), **options)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "typed",
    [
        (),
        ("data.path=particles.star", "model.num_classes=20", "model.mask_diameter=150"),
        ("data.path='/a=b/c d.star'",),
        ("data.passthrough=[a.cs,b.cs]",),
        ("logger=[csv,wandb]", "logger.wandb.offline=false"),
        ("+callbacks.mine._target_=a.B", "~callbacks.montage"),
        ("+hardware.trainer.limit_train_batches=3",),
        ("hardware.devices=[1]", "hardware=gpu"),
        ("experiment=quick", "model.num_classes=3"),
        ("hydra.run.dir=/nowhere/at/all",),
        ('data.path="a,b/p.star"',),
    ],
)
def test_a_right_command_line_is_silent(typed):
    assert report(*typed) == ""


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("model.num_clases=3", "did you mean model.num_classes?"),
        ("+model.num_clases=3", "did you mean model.num_classes?"),
        ("++model.num_clases=3", "did you mean model.num_classes?"),
        ("num_classes=3", "did you mean model.num_classes?"),
        ("modle=default", "did you mean model?"),
        ("logger=wandbb", "choose wandb"),
        ("logger=[csv,wandbb]", "choose wandb"),
        ("logger=null", "one of csv, default, mlflow, none, tensorboard, wandb"),
        ("data.path=/a=b", "'data.path=\"/a=b\"'"),
        ("data.path", "expected key=value"),
        ("model.icuf=1,2", "add -m"),
        ("data.path=a,b/p.star", "'data.path=\"a,b/p.star\"'"),
        ("model.ctf=half", "expected one of full, flip, none"),
        ("~model.icuf", "found no model.icuf"),
        ("seed=-1", "or null"),
        ("data.path=${oc.env:NO_SUCH_VARIABLE}", "NO_SUCH_VARIABLE"),
        ("data={pth: a.star}", "data={pth: a.star}"),
        ("+logger.wandb.settings.api_key=abc", "secrets in the environment only"),
        ("data.path=${oc.env:WANDB_API_KEY}", "secrets in the environment only"),
        ("+logger.mlflow.tracking_uri='https://me:word@host'", "secrets in the environment only"),
        ("+model.icuf=3", "write model.icuf=3"),
        ("+experiment=quick", "write experiment=quick"),
        ("model.icuf=", "write it right after ="),
        ("data.path=~/a.star", "data.path=$HOME/a.star"),
    ],
)
def test_a_wrong_override_says_what_to_do(typed, says):
    assert says in report(typed)


def test_all_problems_come_in_one_report():
    text = report("model.num_clases=3", "+model.foo=2", "logger=wandbb", "data.path=/a=b", "stray")
    assert text.startswith("5 problems")
    text = report("model.num_classes=0", "model.icuf=nan", "simulation.box=63")
    assert text.startswith("3 problems")


def test_settings_that_contradict_each_other():
    assert "data.window_inner < data.window_outer" in report("data.window_inner=1")
    assert "leave one of the two out" in report("data.path=a.star", "simulation.snr=2")
    assert report("simulation.defocus_min=9000", "simulation.defocus_max=9000") == ""


def test_every_value_of_a_sweep_is_checked():
    assert report("model.icuf=1,2", "model.num_classes=20,50", multirun=True) == ""
    text = report("model.icuf=1,0", "model.ctf=full,half", "hardware=cpu,gpu", multirun=True)
    assert "model.icuf=0" in text
    assert "model.ctf=half" in text
    assert "choose cpu" in report("hardware=cpu,cpuu", multirun=True)
    assert report("experiment=glob(*)", "model.icuf=interval(1,2)", multirun=True) == ""


def test_another_job_has_other_settings():
    assert report("simulation.snr=0.5", job="simulate") == ""
    assert "a setting of the job simulate" in report("model.icuf=2", job="simulate")
    assert "a group of the job convert" in report(
        "experiment=quick", "data.path=a.star", job="convert"
    )


def test_the_users_own_experiments_are_checked_too(tmp_path: Path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "good.yaml").write_text("# @package _global_\nmodel:\n  icuf: 3\n")
    (folder / "slip.yaml").write_text("# @package _global_\nmodel:\n  icfu: 3\n")
    assert report("experiment=good", extra_dir=tmp_path) == ""
    assert "did you mean model.icuf?" in report("experiment=slip", extra_dir=tmp_path)
    assert "expected a folder" in report(extra_dir=tmp_path / "none")


def test_the_folder_of_a_run_is_not_used_again(tmp_path: Path):
    assert report(f"hydra.run.dir='{tmp_path}'") == ""
    (tmp_path / ".hydra").mkdir()
    # killed before it began: the same command line may be typed again
    assert report(f"hydra.run.dir='{tmp_path}'") == ""
    (tmp_path / "config.yaml").touch()
    assert "the folder of a run" in report(f"hydra.run.dir='{tmp_path}'")


def test_a_rule_needs_no_quotes_of_its_own(monkeypatch):
    rules = {"rules": OrNull(Condition("a > 1")), "seed": Whole()}
    monkeypatch.setitem(settings.SETTINGS, "simulate", rules)
    assert (
        overrides.quoted("simulate", "rules=a>1 and b in [1, 2]") == "rules='a>1 and b in [1, 2]'"
    )
    for text in ("rules='a>1'", 'rules="a>1"', "rules=null", "rules=", "seed=1", "rules"):
        assert overrides.quoted("simulate", text) == text


@pytest.mark.parametrize(
    "typed",
    [
        "data.path=" + "[" * 3000 + "]" * 3000,
        "model.icuf=" + "9" * 6000,
        "optimizer." + "y" * 300 + "=1",
        "hydra/launcher=" + "x" * 3000,
        "hydra.run.dir=" + "z" * 5000,
    ],
)
def test_what_is_absurdly_long_or_deep_is_refused(typed):
    told = report(typed)
    assert told.startswith("1 problem")
    assert typed.partition("=")[0][:200] in told


@pytest.mark.parametrize(
    "line", ["api_key: abc", "run_name: ${oc.env:MY_SECRET}", "tracking_uri: http://me:word@host"]
)
def test_secrets_in_files_of_settings_are_refused_before_anything_is_written(line, tmp_path):
    (tmp_path / "experiment").mkdir()
    text = f"# @package _global_\nlogger:\n  mlflow:\n    _target_: a.B\n    {line}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    assert "looks like a secret" in report("experiment=mine", extra_dir=tmp_path)


def test_one_folder_needs_no_name():
    assert overrides.gathered("rerun", ["a b", "trusted=[x]"]) == ['run="a b"', "trusted=[x]"]
    assert overrides.gathered("rerun", ["a", "b"]) == ['run=["a","b"]']
    assert "found run=" in report('run=["a","b"]', job="rerun")
    assert report('run="outputs/run=3"', job="rerun") == ""


def test_hydra_is_not_asked_anew_for_every_misspelt_word(monkeypatch):
    asked = []
    options = ConfigLoaderImpl.get_group_options

    def counted(self: ConfigLoaderImpl, *given: object, **named: object) -> list[str]:
        asked.append(given)
        return options(self, *given, **named)

    monkeypatch.setattr(ConfigLoaderImpl, "get_group_options", counted)
    words = [f"{group}{i}=3" for i in range(60) for group in ("model.icfu", "modle", "logger.cs")]
    assert report(*words, "logger=wandbb", "logger=cvs").startswith("122 problems")
    assert len(asked) < 5
