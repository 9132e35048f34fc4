# SPDX-License-Identifier: Apache-2.0
"""Whatever a template says, it is rendered or refused with TemplateError, in bounded size."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from nova_lxd.lxd.instances import pongo

_VARIABLES = {
    "trigger": "start",
    "container": {"name": "c1", "privileged": "false"},
    "instance": {"name": "c1"},
    "config": {"user.a": "b", "limits.cpu": "2"},
    "devices": {"eth0": {"type": "nic"}},
    "properties": {"os": "busybox"},
    "config_get": lambda name, default="": default,
}
_TEXT = """
{{ }} {% %} {# #} if else elif endif for in endfor set macro endmacro block include import extends
raw endraw filter with container.name config.user.a config_get("a","b") x y ( ) [ ] . |
default:"z" yesno:"a,b" upper join:"," length range(9) 1 99999999999 "a" 'b' * ** + - ~ && || !
== != __class__ __globals__ self loop.index comment endcomment ifequal endifequal autoescape
"""
_WORDS = st.sampled_from(_TEXT.split())


@settings(max_examples=400, deadline=None)
@given(st.lists(_WORDS, max_size=14).map(" ".join) | st.text(max_size=120))
def test_template_is_rendered_or_refused(text: str) -> None:
    with contextlib.suppress(pongo.TemplateError):
        assert len(pongo.render(text, _VARIABLES)) <= pongo.MAX_OUTPUT


@settings(max_examples=300, deadline=None)
@given(st.lists(_WORDS, max_size=8).map(" ".join))
def test_expression_is_rendered_or_refused(words: str) -> None:
    for text in (f"{{{{ {words} }}}}", f"{{% if {words} %}}a{{% endif %}}"):
        with contextlib.suppress(pongo.TemplateError):
            assert len(pongo.render(text, _VARIABLES)) <= pongo.MAX_OUTPUT
