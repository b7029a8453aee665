"""What the page of ``medvqa ask --serve`` shows: an answer with its pictures, or a mistake, as
HTML. Pictures stand in it whole, so that no file of them is written."""

from __future__ import annotations

import base64
import io

from jinja2 import Environment
from PIL import Image

from kit.errors import UserError
from kit.evaluate.ask_figure import shown_images
from kit.evaluate.figure import marked
from kit.evaluate.replies import Reply

LARGE, SMALL = 560, 300  # longest side of a shown picture in pixels

CSS = """
.gradio-container {max-width: 1180px !important}
footer {display: none !important}
.reply {display: grid; gap: 20px; color: var(--body-text-color)}
.reply .whole {display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 22px}
.reply img {display: block; width: 100%; max-height: 460px; object-fit: contain; background: #000;
  border-radius: 8px; margin: 0}
.reply figure {margin: 0}
.reply .said {font-size: 30px; line-height: 1.2; font-weight: 650; margin: 0 0 2px;
  overflow-wrap: anywhere}
.reply .quiet, .reply figcaption small {opacity: 0.72}
.reply p, .reply li {margin: 8px 0 0; overflow-wrap: anywhere}
.reply ol {margin: 8px 0 0; padding-left: 20px}
.reply .finding {margin: 0; padding: 10px 14px; border-left: 4px solid #e4572e;
  background: var(--background-fill-secondary); border-radius: 4px}
.reply .without {display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr));
  gap: 16px}
.reply .without figure {max-width: 300px}
.reply figcaption {padding-top: 6px; line-height: 1.35; overflow-wrap: anywhere}
.reply figcaption b {display: block; font-size: 17px}
.reply .changed {color: #c8401c}
.dark .reply .changed {color: #ff8a66}
.nothing {min-height: 300px; display: grid; place-items: center; opacity: 0.72; text-align: center;
  border: 1px dashed var(--border-color-primary); border-radius: 4px; padding: 16px}
.mistake {padding: 14px 16px; border-left: 4px solid #c62828; border-radius: 4px;
  background: var(--background-fill-secondary); color: var(--body-text-color);
  overflow-wrap: anywhere}
.mistake p {margin: 6px 0 0}
@media (max-width: 700px) {
  .reply .whole {grid-template-columns: minmax(0, 1fr)}
  .reply .without {grid-template-columns: repeat(2, minmax(0, 1fr))}
  .nothing {display: none}
}
"""

_environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_ANSWER = _environment.from_string("""
<section class="reply">
  <div class="whole">
    <figure>
      <img src="{{ first.src }}" alt="The image with the boxes that the answer claims">
    </figure>
    <div>
      <p class="said">{{ reply.answer or "no answer" }}</p>
      <div class="quiet">probability {{ "%.2f" % reply.probability }}, given at once</div>
      {% if reply.note %}<p class="changed">{{ reply.note }}</p>{% endif %}
      {% if reply.parsed.caption %}<p>{{ reply.parsed.caption }}</p>{% endif %}
      {% if reply.parsed.reasoning %}
      <ol>{% for step in reply.parsed.reasoning %}<li>{{ step }}</li>{% endfor %}</ol>
      {% endif %}
      <p class="quiet">
        {% if boxes %}boxes (x1, y1, x2, y2 in pixels): {{ boxes }}{% else %}no boxes{% endif %}
      </p>
    </div>
  </div>
  {% if finding %}<p class="finding">{{ finding }}</p>{% endif %}
  {% if others %}
  <div class="without">
    {% for one in others %}
    <figure>
      <img src="{{ one.src }}" alt="The image {{ one.name }}">
      <figcaption>
        {{ one.name }}
        <b{% if one.changed %} class="changed"{% endif %}>{{ one.answer or "no answer" }}</b>
        <small>{{ "another answer" if one.changed else "the same answer" }};
        probability of the first {{ "%.2f" % one.probability }}</small>
      </figcaption>
    </figure>
    {% endfor %}
  </div>
  {% endif %}
</section>
""")
_MISTAKE = _environment.from_string("""
<div class="mistake" role="alert">
  <b>{{ what }}</b>
  {% if fix %}<p>{{ fix }}</p>{% endif %}
</div>
""")
NOTHING = '<div class="nothing">The answer comes here.</div>'


def answer_html(reply: Reply, method: str) -> str:
    """An answer, the image with its boxes, and the images without them with what was said."""
    (_, whole, marks, _), *others = shown_images(reply, method)
    without = [
        {
            "src": _source(marked(image, boxes, SMALL)),
            "name": name,
            "answer": said,
            "changed": one.changed,
            "probability": one.probability,
        }
        for (name, image, boxes, said), (_, one) in zip(others, reply.images_without(), strict=True)
    ]
    return _ANSWER.render(
        reply=reply,
        first={"src": _source(marked(whole, marks, LARGE))},
        boxes="; ".join(map(str, reply.boxes_in_images())),
        finding=reply.finding(),
        others=without,
    )


def mistake_html(error: UserError) -> str:
    """What is wrong and what to do about it."""
    return _MISTAKE.render(what=_sentence(error.what), fix=_sentence(error.fix or ""))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("." if text and text[-1] not in ".!?)" else "")


def _source(image: Image.Image) -> str:
    held = io.BytesIO()
    image.save(held, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"
