"""`doctor` says what is there."""

from __future__ import annotations

import json

import pytest


@pytest.mark.ray
def test_doctor_says_what_is_there(call, local_ray: None) -> None:
    findings = json.loads(call("doctor", "--json").out)
    assert findings["software"]["ray"] != "missing"
    assert "CPU" in findings["services"]["Ray"]
    assert "no store yet" in findings["services"]["MLflow"]
