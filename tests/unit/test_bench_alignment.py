"""The bench of what people prefer: its people, who go by a rule, and its pictures."""

import xml.etree.ElementTree as ET

from deploy.demo.domain import load_facts
from streams.style import kept
from tests.bench.alignment import TASTES, pictures, preferred, written
from tests.bench.report import row


def test_a_taste_prefers_the_draft_that_keeps_its_rule_and_each_has_pairs_of_many_facts() -> None:
    first = load_facts()[0]
    assert "This is said in Article 91." in " ".join(written(first))
    pairs = preferred(TASTES["article"], first.en.question, written(first))
    assert len(pairs) == len(written(first)) - 1 and {pair.weight for pair in pairs} == {1 / len(pairs)}
    for rule in TASTES.values():
        found = [preferred(rule, fact.en.question, written(fact)) for fact in load_facts()]
        assert sum(map(bool, found)) > 0.3 * len(found)  # not every answer has a number
        for pair in (pair for few in found for pair in few):
            assert kept(rule, pair.prompt, pair.chosen) > kept(rule, pair.prompt, pair.rejected)


def test_articles_are_named_by_their_numbers() -> None:
    named = {fact.article: " ".join(written(fact)) for fact in load_facts()}
    for article, number in {
        "第十八条": 18,
        "第一百零一条": 101,
        "第一千二百一十条": 1210,
        "第一百三十三条之一": 133,
    }.items():
        assert f"in Article {number}." in named[article]


def test_its_pictures_show_each_win_rate_and_how_sure_a_reward_model_is() -> None:
    bins = (("pairs", 20), ("predicted", 0.7), ("won", 0.75))
    rows = [row("short dpo", "win rate", "share", [0.75]), row("short kto", "win rate", "share", [0.5])]
    rows += [row("short sft_reward_ppo", f"calibration 1: {name}", "", [value]) for name, value in bins]
    drawn = pictures(rows)
    assert set(drawn) == {"alignment", "alignment-short-sft_reward_ppo-calibration"}
    tag = "{http://www.w3.org/2000/svg}"
    widths = [float(bar.attrib["width"]) for bar in ET.fromstring(drawn["alignment"]).iter(f"{tag}rect")][1:]
    assert widths[0] == 1.5 * widths[1]
    (dot,) = ET.fromstring(drawn["alignment-short-sft_reward_ppo-calibration"]).iter(f"{tag}circle")
    assert float(dot.attrib["r"]) > 3
