"""Only for CI: nbval gives up on a kernel that is silent for 5 s after its cell has ended, which a busy machine is."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Waits a minute instead; nbval has no option for it."""
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 60
