import shutil
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest

from analysis import report
from analysis.aggregate import aggregate
from analysis.figures import figures, score_against_flops, score_against_seconds, sensitivity
from analysis.figures.__main__ import main
from analysis.figures.kept_units import kept_units
from analysis.figures.style import COLORS, RUINED, styles
from analysis.records import load
from baselines.registry import METHODS

CONFIG = {
    "method": {"lambdas": [1e-6], "mu": 1.0, "knowledge": {"temperature": 2.0}},
    "calibration": {"tokens": 100000},
}


@pytest.fixture(autouse=True)
def none_left_open():
    yield
    plt.close("all")


@pytest.fixture
def cells(write_cell, outputs):
    for target in (0.6, 0.8):
        write_cell(model="bert_base", flops_reduction_requested=target, flops_reduction=target, config=CONFIG)
        write_cell(
            model="bert_base", flops_reduction_requested=target, flops_reduction=target, method="kwon", score=60.0
        )
    changed = CONFIG | {"method": CONFIG["method"] | {"mu": 4.0}}
    write_cell(model="bert_base", variant={"mu": 4.0}, config=changed, score=70.0)
    write_cell(model="bert_base", method="ebert", pruning_seconds=5000.0)
    write_cell(model="bert_base", task="squad", metric="f1", dense_score=74.6, score=60.0, latency=None)
    return load(outputs)


def labels(axis):
    return axis.get_legend_handles_labels()[1]


def test_a_panel_per_task_and_the_papers_curve(cells):
    panels = [axis for axis in score_against_flops(aggregate(cells)).axes if axis.get_title()]
    assert [axis.get_title() for axis in panels] == ["MRPC", "SQuAD 1.1"]
    assert [axis.get_ylabel() for axis in panels] == ["Accuracy (%)", "F1 (%)"]
    assert set(panels[0].get_lines()[0].get_ydata()) == {78.19}
    assert set(labels(panels[0])) == {"dense", "K-prune", "Kwon et al.", "K-prune, paper", "Kwon et al., paper"}
    (curve,) = [line for line in panels[0].get_lines() if line.get_label() == "K-prune, paper"]
    assert list(curve.get_xdata()) == pytest.approx([60, 65, 70, 75, 80])


def test_pruning_time_has_the_retrained_at_their_targets(cells):
    (panel,) = score_against_seconds(aggregate(cells)).axes
    assert panel.get_title() == "MRPC, 80 %" and panel.get_xscale() == "log"
    assert labels(panel) == ["dense", "K-prune", "Kwon et al.", "EBERT"]


def test_pruning_time_without_retrained_has_the_target_of_most_methods(write_cell, outputs):
    for target in (0.6, 0.7, 0.8):
        write_cell(flops_reduction_requested=target)
    for target in (0.6, 0.7):
        write_cell(method="kwon", flops_reduction_requested=target)
    (panel,) = score_against_seconds(aggregate(load(outputs))).axes
    assert panel.get_title() == "MRPC, 70 %" and labels(panel) == ["dense", "K-prune", "Kwon et al."]


def test_cells_of_one_reduction_are_not_pulled_apart(write_cell, outputs):
    for method, removed in (("kprune", 0.80001), ("kwon", 0.80002)):
        write_cell(method=method, flops_reduction=removed)
    table = aggregate(load(outputs))
    (panel,) = score_against_flops(table).axes
    low, high = panel.get_xlim()
    assert high - low == pytest.approx(20) and 80 in panel.get_xticks() and not any(panel.get_xticks() % 10)
    (panel,) = score_against_seconds(table).axes
    low, high = panel.get_xlim()
    assert high / low == pytest.approx(100)


def test_zeros_among_the_weights_are_at_no_share_of_flops_and_keep_no_units(write_cell, outputs):
    masked = {"flops_reduction_requested": None, "flops_reduction": 0.0, "latency": None, "sparsity": 0.5}
    write_cell(method="wanda", target="s0.5", **masked)
    assert score_against_flops(aggregate(load(outputs))) is None and kept_units(load(outputs), "mrpc") is None
    write_cell()
    (panel,) = score_against_flops(aggregate(load(outputs))).axes
    assert labels(panel) == ["dense", "K-prune"]


def test_sensitivity_has_the_method_as_it_is_among_its_points(cells):
    (panel,) = sensitivity(aggregate(cells)).axes
    assert panel.get_title() == "μ" and panel.get_lines()[0].get_xdata().tolist() == [1, 4]
    assert panel.get_lines()[0].get_ydata().tolist() == [74.51, 70]


def test_kept_units_show_every_layer(cells):
    (figure,) = [figure for name, figure in figures(cells) if name == "kept_units-mrpc"]
    heads = figure.axes[0]
    assert [text.get_text() for text in heads.texts] == ["3", "2", "0"] * 2
    assert [tick.get_text() for tick in heads.get_yticklabels()] == ["60 %", "80 %"]


def test_kept_units_of_encoders_of_different_depth(write_cell, outputs):
    write_cell()
    write_cell(seed=1, kept_heads=[1, 2, 6, 4], kept_neurons=[10, 10, 10, 10])
    write_cell(method="kwon", kept_heads=[5], kept_neurons=[50])
    (figure,) = [figure for name, figure in figures(load(outputs)) if name == "kept_units-mrpc"]
    ours, _, theirs, _ = figure.axes
    assert [text.get_text() for text in ours.texts] == ["2", "2", "3", "4"]
    assert [text.get_text() for text in theirs.texts] == ["5"]


def test_every_method_looks_different_without_colour():
    looks = styles([(method, "") for method in METHODS]).values()
    assert len({look["marker"] for look in looks}) == len(METHODS)


def test_a_method_has_one_colour_and_its_first_settings_its_own_marker():
    alone, two = styles([("kwon", "")]), styles([("kprune", ""), ("kwon", "tokens=20000"), ("kwon", "tokens=100000")])
    first, second = two["kwon", "tokens=20000"], two["kwon", "tokens=100000"]
    assert alone["kwon", ""] == first and second["color"] == first["color"]
    assert len({look["marker"] for look in two.values()}) == 3
    assert styles([("theirs", ""), ("theirs", "x=1"), ("others", "")]), "another's method has a look, too"


def test_methods_of_a_figure_share_no_colour_as_long_as_there_are_enough():
    alike = [method for number, method in enumerate(METHODS) if number % len(COLORS) == 0]
    assert len(alike) > 1
    assert len({look["color"] for look in styles([(method, "") for method in alike]).values()}) == len(alike)


def test_command(cells, outputs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["figures", str(outputs)])
    main()
    names = {path.stem for path in (outputs / "figures").iterdir()}
    assert names == {
        "score_against_flops",
        "score_against_seconds",
        "score_against_speedup",
        "sensitivity",
        "kept_units-mrpc",
        "kept_units-squad",
    }
    for suffix, start in (("pdf", b"%PDF"), ("png", b"\x89PNG")):
        assert (outputs / "figures" / f"score_against_flops.{suffix}").read_bytes().startswith(start)


def test_named_figures_are_drawn_alone(cells, outputs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["figures", str(outputs), "kept_units"])
    main()
    assert {path.stem for path in (outputs / "figures").iterdir()} == {"kept_units-mrpc", "kept_units-squad"}
    monkeypatch.setattr(sys, "argv", ["figures", str(outputs), "kept"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "no figure kept: use score_against_flops" in capsys.readouterr().err


def test_nothing_to_draw_is_said(write_cell, outputs, monkeypatch, capsys):
    write_cell(variant={"mu": 2.0})
    monkeypatch.setattr(sys, "argv", ["figures", str(outputs)])
    main()
    assert capsys.readouterr().out == f"figures: no cells for one in {outputs}\n"


def test_the_report_refers_to_nothing_outside_itself(cells, outputs, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report", str(outputs)])
    report.main()
    text = (outputs / "report.html").read_text()
    anchors, links, images, tables = set(), [], [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            attributes = dict(attributes)
            assert tag not in ("script", "link", "iframe", "object", "embed", "base")
            anchors.add(attributes.get("id"))
            links.append(attributes.get("href"))
            images.append(attributes.get("src"))
            tables.append(tag == "table")

    Reader().feed(text)
    assert {link[1:] for link in links if link} <= anchors and all(link.startswith("#") for link in links if link)
    assert all(image.startswith("data:image/png;base64,") for image in images if image)
    assert sum(map(bool, images)) == 6 and sum(tables) == 11
    assert "url(" not in text and "@import" not in text
    assert "<b>74.51</b>" in text and "Kwon et al., paper" in text


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on this machine")
def test_the_report_opens_in_a_browser_without_a_network(cells, outputs, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report", str(outputs)])
    report.main()
    count = """<script>onload = () => document.title =
        [...document.images].filter(i => i.naturalWidth && i.clientWidth).length + " drawn, " +
        [...document.links].filter(a => document.querySelector(a.getAttribute("href"))?.clientWidth).length + " links, " +
        performance.getEntriesByType("resource").filter(r => !r.name.startsWith("data:")).length + " requests"</script>"""
    file = tmp_path / "counted.html"
    file.write_text((outputs / "report.html").read_text().replace("</body>", count + "</body>"))
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--dump-dom",
    ]
    folder = f"--user-data-dir={tmp_path / 'profile'}"
    seen = subprocess.run(
        [*command, folder, file.as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert "<title>6 drawn, 13 links, 0 requests</title>" in seen


def test_perplexities_are_drawn_by_the_share_of_parameters_and_by_speed(write_cell, outputs):
    window = {
        "split": "test",
        "examples": 16,
        "majority": None,
        "sha256": "ab",
        "window": 2048,
        "data": "d",
        "first_token": "none",
    }
    for method, factor in (("kprune_plus", 1.2), ("flap", 3.0)):
        for share in (0.1, 0.2):
            speed = {"dense": 100.0, "pruned": 100.0 / (1 - share)}
            point = {"device": "a CPU", "batch_size": 1, "sequence_length": 512, "threads": 2}
            times = {"dense_ms": 100.0, "pruned_ms": 90.0, "speedup": 1.1}
            latency = point | times | {"prefill": speed, "decoding": speed}
            rest = {"metric": "perplexity", "higher_is_better": False, "dense_score": 18.0, "evaluation": window}
            asked = {"target": f"p{share}", "flops_reduction_requested": None, "params_reduction": share}
            score = 18.0 * factor ** (10 * share)
            write_cell(task="wikitext2", method=method, score=score, latency=latency, **rest, **asked)
    drawn = dict(figures(load(outputs)))
    assert "score_against_flops" not in drawn
    for name, places, count in (
        ("score_against_parameters", [10, 20], 1),
        ("score_against_tokens_per_second", [1.111, 1.25], 2),
    ):
        drawn_panels = [axis for axis in drawn[name].axes if axis.get_title()]
        assert len(drawn_panels) == count, "speed has one for prompts and one for generation"
        for panel in drawn_panels:
            assert panel.get_yscale() == "log"
            assert panel.get_ylim() == pytest.approx((0.9 * 18, RUINED * 18)), "what is ruined leaves the picture"
            drawn_through = [line for line in panel.get_lines() if line.get_linestyle() != "None"]
            lines = [line for line in drawn_through if len(line.get_xdata()) == 2 and line.get_xdata()[0] > 1]
            assert len(lines) == 2 and all(list(line.get_xdata()) == pytest.approx(places, rel=1e-3) for line in lines)


def test_a_legend_has_as_many_columns_as_its_longest_entry_leaves_room_for(write_cell, outputs):
    for method in ("kprune_plus", "flap", "oscar", "llm_pruner"):
        rest = {"metric": "perplexity", "higher_is_better": False, "dense_score": 18.0}
        asked = {"target": "p0.1", "flops_reduction_requested": None, "params_reduction": 0.1}
        write_cell(task="wikitext2", method=method, score=20.0, variant={"precision": "reduced"}, **rest, **asked)
    figure = dict(figures(load(outputs)))["score_against_parameters"]
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, "no entry is cut off"
