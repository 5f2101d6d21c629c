"""What is installed: show_config, and reasons where there are no kernels."""

import pytest

import optlayers as ol
from optlayers import _native


def test_show_config_tells_of_every_device():
    text = ol.show_config()
    assert ol.__version__ in text and "\ncpu: " in text and "\ncuda: " in text
    reason = _native.cuda()[1]
    assert ("no native kernels" in text) == (reason is not None or not _native.available())
    assert reason is None or reason in text


@pytest.mark.parametrize("device", ["cpu", "cuda", "meta"])
def test_a_device_has_kernels_or_a_reason(device):
    reason = _native.why_not(device)
    assert _native.available(device) == (reason is None)
    assert reason is None or len(reason) > 10
