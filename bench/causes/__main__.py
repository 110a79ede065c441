"""Run the examples of docs/causes again, and put what Parity says into them: `python -m bench.causes [CAUSE ...]`."""

import argparse

from bench.causes.examples import PAGES, page_of, refreshed


def main() -> None:
    """Rewrite the pages named, or all of them, and say which have changed."""
    parser = argparse.ArgumentParser(prog="python -m bench.causes", description=__doc__)
    parser.add_argument("causes", metavar="CAUSE", nargs="*", help="default: all that have a page")
    causes = parser.parse_args().causes or sorted(path.stem for path in PAGES.glob("[a-z]*.md"))
    for path in map(page_of, causes):
        before = path.read_text(encoding="utf-8")
        after = refreshed(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"{path.name} has changed")


if __name__ == "__main__":
    main()
