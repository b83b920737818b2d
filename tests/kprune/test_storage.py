"""Tensors that lie elsewhere come back as they were, and take no more room than those that are held."""

import gc
import tempfile
from functools import partial
from typing import Any

import pytest
import torch
from decoders import tiny_decoder
from language import tiny_llama
from tiny import FAMILIES, HEADS, tiny_calibration, tiny_model

from kprune.budgets import FlopsBudget
from kprune.contract import Job, PruningData
from kprune.errors import UserError
from kprune.methods.kprune_plus import algorithm as plus
from kprune.methods.kprune_plus import fisher
from kprune.methods.kprune_plus.algorithm import KPrunePlus
from kprune.models import copies, view, view_of
from kprune.models.copies import copied_blocks, frozen_shared_copy
from kprune.models.offload import lent, weights_of
from kprune.models.surgery import keep_units
from kprune.objectives import objective_of
from kprune.storage import Disk, storage_at
from kprune.streams import calibration_states

CPU = torch.device("cpu")


def prune(model, calibration=None, **settings):
    pruner = KPrunePlus(**{"refit_epochs": 2} | settings)
    job = Job(model, objective_of(model), PruningData(calibration or tiny_calibration(24)), FlopsBudget(0.6, 8.0))
    return pruner.prune(job)


@pytest.mark.parametrize("where", ["device", "cpu", "disk"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
def test_what_is_read_is_what_was_kept(where, dtype):
    storage = storage_at(where, CPU)
    tensors = [torch.randint(-9, 9, shape).to(dtype) for shape in ((2, 3, 4), (5,), (2, 0, 4), (1, 1))]
    tensors.append(tensors[0].transpose(0, 2))
    kept = [storage.keep(tensor) for tensor in tensors]
    for tensor, each in zip(tensors, kept, strict=True):
        assert torch.equal(storage.read(each), tensor) and storage.read(each).dtype == dtype


def test_room_on_disk_is_used_again():
    disk = Disk(CPU)
    kept = [disk.keep(torch.full((10,), float(index))) for index in range(3)]
    for index in range(20):
        kept[1] = disk.keep(torch.full((10,), float(index)))
    assert disk._file.seek(0, 2) == 4 * 40, "what is replaced is there until what replaces it has been written"
    assert [disk.read(each)[0].item() for each in kept] == [0.0, 19.0, 2.0]


def test_nothing_is_left_on_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outcome = prune(tiny_model(), states="disk")
    del outcome
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_disk_that_can_not_be_written_to_is_one_line():
    disk = Disk(CPU)
    disk._file.close()
    disk._file = open("/dev/full", "w+b")  # noqa: SIM115
    with pytest.raises(UserError, match="set TMPDIR"):
        disk.keep(torch.zeros(100_000))


@pytest.mark.parametrize(
    "make",
    [partial(tiny_model, family, head) for family in FAMILIES for head in HEADS]
    + [partial(tiny_decoder, family) for family in ("llama", "gpt_neox", "lfm2")],
)
def test_the_fisher_layer_by_layer_is_the_fisher_of_the_whole_graph(make, monkeypatch):
    monkeypatch.setattr(fisher, "GROUP", 60)
    model = make()
    teacher = view_of(frozen_shared_copy(model))
    states = calibration_states(teacher, tiny_calibration(12).batches())
    assert len(states) > len(fisher.grouped(states, 60)) > 1
    arguments = teacher, states, objective_of(model), 2.0
    whole = fisher.measure_fisher(*arguments)
    for one, other in zip(whole, fisher.measure_fisher_by_layer(*arguments, Disk(CPU)), strict=True):
        torch.testing.assert_close(other.covariance, one.covariance)
        assert other.energy == pytest.approx(one.energy) and other.tokens == one.tokens
        torch.testing.assert_close(other.energies, one.energies)
        torch.testing.assert_close(other.features, one.features)


@pytest.mark.parametrize("states", ["cpu", "disk"])
@pytest.mark.parametrize("make", [tiny_model, lambda: tiny_llama(vocab_size=99).double()], ids=["bert", "llama"])
def test_where_states_lie_makes_no_difference(make, states, monkeypatch):
    monkeypatch.setattr(plus, "TOKENS", 64)
    here, there = (prune(make(), states=where) for where in ("device", states))
    assert there.plan.kept == here.plan.kept
    for a, b in zip(here.model.parameters(), there.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_an_empty_block_is_no_obstacle_layer_by_layer():
    model = tiny_model()
    keep_units(view_of(model).blocks[2], torch.tensor([], dtype=torch.long))
    kept = prune(model, states="cpu").plan.kept
    assert kept["1.attention"] == [] and kept == prune(model).plan.kept


def test_on_disk_the_states_in_memory_do_not_grow_with_the_tokens(monkeypatch):
    """At every block, of all batches: hidden states of the batch at hand alone."""
    monkeypatch.setattr(plus, "TOKENS", 64)
    most = {}

    def counted(self, block, original, state):
        set_target(self, block, original, state)
        found = sum(type(each) is torch.Tensor and each.dim() == 3 for each in gc.get_objects())
        most[examples] = max(most.get(examples, 0), found)

    set_target = KPrunePlus.set_target
    monkeypatch.setattr(KPrunePlus, "set_target", counted)
    gc.collect(), gc.freeze()
    try:
        for examples in (12, 48):
            prune(tiny_model(), tiny_calibration(examples), states="disk", refit_epochs=0)
    finally:
        gc.unfreeze()
    assert most[48] <= most[12]


class Elsewhere:
    """Stands in for another device than the model is on: weights are NaN there and here but while they are lent or moved."""

    def __init__(self, monkeypatch):
        self.values, self.at_work, self.most = {}, 0, 0
        monkeypatch.setattr(plus, "frozen_shared_copy", self.hidden)
        monkeypatch.setattr(view, "lent", self.lent)
        monkeypatch.setattr(copies, "moved", self.moved)
        monkeypatch.setattr(copies, "give_own_memory", self.own)

    def hidden(self, model):
        model = frozen_shared_copy(model)
        for tensor in weights_of(model):
            self.hide(tensor)
        return model

    def hide(self, tensor):
        self.values[id(tensor)] = tensor, tensor.data
        if tensor.is_floating_point():
            tensor.data = torch.full_like(tensor.data, float("nan"))

    def show(self, tensors):
        for tensor in tensors:
            tensor.data = self.values[id(tensor)][1]

    def lent(self, tensors, device):
        return self.shown(tensors, lambda: tensors)

    def moved(self, module, device, home):
        return self.shown(weights_of(module), lambda: weights_of(module))

    def own(self, tensors):
        self.show(tensors)
        for tensor in tensors:
            tensor.data = tensor.data.clone()
            self.hide(tensor)

    @view.contextmanager
    def shown(self, tensors, behind):
        self.show(tensors)
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        yield
        for tensor in behind():
            self.hide(tensor)
        self.at_work -= 1


@pytest.mark.parametrize("make", [tiny_model, lambda: tiny_llama(vocab_size=99).double()], ids=["bert", "llama"])
def test_no_layer_is_read_but_while_it_is_at_work(make, monkeypatch):
    """One of the teacher's and one of the student's at most."""
    model = make()
    expected = prune(model, states="cpu")
    elsewhere = Elsewhere(monkeypatch)
    outcome = prune(model, states="cpu")
    elsewhere.show(weights_of(outcome.model))
    assert elsewhere.most == 2 and outcome.plan.kept == expected.plan.kept
    for a, b in zip(expected.model.parameters(), outcome.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_is_lent_is_what_it_was():
    model = tiny_model()
    places = [tensor.data_ptr() for tensor in weights_of(model)]
    other: Any = torch.float16  # a type stands in for another device
    with pytest.raises(ValueError), lent(model.parameters(), other):
        assert all(tensor.dtype == other for tensor in model.parameters())
        raise ValueError
    assert [tensor.data_ptr() for tensor in weights_of(model)] == places


def test_copied_blocks_share_nothing_with_the_model():
    """Embeddings and head that are one tensor stay so."""
    model = tiny_llama()
    student = view_of(frozen_shared_copy(model))
    for block in copied_blocks(student):
        block.output.weight.zero_()
    dense = {tensor.data_ptr() for tensor in weights_of(model)}
    assert not dense & {tensor.data_ptr() for tensor in weights_of(student.model)}
    assert all(block.output.weight.abs().sum() > 0 for block in view_of(model).blocks)
    assert student.model.lm_head.weight is student.model.model.embed_tokens.weight


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(layers_on="cpu"), "is where the model is"),
        (dict(layers_on="meta"), "not to be had"),
        (dict(layers_on="elsewhere"), "not to be had"),
        (dict(states="tape"), "use device or cpu or disk"),
    ],
)
def test_places_that_mean_nothing(settings, message):
    with pytest.raises(UserError, match=message):
        prune(tiny_model(), **settings)
