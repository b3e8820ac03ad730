from __future__ import annotations

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families

from lightning_arrcoc.serve.metrics import ServerMetrics
from lightning_arrcoc.serve.replies import Usage


def test_prometheus_reads_what_came_and_went() -> None:
    inside = [3]
    metrics = ServerMetrics(lambda: inside[0])
    metrics.ended(200, 0.2)
    metrics.ended(429, 0.01)
    metrics.began(0.1)
    metrics.used(Usage(10, 5, 15, 1))
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.page().decode())
        for sample in family.samples
    }
    assert found["arr_coc_requests_total", "200"] == found["arr_coc_requests_total", "429"] == 1
    assert found["arr_coc_queue_length",] == 3
    assert found["arr_coc_request_seconds_bucket", "0.05"] == 1
    assert found["arr_coc_request_seconds_count",] == 2
    assert found["arr_coc_first_token_seconds_count",] == 1
    assert found["arr_coc_text_tokens_total",] == 10
    assert found["arr_coc_visual_tokens_total", "read"] == 5
    assert found["arr_coc_visual_tokens_total", "saved"] == 15
    assert found["arr_coc_answer_tokens_total",] == 1
