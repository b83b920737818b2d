"""Tables and figures are made where torch is not installed."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import analysis

ROOT = Path(__file__).parents[2]


def test_no_module_of_the_analysis_imports_torch():
    modules = [module.name for module in pkgutil.walk_packages(analysis.__path__, "analysis.")]
    assert {"analysis.tables.__main__", "analysis.figures.style", "analysis.readme"} <= set(modules)
    command = (
        f"import sys, {', '.join(modules)}; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
