"""The layers of STYLE.md, the public names, and what the library never does."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hamward

ROOT = Path(hamward.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A module imports from its own group or from groups above it.
GROUPS = (
    {"types", "codes", "errors", "random", "config", "process", "progress", "recipes"},
    {"registry", "artifacts", "losses"},
    {"data", "models", "index", "metrics"},
    {"attacks", "training"},
    {"defenses"},
    {"evaluation"},
    {"benchmark", "leaderboard", "zoo"},
    {"cli", "__main__"},
)
GROUP_OF = {name: number for number, names in enumerate(GROUPS) for name in names}


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(("hamward", *parts)).removesuffix(".__init__")


def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports_of(file: Path) -> Iterator[str]:
    """Every module of hamward that a file imports, inside functions too."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "hamward")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hamward":
            assert node.module is not None
            if node.module == "hamward":
                yield from (f"hamward.{a.name}" for a in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"


def test_every_module_has_a_group() -> None:
    tops = {name_of(file).split(".")[1] for file in FILES if name_of(file) != "hamward"}
    assert tops == set(GROUP_OF)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_to_the_left(file: Path) -> None:
    if name_of(file) == "hamward":
        return
    own = GROUP_OF[name_of(file).split(".")[1]]
    for imported in imports_of(file):
        top = imported.split(".")[1]
        if top == "__version__":
            continue
        assert GROUP_OF[top] <= own, f"{name_of(file)} must not import {imported}"


def test_public_names_are_sorted_and_resolve() -> None:
    assert len(set(hamward.__all__)) == len(hamward.__all__)
    kinds = [(not n.isupper(), n.startswith("_") or n[0].islower(), n) for n in hamward.__all__]
    assert kinds == sorted(kinds), "constants, classes, functions, each in order"
    for name in hamward.__all__:
        assert getattr(hamward, name) is not None
    homes = [name for names in hamward._HOMES.values() for name in names]
    assert sorted([*homes, "__version__"]) == sorted(hamward.__all__)
    for module, names in hamward._HOMES.items():
        exported = importlib.import_module(f"hamward.{module}").__all__
        assert set(names) <= set(exported), module
    assert dir(hamward) == sorted(hamward.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hamward.nothing  # noqa: B018


def test_static_imports_say_what_the_lazy_ones_do() -> None:
    """`if TYPE_CHECKING` is what type checkers believe; `_HOMES` is what happens."""
    block = next(n for n in tree_of(ROOT / "__init__.py").body if isinstance(n, ast.If))
    said = {
        node.module: tuple(alias.name for alias in node.names)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    }
    homes = {f"hamward.{module}": set(names) for module, names in hamward._HOMES.items()}
    assert {module: set(names) for module, names in said.items()} == homes


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_modules_declare_what_they_export(file: Path) -> None:
    module = importlib.import_module(name_of(file))
    if file.name == "__init__.py" or not hasattr(module, "__all__"):
        return
    for name in module.__all__:
        assert hasattr(module, name), name


def calls_of(file: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_the_library_does_not_print_or_evaluate_or_unpickle(file: Path) -> None:
    printing = name_of(file).startswith("hamward.cli")
    for name, call in calls_of(file):
        assert printing or name != "print", f"line {call.lineno}"
        assert name not in ("eval", "exec", "pickle.load", "pickle.loads", "torch.save")
        if name == "torch.load":
            keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
            assert keywords.get("weights_only") == "True", f"line {call.lineno}"


OWN_STREAMS = {"np.random.default_rng", "np.random.RandomState"}  # seeded, not global
RANDOM = re.compile(
    r"torch\.(manual_seed|seed|rand|randn|randint|randperm|normal|bernoulli|multinomial"
    r"|rand_like|randn_like|randint_like)|np\.random\.\w+|random\.\w+"
)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_global_random_stream(file: Path) -> None:
    for name, call in calls_of(file):
        if not RANDOM.fullmatch(name) or name == "torch.random.fork_rng":
            continue
        keywords = {k.arg for k in call.keywords}
        own_stream = "generator" in keywords or name in OWN_STREAMS
        assert own_stream, f"line {call.lineno}: {ast.unparse(call)}"
        if name == "np.random.default_rng":
            assert call.args, f"line {call.lineno}: a generator without seed"


def test_the_default_generator_is_seeded_in_one_place_only() -> None:
    """`seeded` does it under `fork_rng`: initializers and dropout take no generator."""
    places = [name_of(f) for f in FILES for name, _ in calls_of(f) if "manual_seed" in name]
    assert sorted(places) == ["hamward.random", "hamward.random", "hamward.random"]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_modules_stay_readable(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 450


def test_no_dumping_grounds() -> None:
    assert not {f.stem for f in FILES} & {"utils", "misc", "helpers", "common", "util"}


def test_torch_sign_is_never_used_for_codes() -> None:
    """It gives 0 at 0; codes come from `binarize` only. A gradient's sign is another matter."""
    users = {name_of(f) for f in FILES for name, _ in calls_of(f) if re.search(r"\bsign_?$", name)}
    steps = {f"hamward.attacks.{m}" for m in ("apgd", "base", "stepping")}
    assert users <= {*steps, "hamward.defenses.inner_loop"}
