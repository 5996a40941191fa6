"""Text output for the terminal."""

from pathlib import Path


def relative(path: Path) -> Path:
    """Return a path relative to the working directory, or the absolute path if it is outside that directory."""
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def table(results: dict[str, float]) -> str:
    """Return a table of metrics named `split/term`, with one row per term and one column per split."""
    if not results:
        return "no metrics"
    stages, names = (list(dict.fromkeys(parts)) for parts in zip(*(key.split("/") for key in results), strict=True))
    width = max(len(name) for name in names) + 2
    rows = [" " * width + "".join(f"{stage:>12}" for stage in stages)]
    rows += [f"{name:{width}}" + "".join(f"{results[f'{stage}/{name}']:12.6g}" for stage in stages) for name in names]
    return "\n".join(rows)
