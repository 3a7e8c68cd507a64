"""Debian's Chromium without a window: what a page becomes in it, how wide it is, what is printed, what axe-core says.

axe-core is no part of this project. `axe_script` finds it where `npm install --no-save axe-core` put it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCHEMES = {"dark": 0, "light": 1}
_ROOT = Path(__file__).parents[2]
_AXE = "node_modules/axe-core/axe.min.js"
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
_ASK_AXE = """
document.querySelectorAll("details").forEach((folded) => { folded.open = true; });
axe.run().then((found) => {
  const said = found.violations.map((rule) => rule.id + ": " + rule.nodes.map((node) => node.html).join(" | "));
  document.title = JSON.stringify({said, dark: matchMedia("(prefers-color-scheme: dark)").matches});
});
"""


def opened(page: Path, fragment: str = "", *flags: str) -> str:
    """The document as a headless Chromium has it; a word on its console is a failure."""
    done = _run(page, "--dump-dom", *flags, address=page.as_uri() + fragment)
    assert not re.findall(r"CONSOLE.*", done.stderr)
    return done.stdout


def printed(page: Path) -> Path:
    """The page as a PDF beside it."""
    paper = page.with_suffix(".pdf")
    _run(page, f"--print-to-pdf={paper}", "--no-pdf-header-footer", address=page.as_uri())
    return paper


def _run(page: Path, *flags: str, address: str) -> subprocess.CompletedProcess[str]:
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"]
    command += [f"--user-data-dir={page.parent.parent / 'profile'}", *flags, address]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


def as_on_paper(text: str) -> str:
    """The page with what its style says of print put on the screen, and without what it says of small screens."""
    return text.replace("@media print", "@media all").replace("@media screen", "@media print")


def width_on_a_phone(text: str, pixels: int, folder: Path) -> int:
    """How wide a page becomes in a frame of this width."""
    measure = "document.title = 'wide: ' + frames[0].document.documentElement.scrollWidth"
    frame = f'<iframe width="{pixels}" height="800" srcdoc="{escape(text)}"></iframe>'
    (folder / "phone.html").write_text(f'<!doctype html><body onload="{measure}">{frame}</body>', encoding="utf-8")
    width = re.search(r"<title>wide: (\d+)", opened(folder / "phone.html"))
    assert width is not None
    return int(width[1])


def axe_script() -> Path | None:
    """Where axe-core is: at `AXE_CORE`, in the folder of this project, or among npm's global packages."""
    if given := os.environ.get("AXE_CORE"):
        return Path(given)
    places = [_ROOT / _AXE]
    if npm := shutil.which("npm"):
        found = subprocess.run([npm, "root", "--global"], capture_output=True, text=True, check=False)
        places.append(Path(found.stdout.strip()).parent / _AXE)
    return next((place for place in places if place.is_file()), None)


def in_scheme(scheme: str) -> str:
    """The flag by which pages are shown in a colour scheme."""
    return f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"


def violations(text: str, axe: Path, scheme: str, folder: Path) -> list[str]:
    """What axe-core finds in a page shown in a colour scheme: a line for each rule with the elements that break it."""
    (folder / "page").mkdir()
    page = folder / "page/judged.html"
    judging = f"<script>{axe.read_text(encoding='utf-8')}</script><script>{_ASK_AXE}</script></body>"
    page.write_text(_POLICY.sub("", text).replace("</body>", judging), encoding="utf-8")  # the policy admits no script
    flags = (in_scheme(scheme), "--virtual-time-budget=20000")
    title = re.search(r"<title>(.*?)</title>", opened(page, "", "--window-size=1280,900", *flags), re.DOTALL)
    assert title is not None
    seen: dict[str, Any] = json.loads(unescape(title[1]))
    assert seen["dark"] == (scheme == "dark")
    return list(seen["said"])
