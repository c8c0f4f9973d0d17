# SPDX-License-Identifier: Apache-2.0
"""A benchmark's rows as a table on the terminal and as JSON for machines."""

import dataclasses
import json
import operator
import pathlib
import signal
import sys
from typing import NoReturn

ROOT = pathlib.Path(__file__).resolve().parent.parent
_TESTS = {'<=': operator.le, '>=': operator.ge, '<': operator.lt}


def _end(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


# One that is told to end takes its containers along: they would slow down
# what is measured next.
signal.signal(signal.SIGTERM, _end)


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure; ``goal`` is an operator and a number, or empty."""

    case: str
    value: float
    unit: str
    goal: str = ''

    @property
    def ok(self) -> bool | None:
        """Tell whether the goal is met; None where there is none."""
        if not self.goal:
            return None
        word, number = self.goal.split()
        return bool(_TESTS[word](self.value, float(number)))


def publish(name: str, rows: list[Row]) -> bool:
    """Print the table, write build/bench/NAME.json; tell if all is met."""
    width = max(len(row.case) for row in rows)
    print(f'{"case":{width}}  {"value":>10}  {"unit":6}  {"goal":>9}  ok')
    for row in rows:
        word = {True: 'yes', False: 'NO', None: ''}[row.ok]
        print(f'{row.case:{width}}  {row.value:10.3f}  {row.unit:6}  '
              f'{row.goal:>9}  {word}')
    folder = ROOT / 'build' / 'bench'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{name}.json').write_text(json.dumps(
        [{**dataclasses.asdict(row), 'ok': row.ok} for row in rows],
        indent=1) + '\n')
    return all(row.ok is not False for row in rows)
