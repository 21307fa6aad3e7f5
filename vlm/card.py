"""A model card out of measured results, by a template."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm.atomic import write_text
from vlm.evaluate import HEADLINES, MIN_RECORDS, value_at
from vlm.shipped import CARDS

__all__ = ["SOURCES", "fill_table", "headline_table", "main_card", "render_card"]

TEMPLATE = CARDS / "template.md"

SOURCES: Mapping[str, tuple[str, str]] = {
    "ccp": (
        "Clothing Co-Parsing (Yang, Luo and Lin, CVPR 2014; github.com/bearpaw/clothing-co-parsing), street photos",
        "Apache-2.0 for the repository, which says nothing about rights in the street photos themselves",
    ),
    "clothing": (
        "Clothing dataset, small (github.com/alexeygrigorev/clothing-dataset-small), single garments",
        "CC0 1.0",
    ),
    "products": (
        "Fashion Product Images (Kaggle, P. Aggarwal), catalogue photos",
        "MIT as far as known (its page says so); not verified",
    ),
    "counterfactual": (
        "Street photos of the training split with garments recoloured or patterned, on other backgrounds, partly "
        "covered or cut (`vlm.synthetic.counterfactual`)",
        "as the street photos",
    ),
    "wardrobe": ("People in outfits and lone garments, drawn (`vlm.synthetic.wardrobe`)", "this project's own"),
}
"""Reader, or name of a source of our own records -> (what it is, licence)."""

UNKNOWN_SOURCE = ("photos of whoever trained this", "not stated; ask them")

TABLE_START, TABLE_END = "<!-- table:validation -->", "<!-- /table:validation -->"

MIN_EXAMPLES = 30
"""Of fewer a number is marked as too thin for a verdict."""


def main_card(
    results: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    template: str | os.PathLike[str] | None = None,
    reliability: str | None = None,
) -> None:
    """Write the model card (atomically) of the results that `vlm eval` wrote.

    Args:
        results: JSON file.
        output: Markdown file.
        template: None for model_cards/template.md.
        reliability: reliability plot, as the card should link to it.

    Raises:
        ValueError: the results or the template cannot be read.
    """
    file = Path(results)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        text = render_card(found, template=template, reliability=reliability)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: is not what `vlm eval` writes: {error!r}") from error
    write_text(Path(output), text)


def fill_table(results: str | os.PathLike[str], document: str | os.PathLike[str]) -> None:
    """Put the headline table of results, of photos only, between the marks of a document (atomically).

    Raises:
        ValueError: the document has no marks.
    """
    file = Path(document)
    text = file.read_text(encoding="utf-8")
    before, start, rest = text.partition(TABLE_START)
    _, end, after = rest.partition(TABLE_END)
    if not start or not end:
        raise ValueError(
            f"{file}: has no place for the table; write {TABLE_START} and {TABLE_END} on lines of their own"
        )
    found = json.loads(Path(results).read_text(encoding="utf-8"))
    drawn = _drawn(found)
    photos = {name: table for name, table in found["sources"].items() if name not in drawn}
    table = headline_table({**found, "sources": photos})
    write_text(file, f"{before}{start}\n{table}\n{end}{after}")


def render_card(
    results: Mapping[str, Any],
    *,
    template: str | os.PathLike[str] | None = None,
    reliability: str | None = None,
) -> str:
    """The card's text: Markdown with the Hub's metadata at its head."""
    from huggingface_hub import ModelCard, ModelCardData

    path = TEMPLATE if template is None else Path(template)
    if not path.is_file():
        raise ValueError(f"{path}: no such template; cards are made in a checkout of the project, or name one")
    name = results["checkpoint"]
    card = ModelCard.from_template(
        ModelCardData(
            language="en",
            license="apache-2.0",
            library_name="vlm",
            pipeline_tag="image-text-to-text",
            tags=["fashion", "captioning", "visual-question-answering", "object-detection", "visual-grounding"],
        ),
        template_path=str(path),
        name="The embedded checkpoint" if name == "embedded" else name,
        load_argument="" if name == "embedded" else json.dumps(name),
        date=results["date"],
        suite=results["suite"],
        limit=results.get("limit"),
        headlines=headline_table(results),
        drawn=", ".join(f"`{name}`" for name in _drawn(results)),
        closer=", ".join(f"`{name}`" for name in results["sources"] if _asked(results, name).get("closer")),
        parse_rates=_parse_rates(results),
        attributes=_attributes(results),
        abstention=_abstention(results),
        detection=_detection(results),
        groups=_groups(results),
        calibration=_calibration(results),
        reliability=reliability,
        training=_training(results),
        data=_data(results),
    )
    return card.content.rstrip() + "\n"


def headline_table(results: Mapping[str, Any]) -> str:
    """Every headline of every source as a Markdown table."""
    rows = []
    for source, table in results["sources"].items():
        for path, name in HEADLINES.items():
            measure = path.split("/")[0]
            value = value_at(table, path)
            if value is not None:
                rows.append((source, name, _with_interval(table[measure], path), _num(table[measure], path)))
    return _table(("source", "measure", "value", "n"), rows)


def _drawn(results: Mapping[str, Any]) -> list[str]:
    """Sources whose pictures were made for the test."""
    return [name for name in results["sources"] if _asked(results, name).get("make")]


def _asked(results: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """The settings that a source was measured with."""
    settings: Mapping[str, Any] = results["config"]["sources"].get(source, {})
    return settings


def _num(values: Mapping[str, Any], path: str) -> str:
    """How many examples are behind a headline."""
    if "/AP50" in path or path.endswith("mAP@[.5:.95]"):
        return f"{values['num']} photos, {values['num_boxes']} boxes"
    if path.endswith("/Acc@0.5"):
        return str(values["num_one"])
    if path.endswith("/Acc@0.5_incl_none"):
        return str(values["num_one"] + values["num_none"])
    return str(values["num"])


def _with_interval(values: Mapping[str, Any], path: str) -> str:
    """`path` within a measure, its first part being the measure's own name."""
    inner = path.split("/", 1)[1]
    value = value_at(values, inner)
    return "-" if value is None else _number(value, (values.get("intervals") or {}).get(inner))


def _number(value: float, interval: Sequence[float] | None) -> str:
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _attributes(results: Mapping[str, Any]) -> str:
    rows = []
    for source, table in results["sources"].items():
        measured = table.get("attributes")
        for name, values in (measured or {}).get("attributes", {}).items():
            path = f"attributes/attributes/{name}"
            thin = " (thin)" if values["num"] < MIN_EXAMPLES else ""
            rows.append(
                (
                    source,
                    name,
                    _with_interval(measured, f"{path}/balanced_accuracy"),
                    f"{values['majority_balanced_accuracy']:.3f}",
                    _with_interval(measured, f"{path}/accuracy"),
                    f"{values['majority_accuracy']:.3f}",
                    str(values["num_classes"]),
                    f"{values['num']}{thin}",
                )
            )
    head = ("source", "attribute", "balanced accuracy", "majority", "accuracy", "majority", "classes", "n")
    return _table(head, rows)


def _abstention(results: Mapping[str, Any]) -> str:
    rows = []
    for source, table in results["sources"].items():
        grounding = table.get("grounding")
        if grounding and grounding["num_none"]:
            numbers = [_with_interval(grounding, f"grounding/none_{kind}") for kind in ("precision", "recall")]
            rows.append((source, 'grounding: "none"', *numbers, str(grounding["num_none"])))
        measured = table.get("attributes")
        for name, values in (measured or {}).get("attributes", {}).items():
            if values["not_visible_recall"] is not None:
                path = f"attributes/attributes/{name}/not_visible_"
                numbers = [_with_interval(measured, path + kind) for kind in ("precision", "recall")]
                rows.append((source, f'{name}: "not visible"', *numbers, str(values["num_not_visible"])))
    return _table(("source", "answer", "precision", "recall", "n true"), rows)


def _detection(results: Mapping[str, Any]) -> str:
    rows = []
    for source, table in results["sources"].items():
        labels = (table.get("detection") or {}).get("labels", {})
        for label, values in sorted(labels.items(), key=lambda item: (-item[1]["num"], item[0])):
            thin = " (thin)" if values["num"] < MIN_EXAMPLES else ""
            rows.append(
                (source, label, f"{values['AP50']:.3f}", f"{values['mAP@[.5:.95]']:.3f}", f"{values['num']}{thin}")
            )
    return _table(("source", "garment", "AP50", "mAP@[.5:.95]", "boxes"), rows) if rows else ""


def _groups(results: Mapping[str, Any]) -> str:
    rows = []
    for source, table in results["sources"].items():
        for group, values in table.get("groups", {}).items():
            for path, name in HEADLINES.items():
                for value, row in values.items():
                    if path not in row:
                        continue
                    number = _number(row[path]["value"], row[path]["interval"])
                    thin = " (too thin for a verdict)" if row["num_records"] < MIN_RECORDS else ""
                    rows.append((source, name, f"{group} {value}", number, f"{row['num_records']}{thin}"))
    if not rows:
        return "Not measured."
    text = _table(("source", "measure", "group", "value", "photos"), rows)
    spreads = [
        (source, HEADLINES[path], group, f"{row['spread']:.3f}", f"{row['p_value']:.3f}")
        for source, table in results["sources"].items()
        for group, found in table.get("spreads", {}).items()
        for path, row in found.items()
    ]
    if spreads:
        text += (
            "\n\nBest minus worst group, and how often chance alone puts groups of these sizes so far apart (their "
            f"values dealt out anew; groups of fewer than {MIN_RECORDS} photos left out):\n\n"
            + _table(("source", "measure", "group", "best - worst", "p"), spreads)
        )
    return text


def _calibration(results: Mapping[str, Any]) -> str:
    rows = [
        (source, kind, f"{values['ECE']:.3f}", str(values["num"]))
        for source, table in results["sources"].items()
        for kind, values in table.get("calibration", {}).items()
    ]
    text = (
        "Expected calibration error (15 bins of equal mass) of the scores as they are given, on the half of the "
        "records that calibration is not fitted on.\n\n" + _table(("source", "scores of", "ECE", "n"), rows)
    )
    report = results.get("calibration")
    if not report:
        return text + "\n\nThe scores of this checkpoint are not calibrated."
    fitted = [
        (key, f"{values['ece_before']:.3f}", f"{values['ece_after']:.3f}", str(values["num"]))
        for key, values in report["keys"].items()
    ]
    return (
        f"{text}\n\nCalibration was fitted on {report['fitted_on']}, and is reported here on {report['reported_on']}:"
        f"\n\n{_table(('scores of', 'ECE before', 'ECE after', 'n'), fitted)}"
    )


def _parse_rates(results: Mapping[str, Any]) -> str:
    rates = [
        f"{source} {measure} {values['parse_rate']:.3f}"
        for source, table in results["sources"].items()
        for measure, values in table.items()
        if isinstance(values, Mapping) and values.get("parse_rate") is not None
    ]
    return ", ".join(rates) or "none measured"


def _training(results: Mapping[str, Any]) -> str:
    facts = []
    model = results.get("model") or {}
    if "parameters" in model:
        facts.append(f"{model['parameters']:,} parameters ({model.get('family', 'unknown')} family).")
    config = results.get("training")
    if not config:
        return " ".join([*facts, "How it was trained is not recorded with the checkpoint."])
    runs = _runs(config)
    for number, run in enumerate(runs):
        steps, images = run["num_steps"], run["batch_size"]
        facts.append(
            f"{'Trained with `vlm train`' if not number else 'Then'} from `{run['model']}` for {steps:,} steps of "
            f"{images} images ({steps * images:,} images seen), seed {run.get('seed', 0)}, "
            f"mixed precision: {run.get('mixed_precision', 'no')}."
        )
    if len(runs) > 1:
        facts.append(f"{sum(map(_images_seen, runs)):,} images seen in all.")
    if (config.get("optim") or {}).get("ema_decay"):
        facts.append("The weights are an exponential moving average of those in training.")
    facts.append(
        f"The whole configuration {'of every run ' if len(runs) > 1 else ''}lies in the checkpoint as `train.yaml`."
    )
    return " ".join(facts)


def _runs(training: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Configurations of all runs that made the weights, oldest first."""
    return [*training.get("earlier", ()), training]


def _images_seen(run: Mapping[str, Any]) -> int:
    return int(run["num_steps"]) * int(run["batch_size"])


def _data(results: Mapping[str, Any]) -> str:
    measured = results["config"]["sources"]
    runs = [run for run in _runs(results.get("training") or {}) if (run.get("data") or {}).get("sources")]
    shares = [share for run in runs for share in _shares(run)]
    if not runs:
        shares = [(_set_name(source, row), row, 0.0) for source, row in measured.items()]
    readers = {name: row.get("reader", name) for name, row, _ in shares}
    seen = {name: sum(images for other, _, images in shares if other == name) for name in readers}
    counts = {_set_name(source, row): results.get("data", {}).get(source, {}) for source, row in measured.items()}
    rows = []
    for name, reader in readers.items():
        title, licence = SOURCES.get(name) or SOURCES.get(reader, UNKNOWN_SOURCE)
        num = counts.get(name, {})
        share = f"{seen[name] / sum(seen.values()):.0%}" if sum(seen.values()) else "-"
        parts = [(row, images) for other, row, images in shares if other == name]
        rows.append((name, title, licence, _training_photos(parts, num), share, _count(num.get("validation"))))
    return _table(("source", "what", "licence", "training photos", "share drawn", "validation photos"), rows)


def _shares(run: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], float]]:
    """(name, configuration, images seen) of every source of a run."""
    sources = run["data"]["sources"]
    total = sum(float(row.get("weight", 1.0)) for row in sources.values())
    return [
        (_set_name(source, row), row, _images_seen(run) * float(row.get("weight", 1.0)) / total)
        for source, row in sources.items()
    ]


def _training_photos(parts: Sequence[tuple[Mapping[str, Any], float]], num: Mapping[str, int]) -> str:
    """How many there are in files, and how many different ones were drawn while training (reader wardrobe)."""
    drawn: dict[tuple[Any, ...], int] = {}
    in_files = not parts
    for row, images in parts:
        if row.get("reader") != "wardrobe":
            in_files = True
            continue
        # Each run takes them in order, from the first: another with the same settings sees the same ones.
        which = (row["seed"], row["size"], row.get("plan"))
        drawn[which] = max(drawn.get(which, 0), min(int(row["num"]), round(images)))
    texts = [_count(num.get("train"))] if in_files else []
    return ", and ".join([*texts, *([f"{sum(drawn.values()):,} drawn in training"] if drawn else [])])


def _set_name(source: str, row: Mapping[str, Any]) -> str:
    """What a source is a part of: a reader may stand under several names with other shares, but of our own records
    each name is another set."""
    reader = str(row.get("reader", source))
    return source if reader in ("jsonl", "shards") else reader


def _count(number: int | None) -> str:
    return "not counted" if number is None else f"{number:,}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) if len(lines) > 2 else "Not measured."
