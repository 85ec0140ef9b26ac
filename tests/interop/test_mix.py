"""The message mix: the same on every side, and a verifier that notices what it should."""

from __future__ import annotations

from .mix import LARGE_BYTES_MAX, MEDIUM_BYTES_MAX, SMALL_BYTES_MAX, Mix, Verifier, message, message_sizes, messages

SHORT = Mix(seed=3, small=20, medium=4, large=2)


def verify(arrived: list[bytes], *, is_reliable: bool) -> tuple[bool, list[str]]:
    verifier = Verifier(SHORT, is_reliable=is_reliable)
    for data in arrived:
        verifier.add(data)
    return verifier.verdict.is_complete, verifier.verdict.faults


def test_the_mix_has_ten_thousand_messages_of_three_classes_with_both_ends_of_each() -> None:
    sizes = sorted(message_sizes(Mix(seed=1)))
    assert len(sizes) == 10_000
    assert (sizes[0], sizes[8_899]) == (0, SMALL_BYTES_MAX)
    assert (sizes[8_900], sizes[9_899]) == (SMALL_BYTES_MAX + 1, MEDIUM_BYTES_MAX)
    assert (sizes[9_900], sizes[9_999]) == (MEDIUM_BYTES_MAX + 1, LARGE_BYTES_MAX)


def test_a_seed_fixes_the_list_for_good() -> None:
    assert message_sizes(Mix(seed=7, small=2, medium=2, large=0)) == [1_201, 1_200, 0, 20_000]
    assert message(7, 0, 8).hex() == "ef05183c5a570369"
    assert list(messages(SHORT)) == list(messages(SHORT))
    assert message_sizes(SHORT) != message_sizes(Mix(seed=4, small=20, medium=4, large=2))


def test_the_whole_list_in_order_is_complete() -> None:
    assert verify(list(messages(SHORT)), is_reliable=True) == (True, [])


def test_a_reliable_list_with_two_swapped_one_doubled_or_one_changed_is_not() -> None:
    good = list(messages(SHORT))
    at = next(i for i in range(len(good)) if len(good[i]) > 2 and len(good[i + 1]) > 2)
    swapped = [*good[:at], good[at + 1], good[at], *good[at + 2 :]]
    doubled = [*good[: at + 1], *good[at:]]
    changed = [*good[:at], good[at][:-1] + bytes([good[at][-1] ^ 1]), *good[at + 1 :]]
    for arrived, sentence in ((swapped, "out of order"), (doubled, "came twice"), (changed, "never sent")):
        is_complete, faults = verify(arrived, is_reliable=True)
        assert not is_complete
        assert sentence in faults[0]


def test_an_unreliable_list_may_lack_messages_and_be_shuffled_but_not_repeat_them() -> None:
    good = [data for data in messages(SHORT) if len(data) > 2]
    assert verify(good[5:][::-1], is_reliable=False) == (False, [])
    assert "came twice" in verify([good[1], good[1]], is_reliable=False)[1][0]
