"""Keeps the floors: who imports whom, who touches torch's pytrees and the extension, and the list of public names."""

import ast
from pathlib import Path

import pytest

import optlayers

PACKAGE = Path(optlayers.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# A part may import from parts on a lower floor and from itself; parts on one floor are strangers to each other.
FLOORS = [
    {"_base"},
    {"_native"},
    {"linear_solve", "projection", "prox", "optim"},
    {"implicit", "solvers"},
    {"functional"},
    {"layers"},
    {"compat"},
    {"__init__"},
]
FLOOR_OF = {part: level for level, parts in enumerate(FLOORS) for part in parts}

# The public names, by floor. A new public name is one line here, one in optlayers/__init__.py, one in docs/reference.
PUBLIC_NAMES = [
    "__version__",
    "show_config",
    "Solution",
    "SolveError",
    "Status",
    "linear_solve",
    "projection",
    "prox",
    "optim",
    "MetaAdadelta",
    "MetaAdagrad",
    "MetaAdam",
    "MetaAdamax",
    "MetaAdamW",
    "MetaAdan",
    "MetaLamb",
    "MetaLion",
    "MetaNAdam",
    "MetaOptimizer",
    "MetaRAdam",
    "MetaRMSprop",
    "MetaSGD",
    "extract_state_dict",
    "module_clone",
    "module_detach_",
    "recover_state_dict",
    "stop_gradient",
    "Implicit",
    "ImplicitModule",
    "OneStep",
    "Smoothed",
    "Unroll",
    "custom_fixed_point",
    "custom_root",
    "root_jvp",
    "root_vjp",
    "ADMM",
    "Anderson",
    "Bisection",
    "BlockCoordinateDescent",
    "Broyden",
    "Clarabel",
    "ConeInteriorPoint",
    "Cones",
    "FrankWolfe",
    "GaussNewton",
    "GradientDescent",
    "InteriorPoint",
    "LBFGS",
    "LBFGSB",
    "LevenbergMarquardt",
    "MirrorDescent",
    "Newton",
    "Picard",
    "SmoothInteriorPoint",
    "SCS",
    "ProjectedGradient",
    "ProximalGradient",
    "ClosestQPSolution",
    "MinimiseSolution",
    "ConeSolution",
    "Diffcp",
    "QPSolution",
    "fixed_point",
    "minimise",
    "project",
    "root",
    "solve_closest_qp",
    "solve_cone",
    "solve_qp",
    "QPLayer",
    "OptimalTransport",
    "SoftSort",
    "SoftRank",
    "TopK",
    "CvxpyLayer",
    "CvxpySolution",
    "FixedPointLayer",
    "LML",
    "OptLayer",
    "Entmax",
    "Sparsemax",
    "Softmax",
]


def part_of(module: str) -> str:
    """The part of the package a dotted module name belongs to: `optlayers._base.tree` -> `_base`."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def dotted(path: Path) -> str:
    relative = path.relative_to(PACKAGE.parent).with_suffix("")
    return ".".join(relative.parts).removesuffix(".__init__")


def imports(path: Path) -> list[str]:
    """Absolute dotted names of everything a file imports, lazily or not."""
    # The package that relative imports start from: a package's own __init__ is inside it, a module is beside it.
    package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                stem = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*stem, base] if base else stem)
            found += [f"{base}.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_only_from_lower_floors(path):
    here = part_of(dotted(path))
    for name in imports(path):
        if name.split(".")[0] != "optlayers":
            continue
        there = part_of(name)
        assert there in FLOOR_OF, f"{dotted(path)} imports {name}, which is on no floor"
        assert there == here or FLOOR_OF[there] < FLOOR_OF[here], f"{dotted(path)} ({here}) must not import {name}"


def test_only_tree_imports_torch_pytrees():
    users = {dotted(path) for path in MODULES if any("_pytree" in name for name in imports(path))}
    assert users <= {"optlayers._base.tree"}


def test_only_the_native_floor_imports_the_extension():
    users = {dotted(path) for path in MODULES if any("_native._C" in name for name in imports(path))}
    allowed = ("", ".ops", ".extension", ".config", ".cone_kkt", ".cone_ops")
    assert users <= {f"optlayers._native{module}" for module in allowed}


def test_public_names_are_pinned():
    assert sorted(optlayers.__all__) == sorted(PUBLIC_NAMES)
    for name in PUBLIC_NAMES:
        assert hasattr(optlayers, name)


def test_every_public_name_is_in_the_reference():
    reference = "".join(path.read_text() for path in (PACKAGE.parent / "docs" / "reference").glob("*.md"))
    missing = [name for name in PUBLIC_NAMES if name != "__version__" and f"optlayers.{name}" not in reference]
    assert not missing, f"add these to a page of docs/reference: {missing}"
