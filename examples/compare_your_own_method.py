"""Write a pruning method of your own, and compare it with K-prune on your own model.

    python examples/compare_your_own_method.py my/checkpoint texts.txt --flops-reduction 0.6

The method of this file keeps the units that add most to the residual stream for their FLOPs. To see your method in the
laboratory's tables and figures, on every task and model, register it: docs/how_to/add_a_method.md.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

import kprune
from kprune.cli.texts import decoded
from kprune.clock import Clock
from kprune.contract import Job, Outcome
from kprune.models import ModelView, view_of
from kprune.models.copies import frozen_copy
from kprune.models.inputs import on_device
from kprune.models.surgery import keep_masked, output_weight
from kprune.solve.mask_search import greedy


class UpdateNorm(kprune.Method):
    """Keep the units whose updates of the residual stream are largest per FLOP, and leave their weights unchanged."""

    name = "update_norm"

    @torch.no_grad()
    def prune(self, job: Job) -> Outcome:
        """Prune a copy of the job's model to the job's budget."""
        clock, view = Clock(), view_of(frozen_copy(job.model))
        costs = job.budget.costs(view)
        with clock("scores"):
            norms = self.norms(view, job)
            scores = [norms[block.name] / costs[block.name].per_unit for block in view.blocks]
        with clock("surgery"):
            kept = keep_masked(view.blocks, greedy(scores, list(costs.values()), job.budget.limit(view)))
        return Outcome.of(view, kept, clock, {})

    def norms(self, view: ModelView, job: Job) -> dict[str, Tensor]:
        """Return by block name the square of each unit's update of the residual stream, summed over all tokens: [units].

        The square of a unit's update is taken as the sum of those of its columns of the output projection: products of two
        columns are left out.
        """
        squares = {block.name: torch.zeros(block.columns, dtype=torch.float64) for block in view.blocks}
        for batch in job.data.calibration.batches():
            batch = on_device(batch, view.device)
            tokens = batch["attention_mask"].bool()
            x, context = view.embed(batch)
            for block in view.blocks:
                features = block.features(x, context)
                squares[block.name] += features[tokens].double().square().sum(dim=0).cpu()
                x = block.join(x, block.output(features))
        for block in view.blocks:
            squares[block.name] *= output_weight(block).double().square().sum(dim=0).cpu()
        return {block.name: squares[block.name].unflatten(0, (-1, block.width)).sum(dim=1) for block in view.blocks}


def main() -> None:
    """Prune a classifier with each method, and print how far each pruned model is from the dense one."""
    parser = argparse.ArgumentParser(description="Compare a method of your own with K-prune.")
    parser.add_argument("checkpoint", help="folder or hub id of a fine-tuned classifier")
    parser.add_argument("texts", type=Path, help="a text file, one text a line")
    parser.add_argument("--flops-reduction", type=float, default=0.6, help="share of FLOPs to remove (0.6)")
    arguments = parser.parse_args()

    texts = [line for line in decoded(arguments.texts).splitlines() if line.strip()]
    if len(texts) < 2:
        raise kprune.UserError(f"{arguments.texts} has {len(texts)} text: give 2,000 or so, one a line")
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
    dense = AutoModelForSequenceClassification.from_pretrained(arguments.checkpoint, dtype="float32").eval()
    tokenized = [tokenizer(text, truncation=True) for text in texts]
    collate = DataCollatorWithPadding(tokenizer)
    held_out = DataLoader(tokenized[::10], batch_size=32, collate_fn=collate)
    calibration = [row for index, row in enumerate(tokenized) if index % 10]
    calibration = DataLoader(calibration, batch_size=32, collate_fn=collate)

    truth = probabilities(dense, held_out)
    print(f"{'method':<12} {'FLOPs removed':>13} {'divergence':>10} {'same class':>10}")
    for method in ("kprune_plus", "kprune", UpdateNorm()):
        outcome = kprune.prune(dense, calibration, flops_reduction=arguments.flops_reduction, method=method)
        guess = probabilities(outcome.model, held_out)
        # KL(dense || pruned), in nats, the mean over the texts that were kept back.
        divergence = (truth * (truth / guess).log()).sum(dim=-1).mean()
        same = (truth.argmax(dim=-1) == guess.argmax(dim=-1)).double().mean()
        name = method if isinstance(method, str) else method.name
        print(f"{name:<12} {outcome.details['flops_reduction']:>13.1%} {divergence:>10.4f} {same:>10.1%}")


@torch.inference_mode()
def probabilities(model: torch.nn.Module, batches: DataLoader) -> Tensor:
    """Return the probability of each class, for each text: [texts, classes]."""
    model.eval()
    return torch.cat([model(**batch).logits.double().log_softmax(dim=-1).exp() for batch in batches])


if __name__ == "__main__":
    try:
        main()
    except (kprune.UserError, OSError) as error:  # transformers raises it if there is no such checkpoint
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
