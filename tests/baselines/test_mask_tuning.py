import pytest
import torch
from tiny import FAMILIES, HEADS, tiny_calibration, tiny_model

from baselines import mask_tuning
from baselines.mask_tuning import normal_equations, solve_scales, tune_masks
from kprune.data import CalibrationSet
from kprune.models import view_of
from kprune.models.copies import frozen_copy
from kprune.models.masks import masked
from kprune.models.surgery import keep_masked
from kprune.objectives import objective_of
from kprune.solve.least_squares import LeastSquares


def some_masks(view, share, seed):
    """The second FFN loses everything in the student."""
    generator = torch.Generator().manual_seed(seed)
    masks = [torch.rand(s.units, generator=generator) < share for s in view.blocks]
    for mask in masks:
        mask[0] = True
    if share < 0.6:
        masks[3][:] = False
    return masks


def pruned(model, masks):
    view = view_of(frozen_copy(model))
    keep_masked(view.blocks, masks)
    return view


def tuned(family="bert", head="classification", calibration=None, tunes=lambda s: True, **settings):
    """A tuned student; its masks and the teacher's."""
    model = tiny_model(family, head)
    masks, teacher_masks = (some_masks(view_of(model), share, 3) for share in (0.5, 0.7))
    student = pruned(model, masks)
    tuning = tune_masks(
        student,
        pruned(model, teacher_masks),
        calibration or tiny_calibration(24),
        objective_of(model),
        tunes,
        **settings,
    )
    return model, student, masks, teacher_masks, tuning


def real_valued(masks, scales):
    values = [mask.double() for mask in masks]
    for value, mask, scale in zip(values, masks, scales, strict=True):
        if scale is not None:
            value[mask] = scale
    return values


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_folded_and_removed_equals_masked(family, head):
    model, student, masks, _, tuning = tuned(family, head)
    assert sum(scale is not None for scale in tuning.scales) >= 4, tuning.stopped
    assert any((scale - 1).abs().max() > 0.1 for scale in tuning.scales if scale is not None)
    batch = tiny_calibration(9, 9, seed=5).batches()[0]
    with masked(view_of(model), real_valued(masks, tuning.scales)):
        expected = model(**batch)
    for ours, literal in zip(student.model(**batch).to_tuple(), expected.to_tuple(), strict=True):
        assert (ours - literal).abs().max() <= 1e-9 * literal.abs().max()


@pytest.mark.parametrize("head", ["classification", "span"])
@torch.no_grad()
def test_every_block_is_the_literal_least_squares(head):
    """One example at a time on the masked dense model; every unit's output a column, all tokens' dimensions the rows."""
    calibration = tiny_calibration(24)
    model, _, masks, teacher_masks, tuning = tuned("bert", head, calibration)
    assert sum(scale is not None for scale in tuning.scales) >= 4
    dense = view_of(frozen_copy(model))
    values = real_valued(masks, tuning.scales)
    last = len(masks) - 1
    for index, block in enumerate(dense.blocks):
        if tuning.scales[index] is None:
            continue
        columns, targets = [], []
        for example in calibration.examples:
            batch = {"input_ids": torch.tensor([example["input_ids"]])}
            hidden, context = dense.embed(batch)
            student = teacher = hidden
            with masked(dense, values):
                for below in dense.blocks[:index]:
                    student = below.run(student, context)
            with masked(dense, [m.double() for m in teacher_masks]):
                for below in dense.blocks[:index]:
                    teacher = below.run(teacher, context)
                target = teacher + block.update(teacher, context)
            residual = (target - student - block.output.bias)[0]
            features = block.features(student, context)[0]
            outputs = [
                features[:, unit * block.width : (unit + 1) * block.width]
                @ block.output.weight[:, unit * block.width : (unit + 1) * block.width].T
                for unit in masks[index].nonzero()[:, 0].tolist()
            ]
            if block.kind == "heads":
                outputs.append(torch.ones_like(residual))
            tokens = slice(0, 1) if head == "classification" and index == last else slice(None)
            columns.append(torch.stack([output[tokens].flatten() for output in outputs], dim=1))
            targets.append(residual[tokens].flatten())
        a, b = torch.cat(columns), torch.cat(targets)
        gram, ones = a.T @ a, torch.ones(a.shape[1], dtype=torch.float64)
        damped = torch.cat([gram, torch.diag(ones)]), torch.cat([a.T @ b - gram @ ones, 0 * ones])
        scales = 1 + torch.linalg.lstsq(*damped, driver="gelsd").solution
        torch.testing.assert_close(tuning.scales[index], scales[: int(masks[index].sum())], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("damping", [0.0, 1.0, 30.0])
def test_the_solution_is_that_of_a_dense_damped_least_squares(damping):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(40, n, generator=generator, dtype=torch.float64) for n in (6, 1))
    gram, cross = a.T @ a, (a.T @ b)[:, 0]
    scales, failure = solve_scales(gram, cross, damping)
    stacked = torch.cat([gram, damping * torch.eye(6, dtype=torch.float64)])
    target = torch.cat([cross - gram.sum(dim=1), torch.zeros(6, dtype=torch.float64)])
    expected = torch.linalg.lstsq(stacked, target).solution + 1
    assert failure is None
    torch.testing.assert_close(scales, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("index", [0, 1])
@torch.no_grad()
def test_normal_equations_are_those_of_the_units_outputs(index):
    view = view_of(tiny_model())
    block, generator = view.blocks[index], torch.Generator().manual_seed(0)
    size = block.width
    features = torch.randn(20, block.units * size, generator=generator, dtype=torch.float64)
    residual = torch.randn(20, 32, generator=generator, dtype=torch.float64)
    outputs = [
        (features[:, u * size : (u + 1) * size] @ block.output.weight[:, u * size : (u + 1) * size].T).flatten()
        for u in range(block.units)
    ]
    if block.kind == "heads":
        features = torch.cat([features, torch.ones(20, 1, dtype=torch.float64)], dim=1)
        outputs.append(torch.ones(20 * 32, dtype=torch.float64))
    a = torch.stack(outputs, dim=1)
    squares = LeastSquares.empty(features.shape[1], 32, "cpu")
    squares.add(features, residual)
    gram, cross = normal_equations(squares, block)
    torch.testing.assert_close(gram, a.T @ a, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(cross, a.T @ residual.flatten(), rtol=1e-9, atol=1e-9)


def test_a_student_like_its_teacher_keeps_its_masks():
    model = tiny_model()
    masks = some_masks(view_of(model), 0.7, 3)
    student = pruned(model, masks)
    tuning = tune_masks(student, pruned(model, masks), tiny_calibration(), objective_of(model), lambda s: True)
    assert all((scale - 1).abs().max() < 1e-6 for scale in tuning.scales)


def test_blocks_that_are_not_tuned_stay_at_one():
    *_, tuning = tuned(tunes=lambda s: s.kind == "neurons")
    assert [scale is None for scale in tuning.scales] == [True, False, True, True, True, False]


@torch.no_grad()
def test_a_large_value_ends_the_tuning_there():
    largest = [0 if s is None else s.abs().max().item() for s in tuned()[-1].scales]
    assert largest[0] < 1.1 < largest[1] and largest[2] < 1.1, "the limit must fall between two blocks"
    model, student, masks, _, tuning = tuned(max_scale=1.1)
    assert tuning.stopped == f"neurons of layer 0: a mask value of {largest[1]:.4g} is larger than 1.1"
    assert [s is None for s in tuning.scales] == [False, True, True, True, True, True]
    for ours, theirs in zip(student.blocks[1:], pruned(model, masks).blocks[1:], strict=True):
        assert torch.equal(ours.output.bias, theirs.output.bias)
        assert ours.units == 0 or torch.equal(ours.output.weight, theirs.output.weight)


def test_a_failed_solve_ends_the_tuning_there(monkeypatch):
    solved = []

    def fails_the_third_time(gram, cross, damping):
        solved.append(len(cross))
        return solve_scales(gram, cross, damping)[0], "no luck" if len(solved) == 3 else None

    monkeypatch.setattr(mask_tuning, "solve_scales", fails_the_third_time)
    *_, tuning = tuned()
    assert tuning.stopped == "heads of layer 1: no luck" and len(solved) == 3
    assert [s is None for s in tuning.scales] == [False, False, True, True, True, True]


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_the_solver_says_that_it_failed(value):
    gram = torch.diag(torch.tensor([1.0, 2.0, value], dtype=torch.float64))
    assert solve_scales(gram, torch.ones(3, dtype=torch.float64), 0.0)[1] == "the least squares has no finite solution"


def test_damping_makes_a_singular_system_solvable():
    gram = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    scales, failure = solve_scales(gram, torch.tensor([3.0, 0.0], dtype=torch.float64), 1.0)
    assert failure is None and scales.tolist() == pytest.approx([2.0, 1.0])


def test_scales_do_not_depend_on_batches():
    calibration = tiny_calibration(24)
    other = CalibrationSet(calibration.examples[::-1], 7, 1)
    one, two = (tuned(calibration=c)[-1].scales for c in (calibration, other))
    for a, b in zip(one, two, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
