"""Prune a fine-tuned classifier, count how many of its predictions stay the same, and load it with plain transformers.

    python examples/prune_your_classifier.py my/checkpoint texts.txt pruned
    python examples/prune_your_classifier.py my/checkpoint texts.txt pruned --flops-reduction 0.6 --method kprune

`my/checkpoint` is a folder or an id of the Hugging Face hub. `texts.txt` has one text a line, without labels, of the kind
that the model is used on: 2,000 lines or so, which make 20,000 to 100,000 tokens. Every tenth text is kept back: the
predictions of the dense and the pruned model are compared on these.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

import kprune
from kprune.cli.texts import decoded


def main() -> None:
    """Prune a classifier, save it, load it, and print how many predictions stay the same."""
    parser = argparse.ArgumentParser(description="Prune a fine-tuned classifier.")
    parser.add_argument("checkpoint", help="folder or hub id of the fine-tuned model")
    parser.add_argument("texts", type=Path, help="a text file, one text a line")
    parser.add_argument("output", type=Path, help="folder for the pruned model")
    parser.add_argument("--flops-reduction", type=float, default=0.8, help="share of FLOPs to remove (0.8)")
    parser.add_argument("--method", default="kprune_plus", help="kprune_plus (default) or kprune")
    arguments = parser.parse_args()

    texts = [line for line in decoded(arguments.texts).splitlines() if line.strip()]
    if len(texts) < 2:
        raise kprune.UserError(f"{arguments.texts} has {len(texts)} text: give 2,000 or so, one a line")

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
    dense = AutoModelForSequenceClassification.from_pretrained(arguments.checkpoint, dtype="float32").to(device)

    held_out = batches(texts[::10], tokenizer)
    calibration = batches([text for index, text in enumerate(texts) if index % 10], tokenizer)

    outcome = kprune.prune(dense, calibration, flops_reduction=arguments.flops_reduction, method=arguments.method)
    print(f"removed {outcome.details['flops_reduction']:.1%} of FLOPs")
    print(f"kept heads per layer:   {outcome.kept_heads}")
    print(f"kept neurons per layer: {outcome.kept_neurons}")

    outcome.save(arguments.output, tokenizer)
    # Loading needs transformers alone; trust_remote_code lets it run the small modeling file in the folder.
    pruned = AutoModelForSequenceClassification.from_pretrained(arguments.output, trust_remote_code=True).to(device)

    same = predictions(pruned, held_out) == predictions(dense, held_out)
    print(f"predicts the same for {int(same.sum())} of {len(same)} texts that were kept back")


def batches(texts: list[str], tokenizer) -> DataLoader:
    """Return the tokenized texts in padded batches of 32."""
    tokenized = [tokenizer(text, truncation=True) for text in texts]
    return DataLoader(tokenized, batch_size=32, collate_fn=DataCollatorWithPadding(tokenizer))


@torch.inference_mode()
def predictions(model: torch.nn.Module, batches: DataLoader) -> torch.Tensor:
    """Return the class that the model predicts for each text: [texts]."""
    model.eval()
    return torch.cat([model(**batch.to(model.device)).logits.argmax(dim=-1).cpu() for batch in batches])


if __name__ == "__main__":
    try:
        main()
    except (kprune.UserError, OSError) as error:  # transformers raises it if there is no such checkpoint
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
