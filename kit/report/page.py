"""One self-contained HTML file from a template: styles, scripts, data and pictures are in it, and
it opens without a network."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import jinja2
import plotly.offline
from plotly.utils import PlotlyJSONEncoder

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values) -> str:
    """The page of a template. Text in ``values`` is escaped; what the template gives to the filter
    ``embedded`` is put into the page as JSON for its scripts."""
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["embedded"] = _embedded
    environment.filters["unbroken"] = _unbroken
    environment.tests["startswith"] = str.startswith
    environment.globals["plotly_script"] = plotly.offline.get_plotlyjs
    return environment


def _embedded(value) -> str:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(value, cls=PlotlyJSONEncoder, ensure_ascii=False, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return jinja2.utils.markupsafe.Markup(text)


def _unbroken(text: str) -> str:
    """Text whose lines do not break within "p = 0.5" or an interval.

    >>> _unbroken("corrected p <= 0.5 [1, 2]").replace(chr(160), "_")
    'corrected p_<=_0.5 [1,_2]'
    """
    for pattern in (r" (?=<?= )", r"(?<==) ", r"(?<=,) (?=[-+\d.%]+\])"):
        text = re.sub(pattern, "\u00a0", text)
    return text
