"""Only for CI: nbval gives up on a kernel silent for 5 s after its cell, as on a busy machine."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Waits a minute instead; nbval has no option for it."""
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 60
