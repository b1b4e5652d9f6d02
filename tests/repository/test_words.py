"""How the code reads: DESIGN.md's words, no swallowed errors, no sleeping tests, no patched modules."""

import ast
import re

import pytest

from tests.repository.sources import ROOT, python_files, trees

FORBIDDEN = {"instance", "node", "manager", "helper", "util", "utils", "service"}
BROAD = {"Exception", "BaseException"}


def words(name: str) -> set[str]:
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return {word for part in parts for word in (part.lower(), part.lower().removesuffix("s"))}


def defined_names(tree: ast.Module) -> set[str]:
    """Names that this code chose itself; what foreign code calls its things is not our affair."""
    names = set[str]()
    hooks = [step for step in ast.walk(tree) if isinstance(step, ast.FunctionDef) and step.name.startswith("pytest_")]
    given = {id(part) for hook in hooks for part in (hook, *ast.walk(hook.args))}  # pytest goes by their names
    for step in ast.walk(tree):
        if id(step) in given:
            continue
        match step:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.add(name)
            case ast.alias(asname=str(name)):
                names.add(name)
    return names


def names_of(expression: ast.expr | None) -> set[str]:
    """Return the last parts of the dotted names in an expression: {"sleep"} of ``time.sleep``."""
    found = ast.walk(expression) if expression is not None else ()
    return {
        step.id if isinstance(step, ast.Name) else step.attr
        for step in found
        if isinstance(step, ast.Name | ast.Attribute)
    }


def swallows(step: ast.AST) -> bool:
    match step:
        case ast.ExceptHandler(type=caught, body=body):
            broad = caught is None or bool(names_of(caught) & BROAD)
            return broad and all(isinstance(line, ast.Pass | ast.Continue) or is_ellipsis(line) for line in body)
        case ast.Call(func=called, args=caught):
            return "suppress" in names_of(called) and any(names_of(one) & BROAD for one in caught)
    return False


def is_ellipsis(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and line.value.value is ...


def naps_or_patches(step: ast.AST) -> bool:
    match step:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)):
            return name == "sleep" or (owner == "monkeypatch" and name in {"setattr", "delattr"})
        case ast.Call(func=ast.Name(id=name)):
            return name == "sleep"
        case ast.ImportFrom(module="unittest", names=names):
            return any(alias.name == "mock" for alias in names)
        case ast.ImportFrom(module=str(module)):
            return module.startswith("unittest.mock")
        case ast.Import(names=names):
            return any(alias.name.startswith("unittest.mock") for alias in names)
    return False


def places(found, *folders: str) -> list[str]:
    return [f"{path}:{step.lineno}" for path, tree in trees(*folders) for step in ast.walk(tree) if found(step)]


def test_a_thing_is_called_what_it_is():
    used = {
        f"{path}: {name}"
        for path, tree in trees("app", "client")
        for name in defined_names(tree)
        if words(name) & FORBIDDEN
    }
    modules = {str(path.relative_to(ROOT)) for path in python_files("app", "client") if words(path.stem) & FORBIDDEN}
    assert used | modules == set()


def test_no_error_is_swallowed():
    assert places(swallows, "app", "client", "tests", "benchmarks") == []


def test_tests_neither_sleep_nor_patch():
    assert places(naps_or_patches, "tests") == []


@pytest.mark.parametrize(
    ("judge", "code"),
    [
        (swallows, "try:\n    f()\nexcept Exception:\n    pass"),
        (swallows, "try:\n    f()\nexcept (OSError, BaseException):\n    ..."),
        (swallows, "with contextlib.suppress(Exception):\n    f()"),
        (naps_or_patches, "time.sleep(1)"),
        (naps_or_patches, "from unittest import mock"),
        (naps_or_patches, "monkeypatch.setattr(leasedb, 'x', 1)"),
    ],
)
def test_the_judges_see_what_they_are_for(judge, code):
    assert any(judge(step) for step in ast.walk(ast.parse(code)))


def test_the_judge_of_words_reads_inside_names():
    tree = ast.parse("class PoolManagers: ...\ndef make_node(instance): self.my_utils = isinstance(1, int)")
    assert {name for name in defined_names(tree) if words(name) & FORBIDDEN} == {
        "PoolManagers", "make_node", "instance", "my_utils",
    }  # fmt: skip
