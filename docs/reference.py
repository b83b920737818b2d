"""Build the API reference from the docstrings: `make docs`."""

import importlib
import pkgutil
import sys
import warnings
from pathlib import Path

# pdoc is the lightest well-kept tool for this: four small packages, no theme, and no pages to write besides the docstrings.
import pdoc

import baselines
import kprune

FOLDER = Path(__file__).parent / "api"


def modules() -> list[str]:
    """Return the names of all modules of the packages kprune and baselines, the two packages first."""
    packages = (kprune, baselines)
    found = [module.name for of in packages for module in pkgutil.walk_packages(of.__path__, f"{of.__name__}.")]
    # Importing a module `__main__` would run its command.
    return ["kprune", "baselines", *sorted(name for name in found if not name.endswith("__main__"))]


def build(folder: Path) -> None:
    """Write the pages to a folder.

    Raises:
        AttributeError: a public name of kprune does not exist.
        Warning: pdoc can't resolve an annotation, or warns of anything else.
    """
    # kprune imports a public name when it is first used; pdoc sees only the names that are imported.
    for name in kprune.__all__:
        setattr(kprune, name, getattr(kprune, name))
    for name in modules():
        importlib.import_module(name)
    pdoc.render.configure(docformat="google", footer_text="kprune")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # pdoc adds the modules of a package without `__all__` by itself, and warns of those that `modules()` then names a second time.
        warnings.filterwarnings("ignore", "The module specification")
        pdoc.pdoc(*modules(), output_directory=folder)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    build(folder)
    print(f"{folder}/index.html")
