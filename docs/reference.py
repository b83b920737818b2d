"""Build the API reference from the docstrings: `make docs`."""

import importlib
import pkgutil
import sys
import warnings
from pathlib import Path

# pdoc, because it is the lightest that is well kept: four small packages, no theme, no page to write beside the docstrings.
import pdoc

import baselines
import kprune

FOLDER = Path(__file__).parent / "api"


def modules() -> list[str]:
    """Return the names of the modules of the library and of the other methods, the public API first."""
    packages = (kprune, baselines)
    found = [module.name for of in packages for module in pkgutil.walk_packages(of.__path__, f"{of.__name__}.")]
    # A `__main__` would run its command.
    return ["kprune", "baselines", *sorted(name for name in found if not name.endswith("__main__"))]


def build(folder: Path) -> None:
    """Write the pages; an annotation or a public name that can't be resolved is an error."""
    # The public names are imported when they are first used; pdoc reads those that are there.
    for name in kprune.__all__:
        setattr(kprune, name, getattr(kprune, name))
    for name in modules():
        importlib.import_module(name)
    pdoc.render.configure(docformat="google", footer_text="kprune")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # A package brings its modules along, unless it has an `__all__`: each is named here, and some are met twice.
        warnings.filterwarnings("ignore", "The module specification")
        pdoc.pdoc(*modules(), output_directory=folder)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    build(folder)
    print(f"{folder}/index.html")
