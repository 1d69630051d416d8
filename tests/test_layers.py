"""Imports point one way, heavy packages are imported lazily, public names are documented."""

import ast
import importlib.util
import inspect
import pathlib
import subprocess
import sys

import pytest

LAZY = ("estimators", "kernels", "linen", "nnx", "testing")
FLAT = ("mappings", "losses", "sampling", "attention")  # their names are jsoftmax's
NAMESPACES = (
    "vocabulary",
    "policies",
    "calibration",
    "routing",
)  # that keep the names that are too general
PACKAGE = pathlib.Path(importlib.util.find_spec("jsoftmax").origin).parent

# A folder may import from itself and from the folders of lower rank. Kernels import core only, and
# nobody imports kernels but inside a function. Their trial is a program, which calls everything.
RANKS = {
    "core": 0,
    "mappings": 1,
    "losses": 2,
    "sampling": 2,
    "policies": 3,
    "calibration": 3,
    "routing": 3,
    "attention": 3,
    "vocabulary": 3,
    "testing": 4,
    "estimators": 4,
    "nnx": 4,
    "linen": 4,
}
# The wings of vocabulary, likewise; files beside them serve all.
WINGS = {"linear": 0, "trees": 0, "row_updates": 0, "sampled": 1, "bands": 1, "contrastive": 1}
# Folders of twins: the same file names for the same modules.
TWINS = {"nnx", "linen"}
KERNELS = "kernels"
TRIALS = ("jsoftmax.kernels.__main__", "jsoftmax.kernels.trial")
# Files beside the folders (__init__, __main__) and the main job may import everything, and none of
# the folders imports them.
PROGRAM = "demo"

FILES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(file.relative_to(PACKAGE)) for file in FILES]


def folder_of(module: str) -> str:
    """jsoftmax.mappings._entmax → mappings; jsoftmax, jsoftmax.entmax, jsoftmax.__main__ → demo."""
    if any(within(module, trial) for trial in TRIALS):
        return PROGRAM
    second = module.split(".")[1] if "." in module else ""
    return second if second in {*RANKS, KERNELS} else PROGRAM


def module_of(file: pathlib.Path) -> str:
    """The dotted name of a file of the package."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: pathlib.Path) -> list[tuple[str, bool]]:
    """Full names of a file's imports, each with whether importing the file imports it too."""
    tree = ast.parse(file.read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    lazy = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, functions)
        for node in ast.walk(function)
    }
    package = module_of(file).split(".")
    if file.name != "__init__.py":
        package = package[:-1]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in lazy) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            found += [(f"{base}.{alias.name}", id(node) not in lazy) for alias in node.names]
    return found


def within(name: str, module: str) -> bool:
    """Is `name` the module or something in it?"""
    return name == module or name.startswith(module + ".")


def may_import(importer: str, imported: str, eager: bool) -> bool:
    """The rule, between folders."""
    if importer in (PROGRAM, imported):
        return True
    if importer == KERNELS:
        return imported == "core"
    if imported == KERNELS:
        return importer != "core" and not eager
    return imported in RANKS and RANKS[imported] < RANKS[importer]


def test_every_folder_has_a_rank():
    """A new folder says where it stands."""
    folders = {file.relative_to(PACKAGE).parts[0] for file in FILES if file.parent != PACKAGE}
    assert folders <= {*RANKS, KERNELS, PROGRAM}


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_imports_point_one_way(file):
    """core → mappings → losses, sampling, policies → attention, vocabulary → nnx, linen."""
    here = folder_of(module_of(file))
    backwards = [
        name
        for name, eager in imports(file)
        if within(name, "jsoftmax") and not may_import(here, folder_of(name), eager)
    ]
    assert not backwards, f"{here} must not import {', '.join(backwards)}"


def wing_of(module: str) -> str | None:
    """jsoftmax.vocabulary.trees._trees → trees."""
    parts = module.split(".")
    return parts[2] if parts[1:2] == ["vocabulary"] and parts[2:3] and parts[2] in WINGS else None


def test_every_wing_has_a_rank():
    """A new wing says where it stands."""
    folders = {file.parent.name for file in (PACKAGE / "vocabulary").glob("*/__init__.py")}
    assert folders == set(WINGS)


@pytest.mark.parametrize("file", sorted((PACKAGE / "vocabulary").rglob("_[a-z]*.py")), ids=str)
def test_wings_import_one_way(file):
    """Linear losses serve sampled ones and bands; trees and row updates stand alone."""
    here = wing_of(module_of(file))
    others = {wing_of(name) for name, _ in imports(file)} - {None, here}
    rank = -1 if here is None else WINGS[here]
    backwards = [wing for wing in others if WINGS[wing] >= rank]
    assert not backwards, f"{here or 'vocabulary'} must not import {', '.join(backwards)}"


def test_no_two_files_share_a_name():
    """A file name stands for one idea: only the twins in nnx and linen share theirs."""
    names = [file.name for file in FILES if file.parent.name not in TWINS]
    names = [name for name in names if not name.startswith("__")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_flax_stays_in_the_modules_and_pallas_in_the_kernels(file):
    """Functions need neither, so whoever wants only functions pays for neither."""
    homes = {"flax": {"nnx", "linen", PROGRAM}, "jax.experimental.pallas": {KERNELS}}
    here = folder_of(module_of(file))
    strayed = [
        name
        for name, _ in imports(file)
        for module, folders in homes.items()
        if within(name, module) and here not in folders
    ]
    assert not strayed, f"{here} must not import {', '.join(strayed)}"


REGULARIZERS = {"Tsallis", "FermiDirac", "Elastic", "JensenShannon", "Laplace"}
NUMBERS = {"alpha", "exponent", "strength"}  # fields and properties of theirs


def asks_which_regularizer(node: ast.AST) -> bool:
    """`isinstance(x, Tsallis)`, `type(x) is Tsallis`, `case Tsallis()`, `x.alpha == 1`."""
    parts = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    parts |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    if isinstance(node, ast.Call):
        asks = isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass")
        return asks and bool(parts & REGULARIZERS)
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        if any(isinstance(side, ast.Constant) and side.value is None for side in sides):
            return False  # whether a user gave it
        return bool(parts & REGULARIZERS) or any(
            isinstance(side, ast.Attribute) and side.attr in NUMBERS for side in sides
        )
    return isinstance(node, ast.MatchClass) and bool(parts & REGULARIZERS)


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("isinstance(x, core.Tsallis | FermiDirac)", True),
        ("type(x) is Laplace", True),
        ("ask.regularizer.alpha == 2", True),
        ("0 < x.exponent", True),
        ("match x:\n    case Elastic(): pass", True),
        ("isinstance(x, Regularizer) and ask.regularizer.is_exponential", False),
        ("entmax(z, self.alpha) if self.alpha is None else 0", False),
    ],
)
def test_a_question_for_the_kind_of_regularizer_is_seen(text, asks):
    assert any(map(asks_which_regularizer, ast.walk(ast.parse(text)))) == asks


@pytest.mark.parametrize(
    "file", [x for x in FILES if folder_of(module_of(x)) != "core"], ids=lambda file: file.name
)
def test_no_function_asks_which_regularizer_it_has(file):
    """Outside of core/ they use its methods, so that anybody's regularizer is as good as ours."""
    asked = [
        f"line {getattr(node, 'lineno', '?')}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(file.read_text()))
        if asks_which_regularizer(node)
    ]
    assert not asked


def run(script: str) -> subprocess.CompletedProcess:
    """A script in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


HEAVY = ("flax", "optax", "sklearn", "jsoftmax.kernels", "jsoftmax.testing")


@pytest.mark.law  # so that it meets the oldest and the newest dependencies too
def test_importing_the_package_imports_no_heavy_package():
    """Neither Flax nor optax, Pallas or scikit-learn; also not by way of a dependency."""
    ran = run("import sys, jsoftmax; print(*sys.modules)")
    heavy = [
        module
        for module in ran.stdout.split()
        if any(within(module, package) for package in HEAVY) or "pallas" in module
    ]
    assert "jsoftmax" in ran.stdout.split(), ran.stderr
    assert not heavy


def public_names() -> list[tuple[str, str]]:
    """(module, name) of all that jsoftmax and its attributes offer, read from __all__."""
    found = []
    folders = ("", *NAMESPACES, *LAZY)
    for file in (PACKAGE / folder / "__init__.py" for folder in folders):
        if file.exists():
            module = module_of(file)
            names = getattr(importlib.import_module(module), "__all__", ())
            found += [(module, name) for name in names if not name.startswith("__")]
    return found


@pytest.mark.parametrize(("module", "name"), public_names())
def test_public_names_are_documented(module, name):
    """By a description and an example that runs; its arguments, where it takes any."""
    thing = getattr(importlib.import_module(module), name)
    text = inspect.getdoc(thing)
    assert text, f"{name} has no docstring"
    if inspect.ismodule(thing):
        return
    assert ">>> " in text, f"{name} shows no example"
    if callable(thing) and inspect.signature(thing).parameters:
        assert "Args:" in text, f"{name} does not describe its arguments"
    if inspect.isroutine(inspect.unwrap(thing)):
        assert "Returns:" in text, f"{name} does not describe what it returns"


def test_a_public_name_is_flat_or_in_its_namespace():
    """Flat are four folders, the linear functions, and names that say where they belong."""
    root = importlib.import_module("jsoftmax")
    flat, homes = set(root.__all__), {}
    for folder in (*FLAT, *NAMESPACES):
        module = getattr(root, folder)
        assert not set(homes) & set(module.__all__), f"{folder} repeats a name"
        homes |= dict.fromkeys(module.__all__, folder)
    needed = {n for n, folder in homes.items() if folder in FLAT or n.startswith("linear_")}
    assert needed <= flat
    for name in flat & set(homes):
        assert getattr(root, name) is getattr(getattr(root, homes[name]), name)
    rest = {name for name in flat - set(homes) if not name.startswith("__")}
    assert all(issubclass(getattr(root, name), root.Regularizer) for name in rest)


def test_no_module_shares_its_name_with_a_function():
    """`jsoftmax.mappings.entmax` would be the file or the function, whichever was imported last."""
    functions = {name for _, name in public_names()}
    assert not functions & {file.stem for file in FILES}


def test_modules_are_lazy_attributes():
    """`jsoftmax.nnx.Entmax` needs no import of its own, and costs nothing until it is named."""
    script = f"""
import sys, jsoftmax
assert set({LAZY}) <= set(dir(jsoftmax)) and not set({LAZY}) & set(vars(jsoftmax))
print(jsoftmax.nnx.Entmax, jsoftmax.linen.Entmax, jsoftmax.estimators.SoftmaxRegression)
print(jsoftmax.testing.assert_distribution, jsoftmax.kernels.chosen)
assert set({LAZY}) <= set(vars(jsoftmax))
try:
    jsoftmax.nowhere
except AttributeError as error:
    assert "'jsoftmax' has no attribute 'nowhere'" in str(error)
"""
    ran = run(script)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("package", "module", "remedy"),
    [
        ("flax", "jsoftmax.nnx", "pip install flax"),
        ("flax", "jsoftmax.linen", "pip install flax"),
        ("sklearn", "jsoftmax.estimators", 'pip install "jsoftmax[sklearn]"'),
    ],
)
def test_functions_work_without_a_package_and_modules_name_it(package, module, remedy):
    """By import and by attribute; a submodule that is not there at all is not listed either."""
    name = module.split(".")[1]
    script = f"""
import sys
sys.modules[{package!r}] = None  # as if it were not installed
import jax.numpy as jnp, jsoftmax
assert float(jsoftmax.sparsemax(jnp.array([2.0, 0.0]))[0]) == 1
for attempt in (lambda: __import__({module!r}), lambda: jsoftmax.{name}):
    try:
        attempt()
    except ImportError as error:
        assert {remedy!r} in str(error) and {module!r} in str(error), error
    else:
        raise AssertionError("imported")
assert {name!r} not in dir(jsoftmax)
"""
    ran = run(script)
    assert ran.returncode == 0, ran.stderr
