from __future__ import annotations

import pytest

from lightning_arrcoc.serve.admission import Admission
from lightning_arrcoc.serve.errors import RequestError


def test_only_so_many_are_inside_and_who_leaves_makes_room() -> None:
    admission = Admission(most=2, batch=1)
    admission.enter()
    admission.enter()
    with pytest.raises(RequestError) as refused:
        admission.enter()
    assert (refused.value.status, admission.inside) == (429, 2)
    admission.leave()
    admission.enter()
    assert admission.inside == 2


@pytest.mark.parametrize(
    ("took_s", "batch", "said"), [(4.0, 2, "4"), (0.01, 2, "1"), (900.0, 1, "60")]
)
def test_those_who_are_refused_are_told_when_to_come_again(
    took_s: float, batch: int, said: str
) -> None:
    admission = Admission(most=2, batch=batch)
    admission.enter()
    admission.leave(took_s)
    admission.enter()
    admission.enter()
    with pytest.raises(RequestError) as refused:
        admission.enter()
    assert refused.value.headers == {"Retry-After": said}
