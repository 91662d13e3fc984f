"""XLA's flag for programs that are compiled often and run seldom: most of a test's time is LLVM's optimising.

For results that do not depend on it alone, so never for a test of times or of what the compiler makes of a program.
"""

import os

FLAG = "--xla_backend_optimization_level=0"


def quick_environment(**variables: str) -> dict[str, str]:
    """Returns this process's environment with the flag and those variables, for a process that a test starts."""
    flags = f"{os.environ.get('XLA_FLAGS') or ''} {FLAG}".strip()
    return {**os.environ, "XLA_FLAGS": flags, **variables}
