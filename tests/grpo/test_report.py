"""The table of completions shows texts as they are."""

from kit.grpo.report import print_completions


def row(number, text, reward):
    return {
        "step": 7, "prompt_index": 3, "number": number, "question": "Is [bold]it[/bold] there?",
        "gold": "Yes", "text": text, "reward": reward, "rewards": {"format": 1.0, "answer": None},
        "advantage": reward - 0.5,
    }  # fmt: skip


def test_best_and_worst_of_the_first_prompt(capsys):
    rows = [
        row(0, "middling", 0.5),
        row(1, '{"boxes": [[1, 2, 3, 4]]} [/red]', 0.9),
        row(2, "worst", 0.1),
    ]
    other = {**row(0, "of another prompt", 1.0), "prompt_index": 4}
    print_completions([*rows, other], 2)
    printed = " ".join(capsys.readouterr().out.split())
    assert "[/red]" in printed
    assert "[bold]it[/bold]" in printed
    assert "worst" in printed
    assert "+0.40" in printed
    assert "middling" not in printed
    assert "another prompt" not in printed


def test_more_rows_than_there_are(capsys):
    print_completions([row(0, "only", 0.5)], 5)
    assert capsys.readouterr().out.count("only") == 1
