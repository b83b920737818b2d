import pytest
import torch
from tiny import tiny_calibration, tiny_model

from baselines.retrained.distillation import hidden_loss, logit_loss, outputs_of, task_loss
from baselines.retrained.stages import first_of_shuffled, train
from kprune.errors import UserError
from kprune.objectives import objective_of
from kprune.precision import full_precision
from kprune.training import LOSS_POINTS, Recipe, Training, batch_order, parameter_groups, rate


def test_the_rate_rises_then_falls_to_nothing():
    rates = [rate(step, 100, 0.06) for step in range(100)]
    assert rates.index(max(rates)) in (5, 6) and max(rates) == 1.0
    assert rates[0] == pytest.approx(1 / 6) and rates[-1] == pytest.approx(1 / 94)
    assert all(a >= b for a, b in zip(rates[6:], rates[7:], strict=False))


def test_an_epoch_sees_every_example_once_in_batches_of_like_length():
    examples = tiny_calibration(examples=50, longest=30).examples
    batches = batch_order(examples, 8, seed=0, epoch=0)
    assert sorted(i for batch in batches for i in batch) == list(range(50))
    assert batches == batch_order(examples, 8, seed=0, epoch=0) != batch_order(examples, 8, seed=0, epoch=1)
    spans = [max(lengths) - min(lengths) for lengths in ([len(examples[i]["input_ids"]) for i in b] for b in batches)]
    assert sum(spans) <= 30


@pytest.mark.parametrize("head", ["classification", "regression", "span"])
def test_the_loss_goes_down(head, data_for):
    model, data = tiny_model(head=head, dtype=torch.float32), data_for(head)
    objective = objective_of(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter *= 0.2  # weights as large as the tests' learn nothing
    run = Training(
        model,
        lambda batch, epochs: iter([task_loss(model, batch, objective)]),
        data.training(),
        1,
        Recipe(epochs=15, lr=5e-3, batch_size=8),
        0,
    )
    trained = train(run, "a test", None, 48)
    assert (trained.steps, trained.epochs, trained.examples) == (90, 15, 48)
    assert trained.losses[-1][0] == 90 and len(trained.losses) <= LOSS_POINTS
    losses = [loss for _, loss in trained.losses]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_losses_given_one_by_one_are_one_loss():
    model, batch = tiny_model(), tiny_calibration(4, 4).batches()[0] | {"labels": torch.arange(4) % 3}
    objective = objective_of(model)

    def gradient(parts):
        run = Training(
            model,
            lambda batch, epochs: (task_loss(model, batch, objective) / parts for _ in range(parts)),
            [{"input_ids": [1]}],
            1,
            Recipe(),
            0,
        )
        model.eval().zero_grad()
        run.backward(batch)
        return model.classifier.weight.grad.clone()

    torch.testing.assert_close(gradient(3), gradient(1))


def test_a_loss_that_is_not_finite_names_the_setting_to_lower():
    learner = torch.nn.Linear(2, 2)
    losses = lambda batch, epochs: [learner.weight.sum() * float("nan")]  # noqa: E731
    for adjust, more in (("recipe.lr", {}), ("task.finetuning.lr", {"adjust": "task.finetuning.lr"})):
        run = Training(learner, losses, [{"input_ids": [1]}] * 2, 0, Recipe(), 0, **more)
        with pytest.raises(UserError, match=f"^the loss is nan at step 0: lower {adjust} or check the data$"):
            run.train("a test")


def test_free_parameters_keep_their_rate_and_are_not_clipped():
    learner = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, bias=False)])
    bound, free = learner
    recipe = Recipe(epochs=1, lr=1.0, batch_size=1, warmup=1.0, clip=1e-3)
    groups = [*parameter_groups(bound, recipe), {"params": list(free.parameters()), "lr": 0.5, "free": True}]
    seen = []

    def losses(batch, epochs):
        seen.append([group["lr"] for group in run.optimizer.param_groups])
        yield 100 * sum(p.sum() for p in learner.parameters())

    run = Training(learner, losses, [{"input_ids": [1]}] * 4, 0, recipe, 0, groups)
    step = run.optimizer.step
    run.optimizer.step = lambda: (seen.append([p.grad.norm().item() for p in learner.parameters()]), step())
    run.train("a test")
    assert [lrs for lrs in seen[0::2]][-1] == [1.0, 1.0, 0.5] and seen[0][0] == 0.25
    assert seen[1][2] == pytest.approx(200) and seen[1][0] < 1e-3


def test_a_cap_draws_without_replacement():
    examples = tiny_calibration(30).examples
    some = first_of_shuffled(examples, 10, seed=1)
    assert len({id(example) for example in some}) == 10
    assert some == first_of_shuffled(examples, 10, seed=1) != first_of_shuffled(examples, 10, seed=2)
    assert first_of_shuffled(examples, None, 0) == examples == first_of_shuffled(examples, 31, 0)


@pytest.mark.parametrize("head", ["classification", "regression", "span"])
def test_distillation_is_zero_at_the_teacher_and_leaves_padding_out(head):
    model, other, batch = tiny_model(head=head), tiny_model(head=head, seed=1), tiny_calibration().batches()[1]
    objective = objective_of(model)
    seen, target = outputs_of(model, batch, objective), outputs_of(other, batch, objective)
    assert len(seen.hidden) == 4 and seen.real.sum() < seen.real.numel()
    assert logit_loss(objective, seen, seen, 2.0).abs() < 1e-12 < logit_loss(objective, seen, target, 2.0)
    changed = seen.hidden[1].clone()
    changed[~seen.real] += 5
    assert (
        hidden_loss(changed, seen.hidden[1], seen.real) == 0 < hidden_loss(target.hidden[1], seen.hidden[1], seen.real)
    )


def test_bf16_is_near():
    model, batch = tiny_model(dtype=torch.float32), tiny_calibration().batches()[1]
    objective = objective_of(model)
    full, half = (outputs_of(model, batch, objective, bf16).logits for bf16 in (False, True))
    assert half.dtype == torch.float32 and 0 < (full - half).abs().max() < 0.05 * full.abs().max()


def test_bf16_reads_the_weights_of_now_inside_another_autocast():
    """Autocast keeps what it has rounded until the outermost one ends, and pruning switches one off around all it does."""
    model, batch = tiny_model(dtype=torch.float32), tiny_calibration().batches()[1]
    objective = objective_of(model)
    with full_precision():
        before = outputs_of(model, batch, objective, bf16=True).logits
        for parameter in model.parameters():
            parameter.data *= 1.5
        inside = outputs_of(model, batch, objective, bf16=True).logits
    assert torch.equal(inside, outputs_of(model, batch, objective, bf16=True).logits) and not torch.equal(
        inside, before
    )
