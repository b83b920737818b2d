"""Grids as data: which cells, in which order, and how long they are expected to take."""

from itertools import groupby

import pytest
import yaml
from records import record

from baselines.registry import METHODS
from experiments.cell.identity import identity_of
from experiments.config.composing import CONF
from experiments.store import results
from experiments.sweep.plan import Grid, by_rule, cells_of, estimate, merged, plan_of
from kprune.errors import UserError

TWO_VARIANTS = [[], ["method.lambdas=[null]"]]
GRIDS = sorted(path.stem for path in (CONF / "grid").glob("*.yaml"))


def small(name, **changes):
    return Grid.read(name, small=True, models=["minilm"], methods=["kprune"], **changes)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("is_small", [True, False])
def test_every_grid_composes(name, is_small, tmp_path):
    content = yaml.safe_load((CONF / "grid" / f"{name}.yaml").read_text())
    if is_small and "small" not in content:
        with pytest.raises(UserError, match="has no small version"):
            Grid.read(name, is_small)
        return
    methods = set(content["methods"])
    for rule in content.get("rules", ()):
        assert set(rule["methods"]) <= methods and set(rule.get("tasks", ())) <= set(content["tasks"]), (
            "a rule for nothing"
        )
    assert methods <= set(METHODS)
    whole = Grid.read(name, is_small)
    model, task, method = {"models": whole.models[:1]}, {"tasks": whole.tasks[:1]}, {"methods": whole.methods[:1]}
    # Composed in full are models by tasks, then methods by variants; and what a rule says of a task.
    parts = [model | task, method | {"variants": whole.variants[:1]}]
    parts += [
        model | {"tasks": rule["tasks"], "methods": sorted(set(rule["methods"]) & set(whole.methods))}
        for rule in whole.rules
        if "tasks" in rule and set(rule["tasks"]) <= set(whole.tasks)
    ]
    for part in parts:
        grid = Grid.read(name, is_small, **part)
        cells = cells_of(grid, str(tmp_path))
        masks = {name for rule in grid.rules for name in rule["methods"] if "sparsity=0.5" in rule["settings"]}
        product = sum(1 if method in masks else len(grid.reductions) for method in grid.methods)
        for entries in (grid.models, grid.tasks, grid.variants, grid.seeds):
            product *= len(entries)
        assert len(cells) == product and len({cell.folder for cell in cells}) == product


def test_cells_that_share_something_are_neighbours(tmp_path):
    cells = cells_of(small("accuracy", tasks=["mrpc", "stsb"], seeds=[0, 1]), str(tmp_path))
    places = [key for key, _ in groupby((c.config.task.name, c.config.seed) for c in cells)]
    assert places == [("mrpc", 0), ("mrpc", 1), ("stsb", 0), ("stsb", 1)]


def test_a_sparsity_takes_the_place_of_the_reductions(tmp_path):
    grid = Grid.read("accuracy", small=True, models=["minilm"], tasks=["mrpc"], methods=["wanda"])
    cells = cells_of(grid, str(tmp_path), ["sparsity=2:4"])
    assert [cell.folder.parts[-2] for cell in cells] == ["2:4"] and "flops_reduction" not in cells[0].command
    with pytest.raises(UserError, match="give sparsity=0.5 or sparsity=2:4 alone"):
        cells_of(grid, str(tmp_path))


def test_shares_of_parameters_are_a_grids_own_and_a_rule_may_ask_for_a_sparsity(tmp_path):
    cells = cells_of(Grid.read("decoders", False, methods=["flap", "wanda"]), str(tmp_path))
    targets = {
        name: [str(c.config.target) for c in cells if c.config.method.name == name] for name in ("flap", "wanda")
    }
    assert targets == {"flap": ["p0.05", "p0.1", "p0.15", "p0.2", "p0.3", "p0.5"], "wanda": ["s0.5"]}
    with pytest.raises(UserError, match="sets params_reduction for each cell: give --reductions"):
        cells_of(Grid.read("decoders", False), str(tmp_path), ["params_reduction=0.2"])


def test_the_command_lines_settings_go_before_the_grids_and_a_variants_own_before_both(tmp_path):
    assert merged(["a=1", "b=1"], ["a=2"], ["b=3"]) == ["a=2", "b=3"]
    grid = small("sensitivity", variants=[[], ["method.mu=2"], ["calibration.tokens=1000"]])

    def tokens(*overrides):
        return [cell.config.calibration.tokens for cell in cells_of(grid, str(tmp_path), overrides)]

    assert tokens() == [2000, 2000, 1000] and tokens("calibration.tokens=300") == [300, 300, 1000]
    assert tokens("calibration.tokens=1000") == [1000, 1000], "what has become the same cell is one"


def test_two_cells_that_no_folder_tells_apart_are_refused(tmp_path):
    grid = small("sensitivity", variants=[[], ["latency.batch_size=8"]])
    with pytest.raises(UserError, match="latency.batch_size=8 flops_reduction=.* would have one folder") as error:
        cells_of(grid, str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["it's", "a=b", "two words", "[x]"])
def test_results_may_go_to_any_folder(tmp_path, name):
    (cell,) = cells_of(small("ablation", variants=[[]], tasks=["mrpc"]), str(tmp_path / name))
    assert cell.folder.is_relative_to(tmp_path / name)


def test_a_rule_is_for_its_methods_and_tasks_and_everything_else_goes_before_it(tmp_path):
    grid = Grid.read("retrained", small=False)
    assert "method.max_examples=10000" in grid.settings_of("ebert", "sst2")
    assert grid.settings_of("ebert", "mrpc") == ["method.bf16=true"]
    assert grid.settings_of("kprune", "sst2") == ["calibration.tokens=20000"]
    assert Grid.read("retrained", small=True).settings_of("kprune", "mrpc") == ["calibration.tokens=2000"]
    (cell,) = cells_of(
        Grid.read("retrained", False, tasks=["mrpc"], methods=["ebert"]), str(tmp_path), ["method.bf16=false"]
    )
    assert cell.config.method.settings.plain()["bf16"] is False
    published = Grid.read("retrained_published", small=False, methods=["cofi"])
    epochs = {
        c.config.task.name: c.config.method.settings.plain()["recipe"]["epochs"]
        for c in cells_of(published, str(tmp_path))
    }
    assert epochs == {"mrpc": 100, "stsb": 100, "sst2": 20}


def write(cell, seconds):
    cell.folder.mkdir(parents=True)
    written = record(config=identity_of(cell.config), details={"cell_seconds": seconds})
    results.write_json(cell.folder / "result.json", written)


def test_the_estimate_is_measured_where_something_is(tmp_path):
    grid = small("ablation", tasks=["mrpc", "stsb"], variants=TWO_VARIANTS, reductions=[0.5, 0.6, 0.7])
    cells = cells_of(grid, str(tmp_path))
    write(cells[0], 10.0)
    write(cells[1], 30.0)
    plan = plan_of(cells)
    assert [cell.folder for cell, _ in plan.finished] == [cell.folder for cell in cells[:2]]
    seconds = dict(zip([cell.folder for cell in plan.open], estimate(plan), strict=True))
    assert seconds[cells[2].folder] == 20.0  # the same method and variant
    assert seconds[cells[3].folder] == 20.0 and "lambdas" in str(cells[3].folder)  # the same method
    other = next(cell for cell in cells if cell.config.task.name == "stsb")
    assert seconds[other.folder] == by_rule(other.config) > 0
    (training,) = cells_of(Grid.read("retrained", True, methods=["kprune_finetuned"]), str(tmp_path))
    assert by_rule(training.config) is None


def test_another_configurations_record_does_not_stop_the_plan(tmp_path):
    cells = cells_of(small("ablation", tasks=["mrpc"], variants=TWO_VARIANTS), str(tmp_path))
    write(cells[0], 10.0)
    path = cells[0].folder / "result.json"
    path.write_text(path.read_text().replace('"max_length": 128', '"max_length": 64'))
    assert [cell.folder for cell in plan_of(cells).open] == [cell.folder for cell in cells]


def test_a_grid_that_is_not_there():
    for name in ("nonsense", "../method/kprune"):
        with pytest.raises(UserError, match="use one of ablation, accuracy"):
            Grid.read(name, small=False)
    with pytest.raises(UserError, match="task 'nonsense' is unknown"):
        Grid.read("accuracy", small=False, tasks=["nonsense"])


def test_a_grid_tells_everything_that_is_wrong_with_its_cells_once(tmp_path):
    with pytest.raises(UserError) as error:
        cells_of(small("accuracy", reductions=[0.5, 1.5], seeds=[-1]), str(tmp_path), ["grain=0"])
    lines = str(error.value).splitlines()
    assert len(lines) == 3 and {line.split("=")[0] for line in lines} == {"seed", "grain", "flops_reduction"}


def test_another_budgets_grid_has_no_shares_of_flops(tmp_path):
    overrides = ["budget=latency", "speedup=3"]
    cells = cells_of(small("accuracy", tasks=["mrpc"], reductions=[0.5, 0.6], seeds=[0]), str(tmp_path), overrides)
    assert [cell.folder.parts[-2] for cell in cells] == ["3x"]
    assert "flops_reduction" not in cells[0].command and "speedup=3" in cells[0].command
