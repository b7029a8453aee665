"""medvqa-kit: faithful medical visual question answering with Qwen2-VL.

Rooms, in the order in which data flows and in which they may import each other:
data -> prompting -> scoring -> model -> counterfactual -> train -> evaluate.
Importing ``kit`` or any module of it starts nothing.
"""

__version__ = "0.1.0"
