from contextlib import ExitStack

import pytest

from icehouse.errors import RateLimited
from icehouse.services.upload_slots import UploadSlots


def test_one_token_gets_only_some_of_the_slots_and_all_together_no_more_than_there_are() -> None:
    slots = UploadSlots(5, of_one_token=3)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(slots.take(1))
        with pytest.raises(RateLimited, match="3 uploads with this token"), slots.take(1):
            pass
        for token_id in (2, None):
            stack.enter_context(slots.take(token_id))
        with pytest.raises(RateLimited, match="5 uploads are open") as refused, slots.take(3):
            pass
        assert refused.value.retry_after_seconds == 1
        stack.enter_context(slots.take(1, factor=2))
    for token_id in (1, 1, 1, 2, 3):
        stack.enter_context(slots.take(token_id))


def test_upload_that_fails_gives_its_slot_back() -> None:
    slots = UploadSlots(1, of_one_token=1)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), slots.take(1):
            raise ValueError("broken")
