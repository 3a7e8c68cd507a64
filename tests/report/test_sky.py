"""The night sky: what is drawn is what the table says, however many neurons there are, and it is drawn at once."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from neuron_files import HOSTILE, add_life, write_neuron_files

from minigpt.base.errors import CheckpointError
from minigpt.report.run_page import read_sky
from minigpt.report.sky_data import CODES, DEAD, MAX_CELLS, Sky, SkyLayer, rate_of, read_layers
from minigpt.report.sky_drawing import KINDS, binned, layout, sky_data, sky_svg
from minigpt.report.sky_files import as_png, moving, stacked

SVG = "{http://www.w3.org/2000/svg}"


def table(rows: list[str]) -> str:
    return "\n".join(["layer,neuron,verdict,firing_rate,open_rate,max_z", *rows, ""])


def points(svg: str, kind: str) -> int:
    """How many points of a kind a sky has."""
    path = re.search(rf'class="k{kind}" d="([^"]*)"', svg)
    return path[1].count("h0") if path else 0


@given(st.lists(st.sampled_from(CODES), min_size=1, max_size=40), st.integers(1, 7))
def test_binning_hides_no_dead_neuron(codes: list[str], per_cell: int) -> None:
    """However many neurons share a point: a point is dead if and only if one of its neurons is."""
    layer = SkyLayer(0, "".join(codes))
    cells = binned(layer, per_cell)
    assert len(cells) == -(-len(codes) // per_cell)
    if layer.dead:
        assert layer.dead / per_cell <= cells.count(DEAD) < layer.dead / per_cell + 2
    assert (DEAD in cells) == (layer.dead > 0)


def test_a_rate_is_read_back_within_a_tenth_of_a_decade(tmp_path: Path) -> None:
    """A million neurons are embedded as a letter each: its rate is near the measured one, its verdict the same."""
    rates = [2e-6, 9.9e-5, 1e-4, 0.003, 0.25, 0.999, 1.0]
    rows = [f"0,{n},{'rare' if rate < 1e-4 else 'alive'},{rate!r},0.5," for n, rate in enumerate(rates)]
    (tmp_path / "neurons.csv").write_text(table(rows))
    (layer,) = read_layers(tmp_path / "neurons.csv")
    for rate, code in zip(rates, layer.codes, strict=True):
        assert rate_of(code) == pytest.approx(rate, rel=0.26)
        assert (KINDS[code] == "rare") == (rate < 1e-4)


def test_every_neuron_is_one_point_of_its_kind(tmp_path: Path) -> None:
    """Counts in the picture are those of the table, by verdict."""
    rows = ["0,0,certified,0.0,0.0,", "0,1,dead,0.0,0.0,", "0,2,rare,5e-05,5e-05,", "1,0,alive,0.9,0.9,"]
    (tmp_path / "audit.csv").write_text(table(rows))
    sky = read_sky(tmp_path)
    assert sky is not None
    svg = sky_svg(sky)
    assert [points(svg, kind) for kind in (DEAD, "rare", "7")] == [2, 1, 1]
    assert "layer 0: 2 of 3 dead; layer 1: 0 of 1 dead" in svg


def test_smooth_neurons_differ_by_their_gates(tmp_path: Path) -> None:
    """Where every neuron fires on all tokens brightness is how often z > 0, and the legend says so."""
    (tmp_path / "neurons.csv").write_text(table([f"0,{n},alive,1.0,{rate}," for n, rate in enumerate((0.5, 0.002))]))
    (layer,) = read_layers(tmp_path / "neurons.csv")
    assert layer.gates
    assert [KINDS[code] for code in layer.codes] == ["6", "1"]
    assert "its gate is open" in sky_svg(Sky([layer]), heading="gelu")


@pytest.mark.parametrize("text", ["", "layer,neuron\n", table(["0,1,alive,0.5,0.5,"]), table(["0,0,alive,often,0.5,"])])
def test_what_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    """Columns that are missing, neurons that are, figures that are none: one line that names the file."""
    (tmp_path / "audit.csv").write_text(text)
    with pytest.raises(CheckpointError, match=r"audit\.csv is no table of neurons"):
        read_sky(tmp_path)


def test_the_log_alone_tells_who_is_dead(haste: None, tiny_run: Path) -> None:
    """Before `minigpt neurons` the dead are red all the same, and no brightness is made up."""
    add_life(tiny_run, layers=2, steps=12)
    sky = read_sky(tiny_run)
    assert sky is not None
    assert not sky.measured
    assert [[n for n, code in enumerate(layer.codes) if code == DEAD] for layer in sky.layers] == [[3, 5, 8]] * 2
    assert [frame.step for frame in sky.frames] == [0, 4, 8, 12]
    write_neuron_files(tiny_run)
    measured = read_sky(tiny_run)
    assert measured is not None
    assert measured.measured
    assert measured.dead == 5


def test_the_moving_sky_ends_as_measured(haste: None, tiny_run: Path) -> None:
    """Its last frame has the dead of the table in red, and no script is in it; without deaths it does not move."""
    add_life(tiny_run, layers=2, steps=12)
    sky = read_sky(tiny_run)
    assert sky is not None
    svg = moving(sky, "s", "run")
    root = ElementTree.fromstring(svg)
    style = "".join(element.text or "" for element in root.iter(f"{SVG}style"))
    red = [group for group in root.iter(f"{SVG}g") if re.match(r"s-m s-\d", group.get("class", ""))]
    shown = [g for g in red if f".{g.attrib['class'].split()[1]} {{ visibility: visible" in style]
    assert sum(len(re.findall("h0", group[1].attrib["d"])) for group in shown) == sky.dead == 6
    assert "<script" not in svg
    assert moving(Sky(sky.layers), "s", "run") == sky_svg(Sky(sky.layers), "s", "run")


def test_names_are_characters(tmp_path: Path) -> None:
    """A hostile heading stays text in SVG and PNG."""
    sky = Sky([SkyLayer(0, CODES)])
    svg = stacked([sky_svg(sky, f"s{n}", HOSTILE + "$x$") for n in range(2)])
    texts = [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert texts.count(HOSTILE + "$x$") == 2
    assert as_png(svg).startswith(b"\x89PNG")


def test_a_large_model_is_drawn_at_once() -> None:
    """46,080 neurons in 0.3 s of this process' time on a quiet machine (here ten times that); a million is binned."""
    layers = [SkyLayer(n, (CODES * 60)[:3840]) for n in range(12)]
    begun = time.process_time()
    svg = sky_svg(Sky(layers))
    assert time.process_time() - begun < 3
    assert len(svg) < 1_000_000
    million = Sky([SkyLayer(n, CODES * 256) for n in range(64)])
    place = layout(million)
    assert million.neurons / place.bin <= MAX_CELLS
    assert "21 neurons" in sky_svg(million, heading="large")
    assert len(str(sky_data(million))) < 200_000


def test_the_command_writes_pictures(minigpt, haste: None, tiny_run: Path, refused, capsys) -> None:  # type: ignore[no-untyped-def]
    """One or several skies as SVG or PNG; the address is printed, and what cannot be drawn is refused."""
    assert minigpt("sky run --out out/sky.svg") == 0
    assert f"look:  {(tiny_run.parent / 'out/sky.svg').as_uri()}" in capsys.readouterr().out
    assert minigpt("sky run run --name a --name b --out sky.png") == 0
    from PIL import Image

    assert Image.open(io.BytesIO((tiny_run.parent / "sky.png").read_bytes())).size[0] == 1920
    capsys.readouterr()
    refused(2, "sky run --out sky.gif", says=(".svg or a .png",))
    refused(2, "sky run --moving --out sky.png", says=("only an .svg can move",))
    refused(2, "sky run --name a --name b", says=("--name was given 2 times",))
    refused(4, "sky nowhere --out sky.svg", says=("nowhere",))
