"""Check anybody's predictions: python launch/audit.py preds.jsonl --data test.json"""

from kit import cli

if __name__ == "__main__":
    cli.main_of("audit")
