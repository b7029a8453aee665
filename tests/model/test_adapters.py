"""Adapters: dropout off, and whose turn it is."""

import torch

from kit.model.adapters import add_lora, as_reference, disable_dropout, load_reference


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


def test_policy_and_reference_take_turns(fresh_model, tmp_path):
    model = add_lora(fresh_model, r=4, alpha=8, dropout=0.0, freeze_vision_tower=True).eval()
    ids = torch.randint(100, 200, (1, 12))

    def logits():
        with torch.no_grad():
            return model(input_ids=ids, mm_token_type_ids=torch.zeros_like(ids)).logits

    def move():
        for name, parameter in model.named_parameters():
            if "lora_B.default" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        return logits()

    base, start = logits(), move()
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    policy = move()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    with as_reference(model):
        assert torch.equal(logits(), base), "of which no adapter is loaded, the base is"
    assert torch.equal(logits(), policy)
    load_reference(model, tmp_path)
    with as_reference(model):
        assert torch.equal(logits(), start)
    assert torch.equal(logits(), policy)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained
