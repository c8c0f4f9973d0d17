# SPDX-License-Identifier: Apache-2.0
"""The failures the mini cloud tells its operator about."""

import pathlib


class MinicloudError(Exception):
    """A step failed.

    :param message: what failed, in words for the operator.
    :param log: the log whose last lines explain it.
    :param advice: what the operator can do now.
    """

    def __init__(
        self,
        message: str,
        log: pathlib.Path | None = None,
        advice: str = '',
    ) -> None:
        super().__init__(message)
        self.log = log
        self.advice = advice

    def report(self, lines: int = 20) -> str:
        """Return the message with the last ``lines`` lines of the log."""
        parts = [f'minicloud: {self}']
        if self.log is not None and self.log.is_file():
            tail = self.log.read_text(errors='replace').splitlines()[-lines:]
            parts += [f'--- last lines of {self.log}:', *tail, '---']
        if self.advice:
            parts.append(f'What to do: {self.advice}')
        return '\n'.join(parts)
