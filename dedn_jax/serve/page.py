"""The page: its components, and what happens when they are used."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import gradio as gr

from dedn_jax.errors import InputError
from dedn_jax.serve import drop, pieces
from dedn_jax.serve.events import MAX_QUEUED, MAX_SESSIONS
from dedn_jax.serve.failures import Failures
from dedn_jax.serve.studio import Studio
from dedn_jax.serve.view import (
    BEST,
    SLIDERS,
    Attributes,
    Session,
    base_choices,
    class_choices,
    leading_attributes,
    scale,
    show,
)

_SUGGESTED = 6  # attributes whose sliders are there when a draft is begun
# Fonts of the reader's system: Gradio's themes may name fonts of other hosts.
_FONTS = ["system-ui", "sans-serif"]
_CSS = """
.gradio-container { max-width: 76rem !important; margin: 0 auto !important; }
.piece .html-container { padding: 0 !important; }
.piece:has(.html-container > div:empty) { display: none; }
@media (max-width: 36rem) { .gradio-container > .main { padding: 12px !important; } }
"""
# The pieces are dark on white.
_LIGHT = "() => document.body.classList.remove('dark')"

Updates = dict[Any, Any]


class Page:
    """The page of a studio, as Gradio blocks.

    Args:
      studio: what it is about.
      max_bytes: of a picture.
      failures: hear of what goes wrong.
    """

    def __init__(self, studio: Studio, max_bytes: int, failures: Failures) -> None:
        self._studio, self._attributes, self._failures = studio, Attributes(studio), failures
        with gr.Blocks(title="DEDN", analytics_enabled=False) as self.blocks:
            self._session = gr.State(Session())
            self._lay_out_picture(max_bytes)
            self._lay_out_why()
            self._lay_out_design()
            self._connect()
        self.blocks.state_session_capacity = MAX_SESSIONS
        self.blocks.queue(default_concurrency_limit=1, api_open=False, max_size=MAX_QUEUED)

    def _lay_out_picture(self, max_bytes: int) -> None:
        studio = self._studio
        seen = int(studio.candidates.seen.sum())
        classes, attributes = studio.candidates.embeddings.shape
        run = studio.run.workdir.path.resolve().name
        _html(pieces.heading(run, seen, classes - seen, attributes))
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self._dropped = gr.HTML(
                    html_template=drop.TEMPLATE,
                    css_template=drop.STYLE,
                    js_on_load=drop.script(max_bytes),
                    apply_default_css=False,
                    elem_id="drop",
                    elem_classes="piece",
                )
                self._examples = _html(
                    pieces.example_buttons(studio.examples), script=drop.EXAMPLES_SCRIPT
                )
            with gr.Column(scale=2, min_width=220):
                self._picture = _html(elem_id="picture")
            with gr.Column(scale=4, min_width=340):
                self._alert = _html()
                self._ranking = _html(elem_id="ranking")

    def _lay_out_why(self) -> None:
        with gr.Column(visible=False) as self._why_part:
            _html("<h2>Why this class?</h2>")
            self._explained = gr.Dropdown(
                class_choices(self._studio, Session().designs),
                value=BEST,
                label="Class to explain",
                elem_id="explained",
            )
            self._why = _html(elem_id="why")
            self._attribute = gr.Dropdown(
                self._attributes.choices,
                value=None,
                label="Attribute: where do the experts look for it?",
                elem_id="attribute",
            )
            self._attention = _html(elem_id="attention")

    def _lay_out_design(self) -> None:
        _html(
            "<h2>Design a new class</h2><p class=note>Copy a class, change its attributes: the "
            "model has never seen it, and says at once whether the picture shows it.</p>"
        )
        self._scale = scale(self._studio)
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                self._base = gr.Dropdown(
                    base_choices(self._studio, Session().designs),
                    value=None,
                    label="Start from",
                    elem_id="base",
                )
                self._name = gr.Textbox(label="Name", visible=False, elem_id="name")
                self._edited = gr.Dropdown(
                    self._attributes.choices,
                    value=[],
                    multiselect=True,
                    max_choices=SLIDERS,
                    label=f"Attributes to change (at most {SLIDERS} at a time)",
                    visible=False,
                    elem_id="edited",
                )
            with gr.Column(scale=1, min_width=320, elem_id="sliders"):
                self._sliders = [
                    gr.Slider(
                        self._scale.low,
                        self._scale.high,
                        value=self._scale.low,
                        step=self._scale.step,
                        precision=self._scale.digits,
                        buttons=[],
                        visible=False,
                    )
                    for _ in range(SLIDERS)
                ]
                self._design_alert = _html()
                self._verdict = _html(elem_id="verdict")
                with gr.Row(visible=False) as self._buttons:
                    keep, remove = "Keep this class", "Remove it"
                    self._keep_button = gr.Button(keep, variant="primary", elem_id="keep")
                    self._remove_button = gr.Button(remove, elem_id="remove")
                self._kept = _html(elem_id="kept")

    def _connect(self) -> None:
        """Says what happens when components are used."""
        self._outputs = [
            self._session,
            self._alert,
            self._picture,
            self._ranking,
            self._why_part,
            self._explained,
            self._why,
            self._attribute,
            self._attention,
            self._base,
            self._name,
            self._edited,
            self._verdict,
            self._buttons,
            self._kept,
            self._design_alert,
            *self._sliders,
        ]
        self._on(self._dropped, drop.LOOKED, self._look_at_dropped)
        self._on(self._examples, drop.CHOSEN, self._look_at_example)
        self._on(self._explained, "input", self._explain, self._explained)
        self._on(self._attribute, "input", self._attend, self._attribute)
        self._on(self._base, "input", self._begin, self._base)
        # Pasted text is no "input" to Gradio.
        self._on(self._name, "change", self._rename, self._name)
        self._on(self._edited, "input", self._edit, self._edited)
        for i, slider in enumerate(self._sliders):
            self._on(slider, "input", functools.partial(self._change, i), slider, self._edited)
        self._on(self._keep_button, "click", self._keep)
        self._on(self._remove_button, "click", self._remove)

    def _on(self, component: Any, event: str, handler: Callable[..., Updates], *more: Any) -> None:
        """Calls a handler with the session and what `more` components hold, or the event's data.

        What it cannot do is shown in one line; the session then stays as it was. So is what fails,
        in particular for values that the page would not send.
        """

        def handle(session: Session, *values: Any) -> Updates:
            updates: Updates = {self._alert: "", self._design_alert: ""}
            try:
                return updates | handler(session, *values)
            except InputError as error:
                why = str(error)
            except Exception as error:
                why = self._failures.noted(error)
            design = component in self._design_components
            where = self._design_alert if design else self._alert
            return updates | {where: pieces.alert(why)}

        def handle_data(session: Session, data: gr.EventData) -> Updates:
            return handle(session, data)

        getattr(component, event)(
            handle_data if event in (drop.LOOKED, drop.CHOSEN) else handle,
            inputs=[self._session, *more],
            outputs=self._outputs,
            show_progress="hidden",
            trigger_mode="always_last",
            preprocess=False,  # it would fail where `handle` does not hear of it
            concurrency_id="page",
            api_visibility="private",
        )

    @property
    def _design_components(self) -> list[Any]:
        buttons = [self._keep_button, self._remove_button]
        return [self._base, self._name, self._edited, *self._sliders, *buttons]

    def _look_at_dropped(self, session: Session, data: gr.EventData) -> Updates:
        return self._new_picture(session, str(_told(data, "token")))

    def _look_at_example(self, session: Session, data: gr.EventData) -> Updates:
        chosen, examples = _told(data, "example"), self._studio.examples
        if not isinstance(chosen, int) or not 0 <= chosen < len(examples):
            raise InputError("there is no such example; reload the page")
        return self._new_picture(session, self._studio.look(examples[chosen].encoded))

    def _new_picture(self, session: Session, picture: str) -> Updates:
        session = dataclasses.replace(session, picture=picture, explained=BEST, attribute=None)
        return self._shown(session) | {self._explained: BEST}

    def _explain(self, session: Session, name: str | None) -> Updates:
        return self._shown(dataclasses.replace(session, explained=name or BEST, attribute=None))

    def _attend(self, session: Session, attribute: int | None) -> Updates:
        if attribute is not None and attribute not in self._attributes.labels:
            raise InputError("there is no such attribute; choose another")
        return self._shown(dataclasses.replace(session, attribute=attribute))

    def _begin(self, session: Session, base: str | None) -> Updates:
        if not base:
            return {}
        designs = session.designs.begun(self._studio.candidates, base)
        session = dataclasses.replace(session, designs=designs, explained=BEST)
        suggested = leading_attributes(self._studio, session, _SUGGESTED)
        edited = self._attributes.sorted(suggested)
        assert designs.draft
        return (
            self._shown(session)
            | self._listed(session)
            | self._slid(session, edited)
            | {
                self._name: gr.update(value=designs.draft.name, visible=True),
                self._edited: gr.update(value=edited, visible=True),
                self._buttons: gr.update(visible=True),
            }
        )

    def _rename(self, session: Session, name: str | None) -> Updates:
        designs = session.designs.renamed(self._studio.candidates, str(name or ""))
        session = dataclasses.replace(session, designs=designs, explained=BEST)
        return self._shown(session) | self._listed(session)

    def _edit(self, session: Session, attributes: list[int]) -> Updates:
        return self._slid(session, self._attributes.sorted(attributes))

    def _change(self, i: int, session: Session, value: Any, attributes: list[int]) -> Updates:
        low, high = self._scale.low, self._scale.high
        if type(value) not in (int, float) or not low <= value <= high:
            raise InputError(f"not a number from {low:g} to {high:g}; move the slider")
        edited = self._attributes.sorted(attributes)
        if i >= len(edited):
            return {}
        designs = session.designs.changed(edited[i], self._scale.shown(value))
        return self._shown(dataclasses.replace(session, designs=designs))

    def _keep(self, session: Session) -> Updates:
        session = dataclasses.replace(session, designs=session.designs.keeping())
        return self._shown(session) | self._listed(session)

    def _remove(self, session: Session) -> Updates:
        draft = session.designs.draft
        designs = session.designs.without(draft.name) if draft else session.designs
        session = dataclasses.replace(session, designs=designs, explained=BEST)
        return (
            self._shown(session)
            | self._listed(session)
            | self._slid(session, [])
            | {
                self._base: gr.update(choices=base_choices(self._studio, designs), value=None),
                self._name: gr.update(visible=False),
                self._edited: gr.update(value=[], visible=False),
                self._buttons: gr.update(visible=False),
            }
        )

    def _shown(self, session: Session) -> Updates:
        """The session, and the pieces that show it."""
        found = show(self._studio, session)
        return {
            self._session: session,
            self._picture: found.picture,
            self._ranking: found.ranking,
            self._why_part: gr.update(visible=bool(session.picture)),
            self._why: found.why,
            self._attribute: found.attribute,
            self._attention: found.attention,
            self._verdict: found.verdict,
            self._kept: found.kept,
        }

    def _listed(self, session: Session) -> Updates:
        """The lists of classes."""
        designs = session.designs
        explained = class_choices(self._studio, designs)
        return {
            self._explained: gr.update(choices=explained, value=session.explained),
            self._base: gr.update(choices=base_choices(self._studio, designs)),
        }

    def _slid(self, session: Session, attributes: list[int]) -> Updates:
        """A slider for each of these attributes, where the draft has it."""
        draft = session.designs.draft
        updates: Updates = {}
        for i, slider in enumerate(self._sliders):
            if draft is None or i >= len(attributes):
                updates[slider] = gr.update(visible=False)
                continue
            label = self._attributes.labels[attributes[i]]
            value = self._scale.shown(draft.row[attributes[i]])
            updates[slider] = gr.update(value=value, label=label, visible=True)
        return updates


def _told(data: gr.EventData, key: str) -> Any:
    """What the event of a piece says; None where it does not."""
    return data._data.get(key) if isinstance(data._data, dict) else None


def mounted(page: Page, app: Any) -> None:
    """Puts the page into a FastAPI application, with nothing that it does not need."""
    gr.mount_gradio_app(
        app,
        page.blocks,
        path="/",
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None}
        | {"exception_handlers": app.exception_handlers},
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=0,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=gr.themes.Default(primary_hue="blue", font=_FONTS, font_mono=["monospace"]),
        css=_CSS,
        js=_LIGHT,
    )


def _html(value: str = "", *, script: str | None = None, elem_id: str | None = None) -> gr.HTML:
    return gr.HTML(
        value,
        css_template=pieces.PIECES_STYLE,
        js_on_load=script,
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="piece",
    )
