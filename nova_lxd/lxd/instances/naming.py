# SPDX-License-Identifier: Apache-2.0
"""Names of instances and snapshots: LXD's rules, and names made up for those who give none."""

from __future__ import annotations

import re
import secrets
from datetime import datetime

from nova_lxd.lxd.errors import BadRequest

_HOSTNAME = re.compile(r"[A-Za-z0-9-]{1,63}", re.ASCII)
_ADJECTIVES = (
    "able active apt bold brave bright calm clean clear close cosmic crisp deep eager early "
    "exact fair fast fine firm fit fleet fresh full glad good grand great happy helped honest "
    "humble ideal keen kind large light live loyal lucky main mature merry mint model modest "
    "moved native neat new noble normal open polite prime proper proud pure quick quiet rapid "
    "ready regular rested rich robust safe sharp sincere smart smooth solid sound stable steady "
    "still strong sunny sure sweet tidy top tough true up usable valid vast viable vital warm "
    "welcome well whole wise"
)
_ANIMALS = (
    "ant asp bass bat bear bee bird boar bug cat chow clam cod colt cow crab crane crow cub "
    "deer dodo dog dove duck eagle eel eft egret elf elk emu ewe falcon fawn finch fish flea "
    "flounder fly foal fowl fox frog gannet gar gnat gnu goat goose grub gull hare hawk hen "
    "hermit heron hog horse hound ibex imp jackal jay joey kid kit kiwi koi lab lamb lark lion "
    "llama lynx mako man mantis mayfly midge mink mite mole moose moth mouse mule newt orca "
    "osprey owl ox oyster panda perch pig pika pony prawn pug puma pup quail ram rat raven ray "
    "robin sawfly seal shad"
)


def check_instance_name(name: str) -> None:
    """Instance names are host names: letters, digits and dashes.

    :raises BadRequest: LXD's sentence for what is wrong.
    """
    if not name or len(name) > 63:
        raise BadRequest(
            "Invalid instance name: Name must be 1-63 characters long"
        )
    if _HOSTNAME.fullmatch(name) is None:
        raise BadRequest(
            "Invalid instance name: Name can only contain alphanumeric and hyphen characters"
        )
    if name.startswith("-"):
        raise BadRequest('Invalid instance name: Name must not start with "-" character')
    if name.isdigit() or name[0].isdigit():
        raise BadRequest("Invalid instance name: Name must not start with a number")
    if name.endswith("-"):
        raise BadRequest('Invalid instance name: Name must not end with "-" character')


def check_snapshot_name(name: str) -> None:
    """:raises BadRequest: LXD's sentence for what is wrong."""
    if not name:
        raise BadRequest("Invalid snapshot name: Cannot be empty")
    if " " in name or "/" in name or "\0" in name or name in (".", "..") or len(name) > 255:
        raise BadRequest("Invalid snapshot name: Cannot contain space or / characters")
    if name.startswith(".") or "\n" in name or not name.isprintable():
        raise BadRequest("Invalid snapshot name: It must be printable and not begin with a dot")


def random_name() -> str:
    """A name in LXD's style, such as ``keen-otter``."""
    return f"{secrets.choice(_ADJECTIVES.split())}-{secrets.choice(_ANIMALS.split())}"


def render_pattern(pattern: str, now: float) -> str:
    """``snapshots.pattern`` with its ``{{ creation_date }}`` filled in.

    :raises BadRequest: it is no valid template.
    """
    if "{{" not in pattern and "{%" not in pattern:
        return pattern
    from nova_lxd.lxd.instances import pongo  # Jinja2 takes 7 MB: only where it is used

    when = datetime.fromtimestamp(now)
    try:
        return pongo.render(pattern, {"creation_date": when})
    except pongo.TemplateError as exc:
        raise BadRequest(f"Failed to render snapshot pattern {pattern[:64]!r}: {exc}") from exc
