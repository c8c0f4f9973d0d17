# SPDX-License-Identifier: Apache-2.0
"""Whether an error of the engine is this host's, or every host would have it.
"""

from __future__ import annotations

from nova_vcloud import exception


def engines_own(error: exception.EngineError) -> bool:
    """Tell whether another host might load what this engine did not."""
    return isinstance(error, exception.EngineUnavailable) or is_full(error)


def is_full(error: exception.EngineError) -> bool:
    """Tell whether an engine found no space for something."""
    return 'no space left on device' in str(error).lower()


def was_away(error: BaseException | None) -> bool:
    """Tell whether it is behind an error that an engine did not answer."""
    while error is not None:
        if isinstance(error, exception.EngineUnavailable):
            return True
        error = error.__cause__
    return False
