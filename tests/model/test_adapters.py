"""Adapters: dropout off, and whose turn it is."""

import torch

from kit.model.adapters import add_lora, disable_dropout


def test_dropout_that_is_off_changes_no_output(fresh_model):
    model = add_lora(fresh_model, r=4, alpha=8, dropout=0.5, freeze_vision_tower=True).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # it begins with zeros, behind which nothing is seen
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.randint(100, 200, (1, 12))

    def logits():
        with torch.no_grad():
            return model(input_ids=ids, mm_token_type_ids=torch.zeros_like(ids)).logits

    assert not torch.equal(logits(), logits())
    assert disable_dropout(model)
    assert torch.equal(logits(), logits())
    assert not disable_dropout(model), "there is none any more"
