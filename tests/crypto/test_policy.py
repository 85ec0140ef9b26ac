"""Who is let in, by the policies alone: every combination of them, and everything that may be known of a peer."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from peergram.crypto.keys import SigningKey, fingerprint, key_id
from peergram.crypto.known_peers import KnownPeers
from peergram.crypto.policy import KeptOut, LetIn, Policy, Trust
from peergram.crypto.trust import Scope, TrustStore
from peergram.errors import UsageError
from peergram.identity import Identity

KEY = SigningKey(b"his key".ljust(32, b"."))
OTHER = SigningKey(b"another key".ljust(32, b"."))
ALICE = Identity.of("alice")
OWN_KEY = Identity.generic_bytes(KEY.public_bytes)
OTHER_KEY = Identity.generic_bytes(OTHER.public_bytes)
ADDRESS = Identity.ip(("192.0.2.1", 5))
NAMES: tuple[Policy, ...] = ("key", "pinned", "ca", "open")
COMBINATIONS: list[tuple[Policy, ...]] = [some for size in range(1, len(NAMES) + 1) for some in combinations(NAMES, size)]


def expected(policies: tuple[Policy, ...], who: Identity, pinned: str, is_vouched: bool, is_revoked: bool) -> str:
    """What the product says, written down once more and in another order."""
    if is_revoked:
        return "out"
    if who == OWN_KEY:
        return "key"
    has_name = who == ALICE
    pin = pinned if has_name and "pinned" in policies else ""
    if pin == "another":
        return "impostor"
    if is_vouched and has_name:
        return "certificate"
    if pin == "same":
        return "pinned"
    if "open" in policies:
        return "nothing"
    return "first_contact" if "pinned" in policies and has_name else "out"


@pytest.mark.parametrize("policies", COMBINATIONS, ids="+".join)
def test_every_combination_of_policies_decides_as_the_product_says(policies: tuple[Policy, ...]) -> None:
    for who, pinned, is_vouched, is_revoked in product(
        (ALICE, OWN_KEY, OTHER_KEY, ADDRESS), ("", "same", "another"), (False, True), (False, True)
    ):
        pins = {"": (), "same": (fingerprint(KEY.public_bytes),), "another": (fingerprint(OTHER.public_bytes),)}[pinned]
        store = TrustStore()
        if is_revoked:
            store.revoke(key_id(KEY.public_bytes))
        trust = Trust(policies, authorities=store, known=KnownPeers((who, pin) for pin in pins))
        verdict = trust.judge(who, KEY.public_bytes, Scope() if is_vouched else None)
        if isinstance(verdict, LetIn):
            found = str(verdict.proven_by)
        else:
            found = "impostor" if verdict.is_other_key else "out"
        assert found == expected(policies, who, pinned, is_vouched, is_revoked), (policies, who, pinned, is_vouched)


def test_only_where_nothing_but_an_authority_lets_a_name_in_every_defect_of_its_certificate_counts() -> None:
    for policies in COMBINATIONS:
        trust = Trust(policies, authorities=TrustStore())
        assert trust.demands_authority(ALICE) == (set(policies) - {"key"} == {"ca"})
        assert not trust.demands_authority(OWN_KEY)


def test_a_refusal_says_who_and_what() -> None:
    shown = fingerprint(KEY.public_bytes)
    for policies, who, text in [
        ("key", ALICE, "Only identities that are their own key may connect: gen: and 64 hex digits, not str:alice"),
        ("key", OTHER_KEY, f"{OTHER_KEY} is a key, and the certificate has another one: {shown}"),
        ("pinned", ADDRESS, 'ip:192.0.2.1:5 is no name that could keep a key; trust="open" lets such peers in, unauthenticated'),
    ]:
        verdict = Trust(policies).judge(who, KEY.public_bytes, None)  # type: ignore[arg-type]
        assert verdict == KeptOut(text)


def test_a_policy_that_does_not_exist_is_named_and_so_is_the_lack_of_any() -> None:
    with pytest.raises(UsageError, match=r"^trust: use one or several of key, pinned, ca, open, not 'friends', 'tofu'$"):
        Trust(("tofu", "friends", "open"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r", not none$"):
        Trust(())
