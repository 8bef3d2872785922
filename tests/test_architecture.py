"""The house rules that a program can check."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "cryo2d").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
CONFIGS = sorted((ROOT / "conf").rglob("*.yaml"))
FORBIDDEN_NAMES = r"utils?|helpers?|common|core|misc|stuff|tools?|\w*_(v\d+|old|new|tmp|copy)"
TOP_LEVEL = {
    "LICENSE",
    "README.md",
    "conf",
    "cryo2d",
    "docs",
    "outputs",
    "pyproject.toml",
    "tests",
}
MACHINE_PATH = re.compile(r"(?<![\w.:$}/-])/(work|root|home|tmp|Users)/\w")


# What would run what a file says, or hand a file's text to a shell.
NEVER_CALLED = {
    *("eval", "exec", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"),
    *("pickle.load", "pickle.loads", "torch.load", "joblib.load", "marshal.loads", "shelve.open"),
}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_source = pytest.mark.parametrize("path", PACKAGE, ids=relative)


def test_imports_run_one_way():
    # In a process of its own: import-linter silences the loggers of the one it runs in.
    program = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@each_source
def test_a_file_is_short_and_says_what_it_is_for(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    assert ast.get_docstring(ast.parse(text)), "no module docstring"


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from its name to its end, without the docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


@each_source
def test_a_function_is_short(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert code_lines(node) < 50, node.name


@each_source
def test_a_file_is_a_noun_of_the_field(path):
    for part in path.relative_to(ROOT).with_suffix("").parts:
        assert not re.fullmatch(FORBIDDEN_NAMES, part)


@pytest.mark.parametrize("path", PACKAGE + TESTS + CONFIGS, ids=relative)
def test_the_text_is_plain(path):
    text = path.read_text(encoding="utf-8")
    assert text.isascii()
    assert "from __future__ import " + "annotations" not in text
    assert not re.search(r"(import|from|_target_:) lightning\b", text), "use pytorch_lightning"
    assert not MACHINE_PATH.search(text), MACHINE_PATH.search(text)


def name_of(function: ast.expr) -> str:
    """Dotted name of what is called, as far as it has one."""
    if isinstance(function, ast.Attribute):
        return f"{name_of(function.value)}.{function.attr}"
    return function.id if isinstance(function, ast.Name) else ""


@pytest.mark.parametrize("path", PACKAGE + CONFIGS, ids=relative)
def test_no_file_that_is_read_can_run_anything(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"weights_only\s*[=:]\s*False|add_safe_globals", text)
    if path.suffix == ".yaml":
        assert not re.search(r"_target_: *(?!cryo2d\.|pytorch_lightning\.)\w", text)
        return
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name, given = name_of(node.func), {word.arg: word.value for word in node.keywords}
        assert name not in NEVER_CALLED, f"line {node.lineno}: {name}"
        shell = given.get("shell")
        assert shell is None or getattr(shell, "value", True) is False, f"line {node.lineno}"
        if name in ("np.load", "np.lib.format.read_array", "numpy.load"):
            allowed = given.get("allow_pickle")
            assert getattr(allowed, "value", True) is False, f"line {node.lineno}: {name}"


def test_the_tests_mirror_the_package():
    folders = {path.parent.relative_to(ROOT / "tests") for path in TESTS}
    packages = {path.parent.relative_to(ROOT / "cryo2d") for path in PACKAGE}
    assert folders - packages - {Path("benchmarks"), Path("fuzz")} == set()
    assert [relative(path) for path in TESTS if path.name == "__init__.py"] == []


def test_the_top_level_stays_small():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    top = {name.split("/", 1)[0] for name in listed}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL
