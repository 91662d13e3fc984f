import subprocess
import sys
from pathlib import Path

import recjax.measurement


def test_no_module_of_the_package_imports_jax() -> None:
    names = [
        file.stem for file in Path(next(iter(recjax.measurement.__path__))).glob("*.py") if file.stem != "__init__"
    ]
    assert len(names) > 10
    imports = "; ".join(f"import recjax.measurement.{name}" for name in names)
    program = (
        f"import sys; {imports}; print([name for name in ('jax', 'flax', 'pynvml', 'hdrh') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
