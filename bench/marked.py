"""Pages of Markdown in which a table stands between two marks: `<!-- name -->` and `<!-- /name -->`."""


def filled(page: str, name: str, text: str) -> str:
    """The page with a text, whole lines of it, between the marks of a name.

    Raises:
        SystemExit: the page has not each mark once, in this order.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    if page.count(begin) != 1 or page.count(end) != 1 or end not in rest:
        raise SystemExit(f"the page has no place for {name}: {begin.strip()} and {end}")
    return f"{before}{begin}{text}{end}{after}"
