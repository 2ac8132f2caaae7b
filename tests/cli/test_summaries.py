from orchestrator.cli.summaries import text_table


def test_a_row_is_one_line() -> None:
    difference = "-0.005 [-0.040, +0.030]"
    header = ("", "auroc", "accuracy", "recall", "specificity")
    shown = text_table("Differences", header, [("efficientnet-lite0", *[difference] * 4)])
    assert shown[-1].split(maxsplit=1)[0] == "efficientnet-lite0"
    assert shown[-1].count(difference) == 4
