"""What a benchmark has measured, kept on disk part by part."""

import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Record:
    """What has been measured, on disk after each part.

    :ivar figures: by part
    """

    def __init__(self, path: Path, begun: dict[str, Any], seconds: float) -> None:
        """
        :param seconds: after which no part is begun
        """
        self.figures = begun | {"skipped": [], "failed": {}}
        self._path, self._seconds, self._started = path, seconds, time.perf_counter()

    def part(self, names: tuple[str, ...], measure: Callable[[], Any]) -> None:
        """Measure something, or say why not; one failure must not cost what else can be measured.

        :param names: where its figures go: keys of dictionaries inside each other
        """
        title = ", ".join(names)
        if time.perf_counter() - self._started > self._seconds:
            print(f"skipped, no time left of {self._seconds:.0f} s: {title}", flush=True)
            self.figures["skipped"].append(title)
            return
        try:
            measured = measure()
        except Exception as error:
            traceback.print_exc()
            self.figures["failed"][title] = f"{type(error).__name__}: {error}"
        else:
            place = self.figures
            for name in names[:-1]:
                place = place.setdefault(name, {})
            place[names[-1]] = measured
        self.figures["seconds"] = time.perf_counter() - self._started
        print(f"{self.figures['seconds']:6.1f} s: {title}", file=sys.stderr, flush=True)
        self._path.write_text(json.dumps(self.figures, indent=1))
