"""medvqa-kit: faithful medical visual question answering with Qwen-VL models.

Data flows down this list of rooms, and a module imports from its own room and those above it:

- data: records of each stage, their files, and the datasets that they are made from
- prompting: a question as chat messages, a model's text as a parsed answer
- scoring: how right, grounded and faithful an answer is; rewards and evaluation share it
- model: loading, adapters, packed trees and their log-probabilities, sampling
- counterfactual: an image without its evidence or without a matched region, and what changes
- run: what every distributed command needs: ranks, stops, ZeRO, checkpoints, logs
- train: supervised fine-tuning, and what both training loops share
- grpo: group relative policy optimisation, from rollout to loss
- plan: what a launch will take, before it is queued
- report: statistics, tables and pages from the rows that evaluation wrote
- audit: anybody's predictions checked, without a model
- evaluate: asking a model the questions of a data file, with and without its evidence
- share: export of a model with its card and where it came from
- study: several systems with several seeds, trained and evaluated alike
- demo: the quickstart, the benchmark, and how the embedded model is made

``errors``, ``text``, ``files``, ``yaml_files``, ``shipped`` and ``command`` lie under all of them,
and ``cli``, the command ``medvqa``, over them. Importing any module of ``kit`` starts nothing.
"""

__version__ = "0.1.0"
