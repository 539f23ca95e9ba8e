"""`demur explain boundary` for one model and the same model under an intervention, through the job."""

import pytest
import torch

from demur.directions import Direction
from demur.explain.experiments import Settings
from demur.explain.jobs import Asked, boundaries
from demur.generators.local import Local
from demur.interventions.steer import Steer
from demur.report import boundary_page

pytestmark = [pytest.mark.torch, pytest.mark.slow]


def test_a_model_and_the_same_under_steering_are_compared_on_the_same_prompts(tmp_path):
    lm = Local(model="organism").lm()
    vectors = torch.nn.functional.normalize(
        torch.randn(1, lm.d_model, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    Steer(direction=Direction(vectors=vectors, layers=(1,), model=lm.ref, estimator="x"), strength=0.5).save(
        tmp_path / "s"
    )
    records, comparison = boundaries(
        [Asked(model="organism"), Asked(model="organism", intervention=tmp_path / "s")],
        benchmarks=["world:limit=400"],
        fit=["world:split=train,limit=800"],
        settings=Settings(flipped=12, controlled=6),
        out=tmp_path / "out",
    )
    assert records[0]["label"] == "organism"
    assert records[0]["layer"] == records[1]["layer"]
    assert comparison["attached"] == [records[1]["label"]]
    assert len(comparison["transfer"]) == 4
    scope = comparison["moved"][0]["scopes"][0]
    assert abs(scope["measures"]["t_star"]["difference"]["value"]) < 0.2  # a short step changes next to nothing
    for record in records:
        assert (tmp_path / "out" / record["label"].replace("/", "-") / "explain.json").is_file()
    page = boundary_page.write_comparison(tmp_path / "out", comparison, records)
    assert records[1]["label"] in page.read_text("utf-8")
    assert torch.get_default_dtype() == torch.float32
