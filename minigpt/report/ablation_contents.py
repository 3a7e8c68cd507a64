"""What the page of an ablation says, and in which order: headings, sentences, captions, tables.

The page draws these sections as HTML and the Markdown as text, so both say the same. Every sentence is derived from
`analysis.json` by rule; nothing is judged here: that file holds the verdicts and the conclusion.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from minigpt.base import formats
from minigpt.base.errors import CheckpointError
from minigpt.base.health_columns import ABLATION, TRUSTED_TOKENS, figures, legend
from minigpt.base.reading import read_json
from minigpt.report import ablation_tables
from minigpt.report.ablation_tables import WARNING, Record, few_tokens, final_loss_bounds
from minigpt.report.sections import Section

VERDICTS = ("better", "worse", "equivalent", "undecided", "no verdict")
FORMAT = 1
LINEAR_MARGINS, MOST_MARGINS = 2.0, 15.0
"""The forest plot is linear within ±2 margins and logarithmic beyond if a difference exceeds 15; else all linear."""
_MOST_NAMED, _LONGEST_NAMES = 10, 90
MOST_OVERLAID = 8
"""Up to this many arms share a frame; more get a small frame each."""


def read_analysis(directory: Path) -> Record:
    """Return the `analysis.json` of an ablation.

    Raises:
        CheckpointError: there is none, or it is no analysis that this version reads.
    """
    path = directory / "analysis.json"
    analysis = read_json(path, CheckpointError)
    written = analysis.get("format") if isinstance(analysis, dict) else None
    if written != FORMAT:
        raise CheckpointError(f"cannot read {path}; its format is {written!r}; this version reads {FORMAT}")
    return dict(analysis)


def title(analysis: Record) -> str:
    """What was compared, in words."""
    factors = {
        key.replace("_", " "): [formats.setting(value) for value in values]
        for key, values in analysis["factors"].items()
    }
    if len(factors) != 1:
        return f"{formats.counted(len(analysis['arms']), 'arm')} compared" + (
            f": {formats.joined(list(factors))}" if factors else ""
        )
    ((factor, values),) = factors.items()
    if len(values) > _MOST_NAMED or len("".join(values)) > _LONGEST_NAMES:
        return f"{len(values)} values of {factor} compared"
    return f"{factor[:1].upper()}{factor[1:]}: {formats.joined(values)} compared"


def subtitle(analysis: Record) -> str:
    """One line: how many arms and seeds, on what text, measured how."""
    arms, corpus = [arm["name"] for arm in analysis["arms"]], analysis["corpus"]
    who = formats.joined(arms) if len(arms) <= 4 and len("".join(arms)) < 60 else formats.counted(len(arms), "arm")
    seeds = formats.counted(len(analysis["seeds"]), "seed")
    return f"{who} · {seeds} · {corpus['name']}, {corpus['tokenizer']} · {analysis['measure']}"


def unfinished(analysis: Record) -> str | None:
    """What to say above an answer that is not final."""
    if analysis["complete"]:
        return None
    pending = sum(cell["status"] == "pending" for cell in analysis["cells"])
    cells = formats.counted(len(analysis["cells"]), "cell")
    return f"Incomplete: {pending} of {cells} are still to be trained. Everything below may still change."


def warnings(analysis: Record) -> list[str]:
    """What else a reader must know before believing anything on the page."""
    found = []
    if analysis["stale"]:
        stale = formats.counted(len(analysis["stale"]), "cell")
        found.append(f"Stale: another version of the training code left {stale}, listed below and not used.")
    if analysis["provenance"]["mixed"]:
        found.append(f"Mixed: {_mixed(analysis)}")
    return found


def _mixed(analysis: Record) -> str:
    keys = ["uncommitted changes" if key == "dirty" else key for key in analysis["provenance"]["mixed"]]
    return f"the cells were trained in environments that differ in {formats.joined(keys)}."


def sections(analysis: Record) -> list[Section]:
    """All sections in their order, without those that this ablation has nothing for."""
    found = [
        _differences(analysis), _neurons(analysis), _dead_against_loss(analysis), _curves(analysis),
        _sensitivity(analysis), _noise(analysis), _fairness(analysis), _cells(analysis), _provenance(analysis),
    ]  # fmt: skip
    return [section for section in found if section is not None]


def _differences(analysis: Record) -> Section:
    section = Section("Differences, and how sure they are", anchor="differences")
    if not analysis["comparisons"]:
        return replace(section, sentences=("There is only one arm, so nothing is compared.",))
    margin, family = formats.short(analysis["margin"]), formats.counted(analysis["family"], "comparison")
    sentences = (
        "A comparison is made seed by seed: both arms saw the same windows in the same order. Better or worse: the "
        f"mean difference reaches {margin} nats, and a paired t test is significant at {analysis['alpha']:g} after "
        f"Holm's correction over {family}. Equivalent: two one-sided tests (TOST), corrected likewise, put the "
        f"difference within ±{margin} nats. Undecided: these seeds cannot tell.",
    )
    section = replace(section, sentences=sentences, tables=(ablation_tables.comparisons_table(analysis),))
    if not differences_shown(analysis):
        return section
    return replace(section, figures=(("forest", section.title),), caption=_forest_caption(analysis))


def _forest_caption(analysis: Record) -> str:
    pairs, margin = analysis["comparisons"], analysis["margin"]
    counts = Counter(pair["verdict"] for pair in pairs)
    seen = formats.joined([f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]])
    interval = "with one pair there is no interval and no verdict"
    if any(pair["low"] is not None for pair in pairs):
        interval = (
            "the large mark is their mean, the bar its 95 % t interval, not adjusted for the number of comparisons "
            "(the verdicts are)"
        )
    scale = (
        f" Beyond ±{formats.short(LINEAR_MARGINS * margin)} the axis is logarithmic." if reaches_far(analysis) else ""
    )
    return (
        f"Verdicts: {seen}. Each row is an arm's loss minus its reference's; left of zero the arm is better. "
        f"Small dots are single seeds; {interval}. The shaded band, ±{formats.short(margin)} nats, holds differences "
        f"too small to matter.{scale}"
    )


def differences_shown(analysis: Record) -> list[float]:
    """Every number that the forest plot has a place for."""
    pairs = analysis["comparisons"]
    shown = [pair[key] for pair in pairs for key in ("mean", "low", "high")]
    shown += [entry["difference"] for pair in pairs for entry in pair["differences"]]
    return [value for value in shown if value is not None]


def reaches_far(analysis: Record) -> bool:
    """Whether the largest difference would squeeze the margin to a hair on a linear axis."""
    largest = max(map(abs, differences_shown(analysis)), default=0.0)
    return bool(0 < MOST_MARGINS * analysis["margin"] < largest)


def _neurons(analysis: Record) -> Section:
    sentences = [
        legend(figures(ABLATION)),
        "A smooth activation is almost never exactly zero but can be just as useless, so compare different activations "
        "by inert, not by dead. Figures are means over seeds, one for each layer from the first to the last. ± is the "
        "half-width of the 95 % t interval over seeds.",
    ]
    if few_tokens(analysis):
        sentences.append(f"{WARNING} Counted on fewer than {TRUSTED_TOKENS:,} tokens: take these as hints.")
    tables = (ablation_tables.arms_table(analysis), ablation_tables.layers_table(analysis))
    title = "Perplexity, and what the neurons do meanwhile"
    return Section(title, tuple(sentences), tables=tables, anchor="neurons")


def drawn_cells(analysis: Record) -> list[Record]:
    """The cells that have a place in the plane of dead fraction and loss."""
    return [
        cell
        for cell in analysis["cells"]
        if cell["purpose"] == "main" and cell["loss"] is not None and cell["dead_fraction"] is not None
    ]


def _dead_against_loss(analysis: Record) -> Section | None:
    cells = drawn_cells(analysis)
    if not cells:
        return None
    dead = [cell["dead_fraction"] for cell in cells]
    arms = [arm for arm in analysis["arms"] if arm["dead_fraction"] is not None and arm["loss"] is not None]
    most = max(arms, key=lambda arm: arm["dead_fraction"]["mean"], default=None)
    lowest = final_loss_bounds(analysis)
    seen = f"The dead share lies between {formats.percent(min(dead))} and {formats.percent(max(dead))}"
    if most is not None and lowest is not None:
        died = f"; most died in {most['name']} ({formats.percent(most['dead_fraction']['mean'])} on average)"
        none = "; no neuron died in any cell"
        seen += died if most["dead_fraction"]["mean"] > 0 else none
        seen += f"; {lowest[0]['name']} has the lowest mean loss"
    unplaced = sum(cell["purpose"] == "main" and cell["status"] == "diverged" for cell in analysis["cells"])
    missing = f" {formats.counted(unplaced, 'diverged cell')} cannot be placed." if unplaced else ""
    caption = (
        f"{seen}. Each mark is one training: dead neurons of all layers across, loss upwards, perplexity on the right. "
        "If death cost loss, the marks of one arm would rise to the right; between arms the activation itself differs, "
        f"so a slope across arms proves nothing.{missing}"
    )
    title = "Dead neurons against loss"
    return Section(title, figures=(("dead_against_loss", title),), caption=caption, anchor="dead")


def drawn_arms(analysis: Record) -> list[Record]:
    """The arms that have a curve."""
    return [arm for arm in analysis["arms"] if any(point["mean"] is not None for point in arm["curve"])]


def curves_reference(analysis: Record) -> Record:
    """The arm that the others' curves are held against: the reference, or else the arm of the lowest final loss."""
    drawn = drawn_arms(analysis)
    lowest = min(drawn, key=lambda arm: float("inf") if arm["loss"] is None else arm["loss"]["mean"])
    return next((arm for arm in drawn if arm["reference"]), lowest)


def _curves(analysis: Record) -> Section | None:
    drawn = drawn_arms(analysis)
    if not drawn:
        return None
    ends = final_loss_bounds(analysis)
    seen, compared = "", curves_reference(analysis)["name"]
    if ends is not None and ends[0] is not ends[1]:
        low, high = (f"{formats.fixed(arm['loss']['mean'])} nats ({arm['name']})" for arm in ends)
        seen = f"At the end the lowest mean loss is {low}, the highest {high}. "
    second = f"Below, the mean of each arm minus that of {compared}. "
    if len(drawn) > MOST_OVERLAID:
        second = f"The dashed line in each frame is {compared}. "
    caption = (
        f"{seen}Lines are means over seeds, bands reach from the lowest to the highest seed. "
        f"{second if len(drawn) > 1 else ''}The first quarter of the training, and arms that diverge, may lie outside "
        f"the frame. Overlapping bands do not make arms equal{_pairing_of_bands(analysis)}."
    )
    title, tables = "Loss over the training", (ablation_tables.curves_table(analysis),)
    return Section(title, figures=(("curves", title),), caption=caption, tables=tables, anchor="curves")


def _pairing_of_bands(analysis: Record) -> str:
    """What pairing by seed leaves of the bands' width, if there are pairs."""
    if analysis["pairing"] is None:
        return ""
    left = analysis["pairing"]["sd_ratio"]
    if left >= 1:
        return ": seeds are paired, though here that does not narrow differences"
    return f": pairing by seed leaves {formats.percent(left)} of the spread that unpaired differences would have"


def _sensitivity(analysis: Record) -> Section | None:
    points, tuning = analysis["sensitivity"], analysis["tuning"]
    if not points:
        return None
    best: dict[str, Record] = {}
    for point in points:
        if point["mean"] is not None and point["mean"] < best.get(point["arm"], {"mean": float("inf")})["mean"]:
            best[point["arm"]] = point
    named = [f"{arm} at {formats.setting(point['lr'])}" for arm, point in best.items()]
    diverged = sum(point["diverged"] for point in points)
    caption = (
        f"{'The lowest mean loss of each arm: ' + formats.joined(named) + '. ' if len(named) <= 12 else ''}"
        "Each mark is the mean over seeds at one learning rate, the bar reaches from the lowest to the highest seed"
        + ("; a ring marks the rate that was chosen" if any(point["chosen"] for point in points) else "")
        + (f"; a cross at the upper edge marks diverged cells ({diverged} in all)" if diverged else "")
        + ". An arm whose lowest point is at an edge would need a longer grid."
    )
    sentences = () if tuning is None else (_tuning_sentence(tuning),)
    title, tables = "Sensitivity to the learning rate", (ablation_tables.sensitivity_table(analysis),)
    if not best:
        return Section(title, sentences, tables=tables, anchor="sensitivity")
    return Section(title, sentences, (("sensitivity", title),), caption, tables, "sensitivity")


def _tuning_sentence(tuning: Record) -> str:
    chosen = formats.joined([f"{lr:g} for {arm}" for arm, lr in tuning["chosen"].items()])
    extended = f" The grid was extended for {formats.joined(tuning['extended'])}." if tuning["extended"] else ""
    edge = f" Still at an edge: {formats.joined(tuning['at_edge'])}." if tuning["at_edge"] else ""
    return (
        f"Each arm's rate was tuned on separate seeds ({', '.join(map(str, tuning['seeds']))}) and the "
        f"{tuning['eval_part']} half of the validation text, over {', '.join(f'{lr:g}' for lr in tuning['grid'])}: "
        f"{chosen}.{extended}{edge} The results above come from fresh seeds and the other half."
    )


def _noise(analysis: Record) -> Section | None:
    floor, pairing, power = analysis["noise_floor"], analysis["pairing"], analysis["power"]
    sentences = []
    if floor is not None:
        sentences.append(
            f"Noise floor: {floor['arm']} against itself under other seeds differs by a standard deviation of "
            f"{formats.fixed(floor['difference_sd'])} nats (one run: {formats.fixed(floor['seed_sd'])}). "
            f"Without pairing, an effect would have to be {formats.fixed(floor['detectable'])} nats to be found."
        )
    if pairing is not None:
        correlation, ratio = (formats.fixed(pairing[key], 2) for key in ("correlation", "sd_ratio"))
        sentences.append(
            f"Pairing by seed: losses of two arms under one seed correlate by {correlation}; paired differences spread "
            f"{ratio} times as much as unpaired ones would (median over comparisons; below 1, pairing helped)."
        )
    if power is not None:
        sentences.append(
            f"Power, with {formats.counted(power['family'], 'comparison')} at {power['alpha']:g} in all; SD is the "
            f"standard deviation of paired differences, here {formats.fixed(power['paired_sd'])} nats (median)."
        )
    if not sentences:
        return None
    tables = (ablation_tables.power_table(power),) if power is not None else ()
    title = "How much is noise, and what these seeds can show"
    return Section(title, tuple(sentences), tables=tables, anchor="noise")


def _fairness(analysis: Record) -> Section:
    parameters = [arm["fairness"]["parameters"] for arm in analysis["arms"] if arm["fairness"]["parameters"]]
    sentences = []
    if len(parameters) > 1:
        apart = 100 * (max(parameters) / min(parameters) - 1)
        agree = f"differ by {formats.short(apart)} % at most" if apart else "are equal"
        sentences.append(f"The arms' numbers of parameters {agree}.")
    sentences.append(
        "Same windows: whether each seed gave all arms the same batches. Same start: how many tensors of equal shape "
        "began equal to the reference's."
    )
    if any(arm["fairness"]["same_windows"] is False for arm in analysis["arms"]):
        sentences.append(f"{WARNING} Not all arms saw the same windows: their differences are not paired.")
    sentences.append("Times depend on the machine and on what else it did; nothing else on this page does.")
    tables = (ablation_tables.fairness_table(analysis),)
    title = "Fairness: what each arm was given, and what it cost"
    return Section(title, tuple(sentences), tables=tables, anchor="fairness")


def _cells(analysis: Record) -> Section:
    states = Counter(cell["status"] for cell in analysis["cells"])
    count = ", ".join(f"{states[state]} {state}" for state in ("finished", "diverged", "pending") if states[state])
    sentences = [
        f"{formats.counted(len(analysis['cells']), 'cell')}: {count}. A cell's name leads to its run directory."
    ]
    found = [ablation_tables.cells_table(analysis)]
    if analysis["stale"]:
        sentences.append("Stale cells were trained by another version of the training code and are not used.")
        found.append(ablation_tables.stale_table(analysis))
    return Section("Every cell", tuple(sentences), tables=tuple(found), anchor="cells")


def _provenance(analysis: Record) -> Section:
    sentences = [
        "To repeat it: install this commit and run the command below. Cells that are finished already are not trained "
        "again; on the same machine and versions, new ones end in the same bits.",
    ]
    if analysis["provenance"]["mixed"]:
        sentences.append(f"{WARNING} Below is what the first cell says; {_mixed(analysis)}")
    if analysis["provenance"]["dirty"]:
        sentences.append(f"{WARNING} The code had uncommitted changes: the commit alone does not repeat it.")
    tables = (ablation_tables.provenance_table(analysis), ablation_tables.settings_table(analysis))
    title = "Where it comes from, and how to repeat it"
    return Section(title, tuple(sentences), tables=tables, anchor="provenance")
