"""One self-contained HTML file from a template: styles, scripts, data and pictures are in it, and
it opens without a network."""

from __future__ import annotations

import functools
import json
import re
from importlib.util import find_spec
from pathlib import Path

import jinja2

TEMPLATES = Path(__file__).parent / "templates"
CAN_PLOT = find_spec("plotly") is not None


def render(template: str, **values: object) -> str:
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
    environment.globals["plotly_script"] = _plotly_script
    return environment


def _plotly_script() -> str:
    if not CAN_PLOT:
        return ""
    import plotly.offline

    return plotly.offline.get_plotlyjs()


def _embedded(value) -> str:
    """JSON that cannot end the script element that it stands in."""
    encoder = None
    if CAN_PLOT:
        from plotly.utils import PlotlyJSONEncoder as encoder  # knows arrays
    text = json.dumps(value, cls=encoder, ensure_ascii=False, allow_nan=False)
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
