"""Audit the ports that come with Parity, and write what a check of them then says it can see.

python -m bench.coverage --write fixtures/coverage.json
"""

import argparse
import json
import time
from pathlib import Path

from parity.audits import audited
from parity.explain import coverage
from parity.pair.port import built_in_names
from parity.report.audit_text import render


def main() -> None:
    """Audit each, show the text, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, required=True, metavar="FILE")
    parser.add_argument("--texts", type=Path, metavar="DIR", help="where to put each port's audit as text")
    parser.add_argument("--ports", nargs="*", metavar="PORT", help="only these; of others what the file says is kept")
    arguments = parser.parse_args()
    found = {}
    for port in arguments.ports or built_in_names():
        began = time.perf_counter()
        pair, audit = audited(port, None, None, True, 0, lambda _: None)
        found[coverage.key(pair)] = audit
        lines = [line.plain for line in render(audit)]
        print(f"{lines[0]}  ({time.perf_counter() - began:.0f} s)", flush=True)
        if arguments.texts:
            (arguments.texts / f"{port}.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
        before = json.loads(arguments.write.read_text(encoding="utf-8")) if arguments.write.exists() else None
        arguments.write.write_text(coverage.shipped(found, before), encoding="utf-8")


if __name__ == "__main__":
    main()
